"""A picture of each parameter: what is observed, against what the file of effects says."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simulation.course import severity_scale
from simulation.effect_file import DEPENDENCES, EffectFile
from simulation.effect_pages.drawing import BAND, DOT, LINE, new_figure
from simulation.effect_pages.measured import Measured, Population, claimed, slope

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

AXES = {
    "severity": "severity, PHQ-9 points",
    "age": "age, years",
    "female": "sex",
    "morning": "time of day, h",
    "medication": "drug",
}
"""Dependences with a panel; interactions are told in the table alone."""

TWO = {"female": ("men", "women"), "medication": ("without", "with")}
BINS = 8


def draw_parameter(population: Population, effects: EffectFile, parameter: str) -> Figure:
    """A panel for each dependence of a parameter.

    Dots are means over persons with their 95 % intervals. The line is the effect in the file, at
    the height of this population; the band is what is not known about it, one SD to either side.
    """
    shown = [name for name in claimed(effects, parameter) if name in AXES]
    figure, panels = new_figure(len(shown))
    for axes, dependence in zip(panels, shown, strict=True):
        _panel(axes, population, effects, parameter, dependence)
    panels[0].set_ylabel(population.measured[parameter].label)
    for axes in panels[1:]:
        axes.tick_params(labelleft=False)
    return figure


def _panel(
    axes: Axes, population: Population, effects: EffectFile, parameter: str, dependence: str
) -> None:
    measured = population.measured[parameter]
    design = population.covariates.design
    column = design[:, DEPENDENCES.index(dependence)]
    x = _shown_x(population, effects, dependence)
    quantity = claimed(effects, parameter)[dependence]
    order = np.argsort(x)
    curves = [
        _curve(measured, column, slope(effects, parameter, d))[order]
        for d in (quantity.value, quantity.value - quantity.sd, quantity.value + quantity.sd)
    ]
    few = np.unique(np.linspace(0, len(order) - 1, 40).round().astype(int))
    axes.fill_between(x[order][few], curves[1][few], curves[2][few], color=BAND, linewidth=0)
    axes.plot(x[order][few], curves[0][few], color=LINE)
    for center, mean, half in _binned(measured, x, two=dependence in TWO):
        axes.errorbar(center, mean, yerr=half, fmt="o", color=DOT)
    axes.set_xlabel(AXES[dependence])
    if dependence in TWO:
        axes.set_xticks([0, 1], TWO[dependence])
        axes.set_xlim(-0.4, 1.4)


def _shown_x(population: Population, effects: EffectFile, dependence: str) -> Array:
    covariates = population.covariates
    if dependence == "severity":
        scale = severity_scale("phq9", effects)
        return np.asarray(scale.mean + scale.sd * covariates.severity_z)
    return {
        "age": covariates.age_years,
        "female": covariates.female,
        "morning": covariates.hour,
        "medication": covariates.medication,
    }[dependence]


def _curve(measured: Measured, column: Array, per_column: float) -> Array:
    """``[R]`` expected figure; its height is that of the population."""
    if measured.link == "log":
        factor = np.exp(per_column * column)
        return np.asarray(factor * measured.total.sum() / (measured.weight * factor).sum())
    shift = per_column * column
    level = (measured.total - measured.weight * shift).sum() / measured.weight.sum()
    return np.asarray(level + shift)


def _binned(measured: Measured, x: Array, *, two: bool) -> list[tuple[float, float, float]]:
    """Centre, mean and half of the 95 % interval of each bin of equal numbers of persons."""
    if two:
        groups = [x == value for value in (0.0, 1.0)]
    else:
        edges = np.quantile(x, np.linspace(0.01, 0.99, BINS + 1))
        groups = [(x >= low) & (x <= high) for low, high in itertools.pairwise(edges)]
    return [(float(x[group].mean()), *_ratio(measured, group)) for group in groups]


def _ratio(measured: Measured, group: NDArray[np.bool_]) -> tuple[float, float]:
    total, weight = measured.total[group], measured.weight[group]
    mean = total.sum() / weight.sum()
    error = np.sqrt(((total - mean * weight) ** 2).sum()) / weight.sum()
    return float(mean), float(1.96 * error)
