"""The text of a new site folder: ``site.toml``, an empty table of recordings, how to fill it."""

from __future__ import annotations

import math
from dataclasses import asdict

import tomlkit
from tomlkit import TOMLDocument

from shared_models.consortium import Consortium, ConsortiumConfig

REQUIRED_COLUMNS = (
    "recording_id",
    "subject_id",
    "file",
    "recorded_at",
    "age_years",
    "sex",
    "score",
)
OPTIONAL_COLUMNS = (
    "visit",
    "task",
    "treatment",
    "consent",
    "events",
    "turns",
    "woke_at",
    "pupil_mm",
)
EXAMPLE_ROW = "r001,s001,videos/r001.mp4,2026-03-02T09:30:00+01:00,43,female,12"

SITE_TOML = """\
# This file stays at the site. Only its owner may read it (mode 600).

[site]
id = "{site_id}"
consortium = "{consortium_file}"
# The study file that this site agreed to. Any other file is refused.
consortium_sha256 = "{digest}"

[paths]
# Relative to this folder. 'videos' is where the column 'file' of the recordings starts from.
recordings = "recordings.csv"
videos = "."
store = "store"
state = "state"
keys = "keys"
# face_model = "face_landmarker.task"

[policy]
# Limits that no coordinator can move: a request beyond any of them is refused, and the coordinator
# is told the name of the limit and nothing else. Without this section everything is refused.
# The values below just permit this study.
#
# Privacy loss (epsilon) that one subject may suffer at this site in total, over all studies, runs
# and years. At 1 hardly anything can be learned of one person, at 3 little; 10 promises little.
max_epsilon_per_subject = {max_epsilon}
# The same over any 365 days, so that the total is not spent at once. Without this line only the
# total counts.
# max_epsilon_per_year = {max_epsilon}
# Least noise in what the coordinator sees, as a multiple of what one subject can contribute.
min_noise_multiplier = {min_noise}
# Fewest subjects that must stand behind what is sent: few people hide nobody.
min_subjects = {min_subjects}
# Most rounds that one run may have.
max_rounds = {max_rounds}
# Largest chance (delta) with which the promise on epsilon may fail; below 1 in 10 x the subjects.
max_delta = {max_delta}
# Networks that may be trained here, and the sets of features that they may learn from.
allowed_networks = ["{network}"]
allowed_features = ["{features}"]
# Whether the coordinator may never see this site's contribution alone, only the sum of all sites.
require_secure_sum = {require_secure_sum}
# Whether people here approve each other site by name before anything is done together with it:
# 'vultus-site approve' shows those that wait. What may run stands in approvals.toml.
approve_members = false
# Whether a study without any privacy may run; for simulated subjects only.
allow_no_privacy = {allow_no_privacy}

[device]
torch = "cpu"
workers = 1

[extraction]
# Frames a second to analyse. 10 to 15 take half the time of all frames, but no blink is counted
# below 25. Without this line every frame is analysed.
# analysis_hz = 12
# Whether the processes that open videos are cut off from every network: "cut_if_possible", "cut"
# (refuse to extract where the system cannot do it) or "open".
network = "cut_if_possible"

[service]
# Whether 'start' refuses ("required") where the kernel cannot wall it off from the videos.
wall = "if_possible"
# Port on loopback for monitoring tools that speak the gRPC health protocol; 0 turns it off.
health_port = 0
"""

