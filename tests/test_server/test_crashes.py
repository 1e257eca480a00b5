"""A coordinator that ends at any moment of a run: the next one comes to the very same model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp
from played_sites import FOUR, SecureSites, Sites, spoil
from safetensors.torch import load_file

from privacy.plan import PrivacyPlan
from server import aggregation, anchors, checkpoints, rounds, strategy
from server import app as app_module
from server.app import conduct_run
from server.checkpoints import CheckpointError, CheckpointStore
from server.history import RunReport
from server.progress import read_progress
from server.run_folder import mark_stopped
from server.signing import model_file
from shared_models.messages import MaskedReply, Refusal, RefusalCode, Reply
from shared_models.records import decode_model_request
from shared_models.signed_models import load_signed_weights, model_statement
from simulation.engine import InProcessGrid, run_in_process

BOUNDARIES: tuple[tuple[Any, str], ...] = (
    (InProcessGrid, "push_messages"),
    (InProcessGrid, "pull_messages"),
    (strategy, "publish_model"),
    (aggregation.ServerOptimizer, "step"),
    (checkpoints.CheckpointStore, "write_tensors"),
    (checkpoints.CheckpointStore, "write"),
    (anchors.AnchorStore, "keep"),
    (rounds, "write_progress"),
    (app_module, "write_report"),
    (app_module, "write_progress"),
)
"""Where a process that ends leaves something behind, or does not."""
LOOKED_AT_BEFORE = {"publish_model", "write", "write_report"}
"""Elsewhere the moment before a call is the one after the call that came before."""


class Killed(BaseException):
    """Ends the coordinator without a chance to say anything."""


class OnceOnly:
    """Sites with the rule of real ones: an answered question has one answer, an old one none."""

    told: dict[tuple[str, str], tuple[tuple[int, int], bytes, Reply]]

    def answer_once(self, kind: str, honest: Callable[..., Reply]) -> Callable[..., Reply]:
        @functools.wraps(honest)
        def answer(site: str, message: Message, node_id: int) -> Reply:
            request = decode_model_request(message.content)
            place = (request.server_round, request.attempt)
            statement = model_statement(request, kind=kind)  # type: ignore[arg-type]
            last = self.told.get((site, kind))
            if last and last[0] == place and last[1] == statement:
                return last[2]
            if last and place <= last[0]:
                return Refusal(site, RefusalCode.REPEATED, "answered before")
            reply = honest(site, message, node_id)
            self.told[site, kind] = (place, statement, reply)
            return reply

        return answer


class LocalSites(OnceOnly, Sites):
    """Three sites whose updates differ from round to round, so that the velocity counts."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, rounds=2)
        self.told = {}
        for kind in ("train", "evaluate"):
            setattr(self, kind, self.answer_once(kind, getattr(self, kind)))

    def train(self, site: str, message: Message, node_id: int) -> Reply:
        reply = super().train(site, message, node_id)
        scale = 0.3 * len(site) / reply.server_round  # type: ignore[union-attr]
        step = {name: scale * part for name, part in reply.update.items()}  # type: ignore[union-attr]
        return replace(reply, update=step)  # type: ignore[type-var]


class SummedSites(OnceOnly, SecureSites):
    """Four sites of which one always fails in the first attempt of the first round."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.told = {}
        for kind in ("train", "evaluate"):
            setattr(self, kind, self.answer_once(kind, getattr(self, kind)))
        spoil(self, "train", "south", fail_at_first)


def fail_at_first(reply: Reply) -> Reply:
    if isinstance(reply, MaskedReply) and (reply.server_round, reply.attempt) == (1, 1):
        raise MemoryError
    return reply


def live(sites: Sites, *, life: str) -> None:
    """One life of the run in the sites' folder."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        conduct_run(grid, sites.folder, run_id=life)

    configs = [{"name": name} for name in sites.names]
    run_in_process(app, sites.app, node_configs=configs, run_config={})


def report_of(sites: Sites) -> RunReport:
    return RunReport.from_json((sites.folder / "report.json").read_bytes())


