"""The text of ``consortium.toml``: every key with its default and why one would change it."""

from __future__ import annotations

from dataclasses import asdict, fields, is_dataclass
from typing import TYPE_CHECKING, cast

import tomlkit
from tomlkit import TOMLDocument
from tomlkit.items import AoT, Table

from shared_models.consortium import ConsortiumConfig, CoordinatorConfig
from shared_models.roster import SiteEntry
from shared_models.toml import parse_toml

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

HEADER = (
    "The study that all sites agree on. Every site pins the SHA-256 of this file: after any change",
    "each site has to join again with its new kit. Research software: no output is a diagnosis.",
)

COMMENTS: dict[str, str] = {
    "study": "What is predicted, and from which recordings.",
    "study.instrument": "phq9, bdi2, hamd17, madrs, or custom with score_low and score_high",
    "study.tasks": "use only recordings of these tasks; empty uses all",
    "features": "What each site computes from its videos; fixed by the feature set.",
    "network": "The network, and how much of it is trained.",
    "network.size": "small or medium",
    "network.trainable": "head trains few weights and so needs little noise; all trains everything",
    "training": "Rounds and the coordinator's optimizer.",
    "training.rounds": "one private step each; more rounds mean more noise a round",
    "training.ema": "weight of the past in the average that is released; costs no privacy",
    "training.quorum": "sites that must answer, or the round is not counted",
    "training.round_timeout_s": "longest wait for sites in one round",
    "training.evaluate_every": "rounds between two evaluations; each one spends privacy",
    "privacy": "The promise to each subject of the training set.",
    "privacy.mode": "local noises at each site; distributed shares one noise; off protects nobody",
    "privacy.target_epsilon": "smaller protects better",
    "privacy.delta": "at most 1 / (10 x subjects)",
    "privacy.max_grad_norm": "bound on what one subject can move",
    "privacy.tolerated_dropouts": "distributed: sites whose noise may be missing or known",
    "privacy.retries": "distributed: sums paid for beyond one a round, for sites that are lost",
    "fairness": "The groups that the report compares, and the promise to each held-out subject.",
    "fairness.age_bands": "lower bounds in years",
    "fairness.min_cell": "groups with fewer subjects are not reported",
    "fairness.bins": "bins of the score histograms",
    "fairness.intersections": "true adds age bands by sex; one more table, so more noise in each",
    "fairness.holdout_fraction": "share of each site's subjects that never train",
    "fairness.importance": "true also sums which behaviours moved the scores; one more table",
    "mitigation": "What is done against differences between groups (docs/mitigation.md).",
    "mitigation.weights": 'as [{attribute = "sex", group = "male", weight = 2.0}]',
    "mitigation.choose": "worst_group releases the judged model whose worst group is best",
    "mitigation.metric": "auroc or mae: what worst_group compares",
    "mitigation.recalibrate": "fits slope and intercept of the log-odds to the noised sums",
    "coordinator": "Whose models the sites follow: every one is signed by this key.",
}


def new_study(name: str, *, instrument: str) -> str:
    """The text of a new study file: no site yet, every key written out.

    Args:
        name: Name of the study.
        instrument: Questionnaire that gives the scores.

    Raises:
        ConfigError: If the name or the instrument is not allowed.
    """
    given = tomlkit.dumps({"study": {"name": name, "instrument": instrument}})
    return render_study(parse_toml(given, ConsortiumConfig, name="options of init"))


def render_study(config: ConsortiumConfig) -> str:
    """The text of a study file that reads back as this configuration, with its sites."""
    document = tomlkit.document()
    for line in HEADER:
        document.add(tomlkit.comment(line))
    for section in fields(ConsortiumConfig):
        values = getattr(config, section.name)
        if section.name != "sites" and values is not None:
            _add_section(document, section.name, values)
    text = tomlkit.dumps(document)
    # Each as the text that with_site adds: a document would be parsed anew for every site.
    return text + "\n" * bool(config.sites) + "".join(map(_site_text, config.sites))


def with_coordinator(text: str, *, public_key: str) -> str:
    """The study file with the key that signs its models; comments and order stay."""
    document = tomlkit.parse(text)
    _add_section(document, "coordinator", CoordinatorConfig(public_key))
    return tomlkit.dumps(document)


def with_site(text: str, site_id: str, *, weight: int, public_key: str) -> str:
    """The study file with one more site; comments and order stay."""
    document = tomlkit.parse(text)
    if "sites" not in document:
        document.add(tomlkit.nl())
        document.add("sites", tomlkit.aot())
    entry = _site_table(SiteEntry(site_id, weight, public_key))
    cast(AoT, document["sites"]).append(entry)
    return tomlkit.dumps(document)


def _site_text(site: SiteEntry) -> str:
    document = tomlkit.document()
    document.add("sites", tomlkit.aot())
    cast(AoT, document["sites"]).append(_site_table(site))
    return tomlkit.dumps(document)


def _site_table(site: SiteEntry) -> Table:
    entry = tomlkit.table()
    entry.update({"id": site.id, "weight": site.weight, "public_key": site.public_key})
    entry.add(tomlkit.nl())
    return entry


def _add_section(document: TOMLDocument, name: str, values: DataclassInstance) -> None:
    document.add(tomlkit.nl())
    document.add(tomlkit.comment(COMMENTS[name]))
    document.add(name, _table(name, values))


def _table(name: str, section: DataclassInstance) -> Table:
    table = tomlkit.table()
    for key in fields(section):
        value = getattr(section, key.name)
        if value is None:
            continue
        item = tomlkit.item(_listed(value) if isinstance(value, tuple) else value)
        if comment := COMMENTS.get(f"{name}.{key.name}"):
            item.comment(comment)
        table.add(key.name, item)
    return table


def _listed(values: tuple[object, ...]) -> list[object]:
    """A tuple as TOML writes it: plain values, or one inline table a section."""
    return [asdict(cast("DataclassInstance", v)) if is_dataclass(v) else v for v in values]
