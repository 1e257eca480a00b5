"""What privacy a site has spent, read from its ledger."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rich.table import Table

from client.site import Site
from privacy.ledger import PrivacyLedger, Reservation
from shared_models.console import Screen


@dataclass(frozen=True)
class Budget:
    """The privacy budget of a site.

    Attributes:
        cap: Epsilon that no subject may pass; 0 without a policy, which permits nothing.
        spent: Largest epsilon spent on any subject.
        delta: The delta that both hold at.
        releases: Every release, oldest first.
    """

    cap: float
    spent: float
    delta: float
    releases: tuple[Reservation, ...]

    @property
    def remaining(self) -> float:
        """Epsilon between what is spent and the cap."""
        return max(0.0, self.cap - self.spent)

    def to_json(self) -> dict[str, object]:
        """The object for machines."""
        return {
            "cap": self.cap,
            "spent": self.spent if math.isfinite(self.spent) else None,
            "remaining": self.remaining,
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
        screen.say(f"{len(self.releases)} releases so far.")
        if self.releases:
            screen.show(_table(self.releases))
        if not self.remaining:
            screen.warn("nothing is left: this site refuses every further release.")


def read_budget(site: Site) -> Budget:
    """The budget of a site; a site that never released anything has spent nothing.

    Raises:
        LedgerError: If the ledger is not whole.
    """
    cap = site.policy.max_epsilon_per_subject if site.policy else 0.0
    delta = site.consortium.config.privacy.delta
    if not site.paths.ledger.exists():
        return Budget(cap, 0.0, delta, ())
    with PrivacyLedger(site.paths.ledger, key=site.ledger_key) as ledger:
        return Budget(cap, ledger.spent(delta), delta, tuple(ledger.releases()))


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
