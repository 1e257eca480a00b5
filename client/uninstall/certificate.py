"""The certificate of deletion: what was there, that it is gone, and what nobody here can delete.

It counts and hashes; it names no subject, no recording and no path.
"""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from client.uninstall.inventory import Inventory
from client.withdrawal.certificate import RESEARCH_SOFTWARE, how_to_verify

METHOD = (
    "The storage key was overwritten and removed first, so that no stored feature could be read "
    "from then on; then the wrapped data key in each stored file was overwritten, and every file "
    "removed. The identity key signed this certificate and was destroyed right after."
)
REMAINS = (
    (
        "models, noised sums and counts that the coordinator received",
        "they cannot be called back; differential privacy bounds what they reveal of anybody",
    ),
    (
        "the coordinator's record of this site: its public key, signed answers, the head of its "
        "ledger",
        "they show that the site took part; none names a subject",
    ),
    (
        "backups, exported tables and pages",
        "they lie outside the site folder: the site has to delete them itself",
    ),
    (
        "videos, the table of recordings and other files that the hospital brought",
        "Vultus did not make them",
    ),
    (
        "old blocks that the drive or snapshots of its file system may keep",
        "no program can reach them; destroy the disk or its key where rules ask for it",
    ),
)
NO_LEDGER = (
    "The privacy ledger is gone: nobody can tell any more what these patients have spent. Do not "
    "enrol them in another study of this consortium."
)


@dataclass(frozen=True)
class Deletion:
    """What a certificate of deletion says.

    Attributes:
        site_id: The site.
        study: Name and digest of the study.
        inventory: What was there.
        deleted_at: When nothing of it was left, ISO 8601 in UTC.
        left_files: Files that stayed in the site folder or the videos folder.
        records_kept: Whether ledger and log were copied beside the certificate.
    """

    site_id: str
    study: tuple[str, str]
    inventory: Inventory
    deleted_at: str
    left_files: int
    records_kept: bool

    def to_json(self) -> dict[str, object]:
        """The signed document."""
        held = self.inventory
        return {
            "document": "vultus deletion certificate 1",
            "about": RESEARCH_SOFTWARE,
            "version": version("vultus"),
            "site": self.site_id,
            "site_key": held.site_key,
            "study": {"name": self.study[0], "sha256": self.study[1]},
            "begun_at": held.begun_at,
            "deleted_at": self.deleted_at,
            "deleted": [asdict(group) for group in held.groups],
            "ledger": {"rows": held.ledger_rows, "head": held.ledger_head},
            "log": {"entries": held.log_entries, "head": held.log_head},
            "records_kept": self.records_kept,
            "method": METHOD,
            "left_files": self.left_files,
            "remains": [{"what": what, "why": why} for what, why in REMAINS],
        }

    def sheet(self, path: Path) -> str:
        """The certificate as a person reads and files it.

        Args:
            path: The signed document.
        """
        held, (study, digest) = self.inventory, self.study
        lines = [
            "CERTIFICATE OF DELETION",
            "",
            f"Site:      {self.site_id} (key {held.site_key})",
            f"Study:     {study} (SHA-256 {digest})",
            f"Program:   Vultus {version('vultus')}. {RESEARCH_SOFTWARE}",
            f"Begun:     {held.begun_at}",
            f"Finished:  {self.deleted_at}",
            "",
            "DESTROYED",
            *(
                f"- {one.what}: {one.files} files, {one.size_bytes} bytes, SHA-256 {one.sha256}"
                for one in held.groups
            ),
            f"- the ledger among them had {held.ledger_rows} rows; last hash: {held.ledger_head}",
            f"- the log among them had {held.log_entries} entries; last hash: {held.log_head}",
            "",
            *textwrap.wrap(METHOD, 90),
            "",
            "WHAT REMAINS",
        ]
        for what, why in REMAINS:
            lines += textwrap.wrap(f"- {what}: {why}.", 90, subsequent_indent="  ")
        lines += [
            f"- At the time of writing: {self.left_files} files that the hospital brought.",
            *(["- Copies of ledger and log, beside this sheet."] if self.records_kept else []),
            "",
            *textwrap.wrap(NO_LEDGER, 90),
            "",
            "The signed document lies beside this sheet. To check its signature:",
            f"  {how_to_verify(path)}",
            "",
        ]
        return "\n".join(lines)
