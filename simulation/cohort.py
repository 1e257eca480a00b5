"""Simulated sites whose truth is known: subjects, visits, scores, behaviour that follows severity.

Every subject has a random stream of its own, named by (seed, site, subject): adding sites or
subjects changes none of those that were there before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from shared_models.consortium import INSTRUMENTS
from shared_models.features import BEHAVIOUR, BehaviourFeatures
from simulation.behaviour import (
    Camera,
    Randomness,
    Scene,
    draw_randomness,
    join_randomness,
    simulate_series,
)
from simulation.course import UNTREATED, draw_course, draw_times, hours_of, rate, severity_scale
from simulation.effect_file import PARAMETERS, EffectFile, shipped_effects
from simulation.effects import (
    Covariates,
    draw_parameters,
    effect_matrix,
    scale_severity,
    vary_effects,
)
from simulation.planted_bias import PlantedBias
from simulation.quality import FACE_MISSING, failure_chances, gap_rates

Array = NDArray[np.float64]

TASK = "interview"

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
        effects: What moves behaviour, severity, scores and recordings.
        effects_scale: Multiplies all effects of severity and of drugs; 0 makes a cohort without any
            truth.
        effects_spread: Multiplies the SDs of the effects, which are then drawn from the seed: a
            cohort to pre-train on should not have exactly the effects of the cohort it is used for.
        site_scale: Multiplies all differences between sites.
        label_noise: SD of the rating error as a share of the instrument's range; None takes that of
            the effects.
        planted: A group that shows severity in another way; None for the cohort as described.
    """

    sites: int = 8
    subjects_per_site: int = 100
    seed: int = 0
    visits: tuple[float, ...] = (0.25, 0.5, 0.25)
    clips_per_recording: int = 4
    instrument: str = "phq9"
    effects: EffectFile = field(default_factory=shipped_effects, repr=False)
    effects_scale: float = 1.0
    effects_spread: float = 0.0
    site_scale: float = 1.0
    label_noise: float | None = None
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
            if (getattr(self, name) or 0) < least
        ]  # fmt: skip
        if not self.visits or min(self.visits) < 0 or abs(sum(self.visits) - 1.0) > 1e-9:
            faults.append(f"Expected visits to be shares that sum to 1, got {self.visits}")
        if self.instrument not in INSTRUMENTS:
            faults.append(
                f"Expected instrument to be one of {sorted(INSTRUMENTS)}, got {self.instrument!r}"
            )
        if faults:
            raise ValueError("; ".join(faults))

    @property
    def rating_error(self) -> float:
        """SD of the rating error as a share of the instrument's range."""
        error = self.effects.rating.error.value
        return error if self.label_noise is None else self.label_noise

    def drawn_effects(self) -> EffectFile:
        """The effects of this cohort: those given, varied and scaled."""
        return _drawn_effects(self.effects, self.seed, self.effects_spread, self.effects_scale)


@lru_cache(maxsize=8)
def _drawn_effects(effects: EffectFile, seed: int, spread: float, scale: float) -> EffectFile:
    return scale_severity(vary_effects(effects, _stream(seed, _EFFECT_STREAM), spread), scale)


@dataclass(frozen=True)
class SiteProfile:
    """How a site differs from the others.

    Attributes:
        camera: Its recording set-up.
        severity_shift: Mean severity, in SDs from the mean of all sites.
        age_shift_years: Mean age, in years from the mean of all sites.
        rater_bias: What its raters add to the score, as a share of the instrument's range.
        failure_shift: What its set-up adds to the log odds that a recording fails the quality gate.
        start: First day of recruitment.
    """

    camera: Camera
    severity_shift: float
    age_shift_years: float
    rater_bias: float
    failure_shift: float
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
        rejected_for: Code of the quality gate's reason; empty if the recording is accepted.
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
    rejected_for: str = ""


