"""``vultus-site explain``: a page for the site, of a verified model, with its limits on it."""

from __future__ import annotations

import json
import re
import stat
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from explained_site import evaluation, make_model, publish, write_site
from played_coordinator import signed
from typer.testing import CliRunner

from client.cli import app
from client.explanation import subject as subject_module
from client.explanation.model import open_model
from client.explanation.moments import view_recordings
from client.explanation.page import render_page
from client.explanation.place import page_file
from client.explanation.subject import Explanation, explain_subject
from client.explanation.words import tell
from client.learning.evaluation import score_subjects
from client.learning.kept_model import MODEL_FILE, KeptModelError, find_model, keep_model
from client.learning.learner import Learner
from client.site import open_site
from privacy.keys import create_identity_key
from server.signing import publish_model
from shared_models.typical_clips import typical_clips
from shared_models.weights import State

SUBJECT = "s01-p0002"
NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_site(tmp_path_factory.mktemp("explained"))


@pytest.fixture(scope="module")
def model_file(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(folder, tmp_path_factory.mktemp("models") / "model-0002.safetensors")


@pytest.fixture(autouse=True)
def _few_typical_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject_module, "typical_clips", lambda: typical_clips()[:3])


@pytest.fixture(scope="module")
def explanation(folder: Path, model_file: Path) -> Explanation:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject_module, "typical_clips", lambda: typical_clips()[:3])
        site = open_site(folder)
        return explain_subject(site, open_model(site, model_file), SUBJECT)


def explain(folder: Path, *words: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["explain", str(folder), *map(str, words)])
    return done.exit_code, done.stdout, done.stderr


def test_the_command_writes_a_private_page_and_says_the_same_to_machines(
    folder: Path, model_file: Path
) -> None:
    code, out, err = explain(folder, SUBJECT, "--model", model_file, "--json")
    assert code == 0, err
    answer = json.loads(out.splitlines()[-1])
    page = Path(answer["page"])
    assert page == page_file(open_site(folder), SUBJECT)
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert stat.S_IMODE(page.parent.stat().st_mode) == 0o700
    assert SUBJECT not in page.name
    assert answer["complete"] is True
    added = sum(one["points"] for one in answer["behaviours"])
    assert added == pytest.approx(answer["sum_of_attributions"])
    assert added == pytest.approx(answer["score"] - answer["typical_score"], abs=0.05)
    assert SUBJECT in page.read_text()
    assert "not cause" in err


def test_the_explained_score_is_the_one_that_the_site_judges_with(
    folder: Path, explanation: Explanation
) -> None:
    learner = Learner(open_site(folder))
    everybody = (*learner.dataset.training, *learner.dataset.held_out)
    (own,) = (one for one in everybody if one.subject_id == SUBJECT)
    scores = score_subjects(make_model(), [own], learner.config.study.score_range)
    low, high, _ = learner.config.study.score_range
    assert np.clip(explanation.score, low, high) == pytest.approx(scores.predicted[0], abs=1e-3)
    held_out = {one.subject_id for one in learner.dataset.held_out}
    assert explanation.part == ("held_out" if SUBJECT in held_out else "training")


def test_recordings_and_moments_add_up_to_the_behaviours(explanation: Explanation) -> None:
    views = view_recordings(explanation)
    assert [view.recording_id for view in views] == [f"{SUBJECT}-v1", f"{SUBJECT}-v2"]
    assert sum(view.points for view in views) == pytest.approx(explanation.total)
    for behaviour in explanation.behaviours:
        strips = [s for view in views for s in view.strips if s.title == behaviour.group.title]
        assert sum(strip.points for strip in strips) == pytest.approx(behaviour.points)
    for view in views:
        assert 0 < len(view.moments) <= 6
        starts = [moment.start for moment in view.moments]
        assert starts == sorted(starts)
        assert any(strip.shades for strip in view.strips)


def test_a_single_recording_can_be_explained(folder: Path, model_file: Path) -> None:
    options = ("--model", model_file, "--recording", f"{SUBJECT}-v2", "--json")
    code, out, _ = explain(folder, SUBJECT, *options)
    assert code == 0
    assert json.loads(out.splitlines()[-1])["recordings"] == [f"{SUBJECT}-v2"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("s01-p0009",), "Did you mean"),
        (("nobody at all",), "Expected a subject"),
        ((SUBJECT, "--recording", "s01-p0002-v9"), "Expected a recording of"),
        ((SUBJECT, "--model", "no-such-file"), "no such file"),
    ],
)
def test_wrong_input_is_told_in_a_sentence(
    folder: Path, model_file: Path, words: tuple[str, ...], said: str
) -> None:
    given = words if "--model" in words else (*words, "--model", model_file)
    code, _, err = explain(folder, *given)
    assert code == 2
    assert said in err
    assert "Traceback" not in err


# Which model is explained.


def test_without_any_model_the_command_says_where_one_comes_from(folder: Path) -> None:
    code, _, err = explain(folder, SUBJECT)
    assert code == 2
    assert "--model" in err