@contextmanager
def killing(at: int) -> Iterator[list[str]]:
    """End the process before or after a call that crosses a boundary: the so-many-th moment."""
    moments: list[str] = []

    def pass_by(name: str) -> None:
        moments.append(name)
        if len(moments) == at + 1:
            raise Killed

    def wrap(honest: Callable[..., Any], name: str) -> Callable[..., Any]:
        @functools.wraps(honest)
        def call(*args: Any, **options: Any) -> Any:
            if name in LOOKED_AT_BEFORE:
                pass_by(f"before {name}")
            answer = honest(*args, **options)
            pass_by(f"after {name}")
            return answer

        return call

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in BOUNDARIES:
            patch.setattr(owner, name, wrap(getattr(owner, name), name))
        yield moments


@pytest.fixture(autouse=True)
def _quick_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page takes longer to draw than all the rest."""

    def write(report: RunReport, folder: Path) -> None:
        (folder / "report.json").write_text(report.to_json())

    monkeypatch.setattr(app_module, "write_report", write)


def check_every_moment(make: Callable[[Path], Sites], tmp_path: Path) -> None:
    """Kill at each moment in turn; each time the next life ends at the undisturbed run's model."""
    undisturbed = make(new_folder(tmp_path, "undisturbed"))
    with killing(at=-2) as moments:
        live(undisturbed, life="1")
    expected = report_of(undisturbed)
    assert expected.status == "completed"
    for at, moment in enumerate(moments):
        sites = make(new_folder(tmp_path, f"killed-{at}"))
        with killing(at), pytest.raises(Killed):
            live(sites, life="1")
        live(sites, life="2")
        check_same(sites, expected, moment=f"{at}: {moment}")


def new_folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir()
    return folder


def check_same(sites: Sites, expected: RunReport, *, moment: str) -> None:
    report = report_of(sites)
    progress = read_progress(sites.folder)
    assert progress is not None, moment
    assert progress.phase == report.status == "completed", moment
    assert report.weights_digest == expected.weights_digest, moment
    assert [r.weights_digest for r in report.rounds] == [
        r.weights_digest for r in expected.rounds
    ], moment
    assert [r.participants for r in report.rounds] == [r.participants for r in expected.rounds], (
        moment
    )
    assert (report.epsilon_sum, report.epsilon_site) == (
        expected.epsilon_sum,
        expected.epsilon_site,
    ), moment
    assert report.evaluations == expected.evaluations, moment
    for server_round in range(1, len(report.rounds) + 1):
        path = model_file(sites.folder, server_round)
        assert path.is_file(), moment
        load_signed_weights(path, load_file(path), public_key=sites.consortium.coordinator_key)


def test_killed_at_every_moment_of_a_local_run(tmp_path: Path) -> None:
    check_every_moment(LocalSites, tmp_path)


def test_killed_at_every_moment_of_a_run_of_secure_sums(tmp_path: Path) -> None:
    check_every_moment(SummedSites, tmp_path)


def test_a_checkpoint_without_velocity_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = aggregation.ServerOptimizer.restore

    def forget(optimizer: aggregation.ServerOptimizer, state: Any) -> None:
        still = {name: torch.zeros_like(part) for name, part in state["velocity"].items()}
        honest(optimizer, {**state, "velocity": still})

    monkeypatch.setattr(aggregation.ServerOptimizer, "restore", forget)
    with pytest.raises(AssertionError):
        check_every_moment(LocalSites, tmp_path)


def test_a_checkpoint_that_is_written_before_the_model_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest_publish, honest_write = strategy.publish_model, CheckpointStore.write
    later: list[Any] = []

    def write(store: CheckpointStore, checkpoint: Any) -> None:
        due = later.copy()
        later.clear()
        honest_write(store, checkpoint)
        for arguments in due:
            # Looked up now: the one that can be killed before.
            strategy.publish_model(*arguments, now=True)

    def publish(*arguments: Any, now: bool = False) -> None:
        if now:
            honest_publish(*arguments)
        else:
            later.append(arguments)

    monkeypatch.setattr(strategy, "publish_model", publish)
    monkeypatch.setattr(strategy, "make_durable", lambda _: None)
    monkeypatch.setattr(CheckpointStore, "write", write)
    with pytest.raises(AssertionError, match="publish_model"):
        check_every_moment(LocalSites, tmp_path)


