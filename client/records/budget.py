"""What privacy a site has spent, read from its ledger."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from rich.table import Table

from client.site import Site
from privacy.ledger import YEAR, PrivacyLedger, Reservation
from shared_models.console import Screen

CLOCK_TOLERANCE = timedelta(minutes=10)


@dataclass(frozen=True)
class YearBudget:
    """What the last 365 days have spent.

    Attributes:
        cap: Epsilon that no subject may pass in them; None where the policy sets no such cap.
        spent: Largest epsilon spent in them on any subject.
    """

    cap: float | None
    spent: float

    @property
    def remaining(self) -> float | None:
        """Epsilon between what is spent and the cap; None without a cap."""
        return None if self.cap is None else max(0.0, self.cap - self.spent)

    def to_json(self) -> dict[str, object]:
        """The object for machines."""
        spent = self.spent if math.isfinite(self.spent) else None
        return {"cap": self.cap, "spent": spent, "remaining": self.remaining}


@dataclass(frozen=True)
class Budget:
    """The privacy budget of a site.

    Attributes:
        cap: Epsilon that no subject may pass; 0 without a policy, which permits nothing.
        spent: Largest epsilon spent on any subject.
        year: The same for the last 365 days.
        delta: The delta that all of them hold at.
        releases: Every release, oldest first.
    """

    cap: float
    spent: float
    year: YearBudget
    delta: float
    releases: tuple[Reservation, ...]

    @property
    def remaining(self) -> float:
        """Epsilon between what is spent and the cap."""
        return max(0.0, self.cap - self.spent)

    @property
    def is_ahead_of_the_clock(self) -> bool:
        """Whether the ledger's newest row lies in the future of this machine's clock."""
        newest = max(
            (datetime.fromisoformat(one.reserved_at) for one in self.releases), default=None
        )
        return newest is not None and newest > datetime.now(UTC) + CLOCK_TOLERANCE

    def to_json(self) -> dict[str, object]:
        """The object for machines."""
        return {
            "cap": self.cap,
            "spent": self.spent if math.isfinite(self.spent) else None,
            "remaining": self.remaining,
            "year": self.year.to_json(),
            "delta": self.delta,
            "releases": [
                {
                    "release_id": one.release_id,
                    "purpose": one.purpose,
                    "reserved_at": one.reserved_at,
                    "subjects": one.subjects,
                    "noise_multiplier": one.noise_multiplier,
                    "steps": one.steps,
                    "epsilon_after": one.epsilon_after,
                }
                for one in self.releases
            ],
        }

    def show(self, screen: Screen) -> None:
        """Print it for people."""
        screen.say(
            f"Privacy spent on the subject with the most: epsilon {self.spent:.3f} of "
            f"{self.cap:g} (delta {self.delta:g}); left: {self.remaining:.3f}."
        )
        screen.say(f"In the last {YEAR.days} days: {self._tell_year()}.")
        screen.say(f"{len(self.releases)} releases so far.")
        if self.releases:
            screen.show(_table(self.releases))
        if not self.remaining:
            screen.warn("nothing is left: this site refuses every further release.")
        elif self.year.remaining == 0:
            screen.warn(
                "nothing is left of this year: this site refuses until earlier releases are "
                f"{YEAR.days} days old."
            )
        if self.is_ahead_of_the_clock:
            screen.warn(
                "the ledger's newest row lies in the future: the clock of this machine was ahead "
                "then, or is behind now. What lies ahead counts as spent; set the clock right."
            )

    def _tell_year(self) -> str:
        year = self.year
        if year.cap is None:
            return f"epsilon {year.spent:.3f} (the policy sets no max_epsilon_per_year)"
        return f"epsilon {year.spent:.3f} of {year.cap:g}; left: {year.remaining:.3f}"


def read_budget(site: Site) -> Budget:
    """The budget of a site; a site that never released anything has spent nothing.

    Raises:
        LedgerError: If the ledger is not whole.
    """
    cap = site.policy.max_epsilon_per_subject if site.policy else 0.0
    yearly = site.policy.max_epsilon_per_year if site.policy else None
    delta = site.consortium.config.privacy.delta
    if not site.paths.ledger.exists():
        return Budget(cap, 0.0, YearBudget(yearly, 0.0), delta, ())
    with PrivacyLedger(site.paths.ledger, key=site.ledger_key) as ledger:
        year = YearBudget(yearly, ledger.spent(delta, within=YEAR))
        return Budget(cap, ledger.spent(delta), year, delta, tuple(ledger.releases()))


def _table(releases: tuple[Reservation, ...]) -> Table:
    table = Table("when", "what", "subjects", "noise", "epsilon after")
    for one in releases[-20:]:
        table.add_row(
            one.reserved_at[:19],
            one.purpose,
            str(one.subjects),
            f"{one.noise_multiplier:.2f}",
            f"{one.epsilon_after:.3f}",
        )
    return table