README = """\
This folder belongs to the site "{site_id}". Nothing in it is meant for anyone outside.

recordings.csv   one row a recording; fill it in first (see below)
videos/          put the videos here, or set [paths] videos in site.toml
site.toml        the site's limits and places; edit it freely, keep it mode 600
consortium.toml  the study that this site agreed to; do not edit
keys/            private keys, made here; back them up where only the site can reach
keys/{public_key}   the one file to send to the coordinator
store/           encrypted features, made by 'vultus-site extract'
state/           privacy ledger and logs; losing it means losing count of what was spent

recordings.csv
--------------
Required columns: {required}
Optional columns: {optional}
Other columns are kept and ignored. An example:

{required_header}
{example}

recording_id  any unique name          subject_id  a pseudonym, never a name or hospital number
file          relative to the folder   recorded_at ISO 8601 with offset from UTC
age_years     0 to 120, at recording   sex         female, male or other
score         {instrument} score, {low:g} to {high:g}, at that visit; empty if unknown
consent       granted (the default) or withdrawn: withdrawn recordings are left out
visit         free text, such as baseline or week-4
task          free text, such as interview; required if the study names tasks
treatment     free text; a change of it counts as a change of treatment
events        table of what was shown or said: columns onset_s, duration_s, label
              (or BIDS: onset, duration, trial_type); labels positive and negative are
              analysed apart; camera marks looking into the camera as asked
turns         table of who speaks when: columns start_s, end_s, speaker (subject or other)
woke_at       when the subject woke: 06:45 on the day of the recording, or like recorded_at
pupil_mm      mean pupil diameter by another instrument, 0.5 to 10 millimetres

Seconds in both tables count from the first frame. 'vultus-site import' makes
recordings.csv from a REDCap export or a BIDS tree.

treatments.csv (optional)
-------------------------
One row a treatment: subject_id, kind (drug, psychotherapy, rtms, ect or other), name,
started_at, ended_at (dates; ended_at empty while it goes on). 'vultus-site visits' sets
visits beside treatments and keeps visits with a change of treatment in between apart.

Research software: no output is a diagnosis.
"""


def new_site_toml(consortium: Consortium, site_id: str, *, consortium_file: str) -> str:
    """``site.toml`` of a new site: the study pinned, and limits that just permit this study."""
    config = consortium.config
    plans = (config.training_plan(), config.tally_plan())
    # Rounded down in the third digit: the calibration of another version may differ in the last.
    min_noise = math.floor(min(plan.released_noise_multiplier for plan in plans) * 1000) / 1000
    return SITE_TOML.format(
        site_id=site_id,
        consortium_file=consortium_file,
        digest=consortium.digest,
        max_epsilon=max(config.privacy.target_epsilon, config.fairness.epsilon),
        min_noise=min_noise,
        min_subjects=config.fairness.min_cell,
        max_rounds=config.training.rounds,
        max_delta=config.privacy.delta,
        network=config.network.name,
        features=config.features.set,
        require_secure_sum="true" if config.privacy.mode == "distributed" else "false",
        allow_no_privacy="false",
    )


def with_simulation(text: str, seed: int, *, allow_no_privacy: bool) -> str:
    """``site.toml`` of a simulated site: noise from a seed, no privacy if the study wants none."""
    document = tomlkit.parse(text)
    section = tomlkit.table()
    section.comment("simulated subjects only: seeded noise protects nobody")
    section["seed"] = seed
    document["simulation"] = section
    policy = _table(document, "policy")
    policy["allow_no_privacy"] = allow_no_privacy
    policy["min_subjects"] = 1
    return tomlkit.dumps(document)


def repinned(text: str, digest: str) -> str:
    """``site.toml`` with another study file pinned; every edit and comment of the site stays."""
    document = tomlkit.parse(text)
    _table(document, "site")["consortium_sha256"] = digest
    return tomlkit.dumps(document)


def new_readme(site_id: str, config: ConsortiumConfig, *, public_key: str) -> str:
    """``README.txt`` of a site folder."""
    low, high, _ = config.study.score_range
    return README.format(
        site_id=site_id,
        public_key=public_key,
        required=", ".join(REQUIRED_COLUMNS),
        optional=", ".join(OPTIONAL_COLUMNS),
        required_header=",".join(REQUIRED_COLUMNS),
        example=EXAMPLE_ROW,
        instrument=config.study.instrument,
        low=low,
        high=high,
    )


def describe_changes(old: ConsortiumConfig, new: ConsortiumConfig) -> list[str]:
    """What differs between two study files, one line a key, for the person who agrees to it."""
    before, after = _flat(asdict(old)), _flat(asdict(new))
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def _flat(value: object, prefix: str = "") -> dict[str, object]:
    """Nested tables as dotted keys; sites by their id, so that a new one shifts nothing."""
    if isinstance(value, dict):
        items = [(str(key), inner) for key, inner in value.items()]
    elif isinstance(value, list | tuple) and value and isinstance(value[0], dict):
        items = [(str(inner.get("id", index)), inner) for index, inner in enumerate(value)]
    else:
        return {prefix: value}
    flat: dict[str, object] = {}
    for key, inner in items:
        flat |= _flat(inner, f"{prefix}.{key}" if prefix else key)
    return flat


def _table(document: TOMLDocument, name: str) -> tomlkit.items.Table:
    table = document[name]
    assert isinstance(table, tomlkit.items.Table)  # noqa: S101 - the strict loader checked it
    return table
