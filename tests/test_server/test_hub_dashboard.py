"""The coordinator's dashboard: every state a folder can be in gets a page that says so."""

import datetime as dt
import html
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from ended_runs import add_run, copy_hub, make_hub
from headless_browser import DESKTOP, PHONE, find_browser, open_browser
from played_engine import PlayedEngine
from pydantic import TypeAdapter
from served_dashboard import PASSWORD, cheap_password, served, tree_of

from privacy.keys import create_identity_key
from server.checkpoints import Checkpoint
from server.control import Node
from server.dashboard.charts import FUNCTIONS, draw_auroc, draw_participation
from server.dashboard.figures import read_figures
from server.dashboard.memory import Remembered
from server.dashboard.view import HubReader, HubView, study_name
from server.history import RunReport
from server.models.registration import register_models
from server.progress import Progress, write_progress
from server.roster import _pem, add_site
from server.run_folder import hold_run, mark_stopped
from server.runs import Life, Run
from server.workspace import Workspace
from shared_models.web.findings import Finding
from shared_models.web.pages import Dashboard
from shared_models.web.rendering import render
from shared_models.web.snapshot import Snapshot

NOW = dt.datetime(2026, 3, 2, 9, 30, tzinfo=dt.UTC)


class AnsweringEngine(PlayedEngine):
    """Knows the sites of a hub."""

    def __init__(self, hub: Workspace, *, state: str = "online") -> None:
        super().__init__()
        self._hub = hub
        self._state = state

    def nodes(self) -> list[Node]:
        self._answer()
        sites = self._hub.consortium.config.sites
        return [Node(1, _pem(entry.public_key), self._state, 4.2) for entry in sites]


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_hub(tmp_path_factory.mktemp("hub") / "hub")


