"""Charging a release to the subjects it is made of, before it is made, and once."""

from __future__ import annotations

from collections.abc import Sequence

from client.learning import receipts
from client.learning.admission import RefusedError
from client.learning.dataset import SubjectClips
from client.learning.outbox import Entry, Outbox
from client.site import Site
from privacy.ledger import (
    AlreadyReservedError,
    BudgetExceeded,
    LedgerError,
    PrivacyLedger,
    Reservation,
)
from privacy.plan import PrivacyPlan
from shared_models.messages import ModelRequest, RefusalCode

Place = tuple[int, int]
"""Where a request stands in its run: round and attempt."""


class Charges:
    """What a site has released, and what it may still release.

    A release is charged once and made once, and only in order: a model of an earlier round,
    however well signed, was either answered then or is too late.

    Guarantees:
        Unit: the subject. Of the releases that a row of the ledger pays for, at most one leaves
        the site. One that was reserved and interrupted is made again under its row only if the
        very same question is asked of the very same subjects, its terms are the same, and both the
        outbox and the log of receipts say that nothing left. Made again, it is still the first
        that anybody sees. The caller holds the outbox from before the charge until the reply
        stands in it, or two processes could each make one.

    Args:
        site: The site with its policy.
        ledger: Its durable record. A study without privacy has none, and its order is kept for as
            long as the process lives.
        outbox: Where finished replies stand.
    """

    def __init__(self, site: Site, ledger: PrivacyLedger, outbox: Outbox) -> None:
        self._site = site
        self._ledger = ledger
        self._outbox = outbox
        self._unprotected: dict[tuple[str, str], Place] = {}

    def refuse_passed(self, request: ModelRequest, *, purpose: str) -> None:
        """Refuse a request that comes before one that was charged in its run.

        Raises:
            RefusedError: If a later one was.
        """
        made = [_place(release) for release in self._releases(request, purpose)]
        if _asked_at(request) < max([*made, self._latest(request, purpose)]):
            raise _repeated(request, "a later request was answered before")

    def charge(
        self,
        request: ModelRequest,
        plan: PrivacyPlan,
        subjects: Sequence[SubjectClips],
        *,
        steps: int,
        entry: Entry,
    ) -> float:
        """Charge the release to every subject before it is made; epsilon of the worst off.

        Args:
            request: A checked request that the outbox holds no reply to.
            plan: The site's own plan for it.
            subjects: Everyone it may be computed on.
            steps: How many equal releases it stands for.
            entry: Its place in the outbox.

        Raises:
            RefusedError: If there is nobody, the budget does not allow it, or it was charged before
                and may not be made any more.
        """
        if not subjects:
            msg = f"No labelled subject with accepted recordings is there to {entry.purpose}"
            raise RefusedError(RefusalCode.TOO_FEW_SUBJECTS, msg)
        if plan.mode == "off" or self._site.policy is None:
            return self._let_pass(request, entry)
        interrupted = self._is_charged(request, entry.purpose)
        if interrupted:
            self._refuse_told(request, entry)
        else:
            if plan.mode == "distributed":
                self._refuse_unpaid(request, plan, purpose=entry.purpose, steps=steps)
            self._outbox.note_asked(entry)
        return self._reserve(
            request, plan, subjects, steps=steps, entry=entry, interrupted=interrupted
        )

    def _let_pass(self, request: ModelRequest, entry: Entry) -> float:
        """Keep the order of a study without privacy, which costs nothing that could be counted."""
        if _asked_at(request) <= self._latest(request, entry.purpose):
            raise _repeated(request, "it was answered, and the outbox does not hold the reply")
        self._unprotected[request.run_id, entry.purpose] = _asked_at(request)
        self._outbox.note_asked(entry)
        return float("inf")

    def _reserve(  # noqa: PLR0913 - a request, and the terms of its release
        self,
        request: ModelRequest,
        plan: PrivacyPlan,
        subjects: Sequence[SubjectClips],
        *,
        steps: int,
        entry: Entry,
        interrupted: bool,
    ) -> float:
        policy = self._site.policy
        assert policy is not None  # noqa: S101 - without one the request was let pass or refused
        try:
            return self._ledger.reserve(
                release_name(request, entry.purpose),
                [subject.subject_id for subject in subjects],
                noise_multiplier=plan.released_noise_multiplier,
                sample_rate=plan.sample_rate,
                steps=steps,
                delta=plan.delta,
                purpose=entry.purpose,
                cap_epsilon=policy.max_epsilon_per_subject,
                cap_epsilon_per_year=policy.max_epsilon_per_year,
                once=not interrupted,
            ).epsilon_after
        except AlreadyReservedError as error:
            raise _repeated(request, "it was charged meanwhile") from error
        except BudgetExceeded as error:
            raise RefusedError(RefusalCode.BUDGET, str(error), rules=[error.rule]) from error
        except LedgerError as error:
            if not interrupted or self._ledger.verify():
                raise
            reason = "it was interrupted, and its subjects or terms are not the same any more"
            raise _repeated(request, reason) from error

    def _refuse_told(self, request: ModelRequest, entry: Entry) -> None:
        """Refuse what was charged before, unless this very question was interrupted.

        Raises:
            RefusedError: If another question was asked then, or an answer may have left.
        """
        if not self._outbox.is_untold(entry):
            reason = "another question was asked then, or its reply is not in the outbox any more"
            raise _repeated(request, reason)
        name = release_name(request, entry.purpose)
        if receipts.find_receipt(self._site.paths.audit, name) is not None:
            raise _repeated(request, "its answer has a receipt, and the outbox lost it")

    def _is_charged(self, request: ModelRequest, purpose: str) -> bool:
        name = release_name(request, purpose)
        return any(one.release_id == name for one in self._releases(request, purpose))

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

    def _latest(self, request: ModelRequest, purpose: str) -> Place:
        """Where a study without privacy has come to in this process."""
        return self._unprotected.get((request.run_id, purpose), (0, 0))


def release_name(request: ModelRequest, purpose: str) -> str:
    """Name of a request's release in the ledger."""
    return receipts.release_name(request.run_id, request.server_round, purpose, request.attempt)


def _asked_at(request: ModelRequest) -> Place:
    return request.server_round, request.attempt


def _place(release: Reservation) -> Place:
    server_round, _, attempt = release.release_id.rsplit("/", 3)[1:]
    return int(server_round), int(attempt)


def _repeated(request: ModelRequest, reason: str) -> RefusedError:
    msg = f"Attempt {request.attempt} of round {request.server_round} is not answered: {reason}"
    return RefusedError(RefusalCode.REPEATED, msg)
