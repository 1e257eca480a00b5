"""Simulated sites whose truth is known: subjects, visits, scores, behaviour that follows severity.

Every subject has a random stream of its own, named by (seed, site, subject): adding sites or
subjects changes none of those that were there before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from shared_models.consortium import INSTRUMENTS
from shared_models.features import BEHAVIOUR, BehaviourFeatures
from simulation.behaviour import (
    Camera,
    Randomness,
    draw_randomness,
    join_randomness,
    simulate_series,
)
from simulation.effects import EFFECTS, Covariates, draw_parameters
from simulation.planted_bias import PlantedBias

Array = NDArray[np.float64]

TASK = "interview"
TREATMENTS = ("none", "medication", "psychotherapy", "rtms")
SEVERITY_SHARE = 0.22
"""SD of severity between subjects over the range of the instrument: 5.9 points of the PHQ-9."""

BELOW_THRESHOLD = 0.25
"""Distance of the mean below the threshold in SDs, so that 40 % are at or above it."""

_SITE_STREAM, _SUBJECT_STREAM, _EFFECT_STREAM = 0, 1, 2


@dataclass(frozen=True)
class CohortDesign:
    """What is simulated.

    Attributes:
        sites: Number of sites.
        subjects_per_site: Subjects of each site.
        seed: Names all random streams.
        visits: Share of the subjects with 1, 2, 3 ... visits; sums to 1.
        clips_per_recording: Clips of each visit's recording.
        instrument: Key of :data:`shared_models.consortium.INSTRUMENTS`.
        effects_scale: Multiplies all effects of severity; 0 makes a cohort without any truth.
        effects_spread: SD of a factor of each effect, drawn from the seed: a cohort to pre-train on
            should not have exactly the effects of the cohort it is used for.
        site_scale: Multiplies all differences between sites.
        label_noise: SD of the rating error as a share of the instrument's range.
        planted: A group that shows severity in another way; None for the cohort as described.
    """

    sites: int = 8
    subjects_per_site: int = 100
    seed: int = 0
    visits: tuple[float, ...] = (0.25, 0.5, 0.25)
    clips_per_recording: int = 4
    instrument: str = "phq9"
    effects_scale: float = 1.0
    effects_spread: float = 0.0
    site_scale: float = 1.0
    label_noise: float = 0.05
    planted: PlantedBias | None = None

    def __post_init__(self) -> None:
        """Refuse a design that cannot be drawn.

        Raises:
            ValueError: With every fault.
        """
        faults = [
            f"Expected {name} >= {least}, got {getattr(self, name)}"
            for name, least in (
                ("sites", 1), ("subjects_per_site", 1), ("seed", 0), ("clips_per_recording", 1),
                ("effects_scale", 0), ("effects_spread", 0), ("site_scale", 0), ("label_noise", 0),
            )
            if getattr(self, name) < least
        ]  # fmt: skip
        if not self.visits or min(self.visits) < 0 or abs(sum(self.visits) - 1.0) > 1e-9:
            faults.append(f"Expected visits to be shares that sum to 1, got {self.visits}")
        if self.instrument not in INSTRUMENTS:
            faults.append(
                f"Expected instrument to be one of {sorted(INSTRUMENTS)}, got {self.instrument!r}"
            )
        if faults:
            raise ValueError("; ".join(faults))

    def severity_d(self) -> tuple[float, ...]:
        """Effect of severity on each behavioural parameter, as in the table times the scale."""
        rng = _stream(self.seed, _EFFECT_STREAM)
        factors = 1.0 + self.effects_spread * rng.standard_normal(len(EFFECTS))
        return tuple(
            float(effect.severity_d * self.effects_scale * factor)
            for effect, factor in zip(EFFECTS, factors, strict=True)
        )


@dataclass(frozen=True)
class SiteProfile:
    """How a site differs from the others.

    Attributes:
        camera: Its recording set-up.
        severity_shift: Mean severity, in SDs from the mean of all sites.
        age_shift_years: Mean age, in years from the mean of all sites.
        rater_bias: What its raters add to the score, as a share of the instrument's range.
        start: First day of recruitment.
    """

    camera: Camera
    severity_shift: float
    age_shift_years: float
    rater_bias: float
    start: datetime


@dataclass(frozen=True)
class SimulatedRecording:
    """One visit of one subject.

    Attributes:
        recording_id: Unique over all sites.
        subject_id: Unique over all sites.
        recorded_at: ISO 8601 with offset.
        age_years: 18 to 85, at the visit.
        sex: female, male or other.
        score: What the site's rater wrote down: whole points within the instrument's range.
        visit: 1, 2, ...
        task: What was done in front of the camera.
        treatment: Received since the visit before.
        severity: True severity in points of the instrument; the rater does not see it.
    """

    recording_id: str
    subject_id: str
    recorded_at: str
    age_years: int
    sex: str
    score: float
    visit: int
    task: str
    treatment: str
    severity: float


@dataclass(frozen=True)
class SiteCohort:
    """All that one site has.

    Attributes:
        site_id: Name of the site, as in ``consortium.toml``.
        profile: How the site differs from the others.
        recordings: One a visit, subject by subject.
        features: One a recording, in the same order.
    """

    site_id: str
    profile: SiteProfile
    recordings: tuple[SimulatedRecording, ...]
    features: tuple[BehaviourFeatures, ...]


@dataclass(frozen=True)
class _Subject:
    """One subject as drawn: visits V, parameters P."""

    recordings: tuple[SimulatedRecording, ...]
    severity_z: Array
    person_noise: Array
    visit_noise: Array
    randomness: Randomness = field(repr=False)


def generate_cohort(design: CohortDesign) -> Iterator[SiteCohort]:
    """The sites of a design, one after another."""
    for site_index in range(design.sites):
        yield generate_site(design, site_index)


def generate_site(design: CohortDesign, site_index: int) -> SiteCohort:
    """Everything that one site has, the same for the same (design, site_index).

    Args:
        design: What is simulated.
        site_index: 0 to ``design.sites`` - 1.

    Raises:
        IndexError: If the design has no such site.
    """
    if not 0 <= site_index < design.sites:
        msg = f"Expected site_index from 0 to {design.sites - 1}, got {site_index}"
        raise IndexError(msg)
    profile = draw_profile(design, site_index)
    subjects = [
        _draw_subject(design, profile, site_index, index)
        for index in range(design.subjects_per_site)
    ]
    recordings = tuple(recording for subject in subjects for recording in subject.recordings)
    covariates = Covariates(
        severity_z=np.concatenate([subject.severity_z for subject in subjects]),
        age_years=np.array([float(recording.age_years) for recording in recordings]),
        female=np.array([float(recording.sex == "female") for recording in recordings]),
    )
    severity_d = np.asarray(design.severity_d())
    parameters = draw_parameters(
        covariates,
        design.planted.apply(severity_d, covariates) if design.planted else severity_d,
        person_noise=np.concatenate([subject.person_noise for subject in subjects]),
        visit_noise=np.concatenate([subject.visit_noise for subject in subjects]),
    )
    random = join_randomness([subject.randomness for subject in subjects])
    values, mask = simulate_series(parameters, random, profile.camera)
    features = tuple(_cut_clips(values[row], mask[row]) for row in range(len(recordings)))
    return SiteCohort(f"site-{site_index + 1:02d}", profile, recordings, features)


def draw_profile(design: CohortDesign, site_index: int) -> SiteProfile:
    """How a site's cameras, patients and raters differ from those of other sites."""
    rng = _stream(design.seed, _SITE_STREAM, site_index)
    normal, scale = rng.standard_normal(5), design.site_scale
    camera = Camera(
        noise=float(np.exp(0.3 * scale * normal[0])),
        pitch_deg=float(6.0 * scale * normal[1]),
        gaps_per_min=float(1.5 * rng.random()),
        frame_rate_hz=float(rng.choice([15.0, 25.0, 30.0, 30.0, 60.0])),
    )
    return SiteProfile(
        camera=camera,
        severity_shift=float(0.25 * scale * normal[2]),
        age_shift_years=float(6.0 * scale * normal[3]),
        rater_bias=float(0.03 * scale * normal[4]),
        start=datetime(2023, 1, 9, tzinfo=UTC) + timedelta(days=int(rng.integers(0, 180))),
    )


