"""The study that all sites agreed on: ``consortium.toml`` as strict types, and its privacy plans.

Every site pins the SHA-256 of the file's bytes. The privacy plans are derived here, from the file
alone, so that coordinator and site arrive at the same noise without trusting each other.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import field, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from privacy.accounting import calibrate_noise_multiplier
from privacy.plan import PrivacyPlan
from shared_models.features import SCHEMAS, FeatureSchema
from shared_models.importance import IMPORTANCE, IMPORTANCE_ROWS
from shared_models.mitigation import MitigationConfig
from shared_models.roster import (
    Name,
    Roster,
    RosterError,
    SiteEntry,
    check_distinct,
    check_key,
    read_roster,
)
from shared_models.tallies import ERROR_WEIGHT, INTERSECTION, cross_groups
from shared_models.toml import STRICT, ConfigError, parse_toml, read_text

Sex = Literal["female", "male", "other"]
Mode = Literal["local", "distributed", "off"]
Years = Annotated[int, Field(ge=0, le=120)]

TALLY_SENSITIVITY = math.hypot(1.0, ERROR_WEIGHT)
"""L2 norm of one subject's contribution to one tally table; see :mod:`shared_models.tallies`."""

INSTRUMENTS: dict[str, tuple[float, float, float]] = {
    "phq9": (0, 27, 10),
    "bdi2": (0, 63, 20),
    "hamd17": (0, 52, 17),
    "madrs": (0, 60, 20),
}
"""Lowest score, highest score and usual threshold of moderate depression, by instrument.

Source: Kroenke 2001 (PHQ-9), Beck 1996 (BDI-II), Zimmerman 2013 (HAM-D 17), Snaith 1986 (MADRS).
"""


@dataclass(frozen=True, config=STRICT)
class StudyConfig:
    """``[study]``: what is predicted, from which recordings."""

    name: Name
    instrument: Literal["phq9", "bdi2", "hamd17", "madrs", "custom"]
    threshold: float | None = None
    score_low: float | None = None
    score_high: float | None = None
    tasks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse an instrument whose range or threshold is not known.

        Raises:
            ValueError: If a custom instrument lacks its range, or the threshold lies outside it.
        """
        given = (self.score_low, self.score_high, self.threshold)
        if self.instrument == "custom" and None in given:
            msg = "Expected score_low, score_high and threshold for instrument 'custom'"
            raise ValueError(msg)
        if self.instrument != "custom" and (self.score_low, self.score_high) != (None, None):
            msg = f"Expected no score_low and score_high: instrument {self.instrument!r} fixes them"
            raise ValueError(msg)
        low, high, threshold = self.score_range
        if not low < threshold < high:
            msg = f"Expected a threshold between {low:g} and {high:g}, got {threshold:g}"
            raise ValueError(msg)

    @property
    def score_range(self) -> tuple[float, float, float]:
        """Lowest score, highest score, clinical threshold."""
        low, high, usual = INSTRUMENTS.get(self.instrument, (self.score_low, self.score_high, None))
        threshold = usual if self.threshold is None else self.threshold
        assert low is not None  # noqa: S101 - __post_init__ refuses the other case
        assert high is not None  # noqa: S101
        assert threshold is not None  # noqa: S101
        return low, high, threshold


@dataclass(frozen=True, config=STRICT)
class FeaturesConfig:
    """``[features]``: the feature set, and the clip length and rate it must have.

    ``indicators`` names the behavioural figures that the study reads at every site: a site that
    analyses fewer frames a second than one of them needs cannot extract.
    """

    set: Literal["behaviour"] = "behaviour"
    clip_s: float = 15.0
    rate_hz: float = 10.0
    indicators: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a clip length or rate that the feature set does not have.

        Raises:
            ValueError: If they differ from the schema's.
        """
        schema = self.schema
        if (self.clip_s, self.rate_hz) != (schema.clip_s, schema.rate_hz):
            msg = (
                f"Expected clip_s = {schema.clip_s:g} and rate_hz = {schema.rate_hz:g} of feature "
                f"set {self.set!r}, got {self.clip_s:g} and {self.rate_hz:g}"
            )
            raise ValueError(msg)

    @property
    def schema(self) -> FeatureSchema:
        """The schema that the set's name stands for."""
        return SCHEMAS[self.set]


