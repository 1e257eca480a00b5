"""The audit log is whole after honest use and crashes, and not after any change."""

import json
import math
import multiprocessing
import os
import stat
from dataclasses import replace

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.audit import AuditLog, _Chain, extends, head, read, read_lines, verify


@pytest.fixture
def path(tmp_path):
    log = AuditLog(tmp_path / "audit.log")
    for server_round in range(4):
        log.append("round_answered", server_round=server_round, noised=True, epsilon=0.5)
    return tmp_path / "audit.log"


def test_an_honest_log_is_whole_and_reads_back(path):
    assert verify(path) == (4, True, None)
    assert [entry.details["server_round"] for entry in read(path)] == [0, 1, 2, 3]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_absent_log_is_empty_and_whole(tmp_path):
    assert verify(tmp_path / "none") == (0, True, None)
    assert read(tmp_path / "none") == []


@pytest.mark.parametrize("line", [1, 2, 3, 4])
def test_a_changed_line_is_found_where_it_is(path, line):
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line - 1] = lines[line - 1].replace(b'"epsilon": 0.5', b'"epsilon": 0.1')
    path.write_bytes(b"".join(lines))
    assert verify(path) == (line - 1, False, line)


def test_a_changed_line_with_a_matching_hash_breaks_the_next(path):
    lines = path.read_bytes().splitlines(keepends=True)
    forged = AuditLog(path.with_name("forged"))
    forged.append("round_answered", server_round=9)
    path.write_bytes(
        b"".join([*path.with_name("forged").read_bytes().splitlines(True), *lines[1:]])
    )
    assert verify(path) == (1, False, 2)


@pytest.mark.parametrize("line", [1, 2, 3])
def test_a_removed_line_is_found(path, line):
    lines = path.read_bytes().splitlines(keepends=True)
    del lines[line - 1]
    path.write_bytes(b"".join(lines))
    assert verify(path) == (line - 1, False, line)


@pytest.mark.parametrize("junk", [b"junk\n", b"\n", b"{}\n", b'{"sequence": NaN}\n', b"\xff\xfe\n"])
def test_an_inserted_line_is_found(path, junk):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], junk, *lines[2:]]))
    assert verify(path) == (2, False, 3)


def test_every_torn_tail_is_reported_and_closed_by_the_next_event(path):
    whole = path.read_bytes()
    last_line = len(whole.splitlines()[-1])
    for lost in range(1, last_line):
        path.write_bytes(whole[:-lost])
        assert not verify(path).whole
        AuditLog(path).append("started")
        assert verify(path).whole
        assert read(path)[-1].event == "started"


def test_a_torn_line_that_was_closed_cannot_be_changed_later(path):
    path.write_bytes(path.read_bytes()[:-30])
    AuditLog(path).append("started")
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b"0.5", b"0.1")
    path.write_bytes(b"".join(lines))
    assert not verify(path).whole


def test_a_refused_event_leaves_the_log_usable(path):
    log = AuditLog(path)
    with pytest.raises(ValueError, match="JSON"):
        log.append("bad", epsilon=math.nan)
    with pytest.raises(TypeError):
        log.append("bad", value=object())
    log.append("good")
    assert verify(path) == (5, True, None)


def test_two_writers_in_turn_keep_one_chain(path):
    first, second = AuditLog(path), AuditLog(path)
    for writer in (first, second, second, first):
        writer.append("turn")
    assert verify(path) == (8, True, None)


def append_many(path, start, count):
    log = AuditLog(path)
    start.wait(60)
    for _ in range(count):
        log.append("busy")


