"""What the ledger refuses: terms without meaning, and releases past a cap."""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

from privacy.ledger_chain import Reservation

YEAR = timedelta(days=365)
"""The window of the yearly cap; it rolls, so that no date makes the budget new."""


class LedgerError(Exception):
    """The ledger refuses: the request is not valid, or the ledger is not whole."""


@dataclass(frozen=True)
class Cap:
    """Epsilon that no subject may pass.

    Attributes:
        rule: Name of the site's limit.
        epsilon: The cap, > 0.
        since: Only releases from this moment on count; None counts everything.
    """

    rule: str
    epsilon: float
    since: datetime | None = None


class BudgetExceeded(LedgerError):  # noqa: N818 - a refusal, not a fault
    """A release that would take some subject past a cap; nothing was reserved.

    Attributes:
        rule: name of the site's limit that would be passed.
        spent: largest epsilon spent so far among the subjects asked for.
        requested: what it would be with this release.
        cap: the epsilon that may not be passed.
        delta: the delta all three hold at.
    """

    def __init__(self, cap: Cap, *, spent: float, requested: float, delta: float) -> None:
        self.rule = cap.rule
        self.spent = spent
        self.requested = requested
        self.cap = cap.epsilon
        self.delta = delta
        window = "" if cap.since is None else f" over {YEAR.days} days"
        wait = "" if cap.since is None else ", or wait until earlier releases are a year old"
        super().__init__(
            f"Expected epsilon <= {self.cap:g} at delta {delta:g}{window} after this release, got "
            f"{requested:.4g}: {spent:.4g} is spent, {self.remaining:.4g} is left. "
            f"Nothing was reserved; ask for more noise or fewer steps{wait}, or end the study here."
        )

    @property
    def remaining(self) -> float:
        """Epsilon between what is spent and the cap."""
        return max(0.0, self.cap - self.spent)


class AlreadyReservedError(LedgerError):
    """A release that may be made only once was reserved before."""


def check_terms(wanted: Reservation, cap_epsilon_per_year: float | None) -> None:
    """Refuse a reservation whose numbers mean nothing.

    Raises:
        LedgerError: With every fault.
    """
    yearly = cap_epsilon_per_year
    rules = (
        ("release_id", "a name", wanted.release_id, bool(wanted.release_id)),
        ("subjects", ">= 1", wanted.subjects, wanted.subjects >= 1),
        (
            "noise_multiplier",
            "> 0",
            wanted.noise_multiplier,
            0 < wanted.noise_multiplier < math.inf,
        ),
        ("sample_rate", "in (0, 1]", wanted.sample_rate, 0 < wanted.sample_rate <= 1),
        (
            "steps",
            "a whole number >= 1",
            wanted.steps,
            isinstance(wanted.steps, int) and wanted.steps >= 1,
        ),
        ("delta", "in (0, 1)", wanted.delta, 0 < wanted.delta < 1),
        ("cap_epsilon", "> 0", wanted.cap_epsilon, 0 < wanted.cap_epsilon < math.inf),
        ("cap_epsilon_per_year", "> 0", yearly, yearly is None or 0 < yearly < math.inf),
    )
    faults = [
        f"Expected {name} {expected}, got {value!r}."
        for name, expected, value, holds in rules
        if not holds
    ]
    if faults:
        raise LedgerError("\n".join(faults))
