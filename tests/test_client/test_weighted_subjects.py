"""A subject's weight at a site: from the agreed study and that subject alone."""

from pathlib import Path

import pytest
import torch
from agreed_study import STUDY

from client.approval.inspection import BundleView
from client.approval.question import Request, describe_request
from client.learning.dataset import SubjectClips
from client.learning.training import item_share, make_items, subject_share
from client.site import init_site
from shared_models.mitigation import GroupWeight, MitigationConfig
from shared_models.networks import make_network

RANGE = (0.0, 27.0, 10.0)
MITIGATION = MitigationConfig(
    (GroupWeight("sex", "male", 4.0, "above"), GroupWeight("age_band", "60+", 0.5))
)


def subject(name: str, sex: str, age_band: str, scores: list[float]) -> SubjectClips:
    clips = len(scores)
    return SubjectClips(
        name,
        torch.zeros(clips, 150, 24),
        torch.zeros(clips, 150, 24, dtype=torch.bool),
        torch.tensor(scores),
        age_band,
        sex,
    )


@pytest.mark.parametrize(
    ("sex", "age_band", "scores", "share"),
    [
        ("male", "18-39", [10.0], 1.0),
        ("male", "18-39", [9.9], 0.25),
        ("male", "18-39", [4.0, 16.0], 1.0),
        ("male", "60+", [20.0], 0.5),
        ("female", "60+", [20.0], 0.125),
        ("undeclared", "undeclared", [20.0], 0.25),
    ],
)
def test_the_share_is_the_weight_over_the_largest(
    sex: str, age_band: str, scores: list[float], share: float
) -> None:
    assert subject_share(subject("s", sex, age_band, scores), 10.0, MITIGATION) == share


def test_who_else_is_at_the_site_changes_nobodys_weight() -> None:
    network = make_network("behaviour_net", "small", features=24)
    one = subject("a", "male", "18-39", [12.0, 12.0])
    others = [subject(f"b{i}", "female", "60+", [float(i)]) for i in range(6)]

    def shares(subjects: list[SubjectClips]) -> list[float]:
        items = make_items(
            network, subjects, score_range=RANGE, head_only=False, mitigation=MITIGATION
        )
        return [item_share(item) for item in items]

    assert shares([one]) == [1.0]
    assert shares([one, *others])[0] == 1.0
    assert shares(others) == [shares([other])[0] for other in others]


def test_without_declared_weights_everybody_counts_once() -> None:
    network = make_network("behaviour_net", "small", features=24)
    subjects = [subject("a", "male", "60+", [20.0])]
    for mitigation in (None, MitigationConfig()):
        (item,) = make_items(
            network, subjects, score_range=RANGE, head_only=True, mitigation=mitigation
        )
        assert item.share == 1.0


def test_who_approves_a_study_is_told_whom_it_counts_more_often(tmp_path: Path) -> None:
    declared = """
[mitigation]
choose = "worst_group"
recalibrate = true
weights = [{attribute = "sex", group = "male", weight = 4.0, label = "above"}]
"""
    told = {}
    for name, study in (("plain", STUDY), ("mitigating", STUDY + declared)):
        file = tmp_path / f"{name}.toml"
        file.write_text(study)
        site = init_site(tmp_path / name, site_id="north", consortium_file=file)
        asked = Request(site, site.consortium, None, BundleView("b" * 64, 1, (), ()))
        topic = next(t for t in describe_request(asked) if t.title == "The study")
        told[name] = "\n".join(topic.lines)
    assert "patients of sex male, above the threshold count 4 times" in told["mitigating"]
    assert "worst group is best is released" in told["mitigating"]
    assert "recalibrated" in told["mitigating"]
    assert not {"count", "worst", "recalibrated"} & set(told["plain"].split())
