"""Finding the face landmarker bundle, and refusing any other file in its place."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from client.extraction import face_model as module
from client.extraction.face_model import (
    FACE_MODEL_SHA256,
    FaceModelError,
    find_face_model,
    sha256_of_file,
    verify_face_model,
)

CONTENT = b"stands in for the bundle"
# Binds on this machine and refuses at once.
NO_NETWORK = "http://127.0.0.1:9/face_landmarker.task"


@pytest.fixture
def right_content(monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setattr(module, "FACE_MODEL_SHA256", hashlib.sha256(CONTENT).hexdigest())
    return CONTENT


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_the_first_candidate_that_is_there_decides(tmp_path, right_content):
    first = write(tmp_path / "first.task", right_content)
    second = write(tmp_path / "second.task", right_content)
    places = [None, tmp_path / "missing.task", first, second]
    assert find_face_model(places, cache=tmp_path / "cache.task", url=None) == first


def test_the_cache_follows_the_candidates(tmp_path, right_content):
    cache = write(tmp_path / "cache.task", right_content)
    assert find_face_model([None], cache=cache, url=None) == cache


def test_a_wrong_file_is_refused_with_both_hashes(tmp_path, right_content):
    wrong = write(tmp_path / "wrong.task", b"something else")
    cache = write(tmp_path / "cache.task", right_content)
    with pytest.raises(FaceModelError) as error:
        find_face_model([wrong], cache=cache, url=None)
    assert module.FACE_MODEL_SHA256 in str(error.value)
    assert hashlib.sha256(b"something else").hexdigest() in str(error.value)


@pytest.mark.parametrize("url", [None, NO_NETWORK])
def test_a_missing_file_says_which_and_how_to_hand_it_over(tmp_path, url):
    with pytest.raises(FaceModelError) as error:
        find_face_model([tmp_path / "kit.task"], cache=tmp_path / "cache.task", url=url)
    for part in (FACE_MODEL_SHA256, "kit.task", "--face-model", "storage.googleapis.com"):
        assert part in str(error.value)


def test_a_download_is_checked_and_kept(tmp_path, right_content):
    served = write(tmp_path / "served.task", right_content)
    cache = tmp_path / "new" / "folder" / "cache.task"
    assert find_face_model(cache=cache, url=served.as_uri()) == cache
    assert [path.name for path in cache.parent.iterdir()] == ["cache.task"]
    assert find_face_model(cache=cache, url=None) == cache


def test_a_download_of_something_else_leaves_nothing_behind(tmp_path, right_content):
    served = write(tmp_path / "served.task", b"a login page of a proxy")
    cache = tmp_path / "folder" / "cache.task"
    with pytest.raises(FaceModelError, match="A proxy may have answered"):
        find_face_model(cache=cache, url=served.as_uri())
    assert not cache.exists()


def test_files_larger_than_a_chunk_are_hashed_whole(tmp_path):
    content = b"x" * (3 << 20) + b"y"
    path = write(tmp_path / "large", content)
    assert sha256_of_file(path) == hashlib.sha256(content).hexdigest()


@pytest.mark.needs_model
def test_the_real_bundle_passes(face_model):
    assert verify_face_model(face_model) == face_model
