"""First paint of the coordinator's dashboard in a headless Chromium, with many sites and rounds.

    python benchmarks/dashboard.py [--sites 100] [--rounds 1000] [--repeat 10] [--keep DIR]

Makes a coordinator's folder with one run that ended, each of its models registered, and one that is
under way, serves the dashboard on it, signs in, and loads the page again and again. The engine is
played. The budget is one second; the rival is the same page in a folder of one site and no run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from headless_browser import DESKTOP, Page, find_browser, open_browser

from privacy.keys import public_line
from server.checkpoints import Checkpoint
from server.control import Engine, Node
from server.dashboard.charts import FUNCTIONS
from server.dashboard.view import HubReader
from server.history import RoundReport, RunReport, SitePrivacy, evaluation_report
from server.models.entries import Figure, GroupFigures, ModelEntry, Network, Parent, PrivacyTerms
from server.models.registration import registry_folder
from server.models.registry import RegistryWriter, locked
from server.progress import Progress, write_progress
from server.roster import _pem
from server.runs import Life, Run
from server.signing import open_signing_key
from server.study_file import new_study
from server.workspace import SETTINGS_FILE, Workspace, create_workspace, open_workspace
from shared_models.roster import Roster, SiteEntry, keep_roster, sign_roster
from shared_models.tallies import GroupTally
from shared_models.web import serving
from shared_models.web.pages import Dashboard
from shared_models.web.passwords import set_password
from shared_models.web.place import Place
from shared_models.web.snapshot import Snapshot

PASSWORD = "a password of the benchmark"
RANGE = (0.0, 27.0, 10.0)
SHAPE = np.array([0, 1, 4, 9, 6, 3, 1, 0, 1, 9, 14, 12, 5, 2, 1, 0], dtype=float)
BUDGET_S = 1.0
FIRST_PAINT = """new Promise((done) => new PerformanceObserver((list) => {
  for (const one of list.getEntriesByName("first-contentful-paint")) done(one.startTime);
}).observe({ type: "paint", buffered: true }))"""


class PlayedEngine(Engine):
    """Says that nine of ten sites are online."""

    def __init__(self, workspace: Workspace) -> None:
        super().__init__("played", ca_certificate=Path("played"))
        self._keys = [entry.public_key for entry in workspace.consortium.config.sites]

    def nodes(self) -> list[Node]:
        return [
            Node(number, _pem(key), "offline" if number % 10 == 9 else "online", 3.0 + number)
            for number, key in enumerate(self._keys)
        ]


def make_hub(folder: Path, *, sites: int, rounds: int) -> Workspace:
    """A coordinator's folder with a run that ended and one under way."""
    study = new_study("benchmark", instrument="phq9").replace(
        "rounds = 30", f"rounds = {max(rounds, 1)}"
    )
    hub = create_workspace(
        folder, consortium_toml=study, name="benchmark", hosts=["127.0.0.1"], port=8443
    )
    _admit(hub, sites)
    if rounds:
        ended = _make_ended(hub, rounds)
        _register(hub, ended)
        _make_running(hub, ended)
    return hub


def _admit(hub: Workspace, sites: int) -> None:
    """All sites in one roster; the command would write every kit anew for each."""
    entries = []
    for number in range(sites):
        key = public_line(ec.generate_private_key(ec.SECP384R1()))
        entries.append(SiteEntry(f"site-{number:03d}", 100, key))
    roster = Roster(1, hub.consortium.digest, tuple(entries), hub.trusted_authorities)
    signed = sign_roster(roster, open_signing_key(hub.runs, hub.consortium))
    keep_roster(hub.roster_file, signed, mode=0o644)


def _make_ended(hub: Workspace, rounds: int) -> RunReport:
    names = [entry.id for entry in hub.consortium.config.sites]
    told = [_round(number, names) for number in range(1, rounds + 1)]
    judged = [_judge(number) for number in range(10, rounds + 1, 10)]
    study = hub.consortium
    plan = study.config.training_plan()
    report = RunReport(
        run_id="1", study_name="benchmark", instrument="phq9", threshold=10.0, score_range=RANGE,
        mode="local", target_epsilon=3.0, delta=plan.delta, noise_multiplier=plan.noise_multiplier,
        max_grad_norm=plan.max_grad_norm, tally_noise_multiplier=1.0, fairness_epsilon=3.0,
        epsilon_sum=1.7, epsilon_site=2.9, rounds=tuple(told), evaluations=tuple(judged),
        sites=tuple(SitePrivacy(name, 2.9, 2.5, rounds) for name in names), min_cell=10,
        weights_digest=told[-1].weights_digest, consortium_digest=study.digest, versions={},
        status="completed",
    )  # fmt: skip
    folder = _run_folder(hub, "run-0001")
    (folder / "report.json").write_text(report.to_json())
    write_progress(folder, Progress("1", rounds, rounds, "completed"))
    return report


def _make_running(hub: Workspace, ended: RunReport) -> None:
    folder = _run_folder(hub, "run-0002")
    kept = ended.rounds[:-1]
    checkpoint = Checkpoint(
        "2", ended.consortium_digest, len(kept), kept, ended.evaluations[:-1],
        {one.site_id: {"training": 2.8, "tallies": 2.4} for one in ended.sites},
        {}, None, 900.0, "0" * 64,
    )  # fmt: skip
    from pydantic import TypeAdapter

    (folder / "checkpoint.json").write_bytes(TypeAdapter(Checkpoint).dump_json(checkpoint))
    names = [one.site_id for one in ended.sites]
    moment = Progress(
        "2", len(ended.rounds), len(ended.rounds), "training", tuple(names[3:7]),
        since=datetime.now(UTC).isoformat(), quorum=len(names) * 3 // 4, answered=len(names) - 4,
        lost=tuple(names[3:4]), missing=tuple(names[9::10]),
    )  # fmt: skip
    write_progress(folder, moment)


