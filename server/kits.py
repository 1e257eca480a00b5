"""The kits: for each site a folder with all that it needs to join, whole and signed.

A kit holds nothing secret. The signature lets a site notice what was altered on the way; whose
signature it is, people compare once by telephone.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import tomlkit
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from privacy.vault import write_atomic
from server.signing import open_signing_key
from server.workspace import Workspace
from shared_models.console import InputError
from shared_models.face_model import FACE_MODEL_FILE, FACE_MODEL_SHA256
from shared_models.kits import (
    AUTHORITY_FILE,
    BUNDLE_FILE,
    KIT_FILE,
    SIGNATURE_FILE,
    STUDY_FILE,
    KitFile,
    KitTerms,
    find_kit_faults,
    is_kit_signed,
    sign_kit,
)
from shared_models.roster import ROSTER_FILE, SiteEntry
from shared_models.toml import ConfigError, load_toml

NOTE = (
    "What a site needs to join; made by the coordinator and signed in kit.sig. Nothing here is",
    "secret, but compare the coordinator's key by telephone before you trust it.",
)


def write_kits(workspace: Workspace) -> None:
    """Bring every site's kit to the present study, roster, authorities and bundle.

    A kit of which nothing changed stays as it is, with its number and date.

    Raises:
        SigningKeyError: If the coordinator's key is missing or is not the one of the study.
    """
    consortium = workspace.consortium
    key = open_signing_key(workspace.runs, consortium)
    files = _collect_files(workspace)
    for entry in consortium.config.sites:
        _write_kit(workspace, entry, files, key)


def keep_face_model(workspace: Workspace, file: Path) -> None:
    """Let every kit from now on bring the face landmarker bundle.

    Args:
        workspace: The coordinator's folder, which keeps a copy.
        file: The bundle, ``face_landmarker.task``.

    Raises:
        InputError: If the file is missing or is not the one that sites use.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        msg = f"Expected the face landmarker bundle at {file}, got: {error.strerror}."
        raise InputError(msg) from error
    found = hashlib.sha256(content).hexdigest()
    if found != FACE_MODEL_SHA256:
        msg = (
            f"Expected the face landmarker bundle with SHA-256 {FACE_MODEL_SHA256}, got {found} "
            f"({file}): fetch float16 version 1 from MediaPipe."
        )
        raise InputError(msg)
    write_atomic(_face_model(workspace), content, mode=0o644)


def drop_kit(workspace: Workspace, site_id: str) -> None:
    """Remove the kit of a site that left."""
    shutil.rmtree(workspace.kit(site_id), ignore_errors=True)


def _face_model(workspace: Workspace) -> Path:
    return workspace.folder / "bundle" / FACE_MODEL_FILE


def _collect_files(workspace: Workspace) -> dict[str, bytes]:
    """What every kit holds beside its terms, by name."""
    files = {
        STUDY_FILE: workspace.consortium_file.read_bytes(),
        AUTHORITY_FILE: workspace.trusted_authorities.encode(),
        BUNDLE_FILE: workspace.bundle.content,
    }
    if workspace.consortium.roster is not None:
        files[ROSTER_FILE] = workspace.roster_file.read_bytes()
    if _face_model(workspace).is_file():
        files[FACE_MODEL_FILE] = _face_model(workspace).read_bytes()
    return files


def _write_kit(
    workspace: Workspace,
    entry: SiteEntry,
    files: Mapping[str, bytes],
    key: EllipticCurvePrivateKey,
) -> None:
    folder = workspace.kit(entry.id)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    held = _held(folder)
    terms = KitTerms(
        site_id=entry.id,
        number=held.kit.number if held else 1,
        made_at=held.kit.made_at if held else _now(),
        address=workspace.settings.address,
        bundle_sha256=workspace.bundle.sha256,
        vultus_version=version("vultus"),
        flwr_version=version("flwr"),
    )
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    wanted = KitFile(terms, digests)
    if held == wanted and _is_whole(folder, wanted, workspace.consortium.coordinator_key):
        return
    if held is not None:
        wanted = replace(wanted, kit=replace(terms, number=terms.number + 1, made_at=_now()))
    _remove_stale(folder, files)
    for name, content in files.items():
        write_atomic(folder / name, content, mode=0o644)
    text = _render(wanted)
    write_atomic(folder / KIT_FILE, text, mode=0o644)
    # Last: a kit that was cut short on the way is one that no site accepts.
    write_atomic(folder / SIGNATURE_FILE, sign_kit(text, key), mode=0o644)


def _held(folder: Path) -> KitFile | None:
    """The kit as it was written last; None where there is none of this form."""
    try:
        return load_toml(folder / KIT_FILE, KitFile)
    except ConfigError:
        return None


def _is_whole(folder: Path, kit: KitFile, public_key: str | None) -> bool:
    signature = folder / SIGNATURE_FILE
    if not signature.is_file() or any(find_kit_faults(folder, kit.files)):
        return False
    text = (folder / KIT_FILE).read_bytes()
    return is_kit_signed(text, signature.read_bytes(), public_key=public_key)


def _remove_stale(folder: Path, wanted: Iterable[str]) -> None:
    for name in {ROSTER_FILE, FACE_MODEL_FILE} - set(wanted):
        (folder / name).unlink(missing_ok=True)


def _render(kit: KitFile) -> bytes:
    document = tomlkit.document()
    for line in NOTE:
        document.add(tomlkit.comment(line))
    for name, values in (("kit", asdict(kit.kit)), ("files", dict(kit.files))):
        table = tomlkit.table()
        table.update(values)
        document.add(tomlkit.nl())
        document.add(name, table)
    return tomlkit.dumps(document).encode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
