"""The site's dashboard: what it tells, what it never writes, and that only the site can see it."""

import datetime as dt
import html
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from headless_browser import DESKTOP, PHONE, find_browser, open_browser
from inspected_site import Sample, faceless_track, make_site, smiling_track
from served_dashboard import PASSWORD, cheap_password, served, tree_of
from speaking_site import make_reply, speak, write_sites
from typer.testing import CliRunner

from client.approval.pending import note_refusal, pending_bundles
from client.approval.record import add_bundle
from client.approval.waiting import find_waiting
from client.cli import app
from client.dashboard.view import SiteParts, SiteReader
from client.dashboard.wording import FUNCTIONS, PACKAGE
from client.learning.egress import release
from client.site import Site, open_site
from privacy.audit import AuditLog
from server.bundle import build_bundle
from shared_models.messages import ModelUpdate, Refusal, SiteHello
from shared_models.web.findings import Finding
from shared_models.web.pages import Dashboard
from shared_models.web.rendering import render
from shared_models.web.snapshot import Snapshot

NOW = dt.datetime(2026, 3, 2, 9, 30, tzinfo=dt.UTC)
NAME = "王女士访谈-😀"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site with an accepted, a rejected and a missing recording."""
    samples = [
        Sample("r1", smiling_track(seconds=20.0, smiles=())),
        Sample(NAME, faceless_track(), subject_id="s-王", sex="male"),
        Sample("r3", subject_id="s3"),
    ]
    return make_site(tmp_path_factory.mktemp("prepared") / "site", samples).folder


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated site that has answered."""
    folder = write_sites(tmp_path_factory.mktemp("spoken"))["local"]
    speaker = speak(folder, folder / "state")
    for kind in (SiteHello, ModelUpdate, Refusal):
        reply, question = make_reply(speaker, kind)
        release(reply, question, speaker)
    speaker.ledger.close()
    return folder


@pytest.fixture
def site(prepared: Path, tmp_path: Path) -> Site:
    return open_site(shutil.copytree(prepared, tmp_path / "site-北院"))


@pytest.fixture
def talker(spoken: Path, tmp_path: Path) -> Site:
    return open_site(shutil.copytree(spoken, tmp_path / "talker"))


def text_of(found: Finding[SiteParts], language: str = "en") -> str:
    """What a reader sees of a page, in one line."""
    page = render(
        PACKAGE, language, "fragment.html.j2",
        {"view": found, "heading": "north", "made_at": NOW, **FUNCTIONS},
    )  # fmt: skip
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


def look(site: Site, language: str = "en") -> str:
    return text_of(SiteReader(site.folder).look(), language)


def test_recordings_and_verdicts_are_told(site: Site) -> None:
    told = look(site)
    assert "Recordings accepted 1 of 3 1 rejected, 1 not extracted yet" in told
    assert f"{NAME} rejected 10 s 0 %" in told
    assert "No face in any frame" in told
    assert told.index(f"{NAME} rejected") < told.index("r1 accepted"), "rejected ones first"
    assert "1 of 1 100 % (21 " in told
    assert "所有帧均无面部" in look(site, "zh")


def test_no_pseudonym_stands_on_the_page(site: Site) -> None:
    found = SiteReader(site.folder).look()
    assert found.value is not None
    assert "s-王" in {one.subject_id for one in found.value.recordings.value.shown}  # type: ignore[union-attr]
    assert "s-王" not in text_of(found)


def test_what_left_and_what_it_cost_is_told_in_both_languages(talker: Site) -> None:
    told = look(talker)
    assert "Messages that left 3 every record is whole" in told
    assert "Sent one noised model update of 130 numbers (520 bytes) for round 3 of run 17" in told
    assert "ε 1.538 of 3.00, 1.462 left" in told
    assert "1 release so far" in told
    chinese = look(talker, "zh")
    assert "一份加噪的模型更新" in chinese
    assert "130 个数值" in chinese
    assert "Sent" not in chinese


def test_a_tampered_log_is_told_first(talker: Site) -> None:
    log = talker.paths.audit
    text = log.read_text()
    log.write_text(re.sub(r'("numbers": ?)130', r"\g<1>131", text))
    assert log.read_text() != text
    told = look(talker)
    assert "The records are NOT whole" in told
    assert told.index("NOT whole") < told.index("Recordings accepted")


@pytest.mark.parametrize(
    ("name", "sentence", "still"),
    [
        ("recordings.csv", "The recordings cannot be shown.", "Messages that left 3"),
        ("state/ledger.sqlite", "The privacy budget cannot be shown.", "Recordings accepted"),
        ("keys/ledger.pem", "The privacy budget cannot be shown.", "Waiting for approval"),
        ("approvals.toml", "Approvals cannot be shown.", "Messages that left 3"),
        ("site.toml", "The site folder cannot be opened.", "north"),
        ("consortium.toml", "The site folder cannot be opened.", "north"),
    ],
)
def test_a_broken_file_is_told_and_takes_nothing_else_away(
    talker: Site, name: str, sentence: str, still: str
) -> None:
    broken = talker.folder / name
    broken.write_bytes(b"broken \xff = [")
    broken.chmod(0o600)
    told = look(talker)
    assert sentence in told
    assert still in told
    assert "Traceback" not in told


