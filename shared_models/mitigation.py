"""``[mitigation]``: what a study does against differences between groups; nothing unless declared.

Everything here is part of the study file that all sites pin, so a weight is a constant that was
agreed on beforehand and never a figure that somebody read off the data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from shared_models.toml import STRICT

Attribute = Literal["age_band", "sex"]
Label = Literal["any", "above", "below"]

SMALLEST_WEIGHT, LARGEST_WEIGHT = 0.2, 5.0
"""Bounds of a weight, and of the product of all weights that one subject has."""


@dataclass(frozen=True, config=STRICT)
class GroupWeight:
    """How often a subject of a group counts, in multiples of any other.

    ``label`` narrows it to subjects whose mean score is at or ``above`` the clinical threshold, or
    ``below`` it.
    """

    attribute: Attribute
    group: str
    weight: Annotated[float, Field(ge=SMALLEST_WEIGHT, le=LARGEST_WEIGHT)]
    label: Label = "any"


@dataclass(frozen=True, config=STRICT)
class MitigationConfig:
    """``[mitigation]``: group weights, choice of the released model, recalibration.

    ``choose = "worst_group"`` releases, of the models that were judged, the one whose worst group
    is best by ``metric``; every evaluation then measures the groups, at the same total epsilon.
    ``recalibrate`` fits a slope and an intercept of the log-odds to the noised sums.
    """

    weights: tuple[GroupWeight, ...] = ()
    choose: Literal["last", "worst_group"] = "last"
    metric: Literal["auroc", "mae"] = "auroc"
    recalibrate: bool = False

    def __post_init__(self) -> None:
        """Refuse two weights for the same subjects.

        Raises:
            ValueError: If an attribute, group and label is named twice.
        """
        named = [(w.attribute, w.group, w.label) for w in self.weights]
        if twice := sorted({key for key in named if named.count(key) > 1}):
            listed = "; ".join(" ".join(key) for key in twice)
            msg = f"Expected each group and label once in weights, got twice: {listed}"
            raise ValueError(msg)

    def check_groups(self, declared: Mapping[str, Iterable[str]]) -> None:
        """Refuse weights of groups that the study does not have.

        Args:
            declared: Names of the groups by attribute.

        Raises:
            ValueError: With every such group.
        """
        faults = [
            f"Expected mitigation.weights of {w.attribute} to name one of "
            f"{list(declared[w.attribute])}, got {w.group!r}"
            for w in self.weights
            if w.group not in declared[w.attribute]
        ]
        if faults:
            raise ValueError("; ".join(faults))

    def weight_of(self, groups: Mapping[str, str], *, above: bool) -> float:
        """How often a subject counts: the product of its weights, within the bounds of one.

        Args:
            groups: The subject's group by attribute.
            above: Whether the subject's mean score is at or above the threshold.

        >>> female = GroupWeight("sex", "female", 1.5)
        >>> MitigationConfig((female,)).weight_of({"sex": "female"}, above=True)
        1.5
        """
        product = math.prod(
            w.weight
            for w in self.weights
            if groups.get(w.attribute) == w.group and w.label in _labels(above=above)
        )
        return min(max(product, SMALLEST_WEIGHT), LARGEST_WEIGHT)

    @property
    def largest_weight(self) -> float:
        """An upper bound on every subject's weight that follows from the study alone, >= 1."""
        attributes = {w.attribute for w in self.weights}
        largest = (
            math.prod(self._largest(attribute, above=above) for attribute in attributes)
            for above in (True, False)
        )
        return min(max(largest), LARGEST_WEIGHT)

    def share_of(self, groups: Mapping[str, str], *, above: bool) -> float:
        """A subject's weight over the largest, in (0, 1]; see :meth:`weight_of`.

        Guarantees:
            A function of the study and of this subject alone. Scaling the subject's clipped
            gradient by it leaves the bound of every contribution, and so the sensitivity of the
            sum, at ``max_grad_norm``. Nobody's counts enter.
        """
        return self.weight_of(groups, above=above) / self.largest_weight

    def _largest(self, attribute: str, *, above: bool) -> float:
        """Largest weight of a group of one attribute; 1 for a group that is not named."""
        products: dict[str, float] = {}
        for w in self.weights:
            if w.attribute == attribute and w.label in _labels(above=above):
                products[w.group] = products.get(w.group, 1.0) * w.weight
        return max([1.0, *products.values()])


def _labels(*, above: bool) -> tuple[Label, Label]:
    return ("any", "above" if above else "below")