@pytest.fixture(scope="module")
def peopled(empty: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """One site, one completed run that is registered."""
    folder = tmp_path_factory.mktemp("peopled")
    hub = copy_hub(empty, folder / "hub-医院-😀")
    create_identity_key(folder / "keys" / "identity", folder / "keys" / "identity.pub")
    add_site(hub, "north", key_file=folder / "keys" / "identity.pub", weight=10)
    run = add_run(hub)
    Run(run).begin_life(Life(1, 1, 0, 0, 0.0))
    write_progress(run, Progress("1", 3, 3, "completed"))
    register_models(hub)
    return hub


@pytest.fixture
def hub(peopled: Workspace, tmp_path: Path) -> Workspace:
    """A copy, to be changed."""
    return copy_hub(peopled, tmp_path / "hub-医院-😀")


def look(hub: Workspace, engine: PlayedEngine | None = None) -> Finding[HubView]:
    return HubReader(hub.folder, engine or AnsweringEngine(hub)).look()


def seen(found: Finding[HubView]) -> HubView:
    assert found.value is not None, found.fault
    return found.value


def text_of(view: Finding[HubView], language: str = "en") -> str:
    """What a reader sees of a page, in one line."""
    page = render(
        "server.dashboard", language, "fragment.html.j2",
        {"view": view, "heading": "trial", "made_at": NOW, **FUNCTIONS},
    )  # fmt: skip
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


def begin_run(hub: Workspace, **progress: object) -> Path:
    """A second run under way, with what the first one had after its last round."""
    first = hub.runs / "run-0001"
    report = RunReport.from_json((first / "report.json").read_bytes())
    folder = hub.runs / "run-0002"
    folder.mkdir()
    (folder / "consortium.toml").write_bytes(hub.consortium_file.read_bytes())
    Run(folder).begin_life(Life(2, 1, 0, 0, 0.0))
    spent = {"north": {"training": 1.25, "tallies": float("inf")}}
    kept = Checkpoint(
        "2", report.consortium_digest, 2, report.rounds[:2], report.evaluations, spent, {}, None,
        3.0, "0" * 64,
    )  # fmt: skip
    (folder / "checkpoint.json").write_bytes(TypeAdapter(Checkpoint).dump_json(kept))
    moment = {"waiting_for": ("north",), "since": NOW.isoformat(), "quorum": 1, **progress}
    write_progress(folder, Progress("2", 3, 3, "training", **moment))  # type: ignore[arg-type]
    return folder


def test_a_folder_without_sites_and_runs_says_what_to_do(empty: Workspace) -> None:
    told = text_of(look(empty, AnsweringEngine(empty)))
    assert "Sites online 0 of 0 no site was admitted yet" in told
    assert "Run none yet begin one with vultus-coordinator run" in told
    assert "No model yet" in told
    assert "No run yet." in told


def test_a_completed_run_shows_its_figures_and_model(hub: Workspace) -> None:
    told = text_of(look(hub))
    assert "Sites online 1 of 1" in told
    assert "Round 3 of 3 run-0001 · completed" in told
    assert "It waits for nobody" not in told, "a run that ended waits for nobody anyway"
    assert "Current model 3 run-0001 · round 3" in told
    assert "north online 4 seconds ago 3 / 3 2.96" in told


def test_a_withheld_group_shows_no_figure(hub: Workspace) -> None:
    view = look(hub)
    figures = seen(view).figures.value
    assert figures is not None
    assert figures.fairness is not None
    states = {group.group: group.state for group in figures.fairness.by_group}
    assert states["male"] == "suppressed"
    assert "male withheld" in text_of(view)
    assert "男 不予公布" in text_of(view, "zh")


def test_a_run_under_way_names_whom_it_waits_for(hub: Workspace) -> None:
    folder = begin_run(hub, refused=(("south", "budget", "cap reached"),), missing=("east",))
    with hold_run(folder, life="2"):
        told = text_of(look(hub))
        chinese = text_of(look(hub), "zh")
    assert "It waits for: north" in told
    assert "Late north" in told
    assert "Not connected east" in told
    assert "south refused its privacy budget is used up (cap reached)" in told
    assert "Fairness so far" in told
    assert "1.25" in told
    assert "nothing reported" in told, "an infinite epsilon is no figure"
    assert "正在等待" in chinese
    assert "隐私预算已用尽" in chinese


def test_the_figures_of_a_checkpoint_are_those_that_the_report_will_have(hub: Workspace) -> None:
    folder = begin_run(hub)
    so_far, final = read_figures(Run(folder)), read_figures(Run(hub.runs / "run-0001"))
    assert so_far is not None
    assert final is not None
    assert so_far.fairness == final.fairness
    assert (so_far.is_final, final.is_final) == (False, True)
    assert so_far.took_part == {"north": 2, "south": 2}
    assert so_far.site("north").epsilon_tallies is None  # type: ignore[union-attr]
    assert draw_auroc(so_far) is None, "one judgement makes no curve"
    assert draw_participation(so_far) is not None


def test_a_coordinator_that_is_down_is_told_and_its_run_goes_on_later(hub: Workspace) -> None:
    begin_run(hub)
    engine = AnsweringEngine(hub)
    engine.is_away = True
    told = text_of(look(hub, engine))
    assert "The coordinator does not run." in told
    assert "Nobody conducts it while the coordinator does not run" in told


def test_a_stopped_run_is_told_as_stopped(hub: Workspace) -> None:
    mark_stopped(begin_run(hub))
    assert "run-0002 stopped" in text_of(look(hub))


@pytest.mark.parametrize(
    ("file", "sentence", "still"),
    [
        ("runs/run-0001/progress.json", "The run cannot be shown.", "Current model 3"),
        ("runs/run-0001/report.json", "The figures of the run cannot be shown.", "Sites online"),
        ("models/journal.jsonl", "The models cannot be shown.", "Round 3 of 3"),
        ("models/entries/0002.json", "The models cannot be shown.", "Round 3 of 3"),
        ("coordinator.toml", "The coordinator's folder cannot be opened.", "trial"),
        ("consortium.toml", "The sites cannot be shown.", "Round 3 of 3"),
        ("runs/roster.json", "The sites cannot be shown.", "Round 3 of 3"),
    ],
)
def test_a_broken_file_is_told_and_takes_nothing_else_away(
    hub: Workspace, file: str, sentence: str, still: str
) -> None:
    broken = hub.folder / file
    broken.chmod(0o600)
    broken.write_text('{"broken": 1}\n{"broken": 2}\n')
    told = text_of(look(hub))
    assert sentence in told
    assert still in told
    assert "Traceback" not in told


def test_looking_writes_nothing(hub: Workspace) -> None:
    begin_run(hub)
    before = tree_of(hub.folder)
    HubReader(hub.folder).look()
    assert tree_of(hub.folder) == before


def test_looking_at_a_hub_behind_a_proxy_makes_no_engine(hub: Workspace) -> None:
    settings = hub.folder / "coordinator.toml"
    settings.write_text(settings.read_text().replace('proxy = "none"', 'proxy = "nginx"'))
    before = tree_of(hub.folder)
    sites = seen(HubReader(hub.folder).look()).sites.value
    assert sites is not None
    assert not sites.is_up
    assert tree_of(hub.folder) == before


def test_the_page_holds_no_key_and_no_sum(hub: Workspace) -> None:
    begin_run(hub)
    told = text_of(look(hub))
    for entry in hub.consortium.config.sites:
        assert entry.public_key.split()[1] not in told
    assert "histogram" not in told
    assert "BEGIN" not in told


def test_a_file_is_read_again_only_when_it_changed(tmp_path: Path) -> None:
    file, reads = tmp_path / "a", []
    file.write_text("1")
    kept = Remembered(lambda: reads.append(file.read_text()) or file.read_text())
    assert [kept.get([file]) for _ in range(3)] == ["1"] * 3
    file.write_text("2")
    os.utime(file, ns=(1, 1))
    assert kept.get([file]) == "2"
    assert reads == ["1", "2"]


def test_the_heading_is_the_study_or_else_the_folder(hub: Workspace) -> None:
    assert study_name(hub) == "trial"
    hub.consortium_file.write_text("x = ")
    assert study_name(hub) == "hub-医院-😀"


@pytest.fixture
def address(hub: Workspace) -> Iterator[str]:
    begin_run(hub)
    reader = HubReader(hub.folder, AnsweringEngine(hub))
    file = cheap_password(hub.folder / "dashboard.json")
    snapshot = Snapshot(reader.look, every_s=0.1)
    with served(
        Dashboard("coordinator", "trial", "server.dashboard", file, snapshot, FUNCTIONS)
    ) as url:
        yield url


def test_in_a_real_browser_the_page_lives_fits_a_phone_and_asks_nobody_else(
    hub: Workspace, address: str
) -> None:
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium on this machine")
    with open_browser(program) as page:
        page.size(*DESKTOP)
        page.open(address)
        page.sign_in(PASSWORD)
        assert page.run("location.pathname") == "/"
        assert "run-0002" in page.run("document.getElementById('content').innerText")
        write_progress(hub.runs / "run-0002", Progress("2", 3, 3, "evaluating", ("north",)))
        page.await_text("evaluating")
        page.size(*PHONE)
        assert page.run("document.documentElement.scrollWidth") <= PHONE[0]
        page.open(f"{address}language/zh")
        assert page.run("document.documentElement.lang") == "zh-Hans"
        assert "评估中" in page.run("document.body.innerText")
        page.call("Emulation.setScriptExecutionDisabled", value=True)
        page.open(address)
        page.call("Emulation.setScriptExecutionDisabled", value=False)
        assert page.run("document.querySelector('noscript meta, head > meta[http-equiv]') !== null")
        assert "评估中" in page.run("document.body.innerText")
        assert page.complaints == []
        assert {url for url in page.requested if not url.startswith(address)} == set()
