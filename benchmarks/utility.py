"""What privacy costs: AUROC of the federated private model against the pooled non-private one.

    python benchmarks/utility.py [--seeds 10] [--sites 8] [--subjects 100] [--rounds 30]

For each seed a simulated study runs twice through the real apps: as a consortium with noise at
every site, and with privacy off, where summing the sites' exact gradients every round is the same
as training on the pooled data. Both are judged exactly, on the same held-out subjects. Intervals
are Student's t over seeds; the difference is paired.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from scipy import stats

from simulation.study import design_study, run_study


def measure(seed: int, mode: str, given: argparse.Namespace) -> float:
    design = design_study(
        sites=given.sites,
        subjects=given.subjects,
        rounds=given.rounds,
        epsilon=given.epsilon,
        mode=mode,
        network="behaviour_net",
        trainable="head",
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        report = run_study(design, Path(folder), lambda *_: None)
    return report.truth.curve[-1][1]


def interval(values: np.ndarray) -> str:
    mean, half = values.mean(), 0.0
    if len(values) > 1:
        half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return f"{mean:+.4f}  [{mean - half:+.4f}, {mean + half:+.4f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--sites", type=int, default=8)
    parser.add_argument("--subjects", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--epsilon", type=float, default=3.0)
    given = parser.parse_args()
    pairs = []
    for seed in range(given.seeds):
        pairs.append([measure(seed, mode, given) for mode in ("off", "local")])
        print(f"seed {seed}: pooled {pairs[-1][0]:.4f}, private {pairs[-1][1]:.4f}", flush=True)
    pooled, private = np.array(pairs).T
    print(f"pooled, no privacy            AUROC {interval(pooled)}")
    print(f"federated, epsilon {given.epsilon:g}, local    AUROC {interval(private)}")
    print(f"difference, paired by seed          {interval(private - pooled)}")
    kept = (private - 0.5) / (pooled - 0.5)
    print(f"share of (AUROC - 0.5) kept         {interval(kept)}")


if __name__ == "__main__":
    main()
