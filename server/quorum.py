"""Too few sites: the end of a run, by name and with every reason."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shared_models.console import FAILED, REFUSED
from shared_models.consortium import ConsortiumConfig
from shared_models.messages import RefusalCode

Refused = tuple[str, str, str]
"""Site, reason code and sentence."""

_BY_POLICY = {str(RefusalCode.POLICY), str(RefusalCode.BUDGET)}


class QuorumError(RuntimeError):
    """Too few sites answered; names those that are missing or refused.

    Attributes:
        by_policy: Whether there would have been enough, had none refused by policy or budget.
    """

    def __init__(self, message: str, *, by_policy: bool = False) -> None:
        super().__init__(message)
        self.by_policy = by_policy

    @property
    def exit_code(self) -> int:
        """What a command answers that ends so."""
        return REFUSED if self.by_policy else FAILED


def too_few(
    server_round: int,
    *,
    least: int,
    present: int,
    refusals: Sequence[Refused],
    silent: Iterable[str],
) -> QuorumError:
    """The error that names a round, how many sites it needs, and what became of the others."""
    reasons = [f"{site} refused ({code}: {text})" for site, code, text in refusals]
    reasons += [f"{site} did not answer" for site in sorted(set(silent))]
    refused = {site for site, code, _ in refusals if code in _BY_POLICY}
    return QuorumError(
        f"Round {server_round} needs {least} sites, {present} took part: "
        + ("; ".join(reasons) or "no site is connected"),
        by_policy=bool(refused) and present + len(refused) >= least,
    )


def require_reachable(config: ConsortiumConfig) -> None:
    """A quorum may stand in the file before its sites do, but not in a run.

    Raises:
        QuorumError: If the study has fewer sites than its quorum.
    """
    quorum, sites = config.training.quorum, len(config.sites)
    if quorum > sites:
        msg = (
            f"Expected training.quorum of at most {sites} (the number of sites), got {quorum} "
            "(consortium.toml): admit more sites or lower the quorum."
        )
        raise QuorumError(msg)
