"""Explanations stay: of importance, noised sums of the agreed form leave and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from explained_site import evaluation, write_site

from client.learning.allow_list import Question
from client.learning.egress import EgressError, release
from client.learning.evaluation import tally_table
from client.learning.learner import Learner
from client.learning.receipts import SENT, STOPPED
from client.site import open_site
from privacy import audit
from shared_models.importance import BEHAVIOURS, IMPORTANCE
from shared_models.messages import ModelUpdate, TallyReply
from shared_models.tallies import Float64Array

ROWS = 8
"""Overall, three age bands, two sexes, and the two rows of importance."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_site(tmp_path_factory.mktemp("egress"))


@pytest.fixture
def learner(folder: Path, tmp_path: Path) -> Iterator[Learner]:
    site = open_site(folder)
    learner = Learner(replace(site, paths=replace(site.paths, state=tmp_path)))
    yield learner
    learner.ledger.close()


def answer(learner: Learner) -> tuple[TallyReply, Question]:
    request = evaluation(learner)
    reply = learner.evaluate(request)
    assert isinstance(reply, TallyReply)
    return reply, Question("evaluate", request, 5)


def test_the_noised_table_leaves_and_is_paid_for_like_a_tally(learner: Learner) -> None:
    reply, question = answer(learner)
    release(reply, question, learner)
    assert reply.tallies.shape == (ROWS, 19) == learner.tally_shape(2)
    (charged,) = learner.ledger.releases()
    assert charged.steps == 4
    assert charged.subjects == len(learner.dataset.held_out)
    assert [entry.event for entry in audit.read(learner.site.paths.audit)] == [SENT]


def test_noise_is_added_to_every_number_of_the_importance_table(learner: Learner) -> None:
    reply, _ = answer(learner)
    exact = learner._tally_exactly(2)
    assert exact[-2:, :BEHAVIOURS].any()
    drawn = reply.tallies - exact
    plan = learner.config.tally_plan()
    assert (drawn[-2:] != 0).all()
    stddev = plan.noise_multiplier * plan.max_grad_norm
    # 38 draws: the spread is within a third of what was promised, but for one study in a thousand.
    assert 0.6 * stddev < drawn[-2:].std() < 1.4 * stddev


def per_subject(learner: Learner) -> Float64Array:
    """What the site knows of each subject: one row of attributions each."""
    return np.arange(len(learner.dataset.held_out) * BEHAVIOURS, dtype=np.float64).reshape(
        -1, BEHAVIOURS
    )


def test_a_table_with_a_row_a_subject_stays(learner: Learner) -> None:
    reply, question = answer(learner)
    attributions = per_subject(learner)
    moments = np.zeros((150, BEHAVIOURS))
    planted = [
        attributions,
        np.concatenate([reply.tallies, np.zeros((len(attributions), 19))]),
        np.concatenate([reply.tallies, np.zeros((ROWS, BEHAVIOURS))], axis=1),
        moments,
        np.zeros((1, 150, 24)),
        reply.tallies.astype(np.float32),
    ]
    for table in planted:
        with pytest.raises(EgressError):
            release(replace(reply, tallies=table), question, learner)
    assert {entry.event for entry in audit.read(learner.site.paths.audit)} == {STOPPED}


def test_an_explanation_beside_an_update_or_in_a_header_stays(learner: Learner) -> None:
    reply, question = answer(learner)
    page = "<h1>What moved the score of s01-p0002</h1>"
    for field in ("site_id", "base_digest", "epsilon_spent", "server_round"):
        with pytest.raises(EgressError) as caught:
            release(replace(reply, **{field: page}), question, learner)
        assert "s01-p0002" not in str(caught.value)
    attributions = torch.from_numpy(per_subject(learner))
    update = ModelUpdate(
        reply.site_id, reply.server_round, reply.base_digest, {"attributions": attributions}, 1.0
    )
    with pytest.raises(EgressError):
        release(update, question, learner)
    assert "s01-p0002" not in learner.site.paths.audit.read_text()


def test_an_exact_table_in_place_of_the_noised_one_does_not_stand_in_the_outbox(
    learner: Learner,
) -> None:
    """The right form is not enough: only the very bytes that were noised and kept may leave."""
    reply, question = answer(learner)
    with pytest.raises(EgressError, match="outbox"):
        release(replace(reply, tallies=learner._tally_exactly(2)), question, learner)


def test_a_study_that_does_not_ask_for_importance_gets_none(learner: Learner) -> None:
    fairness = replace(learner.config.fairness, importance=False)
    config = replace(learner.config, fairness=fairness)
    assert IMPORTANCE not in config.tally_attributes(2)
    learner.config = config
    assert learner._tally_exactly(2).shape == (6, 19)
    assert tally_table(learner.score_held_out(), config, server_round=2).shape == (6, 19)
