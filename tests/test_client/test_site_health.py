"""What a site tells monitoring tools of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.service.site_health import SiteHealth
from shared_models.health import read_health

BOTH = {"supernode": 1, "worker": 2}


@pytest.mark.parametrize(
    ("pids", "connected", "down"),
    [
        (BOTH, True, set()),
        (BOTH, False, {"coordinator"}),
        ({"worker": 2}, True, {"", "supernode", "coordinator"}),
        ({"supernode": 1}, True, {"", "worker", "coordinator"}),
    ],
)
def test_alive_is_told_apart_from_ready(
    tmp_path: Path, pids: dict[str, int], connected: bool, down: set[str]
) -> None:
    SiteHealth.of(tmp_path, 50_051).tell(pids, connected=connected)
    told = read_health(tmp_path / "health.json")
    assert set(told) == {"", "supernode", "worker", "coordinator"}
    assert {name for name, up in told.items() if not up} == down


def test_port_0_tells_nothing_and_starts_nothing(tmp_path: Path) -> None:
    health = SiteHealth.of(tmp_path, 0)
    health.tell(BOTH, connected=True)
    assert list(tmp_path.iterdir()) == []
    assert health.children(("health",), {}, logs=tmp_path) == ()


def test_tools_are_answered_by_a_process_that_starts_as_the_others(tmp_path: Path) -> None:
    [child] = SiteHealth.of(tmp_path, 50_051).children(("walled", "health"), {}, logs=tmp_path)
    assert child.command[:4] == ("walled", "health", "--port", "50051")
    assert child.log.parent == tmp_path