def _run_folder(hub: Workspace, name: str) -> Path:
    folder = hub.runs / name
    folder.mkdir()
    (folder / "consortium.toml").write_bytes(hub.consortium_file.read_bytes())
    Run(folder).begin_life(Life(1, 1, 0, 0, time.time()))
    return folder


def _round(number: int, names: list[str]) -> RoundReport:
    there = tuple(name for place, name in enumerate(names) if (place + number) % 17)
    away = tuple(name for place, name in enumerate(names) if not (place + number) % 17)
    return RoundReport(number, 1.2, there, away, (), f"{number:064x}", 0.2)


def _judge(number: int):
    better = 1 + np.linspace(0, 0.3, len(SHAPE)) * min(1.0, number / 100)
    cells = [("overall", "all", 20.0), ("sex", "female", 11.0), ("sex", "male", 9.0)]
    cells += [("age_band", "18-39", 8.0), ("age_band", "40-59", 9.0), ("age_band", "60+", 3.0)]
    tallies = [
        GroupTally(
            attribute, group, np.append(SHAPE * size * better, [20.0 * size, 1.0, 90.0]), 1.0
        )
        for attribute, group, size in cells
    ]
    return evaluation_report(number, tallies, score_range=RANGE, min_cell=10)


def _register(hub: Workspace, report: RunReport) -> None:
    """One entry for each round, as the command would write it."""
    folder = registry_folder(hub)
    with locked(folder):
        writer = RegistryWriter(folder, open_signing_key(hub.runs, hub.consortium))
        last = len(report.rounds)
        for told in report.rounds:
            entry = _entry(told, report)
            writer.add(entry)
        writer.move(1, model=replace(entry, number=last), why="run-0001 completed")


def _entry(told: RoundReport, report: RunReport) -> ModelEntry:
    is_last = told.server_round == len(report.rounds)
    figures = {"auroc": Figure(0.78, 0.73, 0.82), "mae": Figure(3.9, 3.6, 4.2)}
    return ModelEntry(
        format=1, number=told.server_round, run="run-0001", run_id="1", run_status="completed",
        server_round=told.server_round, rounds=len(report.rounds), is_final=is_last,
        study="benchmark", instrument="phq9", score_range=RANGE, feature_schema="0" * 64,
        network=Network("behaviour_net", "small", "head"), file="x.safetensors",
        file_sha256="0" * 64, weights_digest=told.weights_digest,
        consortium_digest=report.consortium_digest, roster_number=1,
        sites=dict.fromkeys(told.participants, ((1, told.server_round),)),
        privacy=PrivacyTerms("local", "subject", 1e-3, 3.0, 1.7, 2.9, 1.0, 0.5),
        evaluation=(GroupFigures("overall", "all", "reported", figures),) if is_last else (),
        versions={}, parent=Parent(None, None),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip


def serve(hub: Workspace, *, engine: Engine | None = None) -> str:
    """Serve the dashboard in a thread of this process; its address."""
    file = hub.folder / "dashboard.json"
    set_password(file, PASSWORD)
    reader = HubReader(hub.folder, engine)
    began = time.perf_counter()
    reader.look()
    print(f"first look at the folder: {time.perf_counter() - began:.2f} s")
    began = time.perf_counter()
    reader.look()
    print(f"second look: {time.perf_counter() - began:.3f} s")
    dashboard = Dashboard(
        "coordinator", "benchmark", "server.dashboard", file, Snapshot(reader.look), FUNCTIONS
    )
    place = Place("127.0.0.1", 0)
    listening = place.bind()
    port = listening.getsockname()[1]
    app = serving.make_app(dashboard, serving.Door(place.hosts(port), is_secure=False))
    threading.Thread(
        target=serving.answer_requests, args=(app, place, listening), daemon=True
    ).start()
    return place.url(port)


def measure(page: Page, url: str, *, repeat: int) -> list[float]:
    """Seconds from asking for the page to its first contentful paint."""
    page.size(*DESKTOP)
    page.open(url)
    page.sign_in(PASSWORD)
    if page.run("location.pathname") != "/":
        sys.exit(f"Expected to be signed in, got: {page.run('document.body.innerText')}")
    found = []
    for _ in range(repeat):
        page.open(url)
        found.append(page.run(FIRST_PAINT) / 1000)
        time.sleep(2.5)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--keep", type=Path, help="keep the folders there, or use those that are")
    options = parser.parse_args()
    program = find_browser()
    if program is None:
        sys.exit("Expected Chromium on this machine, got none.")
    cases = (("small", 1, 0), ("large", options.sites, options.rounds))
    with tempfile.TemporaryDirectory() as temporary:
        root = options.keep or Path(temporary)
        for name, sites, rounds in cases:
            folder = root / name
            is_kept = (folder / SETTINGS_FILE).exists()
            hub = (
                open_workspace(folder) if is_kept else make_hub(folder, sites=sites, rounds=rounds)
            )
            url = serve(hub, engine=PlayedEngine(hub))
            with open_browser(program) as page:
                painted = measure(page, url, repeat=options.repeat)
                size = page.run("document.documentElement.outerHTML.length")
                if options.keep:
                    page.picture(root / f"{name}.png")
            print(
                f"{name}: {sites} sites, {rounds} rounds, page of {size / 1000:.0f} kB: first "
                f"paint median {statistics.median(painted):.3f} s, slowest {max(painted):.3f} s "
                f"(budget {BUDGET_S:g} s)"
            )


if __name__ == "__main__":
    main()
