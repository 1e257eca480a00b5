"""A small run of the benchmark of coverage: every kind of interval, in each mode of noise."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "coverage.py"
STUDIES = 100


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("coverage_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    # Its dataclass looks its own module up.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        yield module


@pytest.mark.parametrize(
    ("mode", "subjects"), [("off", 300), ("distributed", 300), ("local", 1000)]
)
def test_intervals_of_every_figure_hold_the_truth(benchmark, mode, subjects):
    found = benchmark.cover(mode, subjects, STUDIES)
    assert set(benchmark.METRICS) <= set(found)
    # Three standard errors of a hundred studies.
    faults = {name: c for name, c in found.items() if not benchmark.is_kept(name, *c, doubt=0.065)}
    assert faults == {}
    single = [coverage for name, (coverage, _) in found.items() if name in benchmark.METRICS]
    assert 0.93 <= np.mean(single) <= 0.97


def test_noise_that_is_not_told_is_caught(benchmark, monkeypatch):
    monkeypatch.setattr(benchmark, "replace", replace_silently)
    found = benchmark.cover("local", 1000, 30)
    assert np.mean([found[name][0] for name in benchmark.METRICS]) < 0.85


def replace_silently(tally, *, sums, noise_stddev):
    return type(tally)(tally.attribute, tally.group, sums, 0.0)
