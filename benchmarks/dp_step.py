"""Time of the private step against plain SGD and against Opacus' record-level step.

One site's round: 100 subjects with so many clips each, of 150 steps and 60 features, and a temporal
CNN of 60,866 parameters. Plain SGD goes through the same clips once in batches of 32. Opacus clips
each of the same clips for itself, 32 at a time, and adds noise once: what it protects is a clip,
not a subject. The three take turns, so that whatever else the machine does meets all of them.
Compared are the medians of wall time and, in brackets, the smallest processor times: what other
processes do to a shared cache only ever adds to those, so trust them on a busy machine, with one
thread.

    python benchmarks/dp_step.py [--clips 6 4] [--threads 1] [--device cpu] [--repeats 5] [--json]
"""

import argparse
import json
import statistics
import time
import warnings

import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import nn

from privacy.noise import ChaChaNoise
from privacy.plan import PrivacyPlan
from privacy.training import noised_gradient

SUBJECTS, STEPS, FEATURES, BATCH = 100, 150, 60, 32
PLAN = PrivacyPlan(
    mode="local",
    noise_multiplier=5.7,
    max_grad_norm=0.5,
    sample_rate=1.0,
    steps=30,
    delta=1e-3,
    target_epsilon=3.0,
)


def make_network(device):
    torch.manual_seed(0)
    layers = []
    for channels, dilation in ((FEATURES, 1), (64, 2), (64, 4)):
        layers.append(nn.Conv1d(channels, 64, 5, padding=2 * dilation, dilation=dilation))
        layers += [nn.GroupNorm(8, 64), nn.ReLU()]
    layers += [nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, 2)]
    return nn.Sequential(*layers).to(device)


def make_subjects(clips, device):
    return [
        (
            torch.randn(clips, STEPS, FEATURES, device=device),
            torch.full((clips,), subject % 2, device=device),
        )
        for subject in range(SUBJECTS)
    ]


def loss_of(network, subject):
    clips, labels = subject
    return nn.functional.cross_entropy(network(clips.transpose(1, 2)), labels)


class PlainEpoch:
    """Every clip once, in batches, without any privacy."""

    def __init__(self, subjects, device):
        self.network = make_network(device)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.05)
        self.clips, self.labels = (torch.cat(part) for part in zip(*subjects, strict=True))

    def batches(self):
        for index in torch.randperm(len(self.clips)).split(BATCH):
            yield self.clips[index], self.labels[index]

    def run(self):
        for batch in self.batches():
            self.optimizer.zero_grad()
            loss_of(self.network, batch).backward()
            self.optimizer.step()


class OpacusStep(PlainEpoch):
    """One record-level step on every clip: Opacus' hooks and optimizer as they come."""

    def __init__(self, subjects, device):
        super().__init__(subjects, device)
        self.network = GradSampleModule(self.network)
        self.optimizer = DPOptimizer(
            torch.optim.SGD(self.network.parameters(), lr=0.05),
            noise_multiplier=PLAN.noise_multiplier,
            max_grad_norm=PLAN.max_grad_norm,
            expected_batch_size=len(self.clips),
        )

    def run(self):
        left = len(self.clips)
        for batch in self.batches():
            left -= len(batch[0])
            self.optimizer.signal_skip_step(do_skip=left > 0)
            self.optimizer.zero_grad()
            loss_of(self.network, batch).backward()
            self.optimizer.step()


class PrivateRound:
    """The release that a site makes in a round."""

    def __init__(self, subjects, device):
        self.network, self.subjects, self.noise = make_network(device), subjects, ChaChaNoise()

    def run(self):
        noised_gradient(
            self.network,
            self.subjects,
            loss_of,
            plan=PLAN,
            expected_subjects=SUBJECTS,
            noise=self.noise,
        )


ARMS = {"plain": PlainEpoch, "opacus": OpacusStep, "private": PrivateRound}


def seconds_of(action, device):
    """Wall and processor time of one call, with all that it started on the device."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(clips, threads, device, repeats):
    torch.set_num_threads(threads)
    subjects = make_subjects(clips, device)
    arms = {name: make(subjects, device) for name, make in ARMS.items()}
    for arm in arms.values():
        seconds_of(arm.run, device)
    turns = [
        {name: seconds_of(arm.run, device) for name, arm in arms.items()} for _ in range(repeats)
    ]
    wall, cpu = (
        {name: choose(turn[name][kind] for turn in turns) for name in ARMS}
        for kind, choose in ((0, statistics.median), (1, min))
    )
    return {
        "clips": clips,
        "threads": threads,
        "device": device,
        **{f"{name}_s": round(wall[name], 4) for name in ARMS},
        "ratio": round(wall["private"] / wall["plain"], 3),
        "cpu_ratio": round(cpu["private"] / cpu["plain"], 3),
        "ratio_to_opacus": round(wall["private"] / wall["opacus"], 3),
        "cpu_ratio_to_opacus": round(cpu["private"] / cpu["opacus"], 3),
        "ratios": [round(turn["private"][0] / turn["plain"][0], 3) for turn in turns],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, nargs="+", default=[6, 4])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one object as the last line")
    options = parser.parse_args()
    # Opacus registers its hooks in a way that torch announces to change.
    warnings.filterwarnings("ignore", message=".*[Bb]ackward hook.*")
    rows = [
        measure(clips, threads, options.device, options.repeats)
        for clips in options.clips
        for threads in options.threads
    ]
    print(
        "clips threads    plain   opacus  private   / plain (CPU)   / opacus (CPU)   each / plain"
    )
    for row in rows:
        each = " ".join(f"{ratio:.2f}" for ratio in row["ratios"])
        times = " ".join(f"{row[f'{name}_s']:>7.3f}s" for name in ARMS)
        print(
            f"{row['clips']:>5} {row['threads']:>7} {times} "
            f"{row['ratio']:>7.2f} ({row['cpu_ratio']:.2f}) "
            f"{row['ratio_to_opacus']:>8.2f} ({row['cpu_ratio_to_opacus']:.2f})    {each}"
        )
    if options.json:
        print(json.dumps({"dp_step": rows}))


if __name__ == "__main__":
    main()
