"""The list of forgotten subjects: nobody leaves it unnoticed, and it names nobody."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.withdrawal.exclusion import ExclusionError, ExclusionList
from privacy.audit import read as read_audit

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SUBJECTS = ("smith", "jones", "brown")


def open_list(folder: Path, key: Ed25519PrivateKey = KEY) -> ExclusionList:
    return ExclusionList(folder / "exclusions.jsonl", key=key, audit_log=folder / "audit.jsonl")


@pytest.fixture
def exclusions(tmp_path) -> ExclusionList:
    found = open_list(tmp_path)
    for subject in SUBJECTS:
        found.add(subject, [f"{subject[0]}/1.features"])
    return found


@pytest.fixture
def lines(exclusions, tmp_path) -> list[bytes]:
    return (tmp_path / "exclusions.jsonl").read_bytes().splitlines(keepends=True)


def test_forgotten_subjects_are_held_also_after_reopening_and_others_are_not(exclusions, tmp_path):
    again = open_list(tmp_path)
    assert all(again.holds(subject) for subject in SUBJECTS)
    assert not again.holds("miller")
    found = again.find("jones")
    assert found is not None
    assert (found.sequence, found.objects) == (2, ("j/1.features",))


def test_a_subject_added_elsewhere_is_seen_at_once(exclusions, tmp_path):
    other = open_list(tmp_path)
    assert not other.holds("miller")
    exclusions.add("miller", [])
    assert other.holds("miller")


def test_adding_a_subject_again_changes_nothing(exclusions, tmp_path):
    before = (tmp_path / "exclusions.jsonl").read_bytes()
    assert exclusions.add("smith", ["other"]).objects == ("s/1.features",)
    assert (tmp_path / "exclusions.jsonl").read_bytes() == before
    assert len(read_audit(tmp_path / "audit.jsonl")) == 3


def test_neither_list_nor_log_names_a_subject_and_both_are_private(exclusions, tmp_path):
    for name in ("exclusions.jsonl", "audit.jsonl"):
        path = tmp_path / name
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert not any(subject.encode() in path.read_bytes() for subject in SUBJECTS)


def test_the_hashes_of_two_sites_cannot_be_compared(exclusions, tmp_path):
    (tmp_path / "other").mkdir()
    other = open_list(tmp_path / "other", Ed25519PrivateKey.from_private_bytes(bytes(32)))
    own = exclusions.find("smith")
    assert own is not None
    assert other.add("smith", []).subject != own.subject


def changed(line: bytes, **values: object) -> bytes:
    return json.dumps({**json.loads(line), **values}, sort_keys=True).encode() + b"\n"


@pytest.mark.parametrize(
    "tamper",
    [
        lambda one: [],
        lambda one: one[1:],
        lambda one: one[:1] + one[2:],
        lambda one: one[:-1],
        lambda one: one[::-1],
        lambda one: [*one, one[-1]],
        lambda one: [*one[:2], one[2][:40]],
        lambda one: [one[0], b"not json\n", one[2]],
        lambda one: [one[0], b'{"sequence": 2}\n', one[2]],
        lambda one: [one[0], b"[]\n", one[2]],
        lambda one: [changed(one[0], subject="0" * 64), *one[1:]],
        lambda one: [changed(one[0], objects=[]), *one[1:]],
        lambda one: [changed(one[0], mac="0" * 64), *one[1:]],
        lambda one: [changed(one[0], mac=7), *one[1:]],
    ],
    ids=[
        "emptied", "first removed", "middle removed", "last removed", "reordered", "repeated",
        "last torn", "damaged", "fields missing", "no object", "another subject",
        "objects dropped", "mac changed", "mac of another type",
    ],
)  # fmt: skip
def test_whatever_is_removed_or_altered_is_noticed(exclusions, lines, tmp_path, tamper):
    (tmp_path / "exclusions.jsonl").write_bytes(b"".join(tamper(lines)))
    for found in (exclusions, open_list(tmp_path)):
        with pytest.raises(ExclusionError, match="not as it was written: line"):
            found.holds("miller")


def test_a_removed_list_is_noticed(exclusions, tmp_path):
    (tmp_path / "exclusions.jsonl").unlink()
    with pytest.raises(ExclusionError, match="audit log"):
        exclusions.holds("smith")


def test_without_the_count_in_the_log_a_cut_tail_would_pass(exclusions, lines, tmp_path):
    """The broken variant: a chain alone does not know how long it was."""
    (tmp_path / "exclusions.jsonl").write_bytes(b"".join(lines[:-1]))
    (tmp_path / "audit.jsonl").unlink()
    assert not open_list(tmp_path).holds("brown")


def test_lines_of_two_histories_cannot_be_mixed(exclusions, lines, tmp_path):
    (tmp_path / "audit.jsonl").unlink()
    (tmp_path / "exclusions.jsonl").write_bytes(b"".join(lines[:1]))
    other = open_list(tmp_path)
    other.add("miller", [])
    (tmp_path / "audit.jsonl").unlink()
    miller = (tmp_path / "exclusions.jsonl").read_bytes().splitlines(keepends=True)[1]
    (tmp_path / "exclusions.jsonl").write_bytes(b"".join([lines[0], miller, lines[2]]))
    with pytest.raises(ExclusionError, match="line 3 does not follow"):
        open_list(tmp_path).read()


def test_half_a_line_that_a_crash_left_is_replaced_by_the_next(exclusions, lines, tmp_path):
    with (tmp_path / "exclusions.jsonl").open("ab") as file:
        file.write(b'{"at": "2026' + 1000 * b" ")
    again = open_list(tmp_path)
    assert not again.holds("miller")
    again.add("miller", [])
    assert (tmp_path / "exclusions.jsonl").read_bytes().endswith(b"}\n")
    assert [one.sequence for one in open_list(tmp_path).read()] == [1, 2, 3, 4]


def test_a_line_that_was_not_counted_before_a_crash_is_counted_at_the_next_try(
    tmp_path, monkeypatch
):
    def crash(*args: object, **details: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("privacy.audit.AuditLog.append", crash)
    with pytest.raises(KeyboardInterrupt):
        open_list(tmp_path).add("smith", [])
    monkeypatch.undo()
    assert open_list(tmp_path).holds("smith")
    open_list(tmp_path).add("smith", [])
    (entry,) = read_audit(tmp_path / "audit.jsonl")
    assert entry.details["exclusions"] == 1
