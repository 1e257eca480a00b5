"""The first part of the page: verdicts, rejections by group, versions."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from itertools import groupby

from client.extraction.quality import QualityThresholds
from client.inspection.quality_figures import judged_by_other_limits
from client.inspection.recordings import Inspection
from client.inspection.rejection import (
    GroupRejection,
    tell_rate,
    tell_unlike,
    unlike_groups,
)
from client.storage.stored_recording import StoredRecording

ATTRIBUTES = {"age_band": "Age band", "sex": "Sex", "site": "Site"}


@dataclass(frozen=True)
class GroupLine:
    """One row of the table of rejections.

    Attributes:
        attribute: In words.
        group: Name of the group.
        count: The figures.
        told: Rate and interval in words.
    """

    attribute: str
    group: str
    count: GroupRejection
    told: str


@dataclass(frozen=True)
class IndexLine:
    """One row of the table of recordings.

    Attributes:
        number: Place on the page.
        stored: The facts.
        reasons: In words.
    """

    number: int
    stored: StoredRecording
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Overview:
    """What stands above the recordings.

    Attributes:
        study: Name of the study.
        site: Name of the site.
        made_at: Date of the page.
        version: Version of this program.
        made_with: Package and the versions that recordings were extracted with.
        accepted: Number of recordings.
        rejected: Number of recordings.
        missing: Recordings that were not extracted yet.
        withdrawn: Number of recordings left out.
        groups: Rejections by group.
        unlike: Sentences on groups whose intervals do not overlap.
        index: One line a recording.
        other_limits: Recordings judged by limits that have changed since.
    """

    study: str
    site: str
    made_at: str
    version: str
    made_with: dict[str, tuple[str, ...]]
    accepted: int
    rejected: int
    missing: tuple[str, ...]
    withdrawn: int
    groups: tuple[GroupLine, ...]
    unlike: tuple[str, ...]
    index: tuple[IndexLine, ...]
    other_limits: tuple[str, ...]

    @property
    def mixed_versions(self) -> bool:
        """Whether recordings were extracted by different versions of something."""
        return any(len(versions) > 1 for versions in self.made_with.values())


def overview_of(
    inspection: Inspection, thresholds: QualityThresholds, *, now: datetime
) -> Overview:
    """The first part of the page.

    Args:
        inspection: The recordings.
        thresholds: The site's limits of the quality gate.
        now: Date of the page.
    """
    facts = [stored for _, stored in inspection.rows]
    verdicts = Counter(stored.verdict for stored in facts)
    return Overview(
        study=inspection.study.study.name,
        site=inspection.site_id,
        made_at=f"{now:%Y-%m-%d %H:%M %Z}".strip(),
        version=version("vultus"),
        made_with=_versions(facts),
        accepted=verdicts["accepted"],
        rejected=verdicts["rejected"],
        missing=inspection.missing,
        withdrawn=inspection.withdrawn,
        groups=tuple(_group_lines(inspection)),
        unlike=tuple(tell_unlike(*pair) for pair in unlike_groups(inspection.rejections)),
        index=tuple(
            IndexLine(number, stored, tuple(reason.text for reason in stored.reasons))
            for number, stored in enumerate(facts, 1)
        ),
        other_limits=tuple(
            stored.recording_id for stored in facts if judged_by_other_limits(stored, thresholds)
        ),
    )


def _group_lines(inspection: Inspection) -> list[GroupLine]:
    return [
        GroupLine(
            ATTRIBUTES[attribute] if place == 0 else "",
            f"{inspection.site_id}, all" if attribute == "site" else group.group,
            group,
            tell_rate(group),
        )
        for attribute, groups in groupby(inspection.rejections, key=lambda one: one.attribute)
        for place, group in enumerate(groups)
    ]


def _versions(facts: list[StoredRecording]) -> dict[str, tuple[str, ...]]:
    found: dict[str, set[str]] = {}
    for stored in facts:
        packages = stored.provenance.get("packages")
        for name, number in packages.items() if isinstance(packages, dict) else ():
            found.setdefault(name, set()).add(number)
    return {name: tuple(sorted(numbers)) for name, numbers in sorted(found.items())}
