"""The table of faults names tests that exist, and has a row for every fault that was promised."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "fault_matrix.md"
REFERENCE = re.compile(r"`(test_\w+\.py)::(test_\w+)`")
TESTS = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
FAULTS = (
    "server process", "app process", "proxy", "coordinator itself", "site itself", "trainer",
    "connection", "extractor", "cable", "slow and lossy", "full disk at a site",
    "full disk at the coordinator", "clock", "NaN", "wrong shape", "old round", "replay",
    "poisoned", "budget", "two coordinators", "two starts",
)  # fmt: skip


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def missing_tests(text: str) -> set[str]:
    return {
        f"{file}::{name}"
        for file, name in REFERENCE.findall(text)
        if f"def {name}(" not in TESTS.get(file, "")
    }


def test_every_fault_has_a_row_with_a_test() -> None:
    cells = [row for row in rows(TABLE.read_text()) if REFERENCE.search(row[-1])]
    for fault in FAULTS:
        assert any(fault in row[0] for row in cells), fault


def test_every_test_that_the_table_names_is_there() -> None:
    text = TABLE.read_text()
    assert not missing_tests(text)
    assert len(REFERENCE.findall(text)) == len(re.findall(r"\w+\.py::", text)), "one is misspelt"


def test_a_test_that_is_not_there_is_noticed() -> None:
    assert missing_tests("`test_faults.py::test_nobody_wrote`") == {
        "test_faults.py::test_nobody_wrote"
    }
