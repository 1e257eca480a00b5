"""The certificate of an erasure: signed JSON for machines, and a sheet for whoever files it.

It names the subject by a keyed hash only. Who holds the pseudonym can ask the site which
certificate belongs to it; who finds the certificate learns no pseudonym.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from client.site import Site
from client.withdrawal.exclusion import Exclusion, short_id
from privacy.keys import fingerprint, public_line, sign
from privacy.vault import write_atomic

CERTIFICATES_FOLDER = "certificates"
RESEARCH_SOFTWARE = "Vultus is research software; no output is a diagnosis."
METHOD = (
    "Each sealed file has a data key of its own, kept only inside the file and wrapped by the "
    "site's storage key. The wrapped key was overwritten on the disk, then the file was removed."
)


@dataclass(frozen=True)
class Participation:
    """One release that a subject was charged for.

    Attributes:
        run_id: Run of the coordinator; the whole name of the release if it has another form.
        server_round: Round of the run; None if unknown.
        purpose: ``train`` or ``evaluate``.
        at: When it was reserved, ISO 8601 in UTC.
        noise_multiplier: Noise standard deviation over sensitivity.
        epsilon: What this release alone reveals at most, at the study's delta.
    """

    run_id: str
    server_round: int | None
    purpose: str
    at: str
    noise_multiplier: float
    epsilon: float


@dataclass(frozen=True)
class Spending:
    """What was ever released with a subject in it.

    Attributes:
        participations: Each release, oldest first.
        epsilon: What all of them together reveal at most.
        delta: The study's delta, at which every epsilon here holds.
        ledger_is_whole: Whether the record that says so is as it was written.
    """

    participations: tuple[Participation, ...]
    epsilon: float
    delta: float
    ledger_is_whole: bool


@dataclass(frozen=True)
class Certificate:
    """What a certificate says.

    Attributes:
        exclusion: The line of the subject in the list of forgotten subjects.
        erased_at: When the last file was destroyed, ISO 8601 in UTC.
        objects: Names of the destroyed files.
        spending: What was released before.
        rows: Rows of the table that still name the subject.
        originals: Videos and notes of the subject that were still there.
    """

    exclusion: Exclusion
    erased_at: str
    objects: tuple[str, ...]
    spending: Spending
    rows: int
    originals: int

    def to_json(self, site: Site) -> dict[str, object]:
        """The signed document."""
        study = site.consortium
        return {
            "document": "vultus erasure certificate 1",
            "about": RESEARCH_SOFTWARE,
            "version": version("vultus"),
            "site": site.id,
            "site_key": fingerprint(public_line(site.identity_key)),
            "study": {"name": study.config.study.name, "sha256": study.digest},
            "subject": self.exclusion.subject,
            "excluded_at": self.exclusion.at,
            "erased_at": self.erased_at,
            "erased": {"count": len(self.objects), "objects": self.objects, "method": METHOD},
            "releases": [asdict(one) for one in self.spending.participations],
            "epsilon": self.spending.epsilon,
            "delta": self.spending.delta,
            "ledger_is_whole": self.spending.ledger_is_whole,
            "remains": self.remains(),
            "originals_still_there": self.originals,
            "table_rows_still_there": self.rows,
        }

    def remains(self) -> list[dict[str, str]]:
        """What was not erased, and why."""
        bound = f"epsilon {self.spending.epsilon:.3f} at delta {self.spending.delta:g}"
        return [
            {
                "what": "entries of the privacy ledger, which name subjects by keyed hashes",
                "why": "without them the same person could be charged anew, past the cap",
            },
            {
                "what": "a keyed hash in the list of forgotten subjects",
                "why": "it keeps the subject out of every later round",
            },
            {
                "what": "models that were released before",
                "why": "they cannot be called back; differential privacy bounds what all of them "
                f"together reveal of the subject by {bound}",
            },
            {
                "what": "old blocks that the drive or snapshots of its file system may keep",
                "why": "no program can reach them; they open only with the site's storage key",
            },
            {
                "what": "backups, exported tables and pages, videos, notes and rows of the tables",
                "why": "they lie outside the store: the site has to delete them itself",
            },
        ]


def find_certificates(site: Site, exclusion: Exclusion) -> list[Path]:
    """The certificates of a forgotten subject, oldest first; empty until the erasure is done."""
    folder = site.paths.state / CERTIFICATES_FOLDER
    return sorted(folder.glob(f"*-{short_id(exclusion)}*.json"), key=lambda path: len(path.name))


def write_certificate(site: Site, certificate: Certificate) -> Path:
    """Write and sign a certificate; the path of its JSON, which is written last.

    Beside it lie the signature (``.sig``, ECDSA with SHA-384), the site's public key (``.pem``)
    and a sheet in plain text (``.txt``).
    """
    folder = site.paths.state / CERTIFICATES_FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    path = _free_path(folder, certificate.exclusion)
    sheet = _sheet(site, certificate, path)
    return write_signed(path, certificate.to_json(site), key=site.identity_key, sheet=sheet)


def write_signed(
    path: Path, document: Mapping[str, object], *, key: EllipticCurvePrivateKey, sheet: str
) -> Path:
    """Write a document that can be checked without this program; its path, which appears last.

    Args:
        path: Where the JSON goes; signature, public key and sheet take its name with ``.sig``,
            ``.pem`` and ``.txt``.
        document: What is signed.
        key: Whose signature it bears.
        sheet: The same for people.
    """
    data = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    write_atomic(path.with_suffix(".pem"), _public_pem(key))
    write_atomic(path.with_suffix(".txt"), sheet.encode())
    write_atomic(path.with_suffix(".sig"), sign(key, data))
    write_atomic(path, data)
    return path


def how_to_verify(path: Path) -> str:
    """The command that checks a certificate's signature."""
    return (
        f"openssl dgst -sha384 -verify {path.with_suffix('.pem').name} "
        f"-signature {path.with_suffix('.sig').name} {path.name}"
    )


