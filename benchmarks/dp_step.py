"""Time of the private step against plain SGD on the same clips.

One site's round: 100 subjects with 6 clips each of 150 steps and 60 features, and a temporal
CNN of 60,866 parameters. Plain SGD goes through the same 600 clips once in batches of 32. The
two take turns, so that whatever else the machine does meets both; the medians are compared.
On a busy machine trust the ratio of processor times, and that with one thread only.

    python benchmarks/dp_step.py [--threads 1 2] [--repeats 5] [--json]
"""

import argparse
import json
import statistics
import time

import torch
from torch import nn

from privacy.noise import ChaChaNoise
from privacy.plan import PrivacyPlan
from privacy.training import noised_gradient

SUBJECTS, CLIPS, STEPS, FEATURES, BATCH = 100, 6, 150, 60, 32
PLAN = PrivacyPlan(
    mode="local",
    noise_multiplier=5.7,
    max_grad_norm=0.5,
    sample_rate=1.0,
    steps=30,
    delta=1e-3,
    target_epsilon=3.0,
)


def make_network():
    layers = []
    for channels, dilation in ((FEATURES, 1), (64, 2), (64, 4)):
        layers.append(nn.Conv1d(channels, 64, 5, padding=2 * dilation, dilation=dilation))
        layers += [nn.GroupNorm(8, 64), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, 2))


def make_subjects():
    return [
        (torch.randn(CLIPS, STEPS, FEATURES), torch.full((CLIPS,), subject % 2))
        for subject in range(SUBJECTS)
    ]


def loss_of(network, subject):
    clips, labels = subject
    return nn.functional.cross_entropy(network(clips.transpose(1, 2)), labels)


def plain_epoch(network, clips, labels):
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    for index in torch.randperm(len(clips)).split(BATCH):
        optimizer.zero_grad()
        loss_of(network, (clips[index], labels[index])).backward()
        optimizer.step()


def private_round(network, subjects, noise):
    noised_gradient(network, subjects, loss_of, plan=PLAN, expected_subjects=SUBJECTS, noise=noise)


def seconds_of(action, *arguments):
    """Wall and processor time of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    action(*arguments)
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(threads, repeats):
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network, subjects, noise = make_network(), make_subjects(), ChaChaNoise()
    clips, labels = (torch.cat([subject[part] for subject in subjects]) for part in (0, 1))
    plain_epoch(network, clips, labels)
    private_round(network, subjects, noise)
    pairs = [
        (
            seconds_of(plain_epoch, network, clips, labels),
            seconds_of(private_round, network, subjects, noise),
        )
        for _ in range(repeats)
    ]
    wall, cpu = ([(a[kind], b[kind]) for a, b in pairs] for kind in (0, 1))
    plain, private = (statistics.median(column) for column in zip(*wall, strict=True))
    plain_cpu, private_cpu = (statistics.median(column) for column in zip(*cpu, strict=True))
    return {
        "threads": threads,
        "plain_s": round(plain, 4),
        "private_s": round(private, 4),
        "ratio": round(private / plain, 3),
        "cpu_ratio": round(private_cpu / plain_cpu, 3),
        "ratios": [round(second / first, 3) for first, second in wall],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one object as the last line")
    options = parser.parse_args()
    rows = [measure(threads, options.repeats) for threads in options.threads]
    print(f"{'threads':>7} {'plain SGD':>10} {'private':>10} {'ratio':>6} {'CPU':>5}   each pair")
    for row in rows:
        each = " ".join(f"{ratio:.2f}" for ratio in row["ratios"])
        print(
            f"{row['threads']:>7} {row['plain_s']:>9.3f}s {row['private_s']:>9.3f}s "
            f"{row['ratio']:>6.2f} {row['cpu_ratio']:>5.2f}   {each}"
        )
    if options.json:
        print(json.dumps({"dp_step": rows}))


if __name__ == "__main__":
    main()
