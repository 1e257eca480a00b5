"""What the registry says of a global model: where it comes from, what it cost, what was measured.

An entry is written once and never changed. Nothing in it identifies a subject: the figures are
those that the run's report may show, and withheld groups have none.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from server.recalibration import Recalibration

FORMAT = 1


class RegistryError(ValueError):
    """A registry or model that is not as it was signed; tells every fault."""

    exit_code = 1


@dataclass(frozen=True)
class Figure:
    """A metric of one group with its 95 % interval; None where nothing may be said."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class GroupFigures:
    """What may be said of one group.

    Attributes:
        attribute: ``overall``, ``age_band``, ``sex`` or ``site``.
        group: Name of the group.
        state: ``reported``, ``too_few``, ``suppressed``, ``zero`` or ``not_reported``.
        figures: By metric; empty where the group is withheld.
    """

    attribute: str
    group: str
    state: str
    figures: dict[str, Figure]


@dataclass(frozen=True)
class PrivacyTerms:
    """What the whole run reveals of one subject: a bound for all of its models together.

    Attributes:
        mode: Where noise was added: ``local``, ``distributed`` or ``off``.
        unit: Whom the promise is made to.
        delta: Of every epsilon here.
        target_epsilon: What the study promises; None without privacy.
        epsilon_sum: What the sums of all sites reveal; None without privacy.
        epsilon_site: What a site's releases reveal were each seen alone; None without privacy.
        noise_multiplier: Of what is released.
        max_grad_norm: L2 bound of one subject's gradient.
    """

    mode: str
    unit: str
    delta: float
    target_epsilon: float | None
    epsilon_sum: float | None
    epsilon_site: float | None
    noise_multiplier: float
    max_grad_norm: float


@dataclass(frozen=True)
class Network:
    """Which network the weights belong to, and how much of it was trained."""

    name: str
    size: str
    trainable: str


@dataclass(frozen=True)
class Parent:
    """What a model was made from by one round.

    Attributes:
        number: Its number; None for what ships with the package, and for a model that could not
            be registered.
        weights_digest: SHA-256 of its weights; None if it shipped with another version than the
            one that registered this model.
    """

    number: int | None
    weights_digest: str | None


@dataclass(frozen=True)
class ModelEntry:
    """A global model.

    Attributes:
        format: Of this entry.
        number: From 1, over all runs of the coordinator.
        run: Name of the run's folder.
        run_id: Name of the run in the sites' ledgers and logs.
        run_status: How the run ended: ``completed`` or ``failed``.
        server_round: Round that made it, from 1.
        rounds: Rounds that the study asks for.
        is_final: Whether it is the model that a completed run released.
        study: Name of the study.
        instrument: The questionnaire or rating scale predicted.
        score_range: Lowest score, highest score and threshold, in points.
        feature_schema: SHA-256 of the feature schema that the network takes.
        network: Which network.
        file: The weights, from the coordinator's folder on.
        file_sha256: Of that file.
        weights_digest: SHA-256 of the weights.
        consortium_digest: SHA-256 of the study file.
        roster_number: Number of the list of sites at the run's start; None if there was none.
        sites: First and last round of each stretch in which a site took part, by site.
        privacy: What the run reveals.
        evaluation: Figures of this model; empty if it was not judged.
        versions: Of software, by name.
        parent: What the round began with.
        created_at: When it was registered, ISO 8601 with offset.
        recalibration: What the sums say of its log-odds; None unless it was asked for. The weights
            of the registry are those that the sites judged; exports carry the correction.
    """

    format: int
    number: int
    run: str
    run_id: str
    run_status: str
    server_round: int
    rounds: int
    is_final: bool
    study: str
    instrument: str
    score_range: tuple[float, float, float]
    feature_schema: str
    network: Network
    file: str
    file_sha256: str
    weights_digest: str
    consortium_digest: str
    roster_number: int | None
    sites: dict[str, tuple[tuple[int, int], ...]]
    privacy: PrivacyTerms
    evaluation: tuple[GroupFigures, ...]
    versions: dict[str, str]
    parent: Parent
    created_at: str
    recalibration: Recalibration | None = None

    @property
    def overall(self) -> dict[str, Figure]:
        """Figures over all held-out subjects, by metric."""
        of_all = (group.figures for group in self.evaluation if group.attribute == "overall")
        return next(of_all, {})

    def to_plain(self) -> dict[str, Any]:
        """The entry as JSON knows it."""
        plain: dict[str, Any] = _adapter().dump_python(self, mode="json")
        return plain

    def to_bytes(self) -> bytes:
        """Canonical JSON, the same bytes for the same entry."""
        text = json.dumps(self.to_plain(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return text.encode() + b"\n"

    @classmethod
    def from_bytes(cls, content: bytes) -> ModelEntry:
        """The entry that :meth:`to_bytes` wrote.

        Raises:
            RegistryError: If it is none.
        """
        try:
            return _adapter().validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            msg = f"Expected an entry of the model registry, got {first['msg']} ({where})."
            raise RegistryError(msg) from error


@functools.cache
def _adapter() -> TypeAdapter[ModelEntry]:
    return TypeAdapter(ModelEntry)
