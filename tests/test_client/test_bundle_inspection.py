"""Reading a bundle without unpacking it: a sound one passes, and nothing else does."""

from __future__ import annotations

import re
import tracemalloc
from pathlib import Path

import pytest
from hostile_bundles import HOSTILE, consistent, entries_of, sound_bundle, with_bomb, with_entry
from hypothesis import given, settings
from hypothesis import strategies as st

from client.approval.inspection import inspect_bundle


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return sound_bundle(tmp_path_factory.mktemp("bundle"))


def test_the_coordinators_own_bundle_can_be_approved(sound: bytes) -> None:
    view = inspect_bundle(sound)
    assert view.is_approvable
    assert {entry.name for entry in view.entries} == {"pyproject.toml", "LICENSE", ".info/CONTENT"}
    assert {e.name: e.size for e in view.entries} == {
        name: len(data) for name, data in entries_of(sound).items()
    }


def test_a_bundle_that_is_packed_anew_can_be_approved(sound: bytes) -> None:
    assert inspect_bundle(consistent(entries_of(sound))).is_approvable


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_bundle_can_never_be_approved_and_the_reason_is_named(
    sound: bytes, kind: str
) -> None:
    make, reason = HOSTILE[kind]
    view = inspect_bundle(make(sound))
    assert not view.is_approvable
    assert any(re.search(reason, fault) for fault in view.faults), view.faults


def test_nothing_is_written_while_a_bundle_is_read(
    sound: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("client/app.py", "../x", "LICENSE"):
        inspect_bundle(with_entry(sound, name))
    assert list(tmp_path.rglob("*")) == []


def test_a_bomb_is_not_unpacked(sound: bytes) -> None:
    bomb = with_bomb(sound)
    tracemalloc.start()
    inspect_bundle(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 << 20


def test_names_cannot_steer_the_terminal(sound: bytes) -> None:
    view = inspect_bundle(with_entry(sound, "\x1b[2J\x1b[1;1HLICENSE" + "x" * 300))
    shown = "".join([*view.faults, *(entry.name for entry in view.entries)])
    assert "\x1b" not in shown
    assert "x" * 300 not in shown


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_bundle_with_any_byte_changed_is_read_without_an_error(
    sound: bytes, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(sound) - 1))
    changed = bytearray(sound)
    changed[at] ^= data.draw(st.integers(1, 255))
    view = inspect_bundle(bytes(changed))
    assert view.sha256 != inspect_bundle(sound).sha256


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=300))
def test_what_is_no_archive_is_told_so(content: bytes) -> None:
    assert not inspect_bundle(content).is_approvable
