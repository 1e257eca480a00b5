"""``vultus-site audit``: plain words for people, and every kind of tampering found offline."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from speaking_site import make_reply, speak, write_sites
from typer.testing import CliRunner

from client.cli import app
from client.learning.egress import EgressError, release
from client.records.check import check_records
from client.records.view import describe
from client.withdrawal.exclusion import open_exclusions
from privacy.audit import AuditEntry, AuditLog, read
from privacy.keys import sign
from shared_models.messages import MaskedReply, ModelUpdate, Refusal, SiteHello

KINDS = (SiteHello, ModelUpdate, MaskedReply, Refusal)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two sites that have answered: with updates of their own, and with parts of a sum."""
    folders = write_sites(tmp_path_factory.mktemp("sites"))
    for mode, kind in (("local", ModelUpdate), ("distributed", MaskedReply)):
        speaker = speak(folders[mode], folders[mode] / "state")
        for each in (SiteHello, kind, Refusal):
            reply, question = make_reply(speaker, each)
            release(reply, question, speaker, detail="more than told" * (each is Refusal))
        open_exclusions(speaker.site).add("s099", [])
        speaker.ledger.close()
    return folders


@pytest.fixture(params=["local", "distributed"])
def folder(request: pytest.FixtureRequest, sites: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a site, to be tampered with."""
    return shutil.copytree(sites[request.param], tmp_path / "site")


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["audit", *map(str, words)], env={"COLUMNS": "80"})


def told(result: Result) -> dict:
    return json.loads(result.stdout.strip().splitlines()[-1])


def log_of(folder: Path) -> Path:
    return folder / "state" / "audit.jsonl"


def rewrite(folder: Path, change: dict, *, line: int) -> None:
    """Change an entry and mend the whole chain, as one who knows its form would."""
    path = log_of(folder)
    entries = [json.loads(text) for text in path.read_text().splitlines()]
    path.unlink()
    log = AuditLog(path)
    for number, entry in enumerate(entries, start=1):
        details = entry["details"] | (change if number == line else {})
        log.append(entry["event"], **details)


def test_a_newcomer_reads_what_left_within_eighty_columns(folder: Path) -> None:
    result = run(folder)
    assert result.exit_code == 0
    table = [line for line in result.stdout.splitlines() if line.startswith(("│", "┃"))]
    assert max(map(len, table)) <= 80
    text = " ".join(result.stdout.replace("│", " ").split())
    if "masked" in text:
        assert "Sent one masked vector of 130 numbers (520 bytes) for round 3 of run 17" in text
        assert "without the other sites it is noise" in text
    else:
        assert (
            "Sent one noised model update of 130 numbers (520 bytes) for round 3 of run 17" in text
        )
    assert "Nothing of any subject" in text
    assert "Refused training in round 3 of run 17" in text
    assert "max_rounds, min_subjects" in text
    assert "(Not told: more than told)" in text
    assert text.index("Told a coordinator") < text.index("Sent one") < text.index("Refused")


def test_an_untouched_site_is_whole_and_needs_no_network(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(socket.socket, "connect", refuse)
    result = run(folder, "--verify", "--json")
    assert result.exit_code == 0, result.output
    answer = told(result)
    assert (answer["entries"], answer["whole"], answer["first_broken"]) == (4, True, None)
    assert answer["receipts"] == 3
    assert answer["verified"] is True
    assert "Whole" in run(folder, "--verify").stdout


def test_a_site_that_never_did_anything_is_whole(sites: dict[str, Path]) -> None:
    result = run(sites["off"], "--verify", "--json")
    assert told(result)["entries"] == 0
    assert told(result)["whole"] is True


def test_the_limit_shows_the_newest(folder: Path) -> None:
    answer = told(run(folder, "--json", "--limit", 2))
    assert answer["entries"] == 4
    assert [one["line"] for one in answer["shown"]] == [3, 4]
    assert "the first 2 of them not shown" in run(folder, "--limit", 2).stdout
    assert run(folder, "--limit", 0).exit_code == 2


@pytest.mark.parametrize("line", [1, 2, 3, 4])
def test_a_changed_line_is_found_without_verify_too(folder: Path, line: int) -> None:
    lines = log_of(folder).read_text().splitlines(keepends=True)
    lines[line - 1] = lines[line - 1].replace("2026", "2025", 1).replace("20", "21", 1)
    log_of(folder).write_text("".join(lines))
    for words in ((), ("--verify",)):
        result = run(folder, "--json", *words)
        assert result.exit_code == 1
        assert told(result)["first_broken"] == line
        assert told(result)["whole"] is False
    assert f"line {line} of the audit log" in run(folder).stdout


@pytest.mark.parametrize(
    "change",
    [
        {"bytes": 1},
        {"epsilon_spent": 0.001},
        {"ledger_row": None},
        {"sha256": "0" * 64},
        {"signature": ""},
        {"site": "another"},
    ],
)
def test_a_log_written_anew_without_the_sites_key_is_found_by_its_receipts(
    folder: Path, change: dict
) -> None:
    rewrite(folder, change, line=2)
    assert told(run(folder, "--json"))["whole"] is True, "the chain alone does not see it"
    answer = told(run(folder, "--json", "--verify"))
    assert answer["whole"] is False
    # The first entry is where it was; all after it were signed for another past.
    assert answer["first_broken"] <= 2


def test_a_receipt_taken_out_of_a_mended_chain_is_found_by_the_next(folder: Path) -> None:
    path = log_of(folder)
    entries = [json.loads(text) for text in path.read_text().splitlines()]
    path.unlink()
    for entry in (entries[0], *entries[2:]):
        AuditLog(path).append(entry["event"], **entry["details"])
    assert told(run(folder, "--json", "--verify"))["whole"] is False


def test_a_changed_ledger_is_found_and_named_by_its_row(folder: Path) -> None:
    database = sqlite3.connect(folder / "state" / "ledger.sqlite")
    database.execute("DROP TRIGGER releases_keep")
    database.execute("UPDATE releases SET noise_multiplier = 99")
    database.commit()
    database.close()
    result = run(folder, "--verify", "--json")
    assert result.exit_code == 1
    assert told(result)["first_broken"] is None
    (fault,) = told(result)["faults"]
    assert (fault["where"], fault["line"]) == ("privacy ledger", 1)
    assert "row 1 of the privacy ledger" in run(folder, "--verify").stdout


def test_a_ledger_that_is_gone_leaves_receipts_without_a_charge(folder: Path) -> None:
    for file in (folder / "state").glob("ledger.sqlite*"):
        file.unlink()
    answer = told(run(folder, "--verify", "--json"))
    assert answer["first_broken"] == 2
    assert "row 1 of the ledger" in answer["faults"][0]["fault"]


def test_a_shortened_list_of_the_forgotten_is_found(folder: Path) -> None:
    (folder / "state" / "exclusions.jsonl").write_text("")
    result = run(folder, "--verify", "--json")
    assert result.exit_code == 1
    assert told(result)["faults"][0]["where"] == "list of forgotten subjects"


def test_one_charge_does_not_pay_for_two_messages(sites: dict[str, Path], tmp_path: Path) -> None:
    """Two signed receipts for one row: what a site that answered twice would leave."""
    folder = shutil.copytree(sites["local"], tmp_path / "site")
    speaker = speak(folder, folder / "state")
    release(*make_reply(speaker, ModelUpdate), speaker)
    report = check_records(speaker.site, verify=True)
    assert [one.fault for one in report.faults] == ["row 1 of the ledger paid for another message"]
    assert report.first_broken == 5
    speaker.ledger.close()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"epsilon_spent": 0.001}, "row 1 of the ledger does not belong to it"),
        ({"server_round": 1}, "row 1 of the ledger does not belong to it"),
        ({"asked": "evaluate"}, "row 1 of the ledger does not belong to it"),
        ({"ledger_row": 7}, "row 7 of the ledger does not belong to it"),
        ({"site": "another"}, "a receipt that this site did not sign at this place"),
    ],
)
def test_even_a_signed_receipt_has_to_fit_site_and_ledger(
    sites: dict[str, Path], tmp_path: Path, change: dict, fault: str
) -> None:
    folder = shutil.copytree(sites["local"], tmp_path / "site")
    site = speak(folder, folder / "state").site
    sent = read(site.paths.audit)[1]
    site.paths.audit.unlink()
    (folder / "state" / "exclusions.jsonl").unlink()
    details = {name: value for name, value in sent.details.items() if name != "signature"}
    AuditLog(site.paths.audit).append(
        "sent", signer=lambda text: sign(site.identity_key, text), **{**details, **change}
    )
    assert [one.fault for one in check_records(site, verify=True).faults] == [fault]


def test_what_was_paid_for_and_never_left_is_told_and_is_no_fault(
    sites: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(sites["local"], tmp_path / "site")
    speaker = speak(folder, folder / "state")
    speaker.ledger.reserve(
        "17/1/train/1", ["s001"], noise_multiplier=9.0, sample_rate=1.0, steps=1, delta=1e-3,
        purpose="train", cap_epsilon=9.0,
    )  # fmt: skip
    speaker.ledger.close()
    answer = told(run(folder, "--verify", "--json"))
    assert (answer["whole"], answer["unsent"]) == (True, 1)
    assert "1 releases were paid for" in run(folder, "--verify").stdout


def test_what_was_stopped_is_told(sites: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(sites["local"], tmp_path / "site")
    speaker = speak(folder, folder / "state")
    reply, question = make_reply(speaker, ModelUpdate)
    with pytest.raises(EgressError):
        release(replace(reply, site_id="s001"), question, speaker)  # type: ignore[type-var]
    speaker.ledger.close()
    text = told(run(folder, "--json", "--limit", 1))["shown"][0]["text"]
    assert text.startswith("Stopped before it left")
    assert "s001" not in text


def entry(event: str, **details: object) -> AuditEntry:
    return AuditEntry(1, "2026-01-01T00:00:00+00:00", event, dict(details), "0" * 64)


@pytest.mark.parametrize(
    ("event", "details", "words"),
    [
        ("bundle_refused", {"sha256": "ab" * 32}, "has not approved"),
        ("subject excluded", {"exclusions": 2}, "number 2 on the list"),
        ("subject erased", {"files": 3, "certificate": "c1"}, "3 files, certificate c1"),
        ("torn_line_closed", {}, "A crash had cut off"),
        ("something_new", {"value": 3}, "something new: value 3"),
        ("sent", {"kind": "ModelUpdate", "ledger_row": None}, "NO noise"),
        ("sent", {"kind": "Future", "ledger_row": 1}, "Sent Future of"),
        ("sent", {"kind": "MaskedReply", "ledger_row": 1, "sites_in_sum": 5}, "the 4 other sites"),
    ],
)
def test_every_event_has_its_words(event: str, details: dict, words: str) -> None:
    assert words in describe(entry(event, **details))


def test_words_of_the_coordinator_do_not_steer_the_terminal() -> None:
    hostile = entry("sent", kind="Refusal", run_id="\x1b[2J\x1b]0;x\x07", server_round=1)
    assert "\x1b" not in describe(hostile)
    assert "\x07" not in describe(hostile)