def _free_path(folder: Path, exclusion: Exclusion) -> Path:
    """Date and keyed hash; numbered if data of the subject came back and was erased again."""
    stem = f"{exclusion.at[:10]}-{short_id(exclusion)}"
    names = [f"{stem}.json", *(f"{stem}-{number}.json" for number in range(2, 1000))]
    return next(folder / name for name in names if not (folder / name).exists())


def _public_pem(key: EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _sheet(site: Site, certificate: Certificate, path: Path) -> str:
    """The certificate as a person reads and files it."""
    spending, study = certificate.spending, site.consortium
    lines = [
        "CERTIFICATE OF ERASURE",
        "",
        f"Site:      {site.id} (key {fingerprint(public_line(site.identity_key))})",
        f"Study:     {study.config.study.name} (SHA-256 {study.digest})",
        f"Program:   Vultus {version('vultus')}. {RESEARCH_SOFTWARE}",
        f"Subject:   {certificate.exclusion.subject}",
        "           (a keyed hash; 'vultus-site forget DIR PSEUDONYM' tells whose it is)",
        f"Excluded:  {certificate.exclusion.at}, from every later round",
        f"Erased:    {certificate.erased_at}, {len(certificate.objects)} sealed files",
        *(f"           {name}" for name in certificate.objects),
        "",
        *textwrap.wrap(METHOD, 90),
        "",
        f"RELEASES WITH THE SUBJECT BEFORE: {len(spending.participations)}",
        *(_release_line(one) for one in spending.participations),
        f"All together: epsilon {spending.epsilon:.3f} at delta {spending.delta:g}.",
        *([] if spending.ledger_is_whole else ["THE LEDGER IS NOT WHOLE: this list may be wrong."]),
        "",
        "WHAT REMAINS",
    ]
    for one in certificate.remains():
        lines += textwrap.wrap(f"- {one['what']}: {one['why']}.", 90, subsequent_indent="  ")
    lines += [
        f"- At the time of writing: {certificate.originals} videos and notes of the subject, "
        f"{certificate.rows} rows.",
        "",
        "The signed document lies beside this sheet. To check its signature:",
        f"  {how_to_verify(path)}",
        "",
    ]
    return "\n".join(lines)


def _release_line(one: Participation) -> str:
    server_round = "" if one.server_round is None else f", round {one.server_round}"
    return (
        f"- {one.at[:19]} UTC, run {one.run_id}{server_round}, {one.purpose}: "
        f"epsilon {one.epsilon:.3f}"
    )