@dataclass(frozen=True)
class SiteCohort:
    """All that one site has.

    Attributes:
        site_id: Name of the site, as in ``consortium.toml``.
        profile: How the site differs from the others.
        recordings: One a visit, subject by subject.
        features: One a recording, in the same order, also of recordings that the gate rejects.
    """

    site_id: str
    profile: SiteProfile
    recordings: tuple[SimulatedRecording, ...]
    features: tuple[BehaviourFeatures, ...]


@dataclass(frozen=True)
class _Subject:
    """One subject as drawn: visits V, parameters P.

    Attributes:
        recordings: ``V`` of them, before the quality gate.
        shown_z: ``[V]`` severity in SDs as the body shows it at the hour of the visit.
        person_noise: ``[V, P + 1]``, equal rows.
        visit_noise: ``[V, P]``.
        gap_noise: ``[V]`` standard normal.
        luck: ``[V]`` uniform; the gate rejects what falls below the chance of failure.
        randomness: Of the series.
    """

    recordings: tuple[SimulatedRecording, ...]
    shown_z: Array
    person_noise: Array
    visit_noise: Array
    gap_noise: Array
    luck: Array
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
    settled = replace(design, effects=design.drawn_effects())
    subjects = [
        _draw_subject(settled, profile, site_index, index)
        for index in range(design.subjects_per_site)
    ]
    recordings, features = _film(subjects, profile, settled)
    return SiteCohort(f"site-{site_index + 1:02d}", profile, recordings, features)


def _film(
    subjects: Sequence[_Subject], profile: SiteProfile, design: CohortDesign
) -> tuple[tuple[SimulatedRecording, ...], tuple[BehaviourFeatures, ...]]:
    """The recordings with the gate's verdict, and the features of each."""
    covariates, effects, planted = _covariates(subjects), design.effects, design.planted
    parameters = draw_parameters(
        covariates,
        effects,
        severity_d=planted.apply(effect_matrix(effects)[0], covariates) if planted else None,
        person_noise=_join(subjects, "person_noise"),
        visit_noise=_join(subjects, "visit_noise"),
    )
    usual, noise = profile.camera.gaps_per_min, _join(subjects, "gap_noise")
    gaps = gap_rates(covariates, effects, usual_per_min=usual, noise=noise)
    random = join_randomness([subject.randomness for subject in subjects])
    values, mask = simulate_series(parameters, random, Scene(effects, profile.camera, gaps))
    chances = failure_chances(covariates, effects, site_shift=profile.failure_shift)
    failed = _join(subjects, "luck") < chances
    drawn = [recording for subject in subjects for recording in subject.recordings]
    recordings = tuple(
        replace(recording, rejected_for=FACE_MISSING) if bad else recording
        for recording, bad in zip(drawn, failed, strict=True)
    )
    return recordings, tuple(_cut_clips(*both) for both in zip(values, mask, strict=True))


def _join(subjects: Sequence[_Subject], name: str) -> Array:
    return np.concatenate([getattr(subject, name) for subject in subjects])


def _covariates(subjects: Sequence[_Subject]) -> Covariates:
    recordings = [recording for subject in subjects for recording in subject.recordings]
    times = [datetime.fromisoformat(recording.recorded_at) for recording in recordings]
    return Covariates(
        severity_z=_join(subjects, "shown_z"),
        age_years=np.array([float(recording.age_years) for recording in recordings]),
        female=np.array([float(recording.sex == "female") for recording in recordings]),
        hour=hours_of(times),
        medication=np.array([float(r.treatment == "medication") for r in recordings]),
    )


