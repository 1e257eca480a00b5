"""Secure sums at the coordinator: one asked of a cohort, and anew without the sites it lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from flwr.app import Message

from privacy.plan import PrivacyPlan
from privacy.secure_sum import FloatArray
from server.exchange import Exchange
from server.running_sums import RunningRingSum
from shared_models.consortium import ConsortiumConfig
from shared_models.masking import sum_terms
from shared_models.messages import MaskedReply
from shared_models.records import decode_masked
from shared_models.signed_models import Kind

AskAgain = Callable[[set[str], int], tuple[Exchange, Iterable[Message]]]
"""Asks the sites named for another attempt; the exchange and its replies."""


class SumsUsedUpError(Exception):
    """A site was lost, and no further attempt is paid for in this round."""


@dataclass(frozen=True)
class SecureSum:
    """What a secure sum gave.

    Attributes:
        values: ``[D]`` the noised sum.
        sites: Sites in it.
        noise_stddev: Standard deviation of the noise in each entry.
    """

    values: FloatArray
    sites: tuple[str, ...]
    noise_stddev: float


@dataclass(frozen=True)
class SecureSums:
    """The secure sums of a run.

    Attributes:
        config: The study.
        note_epsilon: Told what a site's ledger reported: site, kind of sum, epsilon.
        sizes: Number of sites in each sum that was asked for, by its kind; what the run cost.
    """

    config: ConsortiumConfig
    note_epsilon: Callable[[str, Kind, float], None]
    sizes: dict[Kind, list[int]] = field(default_factory=lambda: {"train": [], "evaluate": []})

    def gather(  # noqa: PLR0913 - a sum, its first attempt, and how to make another
        self,
        kind: Kind,
        exchange: Exchange,
        replies: Iterable[Message],
        *,
        plan: PrivacyPlan,
        size: int,
        ask_again: AskAgain,
        attempt: int = 1,
    ) -> SecureSum:
        """The sum over a cohort of which every site answered.

        Each attempt has noise of its own at every site, so that the difference of two attempts
        tells no more than two sums do (docs/adr/0010).

        Args:
            kind: What is summed.
            exchange: The attempt that was begun.
            replies: Its replies, as they come.
            plan: Noise and clipping of each site.
            size: Entries D of the sum.
            ask_again: Makes another attempt.
            attempt: Number of the attempt that was begun; more than 1 where a run was taken up.

        Raises:
            SumsUsedUpError: If a site was lost and no attempt is left.
        """
        while True:
            cohort = tuple(sorted(exchange.asked.values()))
            self.sizes[kind].append(len(cohort))
            parts = self._add_up(kind, exchange, replies, size=size, attempt=attempt)
            if exchange.answered == set(cohort):
                terms = sum_terms(self.config, cohort, plan=plan, size=size)
                return SecureSum(terms.form.decode(parts.total()), cohort, terms.total_stddev)
            if attempt > self.config.privacy.retries:
                raise SumsUsedUpError
            attempt += 1
            exchange, replies = ask_again(set(exchange.answered), attempt)

    def _add_up(
        self,
        kind: Kind,
        exchange: Exchange,
        replies: Iterable[Message],
        *,
        size: int,
        attempt: int,
    ) -> RunningRingSum:
        """Sum of the parts of the right form; no part is kept."""
        read = partial(_read_part, size=size, attempt=attempt)
        total = RunningRingSum(size)
        for message in replies:
            if part := exchange.accept(message, read):
                total.add(part.masked)
                self.note_epsilon(part.site_id, kind, part.epsilon_spent)
        return total


def _read_part(message: Message, *, size: int, attempt: int) -> MaskedReply:
    return decode_masked(message.content, size=size, attempt=attempt)
