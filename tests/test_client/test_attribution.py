"""Integrated gradients: equal to what can be worked out by hand, complete, and about behaviour."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from client.learning.attribution import attribute_score
from client.learning.dataset import SubjectClips
from client.learning.importance import MOST_CLIPS, measure_importance
from shared_models.behaviour_groups import BEHAVIOUR_GROUPS, group_columns
from shared_models.consortium import ConsortiumConfig, StudyConfig
from shared_models.features import BEHAVIOUR
from shared_models.networks import BehaviourNet, make_network
from shared_models.typical_clips import typical_clips

RANGE = (0.0, 27.0, 10.0)
UNIT = 27 / 4
FEATURES = len(BEHAVIOUR.names)


class Linear(nn.Module):
    """A score that is a weighted sum of all that was measured."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        score = (values * mask * self.weight).sum(dim=(1, 2)) + 0.3
        return torch.stack([score, -score], dim=1)


class Product(nn.Module):
    """A score x y of a clip with one step and two features."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Parameter(torch.zeros(1))

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        score = values[:, 0, 0] * values[:, 0, 1] + self.idle
        return torch.stack([score, score], dim=1)


def test_on_a_linear_network_each_part_is_weight_times_distance() -> None:
    torch.manual_seed(0)
    weight, values, typical = torch.randn(4, 3), torch.randn(2, 4, 3), torch.randn(5, 4, 3)
    mask = torch.rand(2, 4, 3) > 0.3
    values = values * mask
    found = attribute_score(Linear(weight), values, mask, score_range=RANGE, typical=typical)
    by_hand = (weight * (values - typical.mean(dim=0)) * mask / 2 * UNIT).numpy()
    np.testing.assert_allclose(found.points, by_hand, atol=1e-5)
    assert found.score == pytest.approx(
        float(((values * weight).sum(dim=(1, 2)).mean() + 0.3) * UNIT + 10), abs=1e-4
    )
    assert abs(found.gap) < 1e-4


def test_on_a_product_the_parts_are_the_integrals_by_hand() -> None:
    """From (a, b) to (x, y): the part of x is (x - a)(b + y) / 2, of y it is (y - b)(a + x) / 2."""
    x, y, a, b = 1.5, -2.0, 0.25, 0.75
    values, typical = torch.tensor([[[x, y]]]), torch.tensor([[[a, b]]])
    found = attribute_score(
        Product(), values, torch.ones_like(values, dtype=torch.bool), score_range=RANGE,
        typical=typical, steps=4,
    )  # fmt: skip
    by_hand = np.array([[[(x - a) * (b + y) / 2, (y - b) * (a + x) / 2]]]) * UNIT
    np.testing.assert_allclose(found.points, by_hand, atol=1e-5)
    assert found.typical_score == pytest.approx(a * b * UNIT + 10, abs=1e-5)


def make_net(seed: int = 0) -> BehaviourNet:
    network = make_network("behaviour_net", "small", features=FEATURES)
    torch.manual_seed(seed)
    nn.init.normal_(network.head.weight, std=0.1)
    return network.eval()


def draw_clips(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Clips of the typical kind with features of their own, some steps unmeasured."""
    generator = torch.Generator().manual_seed(seed)
    pick = torch.randint(0, len(typical_clips()), (count,), generator=generator)
    shift = 0.5 * torch.randn(count, 1, FEATURES, generator=generator)
    mask = torch.ones(count, BEHAVIOUR.steps, FEATURES, dtype=torch.bool)
    mask[0, 100:] = False
    mask[:, 0, BEHAVIOUR.names.index("head_speed")] = False
    return (typical_clips()[pick] + shift) * mask, mask


def test_on_the_shipped_network_the_parts_add_up_and_gaps_have_none() -> None:
    values, mask = draw_clips(2)
    network = make_net()
    found = attribute_score(
        network, values, mask, score_range=RANGE, typical=typical_clips()[:4], steps=128
    )
    size = float(np.abs(found.points.sum(axis=(0, 1)) @ group_columns(BEHAVIOUR)).sum())
    assert size > 0.1
    assert abs(found.gap) <= 0.01 * size
    assert not found.points[~mask.numpy()].any()
    assert all(part.grad is None for part in network.parameters())