@dataclass(frozen=True, config=STRICT)
class NetworkConfig:
    """``[network]``: which network, and how much of it the consortium trains."""

    name: Literal["behaviour_net"] = "behaviour_net"
    size: Literal["small"] = "small"
    trainable: Literal["all", "head"] = "head"


@dataclass(frozen=True, config=STRICT)
class TrainingConfig:
    """``[training]``: rounds, server optimizer, quorum."""

    rounds: Annotated[int, Field(ge=1, le=10_000)] = 30
    learning_rate: Annotated[float, Field(gt=0, le=100)] = 0.15
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.9
    quorum: Annotated[int, Field(ge=1)] = 1
    round_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    evaluate_every: Annotated[int, Field(ge=1)] = 10

    def evaluates_after(self, server_round: int) -> bool:
        """Whether the model is judged after this round; always after the last."""
        return server_round == self.rounds or server_round % self.evaluate_every == 0

    @property
    def evaluations(self) -> int:
        """Number of rounds after which the model is judged."""
        return sum(self.evaluates_after(r) for r in range(1, self.rounds + 1))


@dataclass(frozen=True, config=STRICT)
class PrivacyConfig:
    """``[privacy]``: the promise to each subject of the training set.

    In mode ``distributed`` each site adds a share of the noise: the sum carries all that is
    promised even if ``tolerated_dropouts`` of its sites tell theirs to somebody. ``retries`` more
    sums than rounds are paid for beforehand, for rounds in which a site is lost (docs/adr/0010).
    """

    unit: Literal["subject"] = "subject"
    mode: Mode = "local"
    target_epsilon: Annotated[float, Field(gt=0, le=1000)] = 3.0
    delta: Annotated[float, Field(gt=0, lt=0.1)] = 1e-3
    max_grad_norm: Annotated[float, Field(gt=0)] = 0.5
    tolerated_dropouts: Annotated[int, Field(ge=0)] = 0
    retries: Annotated[int, Field(ge=0, le=1000)] = 2


@dataclass(frozen=True, config=STRICT)
class FairnessConfig:
    """``[fairness]``: the groups, and the promise to each held-out subject.

    ``age_bands`` are lower bounds in years: ``[18, 40, 60]`` means 18-39, 40-59 and 60+.
    ``epsilon`` covers all tallies of a run together. ``holdout_fraction`` of each site's subjects
    never train; the model is judged on them alone. ``intersections`` adds a table, age band by sex;
    ``importance`` one of what moved the scores.
    """

    age_bands: Annotated[tuple[Years, ...], Field(min_length=1)] = (18, 40, 60)
    sexes: Annotated[tuple[Sex, ...], Field(min_length=1)] = ("female", "male")
    min_cell: Annotated[int, Field(ge=5)] = 10
    bins: Annotated[int, Field(ge=4, le=64, multiple_of=2)] = 8
    epsilon: Annotated[float, Field(gt=0, le=1000)] = 3.0
    holdout_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.4
    intersections: bool = False
    importance: bool = False

    def __post_init__(self) -> None:
        """Refuse bands or sexes that overlap, and intersections with nothing to intersect.

        Raises:
            ValueError: If bounds do not increase, a sex is named twice, or all have one sex or age.
        """
        if list(self.age_bands) != sorted(set(self.age_bands)):
            msg = f"Expected increasing age_bands, got {list(self.age_bands)}"
            raise ValueError(msg)
        if len(set(self.sexes)) != len(self.sexes):
            msg = f"Expected each of sexes once, got {list(self.sexes)}"
            raise ValueError(msg)
        if self.intersections and min(len(self.age_bands), len(self.sexes)) < 2:
            msg = "Expected at least two age_bands and two sexes where intersections = true"
            raise ValueError(msg)

    @property
    def age_groups(self) -> tuple[str, ...]:
        """Names of the age bands, youngest first."""
        bounds = self.age_bands
        closed = [f"{a}-{b - 1}" for a, b in pairwise(bounds)]
        return (*closed, f"{bounds[-1]}+")

    def age_group(self, age_years: float) -> str | None:
        """Name of the band that an age falls into; None below the youngest band."""
        older = [i for i, bound in enumerate(self.age_bands) if age_years >= bound]
        return self.age_groups[older[-1]] if older else None


