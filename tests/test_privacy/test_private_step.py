"""The private step equals a clipped sum worked out by hand, and bounds what one subject can do."""

import math

import numpy as np
import pytest
import torch
from opacus.accountants import PRVAccountant
from scipy import stats
from torch import nn

from privacy.noise import ChaChaNoise, SeededNoise
from privacy.plan import PrivacyPlan
from privacy.training import (
    ModuleFaultError,
    SubjectDPOptimizer,
    clipped_sum,
    find_module_faults,
    gradient_norm,
    noised_gradient,
    plain_gradient,
    private_step,
    sample_subjects,
)

CLIPS = (1, 3, 7, 2)
NORM = 0.5


class NoNoise(SeededNoise):
    """Zeros in place of noise, to look at the sum underneath."""

    def normal(self, shape, std, *, dtype=torch.float32):
        return torch.zeros(tuple(shape), dtype=dtype)


def make_module():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)).double()


def make_subjects(clips=CLIPS, scale=3.0):
    generator = torch.Generator().manual_seed(2)
    return [
        (
            scale * torch.randn(count, 4, generator=generator, dtype=torch.float64),
            torch.randn(count, generator=generator, dtype=torch.float64),
        )
        for count in clips
    ]


def loss_of(module, subject):
    inputs, targets = subject
    return nn.functional.mse_loss(module(inputs).squeeze(-1), targets)


def make_plan(**changes):
    values = {
        "mode": "local",
        "noise_multiplier": 1.0,
        "max_grad_norm": NORM,
        "sample_rate": 1.0,
        "steps": 30,
        "delta": 1e-3,
        "target_epsilon": None,
    }
    return PrivacyPlan(**{**values, **changes})


def release(module, subjects, *, expected_subjects=1, noise=None, loss=loss_of, **changes):
    return noised_gradient(
        module,
        subjects,
        loss,
        plan=make_plan(**changes),
        expected_subjects=expected_subjects,
        noise=noise or NoNoise(0),
    )


def flat(gradient):
    return np.concatenate([part.detach().numpy().ravel() for part in gradient.values()])


def tanh_network_gradient(module, subject):
    """Gradient of the mean squared error worked out by the chain rule in NumPy."""
    first, second = module[0], module[2]
    w1, b1, w2, b2 = (
        p.detach().numpy() for p in (first.weight, first.bias, second.weight, second.bias)
    )
    inputs, targets = (part.numpy() for part in subject)
    hidden = np.tanh(inputs @ w1.T + b1)
    error = 2 * ((hidden @ w2.T + b2)[:, 0] - targets) / len(targets)
    back = error[:, None] * w2 * (1 - hidden**2)
    return np.concatenate([(back.T @ inputs).ravel(), back.sum(0), error @ hidden, [error.sum()]])


def hand_computed_sum(module, subjects):
    total = np.zeros(31)
    for subject in subjects:
        gradient = tanh_network_gradient(module, subject)
        total += gradient * min(1.0, NORM / np.linalg.norm(gradient))
    return total


def record_level_gradient(module, subjects, loss, *, max_grad_norm):
    """The mistake to be caught: every clip is clipped for itself, then all are added."""
    parameters = list(module.parameters())
    total = np.zeros(sum(p.numel() for p in parameters))
    for inputs, targets in subjects:
        for clip in range(len(inputs)):
            one = (inputs[clip : clip + 1], targets[clip : clip + 1])
            parts = torch.autograd.grad(loss(module, one), parameters)
            gradient = np.concatenate([part.numpy().ravel() for part in parts])
            total += gradient * min(1.0, max_grad_norm / np.linalg.norm(gradient))
    return total


def largest_influence(sum_of, subjects):
    """How far the sum moves when one subject leaves, for the subject who moves it most."""
    whole = sum_of(subjects)
    rest = ([s for j, s in enumerate(subjects) if j != i] for i in range(len(subjects)))
    return max(np.linalg.norm(whole - sum_of(others)) for others in rest)


def test_the_step_equals_the_clipped_sum_worked_out_by_hand():
    module, subjects = make_module(), make_subjects()
    expected = hand_computed_sum(module, subjects)
    assert np.abs(flat(release(module, subjects)) - expected).max() <= 1e-12


def test_the_sum_for_a_secure_sum_is_the_same_without_noise():
    module, subjects = make_module(), make_subjects()
    plan = make_plan(mode="distributed", noise_shares=3)
    summed = clipped_sum(module, subjects, loss_of, plan=plan, noise=ChaChaNoise())
    assert np.abs(flat(summed) - hand_computed_sum(module, subjects)).max() <= 1e-12


def test_single_precision_stays_within_a_millionth():
    module, subjects = make_module(), make_subjects()
    expected = hand_computed_sum(module, subjects)
    single = [tuple(part.float() for part in subject) for subject in subjects]
    assert np.abs(flat(release(module.float(), single)) - expected).max() <= 1e-6