def test_processes_that_write_at_once_keep_one_chain(path):
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(3)
    workers = [context.Process(target=append_many, args=(path, start, 60)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert verify(path) == (184, True, None)


def test_only_the_repair_event_may_follow_a_torn_line(path):
    chain = _Chain()
    whole = path.read_bytes().splitlines(keepends=True)
    for line in [*whole, b"a torn line\n"]:
        chain.follow(line)
    path.write_bytes(b"".join([*whole, b"a torn line\n", chain.record("started", {})]))
    assert verify(path) == (4, False, 5)


def test_each_line_is_plain_json(path):
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["sequence"] for record in records] == [1, 2, 3, 4]


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o666])
def test_a_log_that_others_could_read_is_closed_by_the_next_event(path, mode):
    path.chmod(mode)
    AuditLog(path).append("started")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_first_event_makes_the_file_itself_durable(tmp_path, monkeypatch):
    synced = []
    honest = os.fsync

    def fsync(descriptor):
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        honest(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    log = AuditLog(tmp_path / "audit.log")
    log.append("first")
    assert True in synced, "the folder that names the file"
    assert synced[-1] is False, "the file, after the event was written"
    synced.clear()
    log.append("second")
    assert synced == [False]


@pytest.mark.parametrize(
    "line",
    [
        {"sequence": "one"},
        {"sequence": None},
        {"details": "none"},
        {"at": 5},
        {"event": ["sent"]},
        {"previous": 0},
    ],
)
def test_a_line_of_the_wrong_types_is_found_and_breaks_no_reader(path, line):
    record = json.loads(path.read_text().splitlines()[-1])
    with path.open("a") as file:
        file.write(json.dumps({**record, **line}) + "\n")
    assert verify(path) == (4, False, 5)
    assert len(read(path)) == 4
    assert head(path)[0] == 4


def test_a_line_nested_beyond_measure_breaks_no_reader(path):
    with path.open("a") as file:
        file.write("[" * 200_000 + "\n")
    assert verify(path).first_broken == 5


def test_entries_are_found_by_their_line_past_what_is_torn(path):
    path.write_bytes(path.read_bytes()[:-30])
    AuditLog(path).append("started")
    assert {line: entry.event for line, entry in read_lines(path).items()} == {
        1: "round_answered",
        2: "round_answered",
        3: "round_answered",
        5: "torn_line_closed",
        6: "started",
    }


def test_a_head_taken_while_another_process_writes_still_holds_afterwards(path):
    """What was anchored of a line half written would lock the site out when it is complete."""
    before = head(path)
    whole = path.read_bytes()
    AuditLog(path).append("busy")
    line = path.read_bytes()[len(whole) :]
    for written in range(len(line)):
        path.write_bytes(whole + line[:written])
        anchored = head(path)
        assert anchored == before
        path.write_bytes(whole + line)
        assert extends(path, *anchored)
    # And so it does where the writer died there, and the next one closes the line.
    for written in range(1, len(line), 7):
        path.write_bytes(whole + line[:written])
        anchored = head(path)
        AuditLog(path).append("after the crash")
        assert extends(path, *anchored)


# Signed events.

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def is_signed(entry):
    try:
        KEY.public_key().verify(entry.signature or b"", entry.statement)
    except InvalidSignature:
        return False
    return True


def test_a_signed_event_vouches_for_itself_and_its_place(path):
    log = AuditLog(path)
    entry = log.append("sent", signer=KEY.sign, bytes=520, epsilon=1.25)
    assert entry.details["bytes"] == 520
    assert verify(path).whole
    assert [is_signed(one) for one in read(path)] == [False] * 4 + [True]
    assert read(path)[-1] == entry
    for change in (
        {"sequence": 4},
        {"previous": "0" * 64},
        {"at": "2020-01-01"},
        {"event": "other"},
        {"details": {**entry.details, "bytes": 521}},
        {"details": {**entry.details, "signature": ""}},
        {"details": {**entry.details, "signature": "not hex"}},
    ):
        assert not is_signed(replace(entry, **change))


def test_whoever_writes_the_log_anew_cannot_sign_what_comes_after(path, tmp_path):
    AuditLog(path).append("sent", signer=KEY.sign)
    forged = AuditLog(tmp_path / "forged")
    for entry in read(path)[1:]:
        forged.append(entry.event, **entry.details)
    assert verify(tmp_path / "forged").whole, "the chain has no key"
    assert not is_signed(read(tmp_path / "forged")[-1])


def test_a_signature_cannot_stand_for_another_statement_of_the_key(path):
    entry = AuditLog(path).append("sent", signer=KEY.sign)
    assert entry.statement.startswith(b"vultus log entry|")
