r"""The private training step: one clipped gradient a subject, summed, noised, scaled.

Guarantees:
    Unit: the subject, with all clips and visits. Adjacency: add or remove one subject.
    Each subject's gradient (of the mean loss over that subject's clips) is clipped to L2 norm
    C = max_grad_norm over all trainable parameters together, and then scaled by a share in [0, 1]
    that depends on nobody else, so the sum has sensitivity C. It
    is released with Gaussian noise of standard deviation noise_multiplier * C, divided by a
    constant chosen beforehand: one step is a Gaussian mechanism, Poisson-subsampled where
    sample_rate < 1. A subject whose gradient is not finite, or who has none, contributes zero.
    Not covered: a loss function that lets subjects touch each other or keeps state between
    them, an exception raised by one subject's data, the running time, the count of subjects,
    and rounding of the sum in the parameters' own precision (relative 1e-7 in float32).

Source:
    Abadi et al. 2016, doi:10.1145/2976749.2978318; user-level clipping as in McMahan et al.
    2018, arXiv:1710.06963. Optimizer hooks by Opacus, Yousefpour et al. 2021, arXiv:2109.12298.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from opacus.optimizers import DPOptimizer
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from privacy.noise import NoiseSource
from privacy.plan import PrivacyPlan

Subject = TypeVar("Subject")
Network = TypeVar("Network", bound=nn.Module)


class ModuleFaultError(ValueError):
    """A module that cannot be trained with subject-level privacy; lists every reason."""


class SubjectDPOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' optimizer with one clipped gradient a subject instead of one a row.

    Noise, scaling and the step hook stay where Opacus has them, so an Opacus accountant's
    ``get_optimizer_hook_fn`` attaches as usual.

    Args:
        optimizer: the optimizer that takes the noised gradient.
        noise_multiplier: noise standard deviation over ``max_grad_norm``, > 0.
        max_grad_norm: L2 bound on one subject's gradient, > 0.
        expected_subjects: the constant the noised sum is divided by, >= 1. It must not be read
            off the data: the live count would reveal who is there.
        noise: where the noise comes from.

    Attributes:
        sums: clipped gradients added up so far, one tensor a trained parameter, without noise.

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        noise_multiplier: float,
        max_grad_norm: float,
        expected_subjects: int,
        noise: NoiseSource,
    ) -> None:
        _check_positive(
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            expected_subjects=expected_subjects,
        )
        super().__init__(
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            expected_batch_size=expected_subjects,
        )
        self._noise = noise
        self._trained = [p for p in self.params if p.requires_grad]
        self.sums = [torch.zeros_like(p) for p in self._trained]

    @property
    def accumulated_iterations(self) -> int:
        """Releases in one step: always one, however many subjects it sums."""
        return 1

    def accumulate(self, loss: Tensor, share: float = 1.0) -> None:
        """Add one subject's clipped gradient to the sum.

        Args:
            loss: scalar, the mean over this subject's clips.
            share: what the clipped gradient is scaled by, in [0, 1]; a function of declared
                constants and of this subject alone. A factor of the loss would be lost in
                clipping, which makes nearly all gradients equally long.

        Raises:
            ValueError: the share could make a contribution longer than the bound.
        """
        _check_share(share)
        if not loss.requires_grad:
            return
        gradients = torch.autograd.grad(loss, self._trained, materialize_grads=True)
        norm = gradient_norm(gradients)
        if math.isfinite(norm):
            factor = min(1.0, self.max_grad_norm / norm) if norm > 0 else 1.0
            torch._foreach_add_(self.sums, gradients, alpha=factor * share)

    def add_noise(self) -> None:
        """Put the noised sum into each parameter's gradient and start the next sum."""
        std = self.noise_multiplier * self.max_grad_norm
        for parameter, total in zip(self._trained, self.sums, strict=True):
            noise = self._noise.normal(total.shape, std, dtype=total.dtype)
            parameter.grad = total + noise.to(total.device)
            total.zero_()

    def scale_grad(self) -> None:
        """Divide by the fixed number of expected subjects."""
        for parameter in self._trained:
            if parameter.grad is not None:
                parameter.grad /= self.expected_batch_size

    def pre_step(self, closure: Callable[[], float] | None = None) -> bool:
        """Noise and scale the sum, then tell the accountant; also for an empty sum."""
        del closure
        self.add_noise()
        self.scale_grad()
        if self.step_hook:
            self.step_hook(self)
        return True

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients and any sum that was begun."""
        self.original_optimizer.zero_grad(set_to_none)
        for total in self.sums:
            total.zero_()


def private_step(
    module: Network,
    subjects: Iterable[Subject],
    loss_of: Callable[[Network, Subject], Tensor],
    optimizer: SubjectDPOptimizer,
) -> None:
    """Take one private optimizer step on these subjects.

    Args:
        module: the module whose parameters ``optimizer`` holds.
        subjects: one item a subject, with all of the subject's clips; may be empty.
        loss_of: mean loss over one subject's clips, a scalar.
        optimizer: sums, noises, scales and steps.
    """
    optimizer.zero_grad()
    for subject in subjects:
        optimizer.accumulate(loss_of(module, subject))
    optimizer.step()


def _whole(_subject: object) -> float:
    """The share of a subject that counts like any other."""
    return 1.0


def noised_gradient(  # noqa: PLR0913 - what is trained, on what and under which plan
    module: Network,
    subjects: Sequence[Subject],
    loss_of: Callable[[Network, Subject], Tensor],
    *,
    plan: PrivacyPlan,
    expected_subjects: int,
    noise: NoiseSource,
    share_of: Callable[[Subject], float] = _whole,
) -> dict[str, Tensor]:
    """Noised mean gradient over the subjects: one release under the plan.

    Args:
        module: in training mode; its weights stay as they are.
        subjects: all subjects of the site, one item each; the plan's sample rate draws from them.
        loss_of: mean loss over one subject's clips, a scalar.
        plan: noise, clipping and sampling; not of mode ``off``.
        expected_subjects: the constant the noised sum is divided by, agreed beforehand.
        noise: where noise and sampling come from.
        share_of: what each subject's clipped gradient is scaled by, in [0, 1].

    Returns:
        Gradient by the name of each trainable parameter.

    Raises:
        ModuleFaultError: the module would break the guarantee.
        ValueError: the plan is of mode ``off``, or ``expected_subjects`` is not positive.
    """
    optimizer = _accumulate(
        module,
        subjects,
        loss_of,
        plan=plan,
        expected_subjects=expected_subjects,
        noise=noise,
        share_of=share_of,
    )
    optimizer.pre_step()
    return _take_gradients(module)


def clipped_sum(  # noqa: PLR0913 - as above
    module: Network,
    subjects: Sequence[Subject],
    loss_of: Callable[[Network, Subject], Tensor],
    *,
    plan: PrivacyPlan,
    noise: NoiseSource,
    share_of: Callable[[Subject], float] = _whole,
) -> dict[str, Tensor]:
    """Sum of the subjects' clipped gradients, without noise: one subject moves it by at most C.

    It must not leave as it is; a secure sum adds this site's share of the noise and a mask.

    Args:
        module: in training mode; its weights stay as they are.
        subjects: as for :func:`noised_gradient`.
        loss_of: mean loss over one subject's clips, a scalar.
        plan: clipping and sampling; not of mode ``off``.
        noise: where the draws of sampling come from.
        share_of: as for :func:`noised_gradient`.

    Returns:
        Sum by the name of each trainable parameter.

    Raises:
        ModuleFaultError: the module would break the guarantee.
        ValueError: the plan is of mode ``off``.
    """
    optimizer = _accumulate(
        module,
        subjects,
        loss_of,
        plan=plan,
        expected_subjects=1,
        noise=noise,
        share_of=share_of,
    )
    return dict(zip(_trainable(module), optimizer.sums, strict=True))


def plain_gradient(
    module: Network,
    subjects: Sequence[Subject],
    loss_of: Callable[[Network, Subject], Tensor],
    share_of: Callable[[Subject], float] = _whole,
) -> dict[str, Tensor]:
    """Mean gradient over the subjects with no privacy at all, for comparison on simulated data.

    Args:
        module: its weights stay as they are.
        subjects: one item a subject.
        loss_of: mean loss over one subject's clips, a scalar.
        share_of: what each subject's gradient is scaled by.

    Returns:
        Gradient by the name of each trainable parameter; zero without subjects.
    """
    parameters = _trainable(module)
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for subject in subjects:
        loss = loss_of(module, subject) * share_of(subject) / len(subjects)
        parts = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
        for accumulated, part in zip(total.values(), parts, strict=True):
            accumulated.add_(part)
    return total


def sample_subjects(
    subjects: Sequence[Subject], sample_rate: float, noise: NoiseSource
) -> list[Subject]:
    """Poisson sample of the subjects: each one in or out by a draw of its own.

    Args:
        subjects: everyone who may take part.
        sample_rate: probability of each, in (0, 1]; 1 takes everyone without a draw.
        noise: where the draws come from.

    Returns:
        The chosen subjects in their order, possibly none.
    """
    if sample_rate >= 1:
        return list(subjects)
    chosen = noise.uniform(len(subjects)) < sample_rate
    return [subject for subject, taken in zip(subjects, chosen, strict=True) if taken]


def gradient_norm(gradients: Iterable[Tensor]) -> float:
    """L2 norm over all tensors together, in double precision; not finite if any element is not."""
    # One fused call, as in torch's own optimizers: a call a tensor costs a tenth of a step.
    norms = torch._foreach_norm(tuple(gradients), dtype=torch.float64)  # noqa: SLF001
    return float(torch.linalg.vector_norm(torch.stack(norms)))


def find_module_faults(module: nn.Module) -> list[str]:
    """Reasons why the module cannot be trained with subject-level privacy; empty if it can.

    Args:
        module: the network to check, in training mode.
    """
    faults = [str(error) for error in ModuleValidator.validate(module)]
    if not _trainable(module):
        faults.append("Expected at least one trainable parameter, got none.")
    # Opacus looks at trainable layers only; a frozen one may collect statistics too.
    faults += [
        f"Layer {name!r} keeps running statistics of raw data: use GroupNorm or LayerNorm, "
        "or freeze it with eval()."
        for name, layer in module.named_modules()
        if layer.training and getattr(layer, "running_mean", None) is not None
    ]
    return faults


def _accumulate(  # noqa: PLR0913 - as its two callers
    module: Network,
    subjects: Sequence[Subject],
    loss_of: Callable[[Network, Subject], Tensor],
    *,
    plan: PrivacyPlan,
    expected_subjects: int,
    noise: NoiseSource,
    share_of: Callable[[Subject], float],
) -> SubjectDPOptimizer:
    """An optimizer that holds the clipped sum over the plan's sample of subjects."""
    if plan.mode == "off":
        msg = "Expected plan.mode local or distributed, got 'off': use plain_gradient instead."
        raise ValueError(msg)
    faults = find_module_faults(module)
    if faults:
        raise ModuleFaultError("\n".join(faults))
    optimizer = SubjectDPOptimizer(
        torch.optim.SGD(_trainable(module).values(), lr=1.0),
        noise_multiplier=plan.noise_multiplier,
        max_grad_norm=plan.max_grad_norm,
        expected_subjects=expected_subjects,
        noise=noise,
    )
    for subject in sample_subjects(subjects, plan.sample_rate, noise):
        optimizer.accumulate(loss_of(module, subject), share_of(subject))
    return optimizer


def _trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def _take_gradients(module: nn.Module) -> dict[str, Tensor]:
    gradients = {}
    for name, parameter in _trainable(module).items():
        if parameter.grad is not None:
            gradients[name] = parameter.grad
            parameter.grad = None
    return gradients


def _check_share(share: float) -> None:
    if not 0 <= share <= 1:
        msg = f"Expected the share of a subject from 0 to 1, got {share!r}."
        raise ValueError(msg)


def _check_positive(**values: float) -> None:
    faults = [
        f"Expected {name} > 0, got {value!r}."
        for name, value in values.items()
        if not 0 < value < math.inf
    ]
    if faults:
        raise ValueError("\n".join(faults))