def draw_profile(design: CohortDesign, site_index: int) -> SiteProfile:
    """How a site's cameras, patients and raters differ from those of other sites."""
    rng = _stream(design.seed, _SITE_STREAM, site_index)
    effects = design.drawn_effects()
    sites, scale = effects.sites, design.site_scale
    normal = scale * rng.standard_normal(6)
    camera = Camera(
        noise=float(np.exp(sites.camera_noise.value * normal[0])),
        pitch_deg=float(sites.camera_pitch_deg.value * normal[1]),
        gaps_per_min=float(sites.max_gaps_per_min.value * rng.random()),
        frame_rate_hz=float(rng.choice([15.0, 25.0, 30.0, 30.0, 60.0])),
    )
    return SiteProfile(
        camera=camera,
        severity_shift=float(sites.severity_shift.value * normal[2]),
        age_shift_years=float(sites.age_shift_years.value * normal[3]),
        rater_bias=float(effects.rating.site_bias.value * normal[4]),
        failure_shift=float(sites.failure_shift.value * normal[5]),
        start=datetime(2023, 1, 9, tzinfo=UTC) + timedelta(days=int(rng.integers(0, 180))),
    )


def _stream(seed: int, *key: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=key)))


def _pick(rng: np.random.Generator, shares: tuple[float, ...]) -> int:
    """Index drawn with these probabilities; ``rng.choice`` takes ten times as long."""
    return min(int(np.searchsorted(np.cumsum(shares), rng.random())), len(shares) - 1)


def _draw_subject(
    design: CohortDesign, profile: SiteProfile, site_index: int, index: int
) -> _Subject:
    rng = _stream(design.seed, _SUBJECT_STREAM, site_index, index)
    effects = design.effects
    scale = severity_scale(design.instrument, effects)
    visits = 1 + _pick(rng, design.visits)
    age = int(np.clip(45 + profile.age_shift_years + 16 * rng.standard_normal(), 18, 85))
    sex = ("female", "male", "other")[_pick(rng, (0.57, 0.42, 0.01))]
    person_noise = np.tile(rng.standard_normal(len(PARAMETERS) + 1), (visits, 1))
    visit_noise = rng.standard_normal((visits, len(PARAMETERS)))
    first = profile.severity_shift + rng.standard_normal()
    severity_z, treatment = draw_course(rng, first, visits, scale=scale, effects=effects)
    severity = scale.points(severity_z)
    error = design.rating_error * rng.standard_normal(visits)
    score = rate(severity, scale, bias=profile.rater_bias, error=error)
    times = draw_times(rng, profile.start, visits)
    diurnal, spread = effects.severity.morning.value, effects.severity.morning_spread.value
    morning = diurnal + spread * rng.standard_normal()
    subject_id = f"s{site_index + 1:02d}-p{index + 1:04d}"
    recordings = tuple(
        SimulatedRecording(
            recording_id=f"{subject_id}-v{visit + 1}",
            subject_id=subject_id,
            recorded_at=times[visit].isoformat(),
            age_years=min(age + (times[visit] - times[0]).days // 365, 85),
            sex=sex,
            score=float(score[visit]),
            visit=visit + 1,
            task=TASK,
            treatment=treatment if visit else UNTREATED,
            severity=float(severity[visit]),
        )
        for visit in range(visits)
    )
    clips = design.clips_per_recording
    return _Subject(
        recordings,
        # The body follows the severity that the instrument can express: no one is below its floor.
        scale.standardise(severity) + morning * (13.0 - hours_of(times)) / 10.0,
        person_noise,
        visit_noise,
        rng.standard_normal(visits),
        rng.random(visits),
        draw_randomness(rng, visits, samples=clips * BEHAVIOUR.steps, clips=clips),
    )


def _cut_clips(values: NDArray[np.float32], mask: NDArray[np.bool_]) -> BehaviourFeatures:
    shape = (-1, BEHAVIOUR.steps, len(BEHAVIOUR.names))
    clips = values.reshape(shape)
    return BehaviourFeatures(
        values=clips,
        mask=mask.reshape(shape),
        clip_start_s=np.arange(len(clips), dtype=np.float64) * BEHAVIOUR.clip_s,
        schema_digest=BEHAVIOUR.digest,
    )
