"""What privacy costs: AUROC of private federated models against the pooled non-private one.

    python benchmarks/utility.py [--seeds 10] [--sites 10] [--subjects 100] [--rounds 30]
                                 [--trainable head|all] [--workers 2] [--json]

The comparison of ``vultus-simulate compare`` at the settings that are asked for: pooled training is
the rival of every other way, and the best single site that a consortium could have chosen is
beside them (by held-out subjects of its own, not by the figure that is compared).
"""

from __future__ import annotations

import argparse
import json

from simulation.comparison.seeds import compare
from simulation.comparison.setting import FEDERATED, LOCAL, POOLED, Arm, Setting

ASKED = {
    Arm("federated_dp", "distributed", 3.0): 0.97,
    Arm("federated_dp", "distributed", 1.0): 0.95,
    Arm("federated_dp", "local", 3.0): 0.90,
}
"""The share of (AUROC - 0.5) that is asked for."""


def text_of(estimate):
    if estimate.low is None:
        return f"{estimate.value:.4f}"
    return f"{estimate.value:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--sites", type=int, default=10)
    parser.add_argument("--subjects", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--trainable", choices=("head", "all"), default="head")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one object as the last line")
    given = parser.parse_args()
    setting = Setting(given.sites, given.subjects, given.rounds, given.trainable)
    (found,) = compare(
        [setting],
        [POOLED, LOCAL, FEDERATED, *ASKED],
        seeds=given.seeds,
        workers=given.workers,
        on_progress=lambda done, total: print(f"{done} of {total} seeds", flush=True),
    )
    asked = {arm.label: share for arm, share in ASKED.items()}
    print(f"{'':32s} {'AUROC':26s} {'share of (AUROC - 0.5) kept':26s} asked  above best site")
    for row in found.rows:
        wanted = f"{asked[row.label]:.2f}" if row.label in asked else ""
        print(
            f"{row.label:32s} {text_of(row.auroc):26s} {text_of(row.kept):26s} {wanted:5s}  "
            f"{text_of(row.over_best)}"
        )
    if given.json:
        print(json.dumps({"utility": found.to_json()}))


if __name__ == "__main__":
    main()
