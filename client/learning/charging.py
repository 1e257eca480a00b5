"""Charging a release to the subjects it is made of, before it is made, and once."""

from __future__ import annotations

from collections.abc import Sequence

from client.learning import receipts
from client.learning.admission import RefusedError
from client.learning.dataset import SubjectClips
from client.site import Site
from privacy.ledger import AlreadyReservedError, BudgetExceeded, PrivacyLedger, Reservation
from privacy.plan import PrivacyPlan
from shared_models.messages import ModelRequest, RefusalCode

Place = tuple[int, int]
"""Where a request stands in its run: round and attempt."""


class Charges:
    """What a site has released, and what it may still release.

    A request is answered once, and only in order: a model of an earlier round, however well
    signed, was either answered then or is too late. A crash after the charge costs the site this
    round and no more than was charged.

    Args:
        site: The site with its policy.
        ledger: Its durable record. A study without privacy has none, and its order is kept for as
            long as the process lives.
    """

    def __init__(self, site: Site, ledger: PrivacyLedger) -> None:
        self._site = site
        self._ledger = ledger
        self._unprotected: dict[tuple[str, str], Place] = {}

    def refuse_answered(self, request: ModelRequest, *, purpose: str) -> None:
        """Refuse a request that does not come after all those answered in its run.

        Raises:
            RefusedError: If it, or a later one, was answered.
        """
        made = [_place(release) for release in self._releases(request, purpose)]
        unprotected = self._unprotected.get((request.run_id, purpose))
        latest = max([*made, *([unprotected] if unprotected else [])], default=(0, 0))
        if (request.server_round, request.attempt) <= latest:
            raise _repeated(request)

    def charge(
        self,
        request: ModelRequest,
        plan: PrivacyPlan,
        subjects: Sequence[SubjectClips],
        *,
        steps: int,
        purpose: str,
    ) -> float:
        """Charge the release to every subject before it is made; epsilon of the worst off.

        Raises:
            RefusedError: If there is nobody, the budget does not allow it, or it was made before.
        """
        policy = self._site.policy
        if not subjects:
            msg = f"No labelled subject with accepted recordings is there to {purpose}"
            raise RefusedError(RefusalCode.TOO_FEW_SUBJECTS, msg)
        if plan.mode == "off" or policy is None:
            self._unprotected[request.run_id, purpose] = (request.server_round, request.attempt)
            return float("inf")
        if plan.mode == "distributed":
            self._refuse_unpaid(request, plan, purpose=purpose, steps=steps)
        try:
            reservation = self._ledger.reserve(
                release_name(request, purpose),
                [subject.subject_id for subject in subjects],
                noise_multiplier=plan.released_noise_multiplier,
                sample_rate=plan.sample_rate,
                steps=steps,
                delta=plan.delta,
                purpose=purpose,
                cap_epsilon=policy.max_epsilon_per_subject,
                cap_epsilon_per_year=policy.max_epsilon_per_year,
                # Two vectors under one mask would tell on both, also if two processes were asked.
                once=True,
            )
        except AlreadyReservedError as error:
            raise _repeated(request) from error
        except BudgetExceeded as error:
            raise RefusedError(RefusalCode.BUDGET, str(error), rules=[error.rule]) from error
        return reservation.epsilon_after

    def _refuse_unpaid(
        self, request: ModelRequest, plan: PrivacyPlan, *, purpose: str, steps: int
    ) -> None:
        """Refuse a sum beyond those that the study pays for."""
        made = sum(release.steps for release in self._releases(request, purpose))
        if made + steps > plan.steps:
            msg = f"The study pays for {plan.steps} releases to {purpose} in a run; all are made"
            raise RefusedError(RefusalCode.BUDGET, msg)

    def _releases(self, request: ModelRequest, purpose: str) -> list[Reservation]:
        """What the ledger holds of the request's run, for this purpose."""
        of_run = self._ledger.releases_of(f"{request.run_id}/")
        return [release for release in of_run if release.purpose == purpose]


def release_name(request: ModelRequest, purpose: str) -> str:
    """Name of a request's release in the ledger."""
    return receipts.release_name(request.run_id, request.server_round, purpose, request.attempt)


def _place(release: Reservation) -> Place:
    server_round, _, attempt = release.release_id.rsplit("/", 3)[1:]
    return int(server_round), int(attempt)


def _repeated(request: ModelRequest) -> RefusedError:
    msg = (
        f"Attempt {request.attempt} of round {request.server_round}, or a later one, was answered "
        "before"
    )
    return RefusedError(RefusalCode.REPEATED, msg)
