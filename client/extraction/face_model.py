"""Where the face landmarker bundle comes from, and the hash that every copy must have."""

from __future__ import annotations

import hashlib
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from shared_models import face_model

FACE_MODEL_NAME = face_model.FACE_MODEL_FILE
FACE_MODEL_SHA256 = face_model.FACE_MODEL_SHA256
FACE_MODEL_URL = (
    "https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/"
    "float16/1/face_landmarker.task"
)
FACE_MODEL_BYTES = 3_758_596
_TIMEOUT_S = 30.0
_CHUNK_BYTES = 1 << 20


class FaceModelError(RuntimeError):
    """The face landmarker bundle is missing or is not the one this version was built for."""


def user_cache() -> Path:
    """Where a downloaded bundle is kept for this account."""
    return Path.home() / ".cache" / "vultus" / FACE_MODEL_NAME


def find_face_model(
    candidates: Sequence[Path | None] = (),
    *,
    cache: Path | None = None,
    url: str | None = FACE_MODEL_URL,
) -> Path:
    """Path of a verified face landmarker bundle.

    The first of the candidates, the cache and a download that is there decides. A file that is
    there and wrong ends the search: going on would hide that a site's own copy is damaged.

    Args:
        candidates: Places named by the site kit, ``site.toml`` or the command line, in order;
            None entries are skipped.
        cache: Where a download is kept; the account's cache by default.
        url: Where to fetch the bundle; None never touches the network.

    Returns:
        The path of a file whose SHA-256 is :data:`FACE_MODEL_SHA256`.

    Raises:
        FaceModelError: If a file that is there has another hash, or there is none and the
            download fails.
    """
    kept = cache or user_cache()
    places = [*(path for path in candidates if path is not None), kept]
    for path in places:
        if path.is_file():
            return verify_face_model(path)
    looked = "none at " + ", ".join(str(path) for path in places)
    if url is None:
        raise FaceModelError(_hand_over_message(places[0], looked))
    return _download(url, kept, looked=looked)


def verify_face_model(path: Path) -> Path:
    """The same path, once its file is known to be the right bundle.

    Args:
        path: A face landmarker bundle.

    Returns:
        ``path``.

    Raises:
        FaceModelError: If the file is missing or has another hash.
    """
    if not path.is_file():
        raise FaceModelError(_hand_over_message(path, f"none at {path}"))
    found = sha256_of_file(path)
    if found != FACE_MODEL_SHA256:
        msg = (
            f"Expected the face model {path} with SHA-256 {FACE_MODEL_SHA256}, got {found}. "
            f"Replace it with float16 version 1 from {FACE_MODEL_URL}"
        )
        raise FaceModelError(msg)
    return path


def sha256_of_file(path: Path, *, on_chunk: Callable[[], None] | None = None) -> str:
    """SHA-256 of a file of any size, read in chunks.

    Args:
        path: The file.
        on_chunk: Called after each mebibyte.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            if on_chunk is not None:
                on_chunk()
    return digest.hexdigest()


def _download(url: str, target: Path, *, looked: str) -> Path:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as reply:  # noqa: S310 - fixed https
            content = reply.read(2 * FACE_MODEL_BYTES)
    except (urllib.error.URLError, OSError) as error:
        raise FaceModelError(
            _hand_over_message(target, f"{looked}; the download failed: {error}")
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != FACE_MODEL_SHA256:
        msg = (
            f"Expected SHA-256 {FACE_MODEL_SHA256} from {url}, got {found}. A proxy may have "
            f"answered in its place; {_hand_over_message(target, 'nothing was kept')}"
        )
        raise FaceModelError(msg)
    _write_atomically(target, content)
    return target


def _write_atomically(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
        partial = Path(file.name)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(target)


def _hand_over_message(target: Path, found: str) -> str:
    return (
        f"Expected the face landmarker bundle {FACE_MODEL_NAME} "
        f"({FACE_MODEL_BYTES} bytes, SHA-256 {FACE_MODEL_SHA256}), found {found}. On a machine "
        f"with internet fetch {FACE_MODEL_URL}, copy it to {target} or pass --face-model FILE."
    )
