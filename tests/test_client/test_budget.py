"""``vultus-site budget`` and the limits in ``site.toml``: what is capped, and what is left."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from agreed_study import STUDY
from click.testing import Result
from typer.testing import CliRunner

from client.cli import app
from client.site import Site, init_site, open_site
from client.site_config import PolicySection
from privacy.accounting import epsilon_spent
from privacy.ledger import PrivacyLedger
from privacy.policy import RULES
from shared_models.toml import ConfigError

DELTA = 1e-3


@pytest.fixture
def site(tmp_path: Path) -> Site:
    study = tmp_path / "study.toml"
    study.write_text(STUDY)
    return init_site(tmp_path / "site", site_id="north", consortium_file=study)


def set_policy(site: Site, line: str) -> None:
    text = site.config_file.read_text()
    site.config_file.write_text(text.replace("[policy]\n", f"[policy]\n{line}\n"))


def spend(site: Site, *, days_ago: float, steps: int) -> None:
    def clock() -> datetime:
        return datetime.now(UTC) - timedelta(days=days_ago)

    with PrivacyLedger(site.paths.ledger, key=site.ledger_key, clock=clock) as ledger:
        ledger.reserve(
            f"run/{days_ago}", ["s1"], noise_multiplier=8.0, sample_rate=1.0, steps=steps,
            delta=DELTA, purpose="train", cap_epsilon=9.0,
        )  # fmt: skip


def run(site: Site) -> tuple[dict, Result]:
    result = CliRunner().invoke(app, ["budget", str(site.folder), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.strip().splitlines()[-1]), result


def test_both_caps_are_shown_with_what_is_left_of_each(site: Site) -> None:
    set_policy(site, "max_epsilon_per_year = 2.0")
    spend(site, days_ago=400, steps=3)
    spend(site, days_ago=100, steps=5)
    answer, result = run(site)
    assert set(answer) >= {"cap", "spent", "remaining", "releases"}
    everything, year = (epsilon_spent(8.0, DELTA, steps=steps) for steps in (8, 5))
    assert answer["spent"] == pytest.approx(everything)
    assert answer["remaining"] == pytest.approx(answer["cap"] - everything)
    assert answer["year"]["cap"] == 2.0
    assert answer["year"]["spent"] == pytest.approx(year)
    assert answer["year"]["remaining"] == pytest.approx(2.0 - year)
    assert f"epsilon {year:.3f} of 2; left: {2 - year:.3f}" in result.stderr


def test_without_a_yearly_cap_the_year_is_shown_all_the_same(site: Site) -> None:
    spend(site, days_ago=10, steps=2)
    answer, result = run(site)
    assert answer["year"]["cap"] is None
    assert answer["year"]["remaining"] is None
    assert answer["year"]["spent"] == answer["spent"]
    assert "sets no max_epsilon_per_year" in result.stderr


def test_a_year_that_is_used_up_is_told(site: Site) -> None:
    set_policy(site, "max_epsilon_per_year = 0.5")
    spend(site, days_ago=10, steps=5)
    assert "nothing is left of this year" in run(site)[1].stderr


def test_a_row_from_the_future_is_told(site: Site) -> None:
    spend(site, days_ago=10, steps=1)
    assert "future" not in run(site)[1].stderr
    spend(site, days_ago=-3, steps=1)
    assert "the ledger's newest row lies in the future" in run(site)[1].stderr


def test_a_site_that_released_nothing_has_everything_left(site: Site) -> None:
    answer, _ = run(site)
    assert answer["spent"] == answer["year"]["spent"] == 0
    assert answer["releases"] == []


def test_every_limit_stands_in_a_new_site_toml_and_can_be_set(site: Site) -> None:
    text = site.config_file.read_text()
    limits = set(RULES) - {"policy"}
    # Earlier versions wrote a list of bundles, which is read only to say where approvals stand now.
    assert limits | {"approved_bundles"} == set(PolicySection.__dataclass_fields__)
    assert {name for name in limits if f"\n{name} = " not in text} == {"max_epsilon_per_year"}
    assert "# max_epsilon_per_year = " in text
    site.config_file.write_text(text.replace("# max_epsilon_per_year", "max_epsilon_per_year"))
    policy = open_site(site.folder).policy
    assert policy is not None
    assert policy.max_epsilon_per_year == policy.max_epsilon_per_subject
    assert policy.allowed_features == ("behaviour",)


def test_a_study_of_sums_has_new_sites_demand_sums(tmp_path: Path) -> None:
    for mode, demanded in (("distributed", True), ("local", False)):
        study = tmp_path / f"{mode}.toml"
        study.write_text(f'{STUDY}[privacy]\nmode = "{mode}"\n')
        made = init_site(tmp_path / mode, site_id="north", consortium_file=study)
        assert made.policy is not None
        assert made.policy.require_secure_sum is demanded


@pytest.mark.parametrize("line", ["max_epsilon_per_year = 0", "max_epsilon_per_year = -1.0"])
def test_a_limit_that_cannot_be_meant_is_refused_by_name(site: Site, line: str) -> None:
    set_policy(site, line)
    with pytest.raises(ConfigError, match="max_epsilon_per_year"):
        open_site(site.folder)