@dataclass(frozen=True, config=STRICT)
class CoordinatorConfig:
    """``[coordinator]``: the key that signs every global model; sites follow no other."""

    public_key: str

    def __post_init__(self) -> None:
        """Refuse a key that nobody could sign with.

        Raises:
            ValueError: If it is not the OpenSSH line of a P-384 key.
        """
        check_key(self.public_key, "the line that 'vultus-coordinator init' wrote")


@dataclass(frozen=True, config=STRICT)
class ConsortiumConfig:
    """All of ``consortium.toml``; a study can be planned before it has a coordinator's key.

    A file that lists its sites fixes them for good; one without takes them from a roster.
    """

    study: StudyConfig
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    fairness: FairnessConfig = field(default_factory=FairnessConfig)
    mitigation: MitigationConfig = field(default_factory=MitigationConfig)
    coordinator: CoordinatorConfig | None = None
    sites: tuple[SiteEntry, ...] = ()

    def __post_init__(self) -> None:
        """Refuse sites named twice, and weights of groups that the study does not have.

        Raises:
            ValueError: With every fault.
        """
        check_distinct(self.sites)
        fairness = self.fairness
        self.mitigation.check_groups({"age_band": fairness.age_groups, "sex": fairness.sexes})

    def site(self, site_id: str) -> SiteEntry | None:
        """The entry of a site, or None if it does not belong to the consortium."""
        return next((entry for entry in self.sites if entry.id == site_id), None)

    def training_plan(self) -> PrivacyPlan:
        """The plan of all training rounds: one step a round, every subject in every step."""
        return _plan(
            self.privacy,
            target_epsilon=self.privacy.target_epsilon,
            sensitivity=self.privacy.max_grad_norm,
            steps=self.training.rounds + self._retries,
            sites=len(self.sites),
        )

    def tally_plan(self) -> PrivacyPlan:
        """The plan of all evaluations: one step a tally table.

        ``max_grad_norm`` is the norm of one subject's contribution to a table.
        """
        rounds = range(1, self.training.rounds + 1)
        released = [len(self.tally_attributes(server_round)) for server_round in rounds]
        return _plan(
            self.privacy,
            target_epsilon=self.fairness.epsilon,
            sensitivity=TALLY_SENSITIVITY,
            steps=sum(released) + self._retries * max(released),
            sites=len(self.sites),
        )

    @property
    def _retries(self) -> int:
        """Sums that are paid for beyond those that the study needs."""
        return self.privacy.retries if self.privacy.mode == "distributed" else 0

    def tally_attributes(self, server_round: int) -> tuple[str, ...]:
        """The tables that are released after a round: all of them at the end, one on the way.

        A study that chooses a model by its groups needs all of them every time.
        """
        if not self.training.evaluates_after(server_round):
            return ()
        by_group = self.mitigation.choose == "worst_group" or server_round == self.training.rounds
        crossed = (INTERSECTION,) if self.fairness.intersections else ()
        moved = (IMPORTANCE,) if self.fairness.importance else ()
        return ("overall", "age_band", "sex", *crossed, *moved) if by_group else ("overall",)

    def tally_groups(self, server_round: int) -> Iterator[tuple[str, str]]:
        """Every (attribute, group) cell released after a round, empty ones too, in fixed order."""
        groups = {
            "overall": ("all",),
            "age_band": self.fairness.age_groups,
            "sex": self.fairness.sexes,
            INTERSECTION: cross_groups(self.fairness.age_groups, self.fairness.sexes),
            IMPORTANCE: IMPORTANCE_ROWS,
        }
        for attribute in self.tally_attributes(server_round):
            for group in groups[attribute]:
                yield attribute, group

    def subject_groups(self, server_round: int) -> Iterator[tuple[str, str]]:
        """Those of the cells that are groups of subjects, each with histograms of its scores."""
        return (cell for cell in self.tally_groups(server_round) if cell[0] != IMPORTANCE)


