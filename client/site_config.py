"""``site.toml`` as strict types: what a site keeps where, and what it permits."""

from __future__ import annotations

from dataclasses import field, fields
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from client.recordings.columns import Consent
from privacy.policy import SitePolicy
from shared_models.consortium import Sex
from shared_models.roster import Name
from shared_models.toml import STRICT

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, config=STRICT)
class SiteSection:
    """``[site]``: who this is, and the exact study file it agreed to."""

    id: Name
    consortium_sha256: Sha256
    consortium: str = "consortium.toml"


@dataclass(frozen=True, config=STRICT)
class PathsSection:
    """``[paths]``: places relative to the site folder.

    ``videos`` is the folder that the ``file`` column of the recordings starts from; no recording
    may lie outside it.
    """

    recordings: str = "recordings.csv"
    videos: str = "."
    store: str = "store"
    state: str = "state"
    keys: str = "keys"
    face_model: str | None = None


@dataclass(frozen=True, config=STRICT)
class PolicySection:
    """``[policy]``: the limits that no coordinator can move; without it everything is refused.

    What may run under these limits stands in ``approvals.toml``, bound to the study.
    """

    max_epsilon_per_subject: Annotated[float, Field(gt=0)]
    min_noise_multiplier: Annotated[float, Field(ge=0)]
    min_subjects: Annotated[int, Field(ge=1)]
    max_rounds: Annotated[int, Field(ge=1)]
    max_delta: Annotated[float, Field(gt=0, lt=0.1)]
    allowed_networks: Annotated[tuple[str, ...], Field(min_length=1)]
    allow_no_privacy: bool = False
    require_secure_sum: bool = False
    max_epsilon_per_year: Annotated[float, Field(gt=0)] | None = None
    allowed_features: Annotated[tuple[str, ...], Field(min_length=1)] = ("behaviour",)
    approve_members: bool = False
    approved_bundles: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse a list of bundles: a hash alone says nothing of the study that it was meant for.

        Raises:
            ValueError: If there is one, as earlier versions wrote it.
        """
        if self.approved_bundles is not None:
            msg = (
                "Expected no approved_bundles in [policy], since approvals stand in approvals.toml "
                "now: delete the line, then run 'vultus-site approve DIR'"
            )
            raise ValueError(msg)

    def to_policy(self) -> SitePolicy:
        """The limits as the privacy layer checks them."""
        limits = {field.name: getattr(self, field.name) for field in fields(SitePolicy)}
        return SitePolicy(**limits)


@dataclass(frozen=True, config=STRICT)
class DeviceSection:
    """``[device]``: the torch device that trains, the processes that extract."""

    torch: str = "cpu"
    workers: Annotated[int, Field(ge=1, le=256)] = 1


@dataclass(frozen=True, config=STRICT)
class ExtractionSection:
    """``[extraction]``: frames a second that are analysed, and the network of the extractor.

    ``analysis_hz`` below the rate of the camera saves time and loses what is brief; without it
    every frame is analysed. ``network`` says whether the processes that open videos are cut off.
    """

    analysis_hz: Annotated[float, Field(ge=8, le=60)] | None = None
    network: Literal["cut_if_possible", "cut", "open"] = "cut_if_possible"


@dataclass(frozen=True, config=STRICT)
class ServiceSection:
    """``[service]``: the wall between 'start' and the videos, and what monitoring tools may ask.

    ``wall`` says whether 'start' refuses where the kernel cannot wall it off; ``health_port`` is a
    port on loopback for the gRPC health protocol, 0 for none.
    """

    wall: Literal["required", "if_possible"] = "if_possible"
    health_port: Annotated[int, Field(ge=0, le=65535)] = 0


@dataclass(frozen=True, config=STRICT)
class CoordinatorSection:
    """``[coordinator]``: where the site connects to, and whose certificate it trusts."""

    address: Annotated[str, Field(pattern=r"^\S+:\d{1,5}$")]
    ca_certificate: str


@dataclass(frozen=True, config=STRICT)
class RedcapSection:
    """``[redcap]``: where an export of REDCap has what the table of recordings needs.

    Each value names a column of the export, or is a pattern with columns in braces, such as
    ``"videos/{record_id}_{event}.mp4"``; ``{event}`` and ``{instance}`` stand for REDCap's own
    columns. ``sex_values`` and ``consent_values`` say what codes mean.
    """

    subject_id: str
    file: str
    recorded_at: str
    sex: str
    score: str
    age_years: str | None = None
    birth_date: str | None = None
    timezone: str | None = None
    recording_id: str | None = None
    visit: str | None = None
    task: str | None = None
    treatment: str | None = None
    consent: str | None = None
    events: str | None = None
    turns: str | None = None
    woke_at: str | None = None
    pupil_mm: str | None = None
    sex_values: dict[str, Sex] = field(default_factory=dict)
    consent_values: dict[str, Consent] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a mapping without an age, or with two.

        Raises:
            ValueError: If not exactly one of ``age_years`` and ``birth_date`` is named.
        """
        if (self.age_years is None) == (self.birth_date is None):
            msg = "Expected either age_years or birth_date in [redcap]"
            raise ValueError(msg)


@dataclass(frozen=True, config=STRICT)
class BidsSection:
    """``[bids]``: what a BIDS tree does not say by itself.

    ``score``, ``treatment`` and ``consent`` name columns of ``phenotype/*.tsv``, of sessions or of
    participants; ``timezone`` belongs to acquisition times without offset.
    """

    score: str | None = None
    treatment: str | None = None
    consent: str | None = None
    timezone: str | None = None
    sex_values: dict[str, Sex] = field(default_factory=dict)
    consent_values: dict[str, Consent] = field(default_factory=dict)


@dataclass(frozen=True, config=STRICT)
class SimulationSection:
    """``[simulation]``: noise from a seed. It protects nobody, so it excludes a coordinator."""

    seed: int


@dataclass(frozen=True, config=STRICT)
class SiteConfig:
    """All of ``site.toml``.

    ``quality`` holds thresholds of the quality gate by name; the extractor, which the networked
    half of the site must not import, knows and checks them. ``reliability`` holds the retest
    reliability of indicators by name, for the reliable-change index.
    """

    site: SiteSection
    paths: PathsSection = field(default_factory=PathsSection)
    policy: PolicySection | None = None
    device: DeviceSection = field(default_factory=DeviceSection)
    extraction: ExtractionSection = field(default_factory=ExtractionSection)
    quality: dict[str, float] = field(default_factory=dict)
    reliability: dict[str, Annotated[float, Field(gt=0, lt=1)]] = field(default_factory=dict)
    redcap: RedcapSection | None = None
    bids: BidsSection | None = None
    service: ServiceSection = field(default_factory=ServiceSection)
    coordinator: CoordinatorSection | None = None
    simulation: SimulationSection | None = None

    def __post_init__(self) -> None:
        """Refuse seeded noise on a site that talks to a coordinator.

        Raises:
            ValueError: If ``[simulation]`` and ``[coordinator]`` stand together.
        """
        if self.simulation and self.coordinator:
            msg = (
                "Expected either [simulation] or [coordinator], got both: noise from a seed can "
                "be subtracted. Remove [simulation]"
            )
            raise ValueError(msg)
