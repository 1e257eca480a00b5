"""The recordings of a site and what was measured in them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from client.inspection.rejection import GroupRejection, Row, rejection_rates
from client.preparation.steps import load_manifest
from client.site import Site
from client.storage.store import open_store
from client.storage.stored_recording import StoredRecording
from shared_models.console import InputError
from shared_models.consortium import ConsortiumConfig


@dataclass(frozen=True)
class Inspection:
    """The extracted recordings of a site beside their rows in the table.

    Attributes:
        site_id: Name of the site.
        study: The study.
        rows: Recording and the stored facts of it, in the order of the table.
        missing: Recordings that were not extracted yet.
        withdrawn: Number of recordings whose consent was withdrawn; nothing is shown of them.
    """

    site_id: str
    study: ConsortiumConfig
    rows: tuple[Row, ...]
    missing: tuple[str, ...]
    withdrawn: int = 0

    @cached_property
    def rejections(self) -> list[GroupRejection]:
        """Rejections by age band and sex, and of the whole site."""
        return rejection_rates(self.rows, self.study)

    @property
    def rejected(self) -> tuple[StoredRecording, ...]:
        """What the quality gate rejected."""
        return tuple(stored for _, stored in self.rows if stored.verdict == "rejected")

    def to_json(self) -> dict[str, object]:
        """The object for machines."""
        return {
            "recordings": [_as_json(stored) for _, stored in self.rows],
            "not_extracted": list(self.missing),
            "rejection_rates": [group.to_json() for group in self.rejections],
        }

    def need_rows(self) -> None:
        """Refuse to write a file about nothing.

        Raises:
            InputError: If nothing was extracted yet.
        """
        if not self.rows:
            msg = "Expected at least one extracted recording: run 'vultus-site extract' first."
            raise InputError(msg)


def inspect_site(site: Site) -> Inspection:
    """What is stored of the site's recordings.

    Args:
        site: From :func:`client.site.open_site`.

    Raises:
        ManifestError: If the table of recordings is faulty.
        StoreError: If a stored recording cannot be opened.
    """
    manifest = load_manifest(site, require_files=False)
    stored = {(one.subject_id, one.recording_id): one for one in open_store(site).records()}
    found = [(r, stored.get((r.subject_id, r.recording_id))) for r in manifest.recordings]
    return Inspection(
        site_id=site.id,
        study=site.consortium.config,
        rows=tuple((recording, one) for recording, one in found if one is not None),
        missing=tuple(recording.recording_id for recording, one in found if one is None),
        withdrawn=len(manifest.withdrawn),
    )


def _as_json(stored: StoredRecording) -> dict[str, object]:
    found = stored.indicators
    return {
        "recording_id": stored.recording_id,
        "verdict": stored.verdict,
        "reasons": [{"code": reason.code, "text": reason.text} for reason in stored.reasons],
        "quality": stored.quality,
        "indicators": {name: one.value for name, one in found.items()},
        "coverage": {name: one.coverage for name, one in found.items()},
        "notes": {name: one.note for name, one in found.items() if one.note is not None},
        "why_missing": {name: one.reason for name, one in found.items() if one.value is None},
    }