def test_a_folder_that_others_can_read_is_not_shown(talker: Site) -> None:
    talker.config_file.chmod(0o644)
    told = look(talker)
    assert "closed to other accounts" in told
    assert "Messages that left" not in told


def test_looking_writes_nothing(talker: Site) -> None:
    before = tree_of(talker.folder)
    look(talker)
    assert tree_of(talker.folder) == before


def test_looking_at_a_new_site_makes_no_store(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site", [Sample("r1")])
    before = tree_of(site.folder)
    told = look(site)
    assert tree_of(site.folder) == before
    assert "Nothing was released yet." in told
    assert "Nothing has left this site yet." in told
    assert "has not joined a coordinator yet" in told


def test_what_waits_is_shown_and_stays_waiting(site: Site, tmp_path: Path) -> None:
    bundle = build_bundle(tmp_path)
    log = AuditLog(site.paths.audit)
    note_refusal(site.paths.state, log, bundle.path.read_bytes())
    note_refusal(site.paths.state, log, b"not a bundle")
    told = look(site)
    assert f"bundle {bundle.sha256}" in told
    assert "What would run here" in told
    assert "can never be approved" in told
    study = site.paths.consortium.read_text()
    add_bundle(site, bundle.sha256, site.consortium, study=study)
    told = look(site)
    assert "in force" in told
    assert bundle.sha256 in pending_bundles(site.paths.state), "the page forgets nothing"
    assert [one.name for one in find_waiting(site)] != []
    assert bundle.sha256 not in pending_bundles(site.paths.state), "the command does"


def test_other_words_than_expected_cannot_become_markup(talker: Site) -> None:
    AuditLog(talker.paths.audit).append("<script>alert(1)</script>", x="<b>bold</b>")
    found = SiteReader(talker.folder).look()
    page = render(
        PACKAGE, "zh", "fragment.html.j2",
        {"view": found, "heading": "<i>", "made_at": NOW, **FUNCTIONS},
    )  # fmt: skip
    assert "<script>" not in page
    assert "<b>" not in page
    assert "<i>" not in page


def invoke(*words: object, **options: object):
    return CliRunner().invoke(app, ["dashboard", *map(str, words)], **options)  # type: ignore[arg-type]


def test_the_command_wants_a_password_before_it_serves(site: Site) -> None:
    refused = invoke(site.folder, "--port", 0)
    assert refused.exit_code == 2
    assert "--set-password" in refused.output
    weak = invoke(site.folder, "--set-password", input="short\n")
    assert weak.exit_code == 2
    done = invoke(site.folder, "--set-password", input=f"{PASSWORD}\n")
    assert done.exit_code == 0, done.output
    kept = site.paths.keys / "dashboard.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert PASSWORD not in done.output + kept.read_text()


def test_the_command_refuses_to_show_a_site_to_a_network(site: Site) -> None:
    refused = invoke(site.folder, "--host", "0.0.0.0")
    assert refused.exit_code == 2
    assert "--tls-certificate" in refused.output


def test_the_command_serves_loopback_and_ends_well(site: Site) -> None:
    cheap_password(site.paths.keys / "dashboard.json")
    program = "from client.cli import app; app()"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", program, "dashboard", site.folder, "--port", str(port)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    assert process.stdout is not None
    assert f"http://127.0.0.1:{port}/" in process.stdout.readline()
    deadline = time.monotonic() + 60
    answer = b""
    while not answer and time.monotonic() < deadline:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as line:
            line.sendall(f"GET /login HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            answer = line.recv(100)
    assert answer.startswith(b"HTTP/1.1 200")
    process.terminate()
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0, rest
    assert "was stopped" in rest


def test_in_a_real_browser_the_page_lives_fits_a_phone_and_asks_nobody_else(talker: Site) -> None:
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium on this machine")
    file = cheap_password(talker.paths.keys / "dashboard.json")
    note_refusal(talker.paths.state, AuditLog(talker.paths.audit), b"a bundle of nobody")
    snapshot = Snapshot(SiteReader(talker.folder).look, every_s=0.1)
    board = Dashboard("site", talker.id, PACKAGE, file, snapshot, FUNCTIONS)
    with served(board) as url, open_browser(program) as page:
        page.size(*DESKTOP)
        page.open(url)
        page.sign_in(PASSWORD)
        assert "Messages that left" in page.run("document.body.innerText")
        page.run("document.getElementById('releases').open = true")
        AuditLog(talker.paths.audit).append("approval_withdrawn", what="site south")
        page.await_text("Withdrew the approval of site south.")
        assert page.run("document.getElementById('releases').open"), "what was opened stays open"
        page.size(*PHONE)
        page.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert page.run("document.documentElement.scrollWidth") <= PHONE[0]
        page.open(f"{url}language/zh")
        assert "外发内容及其他事件" in page.run("document.body.innerText")
        assert page.complaints == []
        assert {one for one in page.requested if not one.startswith(url)} == set()
