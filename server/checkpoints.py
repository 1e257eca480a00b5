"""What a run needs to go on after its process is gone: written after each step, and nothing else.

``checkpoint.json`` is the run: it is replaced as a whole and names the file of tensors it belongs
to. Tensors are written first, under a name of their own, so that a crash at any moment leaves one
checkpoint that fits together. Nothing is ever unpickled.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from privacy.vault import write_atomic
from server.history import EvaluationReport, RoundReport
from server.run_folder import CHECKPOINT_FILE
from shared_models.signed_models import Kind
from shared_models.weights import State, WeightsError, digest_weights, load_weights, save_weights

TENSORS = "checkpoint-{:04d}.safetensors"


class CheckpointError(RuntimeError):
    """A checkpoint that does not fit together; the run cannot go on from it."""

    exit_code = 1


@dataclass(frozen=True)
class Pending:
    """A question that was put to sites, and whose answers are not in the model yet.

    Attributes:
        kind: A step of training, or tallies.
        server_round: Round, from 1.
        attempt: 1, or more where an earlier cohort lost a site.
        cohort: Sites that were asked.
        roster: Number of the roster that the question followed; 0 without one.
        refusals: Of earlier attempts.
        lost: Sites of earlier attempts that did not answer.
    """

    kind: Kind
    server_round: int
    attempt: int
    cohort: tuple[str, ...]
    roster: int
    refusals: tuple[tuple[str, str, str], ...]
    lost: tuple[str, ...]


@dataclass(frozen=True)
class Checkpoint:
    """All of a run but its tensors.

    Attributes:
        run_id: Name of the run in every proof and ledger; the same in all its lives.
        consortium_digest: Of the study file.
        judged: Last round after which the model was judged; 0 for none.
        rounds: What happened in each round that is in the weights.
        evaluations: In order.
        epsilon_by_site: What the sites' ledgers reported last.
        sums: Number of sites in each secure sum that was asked for, the pending one included.
        pending: What the sites are being asked.
        seconds: Time that the run took until now, over all its lives.
        tensors: Digest of the tensors.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(ser_json_inf_nan="constants")

    run_id: str
    consortium_digest: str
    judged: int
    rounds: tuple[RoundReport, ...]
    evaluations: tuple[EvaluationReport, ...]
    epsilon_by_site: dict[str, dict[str, float]]
    sums: dict[Kind, list[int]]
    pending: Pending | None
    seconds: float
    tensors: str

    @property
    def trained(self) -> int:
        """Rounds whose step is in the weights."""
        return len(self.rounds)


_KIND = TypeAdapter(Checkpoint)


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoint in a run's folder.

    Attributes:
        folder: The run's folder.
    """

    folder: Path

    def read(self) -> Checkpoint | None:
        """The last checkpoint, or None before the first.

        Raises:
            CheckpointError: If the file is damaged.
        """
        file = self.folder / CHECKPOINT_FILE
        if not file.exists():
            return None
        try:
            return _KIND.validate_json(file.read_bytes())
        except ValidationError as error:
            msg = f"Expected a checkpoint in {file}, got {error.error_count()} faults in it."
            raise CheckpointError(msg) from error

    def read_tensors(self, checkpoint: Checkpoint, like: Mapping[str, State]) -> dict[str, State]:
        """The tensors that a checkpoint names.

        Args:
            checkpoint: The checkpoint.
            like: Groups of tensors of the expected form.

        Raises:
            CheckpointError: If they are missing, damaged, or another run's.
        """
        file = self.folder / TENSORS.format(checkpoint.trained)
        try:
            flat = load_weights(file, _flatten(like))
        except (OSError, WeightsError) as error:
            msg = f"Expected the tensors of {CHECKPOINT_FILE} in {file}, got: {error}."
            raise CheckpointError(msg) from error
        if digest_weights(flat) != checkpoint.tensors:
            msg = f"Expected the tensors that {CHECKPOINT_FILE} names in {file}, got others."
            raise CheckpointError(msg)
        return {
            group: {name: flat[f"{group}/{name}"] for name in state}
            for group, state in like.items()
        }

    def write_tensors(self, trained: int, groups: Mapping[str, State]) -> str:
        """Write tensors durably beside those of the checkpoint that counts; their digest."""
        flat = _flatten(groups)
        file = self.folder / TENSORS.format(trained)
        save_weights(file, flat)
        make_durable(file)
        return digest_weights(flat)

    def write(self, checkpoint: Checkpoint) -> None:
        """Let a checkpoint count from now on, durably; tensors of earlier ones go."""
        write_atomic(self.folder / CHECKPOINT_FILE, _KIND.dump_json(checkpoint))
        for file in self.folder.glob("checkpoint-*.safetensors"):
            if file.name != TENSORS.format(checkpoint.trained):
                file.unlink()


def make_durable(file: Path) -> None:
    """Wait until a file that was written lies on the disk."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flatten(groups: Mapping[str, State]) -> State:
    return {f"{group}/{name}": t for group, state in groups.items() for name, t in state.items()}