def test_some_subjects_of_the_check_are_clipped_and_some_are_not():
    module = make_module()
    norms = [np.linalg.norm(tanh_network_gradient(module, s)) for s in make_subjects(scale=0.3)]
    assert min(norms) < NORM < max(norms)
    subjects = make_subjects(scale=0.3)
    expected = hand_computed_sum(module, subjects)
    assert np.abs(flat(release(module, subjects)) - expected).max() <= 1e-12


def test_no_subject_moves_the_sum_by_more_than_the_norm():
    module = make_module()
    influence = largest_influence(lambda kept: flat(release(module, kept)), make_subjects())
    assert influence == pytest.approx(NORM, rel=1e-9)
    assert influence <= NORM * (1 + 1e-9)


def test_clipping_each_clip_for_itself_is_caught_by_the_same_check():
    module = make_module()
    influence = largest_influence(
        lambda kept: record_level_gradient(module, kept, loss_of, max_grad_norm=NORM),
        make_subjects(),
    )
    assert influence > 1.2 * NORM


def test_the_norm_spans_all_layers_together():
    parts = [torch.tensor([3.0]), torch.tensor([[4.0, 0.0]]), torch.tensor(12.0)]
    assert gradient_norm(parts) == pytest.approx(13.0)
    assert math.isnan(gradient_norm([torch.tensor([math.nan]), torch.ones(2)]))


def zero_loss(module, subject):
    return sum(p.sum() for p in module.parameters()) * 0.0


def noise_of(noise_multiplier, noise):
    module = nn.Linear(400, 50)
    gradient = release(
        module, [None] * 4, noise=noise, loss=zero_loss, noise_multiplier=noise_multiplier
    )
    return flat(gradient)


def variance_p_value(values, std):
    statistic = (values**2).sum() / std**2
    below = stats.chi2.cdf(statistic, len(values))
    return 2 * min(below, 1 - below)


@pytest.mark.parametrize("noise", [ChaChaNoise(), SeededNoise(5)], ids=["chacha", "seeded"])
def test_a_step_with_zero_gradients_is_noise_of_the_promised_variance(noise):
    assert variance_p_value(noise_of(2.0, noise), 2.0 * NORM) > 1e-6


def test_five_per_cent_less_noise_is_caught_by_the_same_check():
    assert variance_p_value(noise_of(1.9, ChaChaNoise()), 2.0 * NORM) < 1e-6


def test_every_release_draws_fresh_noise():
    noise = ChaChaNoise()
    correlation = np.corrcoef(noise_of(1.0, noise), noise_of(1.0, noise))[0, 1]
    assert abs(correlation) < 0.05


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf, 1e200])
def test_a_subject_whose_gradient_is_not_finite_contributes_zero(poison):
    module, subjects = make_module(), make_subjects()
    bad = (torch.full((2, 4), poison, dtype=torch.float64), subjects[3][1] * poison)
    expected = flat(release(module, subjects))
    assert np.array_equal(flat(release(module, [*subjects[:2], bad, *subjects[2:]])), expected)


def test_a_subject_without_clips_contributes_zero():
    module, subjects = make_module(), make_subjects()
    nothing = (torch.zeros(0, 4, dtype=torch.float64), torch.zeros(0, dtype=torch.float64))
    assert np.array_equal(
        flat(release(module, [*subjects, nothing])), flat(release(module, subjects))
    )


def test_a_loss_that_depends_on_no_weight_contributes_zero():
    gradient = release(make_module(), make_subjects(), loss=lambda m, s: torch.tensor(1.0))
    assert not flat(gradient).any()


def test_no_subject_at_all_still_releases_noise():
    values = flat(release(make_module(), [], noise=ChaChaNoise()))
    assert values.std() > 0


def test_the_divisor_does_not_follow_the_live_count():
    module, subjects = make_module(), make_subjects()
    whole = flat(release(module, subjects, expected_subjects=10))
    assert np.allclose(whole * 10, hand_computed_sum(module, subjects), atol=1e-12)
    fewer = flat(release(module, subjects[:2], expected_subjects=10))
    assert np.allclose(fewer * 10, hand_computed_sum(module, subjects[:2]), atol=1e-12)


def test_noise_is_divided_by_the_same_constant():
    noise = SeededNoise(3)
    one = flat(release(make_module(), [], noise=noise))
    ten = flat(release(make_module(), [], noise=SeededNoise(3), expected_subjects=10))
    assert np.allclose(one, 10 * ten)


def test_the_weights_and_gradients_are_left_as_they_were():
    module = make_module()
    before = [p.detach().clone() for p in module.parameters()]
    release(module, make_subjects(), noise=ChaChaNoise())
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    assert all(p.grad is None for p in module.parameters())


def test_frozen_layers_stay_out_of_the_release():
    module = make_module()
    module[0].requires_grad_(False)
    gradient = release(module, make_subjects())
    assert set(gradient) == {"2.weight", "2.bias"}
    influence = largest_influence(lambda kept: flat(release(module, kept)), make_subjects())
    assert influence <= NORM * (1 + 1e-9)


