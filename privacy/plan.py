"""Privacy plan: the one holder of the numbers that decide how private a run is.

This module imports neither torch nor opacus, so that command lines and messages stay light.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args

PrivacyMode = Literal["local", "distributed", "off"]
Scalar = str | int | float


class PlanError(ValueError):
    """A privacy plan that cannot be meant: the message lists every fault found."""


@dataclass(frozen=True)
class PrivacyPlan:
    """How much noise a run adds, to what, and how often.

    Attributes:
        mode: ``local`` (each site's own release is private), ``distributed`` (the sum over the
            sites is) or ``off`` (no privacy at all, for comparison on simulated data).
        noise_multiplier: standard deviation of the noise that one site adds itself, in units of
            ``max_grad_norm``; 0 only in mode ``off``.
        max_grad_norm: L2 bound on the gradient of one subject, > 0 (``off``: >= 0, unused).
        sample_rate: probability with which a subject takes part in a step, in (0, 1].
        steps: number of releases in the whole run, >= 1.
        delta: probability that the guarantee on epsilon may fail, in (0, 1).
        target_epsilon: epsilon after all steps of what the coordinator can see, or None.
        noise_shares: how many sites' independent noise the released sum surely carries (sites
            less tolerated drop-outs); 1 claims nothing of the others.

    Raises:
        PlanError: any value is out of its range; all faults are reported at once.
    """

    mode: PrivacyMode
    noise_multiplier: float
    max_grad_norm: float
    sample_rate: float
    steps: int
    delta: float
    target_epsilon: float | None
    noise_shares: int = 1

    def __post_init__(self) -> None:
        faults = [*_number_faults(self), *_mode_faults(self)]
        if faults:
            raise PlanError("\n".join(faults))
        for name in ("noise_multiplier", "max_grad_norm", "sample_rate", "delta"):
            object.__setattr__(self, name, float(getattr(self, name)))
        if self.target_epsilon is not None:
            object.__setattr__(self, "target_epsilon", float(self.target_epsilon))

    @property
    def released_noise_multiplier(self) -> float:
        """Noise multiplier of what the coordinator sees: the sum's where sums are private."""
        shares = self.noise_shares if self.mode == "distributed" else 1
        return self.noise_multiplier * math.sqrt(shares)

    def to_dict(self) -> dict[str, Scalar]:
        """Plain scalars for a message; an absent ``target_epsilon`` is left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Self:
        """Plan from the scalars of :meth:`to_dict`.

        Raises:
            PlanError: a key is unknown or missing, or a value is out of range.
        """
        return cls(**_strict(cls, values, optional={"target_epsilon"}))

    def digest(self) -> str:
        """SHA-256 (hex) of the plan's canonical JSON, equal for equal plans on any machine."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class PrivacySpent:
    """Epsilon spent so far on each subject, seen in two ways.

    Attributes:
        epsilon_site: what one site's own release reveals, were aggregation broken.
        epsilon_sum: what the sum over the sites reveals; None where nothing is summed privately.
        delta: the delta both hold at.
        steps: releases counted.
        unit: what is protected.
    """

    epsilon_site: float | None
    epsilon_sum: float | None
    delta: float
    steps: int
    unit: str = "subject"

    def to_dict(self) -> dict[str, Scalar]:
        """Plain scalars for a message; an unknown epsilon is left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Self:
        """Spending from the scalars of :meth:`to_dict`.

        Raises:
            PlanError: a key is unknown or missing.
        """
        return cls(**_strict(cls, values, optional={"epsilon_site", "epsilon_sum"}))


def _is_real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _number_faults(plan: PrivacyPlan) -> list[str]:
    lowest = 0.0 if plan.mode == "off" else math.ulp(0.0)
    norm, rate, delta = plan.max_grad_norm, plan.sample_rate, plan.delta
    target = plan.target_epsilon
    rules = (
        ("max_grad_norm", "> 0", _is_real(norm) and norm >= lowest),
        ("sample_rate", "in (0, 1]", _is_real(rate) and 0 < rate <= 1),
        ("steps", "a whole number >= 1", _is_count(plan.steps)),
        ("delta", "in (0, 1)", _is_real(delta) and 0 < delta < 1),
        ("target_epsilon", "> 0 or none", target is None or (_is_real(target) and target > 0)),
        ("noise_shares", "a whole number >= 1", _is_count(plan.noise_shares)),
    )
    return [_fault(plan, name, expected) for name, expected, holds in rules if not holds]


def _mode_faults(plan: PrivacyPlan) -> list[str]:
    noise = plan.noise_multiplier
    if plan.mode not in get_args(PrivacyMode):
        return [_fault(plan, "mode", "local, distributed or off")]
    if plan.mode != "off":
        holds = _is_real(noise) and noise > 0
        return [] if holds else [_fault(plan, "noise_multiplier", "> 0")]
    faults = []
    if not _is_real(noise) or noise != 0:
        faults.append(_fault(plan, "noise_multiplier", "0 in mode off"))
    if plan.target_epsilon is not None:
        faults.append(_fault(plan, "target_epsilon", "none in mode off"))
    return faults


def _fault(plan: PrivacyPlan, name: str, expected: str) -> str:
    return f"Expected plan.{name} {expected}, got {getattr(plan, name)!r}."


def _strict(
    kind: type[PrivacyPlan | PrivacySpent], values: Mapping[str, object], *, optional: set[str]
) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}
    faults = [f"Unknown key {name!r} in {kind.__name__}." for name in sorted(set(values) - names)]
    missing = sorted(names - set(values) - optional)
    faults += [f"Missing key {name!r} in {kind.__name__}." for name in missing]
    if faults:
        raise PlanError("\n".join(faults))
    return {**dict.fromkeys(optional), **values}
