"""behaviour_net: what is padded or missing changes nothing, and clips never touch."""

import pytest
import torch

from privacy.training import find_module_faults
from shared_models.features import BEHAVIOUR
from shared_models.networks import BehaviourNet, make_network
from shared_models.weights import digest_weights

FEATURES = len(BEHAVIOUR.features)
TRUNK_AND_ZERO_HEAD = "a50932ad57281f27c81fb701fa5743ecf5c1130bec7e1a24eb3467e4a2005047"


def make_clips(clips: int, steps: int, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(clips, steps, FEATURES, generator=generator)
    mask = torch.rand(clips, steps, FEATURES, generator=generator) < 0.9
    return values * mask, mask


@pytest.fixture
def network() -> BehaviourNet:
    network = make_network("behaviour_net", "small", features=FEATURES)
    torch.nn.init.normal_(network.head.weight, generator=torch.Generator().manual_seed(1))
    return network.eval()


def test_padding_changes_no_prediction(network: BehaviourNet) -> None:
    values, mask = make_clips(3, 80)
    padded_values = torch.cat([values, torch.zeros(3, 70, FEATURES)], dim=1)
    padded_mask = torch.cat([mask, torch.zeros(3, 70, FEATURES, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(
        network(values, mask), network(padded_values, padded_mask), rtol=1e-4, atol=1e-5
    )


def test_a_clip_is_judged_the_same_alone_and_among_others(network: BehaviourNet) -> None:
    values, mask = make_clips(5, 150)
    together = network(values, mask)
    alone = torch.cat([network(values[i : i + 1], mask[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_a_clip_without_any_measurement_is_finite_in_value_and_gradient() -> None:
    network = make_network("behaviour_net", "small", features=FEATURES)
    torch.nn.init.ones_(network.head.weight)
    empty = torch.zeros(1, 150, FEATURES)
    judged = network(empty, empty.bool())
    judged.sum().backward()
    assert torch.isfinite(judged).all()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_nothing_in_it_mixes_subjects() -> None:
    network = make_network("behaviour_net", "small", features=FEATURES).train()
    assert find_module_faults(network) == []


def test_unknown_names_and_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="behaviour_net"):
        make_network("resnet", "small", features=FEATURES)
    with pytest.raises(ValueError, match="small"):
        make_network("behaviour_net", "huge", features=FEATURES)


def test_the_shipped_network_is_the_one_that_was_measured() -> None:
    network = make_network("behaviour_net", "small", features=FEATURES)
    assert digest_weights(network.state_dict()) == TRUNK_AND_ZERO_HEAD