def test_a_sum_that_leaves_a_feature_out_does_not_add_up() -> None:
    """The broken variant: completeness is no formality."""
    values, mask = draw_clips(1)
    found = attribute_score(
        make_net(), values, mask, score_range=RANGE, typical=typical_clips()[:4], steps=16
    )
    net = np.abs(found.points.sum(axis=(0, 1)))
    without = found.points.copy()
    without[..., int(net.argmax())] = 0
    assert abs(found.score - found.typical_score - without.sum()) > 0.05 * net.sum()


def plant_cohort(behaviour: str, subjects: int) -> tuple[list[SubjectClips], Tensor]:
    """People like the typical ones; the severity of half of them shows in one behaviour alone."""
    rng = torch.Generator().manual_seed(7)
    (group,) = (one for one in BEHAVIOUR_GROUPS if one.name == behaviour)
    columns = [BEHAVIOUR.names.index(name) for name in group.columns]
    severity = torch.where(torch.arange(subjects) % 2 == 0, 1.0, -1.0)
    people = []
    for subject in range(subjects):
        pick = int(torch.randint(0, len(typical_clips()), (1,), generator=rng))
        values = typical_clips()[pick : pick + 1].clone()
        values += 0.2 * torch.randn(1, 1, FEATURES, generator=rng)
        values[..., columns] += 1.2 * severity[subject]
        mask = torch.ones_like(values, dtype=torch.bool)
        people.append(SubjectClips(f"s{subject}", values, mask, severity[:1], "18-39", "female"))
    return people, severity


def fit_head(network: BehaviourNet, people: list[SubjectClips], severity: Tensor) -> None:
    """Ridge regression of severity on the trunk's embeddings, in closed form."""
    with torch.no_grad():
        values = torch.cat([one.values for one in people])
        embedded = network.embed(values, torch.ones_like(values, dtype=torch.bool))
        centred = embedded - embedded.mean(dim=0)
        gram = centred.T @ centred + 0.05 * len(people) * torch.eye(centred.shape[1])
        network.head.weight[0] = torch.linalg.solve(gram, centred.T @ severity)


@pytest.mark.parametrize("behaviour", ["smiling", "gaze_down"])
def test_the_only_behaviour_that_follows_severity_is_the_most_important(behaviour: str) -> None:
    people, severity = plant_cohort(behaviour, 160)
    network = make_net()
    fit_head(network, people, severity)
    config = ConsortiumConfig(study=StudyConfig(name="planted", instrument="phq9"))
    table = measure_importance(network, people[:24], config, columns=19)
    sums = dict(zip([group.name for group in BEHAVIOUR_GROUPS], table[0], strict=False))
    assert max(sums, key=lambda name: sums[name]) == behaviour
    others = [value for name, value in sums.items() if name != behaviour]
    assert sums[behaviour] > 1.5 * max(others)


def test_of_a_long_recording_evenly_spread_clips_are_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Tensor] = []
    honest = attribute_score

    def watch(network, values, mask, **options):
        seen.append(values[:, 0, 0])
        return honest(network, values, mask, **options)

    monkeypatch.setattr("client.learning.importance.attribute_score", watch)
    values = torch.zeros(41, 1, FEATURES)
    values[:, 0, 0] = torch.arange(41)
    mask = torch.ones_like(values, dtype=torch.bool)
    person = SubjectClips("s1", values, mask, torch.zeros(41), "18-39", "female")
    config = ConsortiumConfig(study=StudyConfig(name="planted", instrument="phq9"))
    monkeypatch.setattr(
        "client.learning.importance.typical_clips", lambda: torch.zeros(1, 1, FEATURES)
    )
    measure_importance(make_net(), [person], config, columns=19)
    assert seen[0].tolist() == [0, 8, 16, 24, 32, 40]
    assert len(seen[0]) == MOST_CLIPS
