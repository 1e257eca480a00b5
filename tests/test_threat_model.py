"""The documents for an ethics board name tests that exist, and figures that hold."""

import math
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from scipy.stats import norm

from privacy.accounting import Release, compose
from privacy.keys import public_line
from shared_models.consortium import ConsortiumConfig, PrivacyConfig, StudyConfig
from shared_models.roster import SiteEntry

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("docs/threat_model.md", "docs/sharp_edges.md", "SECURITY.md")
REFERENCE = re.compile(r"`(test_\w+\.py)::(test_\w+)`")
TESTS = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}


def missing_tests(text: str) -> set[str]:
    return {
        f"{file}::{name}"
        for file, name in REFERENCE.findall(text)
        if f"def {name}(" not in TESTS.get(file, "")
    }


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_test_that_a_document_names_is_there(document: str) -> None:
    text = (ROOT / document).read_text()
    assert REFERENCE.search(text), "a document that names no test shows nothing"
    assert not missing_tests(text)
    assert len(REFERENCE.findall(text)) == len(re.findall(r"\w+\.py::", text)), "one is misspelt"


def test_a_test_that_is_not_there_is_noticed() -> None:
    assert missing_tests("`test_ledger.py::test_nobody_wrote`") == {
        "test_ledger.py::test_nobody_wrote"
    }


def plan_noise(*, sites: int, tolerated: int) -> tuple[float, int]:
    """Noise multiplier of a sum of the default study, and how many of them it pays for."""
    keys = [public_line(ec.generate_private_key(ec.SECP384R1())) for _ in range(sites)]
    config = ConsortiumConfig(
        StudyConfig("trial", "phq9"),
        privacy=PrivacyConfig(mode="distributed", tolerated_dropouts=tolerated),
        sites=tuple(SiteEntry(f"s{i}", 100, key) for i, key in enumerate(keys)),
    )
    plan = config.training_plan()
    return plan.released_noise_multiplier, plan.steps


@pytest.mark.parametrize(("sites", "tolerated"), [(3, 0), (3, 1), (5, 0), (10, 0), (10, 1)])
def test_the_table_of_colluding_sites_is_right(sites: int, tolerated: int) -> None:
    text = (ROOT / "docs/threat_model.md").read_text()
    row = re.search(rf"^\| {sites} \| {tolerated} \| (.+) \|$", text, re.MULTILINE)
    assert row is not None
    told = [cell.strip() for cell in row[1].split("|")]
    noise, steps = plan_noise(sites=sites, tolerated=tolerated)

    def epsilon(colluding: int) -> str:
        kept = noise * math.sqrt((sites - colluding) / (sites - tolerated))
        return f"{compose([Release(kept, steps)], 1e-3):.1f}"

    expected = [epsilon(1), epsilon(2), epsilon(4) if sites > 4 else ""]
    assert told == [*expected, epsilon(sites - 1), epsilon(sites - 1)]


@pytest.mark.parametrize(("broken", "right"), [(False, 69), (True, 94)])
def test_what_epsilon_means_in_guesses_is_right(*, broken: bool, right: int) -> None:
    noise, steps = plan_noise(sites=10, tolerated=0)
    mu = math.sqrt(steps) / (noise / math.sqrt(10) if broken else noise)
    assert math.ceil(100 * norm.cdf(mu / 2)) == right
    assert f"at most {right}" in re.sub(r"\s+", " ", (ROOT / "docs/threat_model.md").read_text())
