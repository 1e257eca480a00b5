"""A site whose answer to "who are you" was lost has not refused: it is asked anew."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.common.constant import ErrorCode
from played_sites import Sites

from server.admission import LOST_ON_THE_WAY, Admission

ENGINE, NODE = 1, 7


class OneNode:
    """A grid with one node, whose answers are errors of these codes, one after the other."""

    def __init__(self, codes: list[int], source: int) -> None:
        self.codes, self.source, self.asked = codes, source, 0

    def get_node_ids(self) -> list[int]:
        return [NODE]

    def send_and_receive(self, messages: Any, *, timeout: float) -> list[Any]:
        self.asked += 1
        error = SimpleNamespace(code=self.codes.pop(0), reason="lost")
        return [
            SimpleNamespace(
                metadata=SimpleNamespace(src_node_id=self.source),
                has_error=lambda: True,
                error=error,
            )
        ]


@pytest.fixture
def admission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Admission:
    monkeypatch.setattr("server.admission.Message", lambda **_: None)
    return Admission(Sites(tmp_path).consortium, "1")


@pytest.mark.parametrize("code", sorted(LOST_ON_THE_WAY))
@pytest.mark.parametrize("source", [ENGINE, NODE])
def test_a_lost_answer_is_no_refusal(admission: Admission, code: int, source: int) -> None:
    grid = OneNode([code, code], source)
    for _ in range(2):
        admission.refresh(grid, timeout_s=1.0)
        # Whoever counts the nodes that are settled must not count this one.
        assert admission.rejected == {}
    assert grid.asked == 2


def test_a_refusal_of_the_sites_gate_counts(admission: Admission) -> None:
    admission.refresh(OneNode([ErrorCode.INVALID_FAB], NODE), timeout_s=1.0)
    assert list(admission.rejected) == [NODE]
