"""Private steps that are wrong in ways that have happened, each patched in for the right one.

Every test of privacy has to fail on the mutants that it claims to tell apart.
"""

import torch

import privacy.training
import shared_models.masking
from privacy.training import SubjectDPOptimizer


class WithoutNoise(SubjectDPOptimizer):
    """Clips, and releases the sum as it is."""

    def add_noise(self):
        for parameter, total in zip(self._trained, self.sums, strict=True):
            parameter.grad = total.clone()
            total.zero_()


class TenthOfTheNoise(SubjectDPOptimizer):
    """Draws noise ten times too small."""

    divisor = 10.0

    def add_noise(self):
        promised = self.noise_multiplier
        self.noise_multiplier = promised / self.divisor
        super().add_noise()
        self.noise_multiplier = promised


class HalfOfTheNoise(TenthOfTheNoise):
    """Draws noise of half the standard deviation."""

    divisor = 2.0


class WithoutClipping(SubjectDPOptimizer):
    """Adds whatever gradient a subject has."""

    def accumulate(self, loss, share=1.0):
        torch._foreach_add_(self.sums, torch.autograd.grad(loss, self._trained), alpha=share)


def clips_as_subjects(subjects, sample_rate, noise):
    """Each clip an item of its own, so that each is clipped for itself: record-level privacy."""
    return [
        tuple(part[clip : clip + 1] for part in subject)
        for subject in subjects
        for clip in range(len(subject[0]))
    ]


def share_without_root(noise_multiplier, *, sites, tolerated_dropouts=0):
    """A share that forgets that variances add up, not standard deviations."""
    return noise_multiplier / (sites - tolerated_dropouts)


def share_of_all_sites(noise_multiplier, *, sites, tolerated_dropouts=0):
    """A share that forgets those who may tell theirs."""
    return noise_multiplier / sites**0.5


def half_share(noise_multiplier, *, sites, tolerated_dropouts=0):
    """Half of the right share."""
    return noise_multiplier / (sites - tolerated_dropouts) ** 0.5 / 2


def _step(mutant):
    return lambda patch: patch.setattr(privacy.training, "SubjectDPOptimizer", mutant)


def _share(mutant):
    return lambda patch: patch.setattr(shared_models.masking, "site_noise_multiplier", mutant)


NOISE_MUTANTS = {
    "no noise": _step(WithoutNoise),
    "a tenth of the noise": _step(TenthOfTheNoise),
    "half of the noise": _step(HalfOfTheNoise),
}
CLIPPING_MUTANTS = {
    "no clipping": _step(WithoutClipping),
    "record-level clipping": lambda patch: patch.setattr(
        privacy.training, "sample_subjects", clips_as_subjects
    ),
}
SHARE_MUTANTS = {
    "a share without root": _share(share_without_root),
    "half of the share": _share(half_share),
}
DROPOUT_MUTANTS = {"the share of all sites": _share(share_of_all_sites)}
"""Wrong only where some sites may tell their noise."""