def _stream(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _pick(rng: np.random.Generator, shares: tuple[float, ...]) -> int:
    """Index drawn with these probabilities; ``rng.choice`` takes ten times as long."""
    return min(int(np.searchsorted(np.cumsum(shares), rng.random())), len(shares) - 1)


def _draw_subject(
    design: CohortDesign, profile: SiteProfile, site_index: int, index: int
) -> _Subject:
    rng = _stream(design.seed, _SUBJECT_STREAM, site_index, index)
    visits = 1 + _pick(rng, design.visits)
    age = int(np.clip(45 + profile.age_shift_years + 16 * rng.standard_normal(), 18, 85))
    sex = ("female", "male", "other")[_pick(rng, (0.57, 0.42, 0.01))]
    person_noise = np.tile(rng.standard_normal(len(EFFECTS) + 1), (visits, 1))
    visit_noise = rng.standard_normal((visits, len(EFFECTS)))
    severity_z, treatment = _draw_course(rng, profile, visits)
    severity, score = _rate(design, profile, severity_z, rng.standard_normal(visits))
    low, high, _ = INSTRUMENTS[design.instrument]
    recorded_at = _draw_times(rng, profile, visits)
    subject_id = f"s{site_index + 1:02d}-p{index + 1:04d}"
    recordings = tuple(
        SimulatedRecording(
            recording_id=f"{subject_id}-v{visit + 1}",
            subject_id=subject_id,
            recorded_at=recorded_at[visit].isoformat(),
            age_years=min(age + (recorded_at[visit] - recorded_at[0]).days // 365, 85),
            sex=sex,
            score=float(score[visit]),
            visit=visit + 1,
            task=TASK,
            treatment=treatment if visit else TREATMENTS[0],
            severity=float(severity[visit]),
        )
        for visit in range(visits)
    )
    clips = design.clips_per_recording
    randomness = draw_randomness(rng, visits, samples=clips * BEHAVIOUR.steps, clips=clips)
    # The body follows the severity that the instrument can express: no one is below its floor.
    expressed = (severity - _mean_severity(design)) / (SEVERITY_SHARE * (high - low))
    return _Subject(recordings, expressed, person_noise, visit_noise, randomness)


def _draw_course(rng: np.random.Generator, profile: SiteProfile, visits: int) -> tuple[Array, str]:
    """Severity in SDs at each visit; treated subjects tend to improve."""
    first = profile.severity_shift + rng.standard_normal()
    treated = bool(rng.random() < 1.0 / (1.0 + np.exp(-2.0 * first)))
    treatment = TREATMENTS[1 + _pick(rng, (0.5, 0.4, 0.1))] if treated else TREATMENTS[0]
    drift = -0.35 if treated else 0.05
    steps = drift + 0.35 * rng.standard_normal(visits - 1)
    return first + np.concatenate([[0.0], np.cumsum(steps)]), treatment


def _mean_severity(design: CohortDesign) -> float:
    low, high, threshold = INSTRUMENTS[design.instrument]
    return threshold - BELOW_THRESHOLD * SEVERITY_SHARE * (high - low)


def _rate(
    design: CohortDesign, profile: SiteProfile, severity_z: Array, error: Array
) -> tuple[Array, Array]:
    """True severity in points, and the score that a rater of the site writes down."""
    low, high, _ = INSTRUMENTS[design.instrument]
    points = high - low
    severity = np.clip(_mean_severity(design) + SEVERITY_SHARE * points * severity_z, low, high)
    rated = severity + points * (profile.rater_bias + design.label_noise * error)
    return severity, np.clip(np.rint(rated), low, high)


def _draw_times(rng: np.random.Generator, profile: SiteProfile, visits: int) -> list[datetime]:
    first = profile.start + timedelta(days=int(rng.integers(0, 500)))
    days = np.concatenate([[0], np.cumsum(rng.integers(28, 63, size=visits - 1))])
    minutes = rng.integers(8 * 60, 18 * 60, size=visits)
    return [
        first + timedelta(days=int(day), minutes=int(minute))
        for day, minute in zip(days, minutes, strict=True)
    ]


def _cut_clips(values: NDArray[np.float32], mask: NDArray[np.bool_]) -> BehaviourFeatures:
    shape = (-1, BEHAVIOUR.steps, len(BEHAVIOUR.names))
    clips = values.reshape(shape)
    return BehaviourFeatures(
        values=clips,
        mask=mask.reshape(shape),
        clip_start_s=np.arange(len(clips), dtype=np.float64) * BEHAVIOUR.clip_s,
        schema_digest=BEHAVIOUR.digest,
    )