def test_the_same_seed_gives_the_same_release():
    first = flat(release(make_module(), make_subjects(), noise=SeededNoise(9)))
    assert np.array_equal(
        first, flat(release(make_module(), make_subjects(), noise=SeededNoise(9)))
    )


def make_optimizer(module, **changes):
    values = {"noise_multiplier": 1.5, "max_grad_norm": NORM, "expected_subjects": 4}
    inner = torch.optim.SGD(module.parameters(), lr=0.1)
    return SubjectDPOptimizer(inner, noise=NoNoise(0), **{**values, **changes})


def test_a_private_step_moves_the_weights_along_the_release():
    module, subjects = make_module(), make_subjects()
    before = nn.utils.parameters_to_vector(module.parameters()).detach().numpy().copy()
    expected = hand_computed_sum(module, subjects) / 4
    private_step(module, subjects, loss_of, make_optimizer(module))
    after = nn.utils.parameters_to_vector(module.parameters()).detach().numpy()
    assert np.allclose(after, before - 0.1 * expected, atol=1e-12)


def test_two_steps_do_not_carry_the_first_sum_into_the_second():
    module, subjects = make_module(), make_subjects()
    optimizer = make_optimizer(module)
    private_step(module, subjects, loss_of, optimizer)
    expected = hand_computed_sum(module, subjects) / 4
    private_step(module, subjects, loss_of, optimizer)
    gradient = {name: p.grad for name, p in module.named_parameters()}
    assert np.allclose(flat(gradient), expected, atol=1e-12)


def test_a_release_leaves_nothing_for_the_next_one():
    module, subjects = make_module(), make_subjects()
    optimizer = make_optimizer(module)
    for subject in subjects:
        optimizer.accumulate(loss_of(module, subject))
    optimizer.step()
    assert flat({name: p.grad for name, p in module.named_parameters()}).any()
    optimizer.step()
    assert not flat({name: p.grad for name, p in module.named_parameters()}).any()


def test_a_sum_that_was_begun_can_be_forgotten():
    module, subjects = make_module(), make_subjects()
    optimizer = make_optimizer(module)
    optimizer.accumulate(loss_of(module, subjects[0]))
    optimizer.zero_grad()
    optimizer.step()
    assert not flat({name: p.grad for name, p in module.named_parameters()}).any()


def test_an_opacus_accountant_attaches_and_counts_every_step():
    module, subjects = make_module(), make_subjects()
    optimizer, accountant = make_optimizer(module), PRVAccountant()
    optimizer.attach_step_hook(accountant.get_optimizer_hook_fn(sample_rate=0.5))
    for taken in (subjects, subjects[:1], []):
        private_step(module, taken, loss_of, optimizer)
    assert accountant.history == [(1.5, 0.5, 3)]


@pytest.mark.parametrize("name", ["noise_multiplier", "max_grad_norm", "expected_subjects"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_an_optimizer_without_real_privacy_is_refused(name, value):
    with pytest.raises(ValueError, match=f"Expected {name} > 0"):
        make_optimizer(make_module(), **{name: value})


def test_sampling_takes_each_subject_by_a_draw_of_its_own():
    sizes = np.array([len(sample_subjects(range(50), 0.3, ChaChaNoise())) for _ in range(2000)])
    assert (
        stats.kstest(
            sizes + np.random.default_rng(0).random(2000) - 0.5, "norm", (15, 10.5**0.5)
        ).pvalue
        > 1e-5
    )
    assert sample_subjects("abc", 1.0, ChaChaNoise()) == ["a", "b", "c"]


def test_the_plan_decides_who_takes_part():
    module, subjects = make_module(), make_subjects(clips=(1,) * 40)
    seen = []

    def watch(watched, subject):
        seen.append(id(subject))
        return loss_of(watched, subject)

    release(module, subjects, loss=watch, sample_rate=0.25, noise=SeededNoise(1))
    assert 0 < len(seen) < 25
    assert len(set(seen)) == len(seen)


def test_a_plan_without_privacy_needs_the_other_function():
    module, subjects = make_module(), make_subjects()
    with pytest.raises(ValueError, match="plain_gradient"):
        release(module, subjects, mode="off", noise_multiplier=0)
    expected = sum(tanh_network_gradient(module, s) for s in subjects) / len(subjects)
    assert np.allclose(flat(plain_gradient(module, subjects, loss_of)), expected, atol=1e-12)


def test_layers_that_mix_subjects_or_keep_statistics_are_refused():
    mixing = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).double()
    with pytest.raises(ModuleFaultError, match="BatchNorm"):
        release(mixing, make_subjects())
    frozen = nn.Sequential(nn.BatchNorm1d(4, affine=False), nn.Linear(4, 1))
    assert any("'0'" in fault for fault in find_module_faults(frozen))
    frozen[0].eval()
    assert find_module_faults(frozen) == []


def test_a_module_with_nothing_to_train_is_refused():
    assert any("trainable" in fault for fault in find_module_faults(nn.ReLU()))


def test_a_module_in_evaluation_mode_is_refused():
    assert any("training mode" in fault for fault in find_module_faults(make_module().eval()))
