"""How updates become a model."""

import pytest
import torch
from dp_accounting.pld import privacy_loss_distribution as pld

from server.aggregation import ServerOptimizer, epsilon_of_sums
from server.running_sums import RunningMean
from shared_models.weights import State


def average_updates(updates: list[State], weights: list[int]) -> State:
    mean = RunningMean(updates[0])
    for update, weight in zip(updates, weights, strict=True):
        mean.add(update, weight=weight)
    return mean.mean()


def test_the_average_follows_the_fixed_weights() -> None:
    updates = [{"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([4.0, 8.0])}]
    assert average_updates(updates, [3, 1])["w"].tolist() == [1.75, 2.0]


def test_weights_cancel_the_sites_own_denominators() -> None:
    sums, weights = [torch.tensor([5.0]), torch.tensor([7.0])], [10, 40]
    updates = [{"w": total / weight} for total, weight in zip(sums, weights, strict=True)]
    assert average_updates(updates, weights)["w"].item() == pytest.approx((5 + 7) / 50)


def test_momentum_is_that_of_torch_and_the_average_trails() -> None:
    start = {"w": torch.tensor([1.0, -1.0])}
    gradients = [torch.tensor([0.5, 1.0]), torch.tensor([-0.25, 0.5]), torch.tensor([0.0, 2.0])]
    ours = ServerOptimizer({"w": start["w"].clone()}, learning_rate=0.1, momentum=0.9, ema=0.8)
    parameter = start["w"].clone().requires_grad_()
    torchs = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    average = start["w"].clone()
    for gradient in gradients:
        ours.step({"w": gradient})
        parameter.grad = gradient.clone()
        torchs.step()
        average = 0.8 * average + 0.2 * parameter.detach()
    torch.testing.assert_close(ours.weights["w"], parameter.detach())
    torch.testing.assert_close(ours.average["w"], average)


def test_the_sum_of_more_sites_reveals_less() -> None:
    alone, both, many = (epsilon_of_sums(4.0, 1e-3, [p] * 20) for p in (1, 2, 8))
    assert alone > both > many > 0  # type: ignore[operator]
    one = pld.from_gaussian_mechanism(4.0 * 2**0.5).self_compose(20)
    assert both == pytest.approx(one.get_epsilon_for_delta(1e-3), rel=2e-3)


def test_no_noise_promises_nothing() -> None:
    assert epsilon_of_sums(0.0, 1e-3, [3, 3]) is None
    assert epsilon_of_sums(4.0, 1e-3, []) is None
