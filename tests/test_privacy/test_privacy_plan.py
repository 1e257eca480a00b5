"""The privacy plan refuses what cannot be meant and survives a message unchanged."""

import json
import math
import subprocess
import sys

import pytest

from privacy.plan import PlanError, PrivacyPlan, PrivacySpent


def make_plan(**changes):
    values = {
        "mode": "local",
        "noise_multiplier": 5.7,
        "max_grad_norm": 0.5,
        "sample_rate": 1.0,
        "steps": 30,
        "delta": 1e-3,
        "target_epsilon": 3.0,
    }
    return PrivacyPlan(**{**values, **changes})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mode", "weak"),
        ("noise_multiplier", 0.0),
        ("noise_multiplier", -1.0),
        ("noise_multiplier", math.nan),
        ("noise_multiplier", "5.7"),
        ("noise_multiplier", True),
        ("max_grad_norm", 0.0),
        ("max_grad_norm", math.inf),
        ("sample_rate", 0.0),
        ("sample_rate", 1.01),
        ("steps", 0),
        ("steps", 2.5),
        ("delta", 0.0),
        ("delta", 1.0),
        ("target_epsilon", 0.0),
        ("noise_shares", 0),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(PlanError, match=f"plan.{name} .*got {value!r}"):
        make_plan(**{name: value})


def test_all_faults_are_reported_at_once():
    with pytest.raises(PlanError) as caught:
        make_plan(noise_multiplier=-1.0, max_grad_norm=-2.0, delta=3.0)
    assert len(str(caught.value).splitlines()) == 3


def test_mode_off_has_neither_noise_nor_target():
    plan = make_plan(mode="off", noise_multiplier=0, max_grad_norm=0, target_epsilon=None)
    assert plan.noise_multiplier == 0.0
    with pytest.raises(PlanError, match=r"noise_multiplier 0 in mode off"):
        make_plan(mode="off", target_epsilon=None)
    with pytest.raises(PlanError, match=r"target_epsilon none in mode off"):
        make_plan(mode="off", noise_multiplier=0)


@pytest.mark.parametrize("target_epsilon", [3.0, None])
def test_a_plan_survives_json(target_epsilon):
    plan = make_plan(target_epsilon=target_epsilon)
    assert PrivacyPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    assert None not in plan.to_dict().values()


def test_unknown_and_missing_keys_are_refused_together():
    values = make_plan().to_dict()
    del values["steps"]
    with pytest.raises(PlanError, match=r"Unknown key 'sigma'.*\n.*Missing key 'steps'"):
        PrivacyPlan.from_dict({**values, "sigma": 1.0})


def test_equal_plans_have_equal_digests_whatever_the_number_type():
    assert make_plan(sample_rate=1).digest() == make_plan(sample_rate=1.0).digest()
    assert make_plan(steps=31).digest() != make_plan().digest()


def test_the_digest_of_a_plan_stays_the_same_over_versions():
    expected = "1ac1440fd9e8d9106131d92e52a22454a7aea287a2fd58d1498c8534e28648e1"
    assert make_plan().digest() == expected


def test_only_a_distributed_sum_counts_the_noise_of_others():
    assert make_plan(mode="distributed", noise_shares=9).released_noise_multiplier == 3 * 5.7
    assert make_plan(mode="local", noise_shares=9).released_noise_multiplier == 5.7


def test_spending_survives_a_message_with_an_unknown_epsilon():
    spent = PrivacySpent(epsilon_site=3.0, epsilon_sum=None, delta=1e-3, steps=30)
    assert PrivacySpent.from_dict(spent.to_dict()) == spent
    assert spent.unit == "subject"


def test_the_plan_and_its_accounting_load_neither_torch_nor_opacus():
    code = "import sys, privacy.plan, privacy.accounting, privacy.policy; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "opacus"} & set(done.stdout.split())