def test_an_attempt_that_is_not_written_down_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = CheckpointStore.write

    def forget(store: CheckpointStore, checkpoint: Any) -> None:
        honest(store, replace(checkpoint, pending=None))

    monkeypatch.setattr(CheckpointStore, "write", forget)
    with pytest.raises((AssertionError, strategy.QuorumError)):
        check_every_moment(SummedSites, tmp_path)


def test_a_life_under_a_name_of_its_own_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sites answer a question of another run anew: ledgers would be charged a second time."""
    honest = CheckpointStore.read

    def rename(store: CheckpointStore) -> Any:
        checkpoint = honest(store)
        return replace(checkpoint, run_id="other") if checkpoint else None

    monkeypatch.setattr(CheckpointStore, "read", rename)
    with pytest.raises((AssertionError, strategy.QuorumError)):
        check_every_moment(LocalSites, tmp_path)


def test_tensors_that_do_not_belong_to_the_checkpoint_are_not_used(tmp_path: Path) -> None:
    sites = LocalSites(tmp_path)
    with killing(at=20), pytest.raises(Killed):
        live(sites, life="1")
    [file] = sites.folder.glob("checkpoint-*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="others"):
        live(sites, life="2")
    progress = read_progress(sites.folder)
    assert progress is not None
    assert "CheckpointError" in progress.detail
    assert not progress.has_ended


def test_a_checkpoint_of_another_study_is_not_used(tmp_path: Path) -> None:
    sites = LocalSites(tmp_path)
    with killing(at=20), pytest.raises(Killed):
        live(sites, life="1")
    study = sites.folder / "consortium.toml"
    study.write_text(study.read_text().replace("learning_rate = 0.15", "learning_rate = 0.2"))
    with pytest.raises(CheckpointError, match="changed"):
        live(sites, life="2")


def test_a_run_that_ended_is_not_conducted_again(tmp_path: Path) -> None:
    sites = LocalSites(tmp_path)
    live(sites, life="1")
    asked = len(sites.asked)
    live(sites, life="2")
    assert len(sites.asked) == asked


def test_a_run_that_was_stopped_ends_with_a_report(tmp_path: Path) -> None:
    sites = LocalSites(tmp_path)
    with killing(at=20), pytest.raises(Killed):
        live(sites, life="1")
    asked = len(sites.asked)
    mark_stopped(sites.folder)
    with pytest.raises(Exception, match="stopped on request"):
        live(sites, life="2")
    assert report_of(sites).status == "stopped"
    assert len(sites.asked) == asked


def test_a_site_that_is_gone_after_a_crash_costs_an_attempt_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "PATIENCE_S", 0.0)
    sites = SummedSites(new_folder(tmp_path, "killed"))
    with killing(at=first_sum_asked(tmp_path)), pytest.raises(Killed):
        live(sites, life="1")
    assert not [kind for kind, _ in sites.asked if kind != "hello"]
    sites.names = [name for name in FOUR if name != "west"]
    live(sites, life="2")
    report = report_of(sites)
    assert report.status == "completed"
    assert {r.participants for r in report.rounds} == {("east", "north", "south")}
    assert "west" in report.rounds[0].missing
    plan: PrivacyPlan = sites.consortium.config.training_plan()
    assert report.epsilon_sum is not None
    assert report.epsilon_sum <= (plan.target_epsilon or 0)


def first_sum_asked(tmp_path: Path) -> int:
    """The moment at which the first sum was asked for and nothing of it is back."""
    sites = SummedSites(new_folder(tmp_path, "to-count"))
    with killing(at=-2) as moments:
        live(sites, life="1")
    # One push asks who is there, and then one each puts the question.
    return [i for i, name in enumerate(moments) if name == "after push_messages"][len(FOUR)]
