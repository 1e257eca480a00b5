"""Each limit of a site's policy refuses on its own, by name, and tells nothing of the data."""

import math
from dataclasses import fields, replace

import pytest

from privacy.accounting import calibrate_noise_multiplier
from privacy.plan import PrivacyPlan
from privacy.policy import RULES, PolicyError, SitePolicy, check_plan

NOISE = calibrate_noise_multiplier(3.0, 1e-3, steps=30)


def make_policy(**changes):
    values = {
        "max_epsilon_per_subject": 3.0,
        "min_noise_multiplier": 1.0,
        "min_subjects": 20,
        "max_rounds": 30,
        "allowed_networks": ("behaviour_net",),
        "max_delta": 1e-3,
    }
    return SitePolicy(**{**values, **changes})


def make_plan(**changes):
    values = {
        "mode": "local",
        "noise_multiplier": NOISE,
        "max_grad_norm": 0.5,
        "sample_rate": 1.0,
        "steps": 30,
        "delta": 1e-3,
        "target_epsilon": 3.0,
    }
    return PrivacyPlan(**{**values, **changes})


def rules(plan, policy, *, subjects=100, network="behaviour_net", features="behaviour"):
    found = check_plan(plan, policy, subjects=subjects, network=network, features=features)
    return [violation.rule for violation in found]


def test_a_plan_exactly_at_every_limit_is_allowed():
    policy = make_policy(min_noise_multiplier=NOISE)
    assert rules(make_plan(), policy, subjects=20) == []


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"max_epsilon_per_subject": 2.99}, "max_epsilon_per_subject"),
        ({"min_noise_multiplier": NOISE * 1.001}, "min_noise_multiplier"),
        ({"min_subjects": 101}, "min_subjects"),
        ({"max_rounds": 29}, "max_rounds"),
        ({"allowed_networks": ("gap_dam",)}, "allowed_networks"),
        ({"allowed_networks": ()}, "allowed_networks"),
        ({"allowed_features": ("landmarks",)}, "allowed_features"),
        ({"allowed_features": ()}, "allowed_features"),
        ({"require_secure_sum": True}, "require_secure_sum"),
        ({"max_delta": 0.9e-3}, "max_delta"),
        ({"max_epsilon_per_year": 2.99}, "max_epsilon_per_year"),
    ],
)
def test_each_limit_refuses_on_its_own(changes, rule):
    assert rules(make_plan(), make_policy(**changes)) == [rule]


def test_no_policy_refuses_everything():
    assert rules(make_plan(), None) == ["policy"]


def test_all_violations_are_found_together():
    policy = make_policy(max_epsilon_per_subject=1.0, max_rounds=1, max_delta=1e-6)
    expected = ["max_rounds", "max_delta", "max_epsilon_per_subject"]
    assert rules(make_plan(), policy) == expected


def test_no_privacy_is_refused_unless_the_site_says_otherwise():
    plan = make_plan(mode="off", noise_multiplier=0, target_epsilon=None)
    assert rules(plan, make_policy()) == ["allow_no_privacy"]
    assert rules(plan, make_policy(allow_no_privacy=True)) == []
    assert rules(plan, make_policy(allow_no_privacy=True, max_rounds=1)) == ["max_rounds"]


def test_a_claimed_target_does_not_stand_in_for_noise():
    boastful = make_plan(noise_multiplier=1.0, target_epsilon=0.1)
    assert rules(boastful, make_policy()) == ["max_epsilon_per_subject"]


def test_a_distributed_plan_is_judged_by_the_noise_of_the_sum():
    plan = make_plan(mode="distributed", noise_multiplier=NOISE / 3, noise_shares=9)
    assert rules(plan, make_policy()) == []
    alone = make_plan(mode="distributed", noise_multiplier=NOISE / 3, noise_shares=1)
    assert rules(alone, make_policy()) == ["max_epsilon_per_subject"]


def test_messages_give_the_plans_value_and_never_the_sites_count():
    found = check_plan(
        make_plan(),
        make_policy(min_subjects=20, max_rounds=5),
        subjects=17,
        network="x",
        features="y",
    )
    text = " ".join(violation.message for violation in found)
    assert "17" not in text
    assert "30 steps" in text


def test_a_site_may_demand_that_only_sums_are_seen():
    plan = make_plan(mode="distributed", noise_multiplier=NOISE / 3, noise_shares=9)
    assert rules(plan, make_policy(require_secure_sum=True)) == []
    assert "require_secure_sum" in rules(
        make_plan(mode="off", noise_multiplier=0, target_epsilon=None),
        make_policy(require_secure_sum=True, allow_no_privacy=True),
    )


def test_every_limit_is_a_rule_that_a_violation_can_name():
    names = {field.name for field in fields(SitePolicy)}
    assert set(RULES) == names | {"policy"}
    everything = make_policy(
        max_epsilon_per_subject=0.1, max_epsilon_per_year=0.1, min_noise_multiplier=99,
        min_subjects=999, max_rounds=1, allowed_networks=(), allowed_features=(), max_delta=1e-9,
        require_secure_sum=True,
    )  # fmt: skip
    named = set(rules(make_plan(), everything)) | {"approve_members", "allow_no_privacy"}
    assert named == names


def test_a_year_may_be_capped_more_tightly_than_the_whole():
    policy = make_policy(max_epsilon_per_subject=10.0, max_epsilon_per_year=3.0)
    assert rules(make_plan(), policy) == []
    assert rules(make_plan(steps=31), replace(policy, max_rounds=31)) == ["max_epsilon_per_year"]


def test_a_policy_that_cannot_be_meant_is_refused_with_all_its_faults():
    with pytest.raises(PolicyError) as caught:
        make_policy(
            max_epsilon_per_subject=math.nan,
            max_epsilon_per_year=math.inf,
            min_noise_multiplier=-1,
            min_subjects=0,
            max_rounds=0,
            max_delta=1.0,
        )
    assert len(str(caught.value).splitlines()) == 6
