"""Weights of subjects in the private step: nobody can move the sum by more than without them."""

import pytest
import torch
from torch import nn

from privacy.noise import SeededNoise
from privacy.plan import PrivacyPlan
from privacy.training import clipped_sum, gradient_norm, noised_gradient, plain_gradient

NORM = 0.5
SHARES = (1.0, 0.25, 0.6, 0.0)
PLAN = PrivacyPlan(
    mode="local",
    noise_multiplier=2.0,
    max_grad_norm=NORM,
    sample_rate=1.0,
    steps=30,
    delta=1e-3,
    target_epsilon=8.0,
    noise_shares=1,
)


def make_module() -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(4, 1).double()


def make_subjects(scale: float = 3.0) -> list[tuple[torch.Tensor, torch.Tensor, float]]:
    generator = torch.Generator().manual_seed(2)
    return [
        (
            scale * torch.randn(clips, 4, generator=generator, dtype=torch.float64),
            torch.randn(clips, generator=generator, dtype=torch.float64),
            share,
        )
        for clips, share in zip((1, 3, 7, 2), SHARES, strict=True)
    ]


def loss_of(module: nn.Module, subject: tuple[torch.Tensor, torch.Tensor, float]) -> torch.Tensor:
    return nn.functional.mse_loss(module(subject[0]).squeeze(-1), subject[1])


def share_of(subject: tuple[torch.Tensor, torch.Tensor, float]) -> float:
    return subject[2]


def total(subjects, share=share_of, loss=loss_of) -> torch.Tensor:
    summed = clipped_sum(
        make_module(), subjects, loss, plan=PLAN, noise=SeededNoise(0), share_of=share
    )
    return torch.cat([part.flatten() for part in summed.values()])


def by_hand(subjects) -> torch.Tensor:
    """Least squares in closed form: twice the mean residual times the inputs, clipped, scaled."""
    module = make_module()
    weight, bias = module.weight.detach()[0], module.bias.detach()[0]
    parts = []
    for inputs, targets, share in subjects:
        residual = 2 * (inputs @ weight + bias - targets) / len(targets)
        gradient = torch.cat([residual @ inputs, residual.sum()[None]])
        parts.append(share * gradient * min(1.0, NORM / float(gradient.norm())))
    return torch.stack(parts).sum(dim=0)


@pytest.mark.parametrize("scale", [3.0, 0.05])
def test_the_sum_is_that_of_clipped_gradients_each_times_its_share(scale: float) -> None:
    subjects = make_subjects(scale)
    torch.testing.assert_close(total(subjects), by_hand(subjects), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("left_out", range(len(SHARES)))
def test_removing_a_subject_moves_the_sum_by_at_most_its_share_of_the_bound(left_out: int) -> None:
    subjects = make_subjects(scale=100.0)
    others = [s for place, s in enumerate(subjects) if place != left_out]
    moved = float((total(subjects) - total(others)).norm())
    assert moved == pytest.approx(NORM * SHARES[left_out], abs=1e-9)
    assert moved <= NORM + 1e-9


@pytest.mark.parametrize("share", [1.0001, 5.0, -0.1, float("nan"), float("inf")])
def test_a_weight_that_is_no_share_is_refused(share: float) -> None:
    """The broken variant: weights that were not divided by the largest break the bound."""
    with pytest.raises(ValueError, match="share of a subject from 0 to 1"):
        total(make_subjects(), share=lambda _: share)


def test_a_factor_of_the_loss_alone_would_be_lost_in_clipping() -> None:
    subjects = make_subjects(scale=100.0)

    def weighted(module, subject):
        return loss_of(module, subject) * (0.2 + 4.8 * subject[2])

    plain = total(subjects, share=lambda _: 1.0)
    torch.testing.assert_close(total(subjects, share=lambda _: 1.0, loss=weighted), plain)
    assert float((total(subjects) - plain).norm()) > 0.1


def test_without_shares_every_subject_counts_alike() -> None:
    subjects = make_subjects()
    torch.testing.assert_close(
        total(subjects, share=lambda _: 1.0),
        torch.cat(
            [
                part.flatten()
                for part in clipped_sum(
                    make_module(), subjects, loss_of, plan=PLAN, noise=SeededNoise(0)
                ).values()
            ]
        ),
    )


def test_noise_is_that_of_the_bound_whatever_the_shares() -> None:
    def released(share):
        return noised_gradient(
            make_module(), make_subjects(), loss_of, plan=PLAN, expected_subjects=4,
            noise=SeededNoise(3), share_of=share,
        )  # fmt: skip

    drawn = [
        torch.cat([part.flatten() for part in released(share).values()]) - total_ / 4
        for share, total_ in (
            (share_of, total(make_subjects())),
            (lambda _: 1.0, total(make_subjects(), share=lambda _: 1.0)),
        )
    ]
    torch.testing.assert_close(drawn[0], drawn[1], rtol=1e-6, atol=1e-9)
    assert gradient_norm([drawn[0]]) > 0


def test_without_privacy_the_same_shares_count() -> None:
    subjects = make_subjects(scale=0.01)
    gradient = plain_gradient(make_module(), subjects, loss_of, share_of)
    summed = torch.cat([part.flatten() for part in gradient.values()]) * len(subjects)
    loose = PrivacyPlan(**{**vars(PLAN), "max_grad_norm": 1e6})
    clipped = clipped_sum(
        make_module(), subjects, loss_of, plan=loose, noise=SeededNoise(0), share_of=share_of
    )
    torch.testing.assert_close(summed, torch.cat([part.flatten() for part in clipped.values()]))