def test_an_unsigned_model_and_one_of_another_key_are_refused(folder: Path, tmp_path: Path) -> None:
    file = publish(folder, tmp_path / "model.safetensors")
    file.with_name("model.safetensors.sig").unlink()
    assert explain(folder, SUBJECT, "--model", file)[0] == 3
    (tmp_path / "keys").mkdir(mode=0o700)
    key = create_identity_key(tmp_path / "keys" / "other", tmp_path / "keys" / "other.pub")
    publish_model(file, make_model().state_dict(), key)
    code, _, err = explain(folder, SUBJECT, "--model", file)
    assert code == 3
    assert "not what the coordinator signed" in err


@pytest.fixture
def learner(folder: Path, tmp_path: Path) -> Learner:
    """The site with a state of its own."""
    site = open_site(folder)
    return Learner(replace(site, paths=replace(site.paths, state=tmp_path)))


def test_a_judged_model_is_kept_and_verified_again(learner: Learner) -> None:
    assert find_model(learner.site, learner.network) is None
    reply = learner.evaluate(evaluation(learner))
    assert reply.tallies.shape == learner.tally_shape(2)
    kept = find_model(learner.site, learner.network)
    assert kept is not None
    assert (kept.run_id, kept.server_round) == ("run", 2)
    expected: State = make_model().state_dict()
    for name, part in kept.weights.items():
        assert part.equal(expected[name])
    file = learner.site.paths.state / MODEL_FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert explain_subject(learner.site, open_model(learner.site, None), SUBJECT).behaviours


def test_a_request_to_train_leaves_no_model(learner: Learner) -> None:
    request = replace(evaluation(learner), plan=learner.config.training_plan())
    learner.train(signed(learner.site, request, kind="train"))
    assert find_model(learner.site, learner.network) is None


def test_a_kept_model_that_was_changed_is_refused(learner: Learner) -> None:
    honest = evaluation(learner)
    other = {name: part + 1 for name, part in honest.weights.items()}
    forged = [
        replace(honest, weights=other),
        replace(honest, signature=b""),
        replace(honest, server_round=1),
        replace(honest, run_id="another"),
        evaluation(learner, consortium_digest="0" * 64),
        replace(honest, weights={}),
    ]
    for request in forged:
        keep_model(learner.site, request)
        with pytest.raises(KeptModelError, match="another"):
            find_model(learner.site, learner.network)
    (learner.site.paths.state / MODEL_FILE).write_bytes(b"\xff" * 40)
    with pytest.raises(KeptModelError):
        find_model(learner.site, learner.network)
    keep_model(learner.site, honest)
    assert find_model(learner.site, learner.network) is not None


# The page.


def test_the_page_is_self_contained_and_says_its_limits(explanation: Explanation) -> None:
    page = render_page(explanation, now=NOW)
    assert page == render_page(explanation, now=NOW)
    assert not re.search(r"https?://|url\(|<script|@import|<link|<img", page)
    assert "no output is a diagnosis" in page
    assert "Attribution, not cause." in page
    assert "the parts add up" in page
    assert page.count("<h1") == 1
    assert page.index("In plain words") < page.index("Behaviours, the largest effect first")


def test_parts_that_do_not_add_up_are_told_as_such(explanation: Explanation) -> None:
    page = render_page(replace(explanation, gap=explanation.moved), now=NOW)
    assert "The parts do not add up." in page
    assert "Checked" not in page


def test_a_model_that_nothing_moves_is_told_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    site = open_site(folder)
    untrained = make_model()
    untrained.head.weight.data.zero_()
    file = publish(folder, tmp_path / "model.safetensors", untrained.state_dict())
    nothing = explain_subject(site, open_model(site, file), SUBJECT)
    assert "no behaviour moves its scores" in tell(nothing)[0]
    assert nothing.is_complete
    page = render_page(nothing, now=NOW)
    assert "nan" not in page.casefold().replace("finance", "")


def test_a_name_with_markup_and_emoji_is_text(explanation: Explanation) -> None:
    name = '<b>\u5f20\u4f1f \U0001f600"&'
    page = render_page(replace(explanation, subject_id=name), now=NOW)
    assert "<b>\u5f20" not in page
    assert "&lt;b&gt;\u5f20\u4f1f \U0001f600&#34;&amp;" in page


def test_a_score_beyond_the_instrument_is_told(explanation: Explanation) -> None:
    assert any("is cut there" in line for line in tell(replace(explanation, score=40.0)))
    assert "left:100.0%" in render_page(replace(explanation, score=40.0), now=NOW)


def test_forgetting_a_subject_deletes_its_page(tmp_path: Path) -> None:
    folder = write_site(tmp_path)
    site = open_site(folder)
    pages = {name: page_file(site, name) for name in (SUBJECT, "s01-p0001")}
    for page in pages.values():
        page.parent.mkdir(mode=0o700, exist_ok=True)
        page.write_text("explained")
    done = CliRunner().invoke(app, ["forget", str(folder), SUBJECT, "--yes"])
    assert done.exit_code == 0, done.output
    assert not pages[SUBJECT].exists()
    assert pages["s01-p0001"].exists()
    code, _, err = explain(folder, SUBJECT, "--model", publish(folder, tmp_path / "m.safetensors"))
    assert code == 2
    assert "was forgotten" in err