def _plan(
    privacy: PrivacyConfig, *, target_epsilon: float, sensitivity: float, steps: int, sites: int
) -> PrivacyPlan:
    off = privacy.mode == "off"
    shares = max(1, sites - privacy.tolerated_dropouts) if privacy.mode == "distributed" else 1
    noise = 0.0 if off else calibrate_noise_multiplier(target_epsilon, privacy.delta, steps=steps)
    return PrivacyPlan(
        mode=privacy.mode,
        noise_multiplier=noise / math.sqrt(shares),
        max_grad_norm=sensitivity,
        sample_rate=1.0,
        steps=steps,
        delta=privacy.delta,
        target_epsilon=None if off else target_epsilon,
        noise_shares=shares,
    )


@dataclass(frozen=True)
class Consortium:
    """A study as agreed, with the sites that take part by now.

    Attributes:
        config: The parsed file; its sites are those of the roster where the file lists none.
        digest: SHA-256 of the file's bytes, hexadecimal.
        roster: Who takes part; None where the file fixes it, or nobody was told yet.
        signed_roster: The roster as it came; empty without one.
    """

    config: ConsortiumConfig
    digest: str
    roster: Roster | None = None
    signed_roster: bytes = b""

    @property
    def coordinator_key(self) -> str | None:
        """OpenSSH line of the key that signs the study's models; None before there is one."""
        return self.config.coordinator.public_key if self.config.coordinator else None

    @property
    def roster_number(self) -> int:
        """Number of the roster; 0 without one."""
        return self.roster.number if self.roster else 0

    def with_roster(self, content: bytes) -> Consortium:
        """The study with the sites of a signed roster in place of those it had.

        Raises:
            RosterError: If the roster is not signed for this study, or the study file fixes its
                sites itself.
        """
        if self.config.sites and self.roster is None:
            msg = "The study file lists its sites itself: no roster may name others"
            raise RosterError(msg)
        roster = read_roster(
            content, public_key=self.coordinator_key, consortium_digest=self.digest
        )
        config = replace(self.config, sites=roster.sites)
        return replace(self, config=config, roster=roster, signed_roster=content)


def load_consortium(path: Path, *, roster: Path | None = None) -> Consortium:
    """The consortium that a study file describes.

    Args:
        path: The study file.
        roster: Where the signed roster lies, if there is one by now.

    Raises:
        ConfigError: With every fault, by key and file; also if it names no coordinator's key, for
            a site could then follow anybody's model.
        RosterError: If the roster is not signed for this study.
    """
    text = read_text(path)
    config = _parse_study(text, path.name)
    if config.coordinator is None:
        msg = (
            f"Missing key coordinator.public_key ({path.name}): sites follow signed models only. "
            "The coordinator's command 'vultus-coordinator init' makes the key and writes it into "
            "the study file; ask the coordinator for a file that has it."
        )
        raise ConfigError([msg])
    consortium = Consortium(config, hashlib.sha256(text.encode()).hexdigest())
    if roster is None or not roster.exists():
        return consortium
    return consortium.with_roster(roster.read_bytes())


@lru_cache(maxsize=4)
def _parse_study(text: str, name: str) -> ConsortiumConfig:
    """One object for all sites of a simulation: each holds the same text, which names them all."""
    return parse_toml(text, ConsortiumConfig, name=name)
