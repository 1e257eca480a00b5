"""Who may see a dashboard: password, forms, hosts, headers; each with the variant that lacks it."""

import hashlib
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from httpx import Client
from page_client import page_client

from server.dashboard.charts import FUNCTIONS
from server.dashboard.view import HubView, Models, Sites
from server.pki import CertificateAuthority
from shared_models.console import InputError
from shared_models.web import guard, pages
from shared_models.web.findings import Finding
from shared_models.web.pages import Dashboard, Door, make_app
from shared_models.web.passwords import Cost, Password, read_password, set_password
from shared_models.web.place import Place, choose_place
from shared_models.web.sessions import LASTS_S, Sessions
from shared_models.web.snapshot import Snapshot
from shared_models.web.throttle import FORGIVEN_AFTER_S, Throttle

PASSWORD = "correct horse battery"
CHEAP = Cost(n=1 << 10)
HOST = "127.0.0.1:8450"
SECRET = "the-figures-of-north"
EMPTY = Finding(
    HubView(
        Finding(Sites(is_up=True, lines=())),
        Finding(None),
        Finding(None),
        Finding(()),
        Finding(Models(None, (), 0, None, ())),
    )
)


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def dashboard(tmp_path: Path) -> Dashboard[Finding[HubView]]:
    file = tmp_path / "dashboard.json"
    set_password(file, PASSWORD, cost=CHEAP)
    snapshot = Snapshot(lambda: EMPTY)
    return Dashboard("coordinator", SECRET, "server.dashboard", file, snapshot, FUNCTIONS)


@pytest.fixture
def door(clock: Clock) -> Door:
    return Door((HOST,), is_secure=False, sessions=Sessions(clock), throttle=Throttle(clock))


@pytest.fixture
def browser(dashboard: Dashboard[Finding[HubView]], door: Door) -> Iterator[Client]:
    with browse(dashboard, door) as client:
        yield client


def browse(dashboard: Dashboard[Finding[HubView]], door: Door) -> Client:
    app = make_app(dashboard, door)
    scheme = "https" if door.is_secure else "http"
    return page_client(app, f"{scheme}://{HOST}")


def proof_of(client: Client) -> str:
    """What the login form carries."""
    return str(client.get("/login").text.split('name="proof" value="')[1].split('"')[0])


def sign_in(client: Client, password: str = PASSWORD, **headers: str):
    form = {"proof": proof_of(client), "password": password}
    return client.post("/login", data=form, headers=headers)


def test_without_a_session_nothing_is_shown(browser: Client) -> None:
    first = browser.get("/")
    assert (first.status_code, first.headers["location"]) == (303, "/login")
    fragment = browser.get("/content")
    assert (fragment.status_code, fragment.content) == (401, b"")
    browser.cookies.set("vultus-coordinator-8450-session", "A" * 43)
    assert browser.get("/").status_code == 303


def test_the_password_opens_the_page_and_its_cookie_is_closed(browser: Client) -> None:
    answer = sign_in(browser)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "path=/" in cookie
    page = browser.get("/")
    assert page.status_code == 200
    assert "Sites online" in page.text
    assert browser.get("/content").status_code == 200


def test_over_tls_the_cookie_is_bound_to_host_and_tls(
    dashboard: Dashboard[Finding[HubView]], clock: Clock
) -> None:
    door = Door((HOST,), is_secure=True, sessions=Sessions(clock))
    with browse(dashboard, door) as client:
        cookie = sign_in(client).headers["set-cookie"]
        assert cookie.startswith("__Host-vultus-coordinator-8450-session=")
        assert "; Secure" in cookie
        assert client.get("/").status_code == 200


def test_another_password_opens_nothing(browser: Client) -> None:
    answer = sign_in(browser, "correct horse batterz")
    assert answer.status_code == 403
    assert "-session=" not in answer.headers["set-cookie"]
    assert 'role="alert"' in answer.text
    assert browser.get("/").status_code == 303


@pytest.mark.parametrize("proof", ["", "0" * 64, "é"])
def test_a_form_that_is_not_ours_is_refused(browser: Client, proof: str) -> None:
    browser.get("/login")
    answer = browser.post("/login", data={"proof": proof, "password": PASSWORD})
    assert answer.status_code == 403
    assert browser.get("/").status_code == 303


def test_a_proof_belongs_to_one_visitor(
    dashboard: Dashboard[Finding[HubView]], door: Door, browser: Client
) -> None:
    with browse(dashboard, door) as other:
        stolen = proof_of(other)
    browser.get("/login")
    assert browser.post("/login", data={"proof": stolen, "password": PASSWORD}).status_code == 403


@pytest.mark.parametrize(
    "headers", [{"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}]
)
def test_a_form_from_another_origin_is_refused(browser: Client, headers: dict[str, str]) -> None:
    assert sign_in(browser, **headers).status_code == 403
    own = {"sec-fetch-site": "same-origin", "origin": "null"}
    assert sign_in(browser, **own).status_code == 303


def test_without_the_proof_a_foreign_form_would_be_believed(
    browser: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sessions, "believes", lambda *_: True)
    browser.get("/login")
    assert browser.post("/login", data={"password": PASSWORD}).status_code == 303


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8450", "127.0.0.1", "127.0.0.1:80"])
def test_another_host_gets_nothing(browser: Client, host: str) -> None:
    sign_in(browser)
    answer = browser.get("/", headers={"host": host})
    assert answer.status_code == 421
    assert SECRET not in answer.text
    assert browser.get("/").status_code == 200


def test_without_the_guard_a_rebound_name_would_be_answered(
    dashboard: Dashboard[Finding[HubView]], door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "Guard", lambda app, hosts: app)
    with browse(dashboard, door) as client:
        answer = client.get("/login", headers={"host": "evil.example"})
    assert answer.status_code == 200
    assert SECRET in answer.text
    assert "content-security-policy" not in answer.headers


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"), ("GET", "/login"), ("GET", "/content"), ("GET", "/nothing"),
        ("POST", "/"), ("POST", "/login"), ("GET", "/static/dashboard.css"),
        ("GET", "/language/zh"), ("GET", "/language/xx"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("signed_in", [True, False])
def test_every_answer_bears_the_headers(
    browser: Client, method: str, path: str, signed_in: bool
) -> None:
    if signed_in:
        sign_in(browser)
    answer = browser.request(method, path)
    assert {name: answer.headers[name] for name in guard.HEADERS} == guard.HEADERS
    assert "server" not in answer.headers


def test_the_policy_lets_nothing_in_from_elsewhere() -> None:
    rules = dict(rule.split(" ", 1) for rule in guard.POLICY.split("; "))
    assert rules["default-src"] == rules["frame-ancestors"] == rules["base-uri"] == "'none'"
    assert set(rules.values()) == {"'none'", "'self'"}


@pytest.mark.parametrize(
    "path",
    [
        "/static/../dashboard.json", "/static/..%2f..%2fpages.py", "/static/%2e%2e/pages.py",
        "/static//etc/passwd", "/static/dashboard.css%00.js", "/language/../static/dashboard.js",
        "/static/pages.py", "/..%2fdashboard.json", "/openapi.json", "/docs", "/redoc",
    ],
)  # fmt: skip
def test_no_path_leads_to_a_file(browser: Client, path: str) -> None:
    sign_in(browser)
    answer = browser.get(path)
    assert answer.status_code in {303, 404} or path.endswith("dashboard.js")
    assert "scrypt" not in answer.text
    assert "root:" not in answer.text


def test_only_signing_in_and_out_can_be_posted(
    dashboard: Dashboard[Finding[HubView]], door: Door
) -> None:
    app = make_app(dashboard, door)._app  # type: ignore[attr-defined]
    ways = {(method, route.path) for route in app.routes for method in route.methods}
    assert {path for method, path in ways if method not in {"GET", "HEAD"}} == {"/login", "/logout"}


def test_guesses_cost_more_and_more_time(browser: Client, clock: Clock) -> None:
    for _ in range(3):
        assert sign_in(browser, "wrong").status_code == 403
    waiting = sign_in(browser)
    assert (waiting.status_code, waiting.headers["retry-after"]) == (429, "2")
    clock.now += 2.1
    assert sign_in(browser, "wrong").status_code == 403
    assert sign_in(browser).headers["retry-after"] == "4"
    clock.now += 4.1
    assert sign_in(browser).status_code == 303


def test_the_wait_doubles_up_to_five_minutes_and_is_forgiven(clock: Clock) -> None:
    throttle = Throttle(clock)
    waits = []
    for _ in range(14):
        waits.append(throttle.claim("a"))
        clock.now += throttle.claim("a")
    assert waits == [0.0] * 14
    assert throttle.claim("a") == 0.0
    assert throttle.claim("a") == 300.0
    assert throttle.claim("b") == 0.0
    clock.now += FORGIVEN_AFTER_S + 1
    assert throttle.claim("a") == throttle.claim("a") == 0.0


def test_a_session_ends_after_a_shift_with_a_new_password_and_by_signing_out(
    browser: Client, dashboard: Dashboard[Finding[HubView]], clock: Clock
) -> None:
    sign_in(browser)
    clock.now += LASTS_S + 1
    assert browser.get("/").status_code == 303
    sign_in(browser)
    set_password(dashboard.password_file, PASSWORD, cost=CHEAP)
    assert browser.get("/content").status_code == 401
    sign_in(browser)
    token = browser.cookies["vultus-coordinator-8450-session"]
    proof = browser.get("/").text.split('name="proof" value="')[1].split('"')[0]
    browser.post("/logout", data={"proof": proof})
    browser.cookies.set("vultus-coordinator-8450-session", token)
    assert browser.get("/").status_code == 303


def test_a_form_that_is_too_large_is_not_read(browser: Client) -> None:
    form = {"proof": proof_of(browser), "password": PASSWORD, "more": "x" * 10_000}
    assert browser.post("/login", data=form).status_code == 403


def test_a_password_file_that_is_gone_lets_nobody_in(
    browser: Client, dashboard: Dashboard[Finding[HubView]]
) -> None:
    sign_in(browser)
    dashboard.password_file.unlink()
    assert browser.get("/").status_code == 303
    answer = sign_in(browser)
    assert answer.status_code == 503
    assert "--set-password" in answer.text


def test_something_unexpected_shows_no_detail(
    dashboard: Dashboard[Finding[HubView]], door: Door
) -> None:
    def fail() -> Finding[HubView]:
        message = "a detail of the inside"
        raise AssertionError(message)

    broken = Dashboard(
        "coordinator", SECRET, "server.dashboard", dashboard.password_file, Snapshot(fail)
    )
    app = make_app(broken, door)
    with page_client(app, f"http://{HOST}", raise_server_exceptions=False) as client:
        sign_in(client)
        answer = client.get("/")
        assert answer.status_code == 500
        assert "Something went wrong" in answer.text
        assert "a detail of the inside" not in answer.text
        assert "Traceback" not in answer.text


def test_the_hash_is_scrypt_as_the_standard_has_it() -> None:
    # RFC 7914, section 12: the first 32 of 64 bytes, which PBKDF2's first block gives alone.
    expected = bytes.fromhex("fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162")
    import base64

    kept = Password(
        Cost(1024, 8, 16),
        base64.b64encode(b"NaCl").decode(),
        base64.b64encode(expected).decode(),
    )
    assert kept.matches("password")
    assert not kept.matches("Password")
    assert not kept.matches("x" * 2000)


def test_the_password_file_is_closed_and_holds_no_password(tmp_path: Path) -> None:
    file = tmp_path / "dashboard.json"
    set_password(file, "Übung-macht-Meister", cost=CHEAP)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert b"Meister" not in file.read_bytes()
    first = file.read_bytes()
    set_password(file, "Übung-macht-Meister", cost=CHEAP)
    assert file.read_bytes() != first, "another salt each time"
    assert read_password(file).matches("U\u0308bung-macht-Meister"), "typed as two code points"


def test_real_guesses_are_expensive() -> None:
    cost = Cost()
    assert 128 * cost.n * cost.r >= 128 << 20
    assert len(hashlib.scrypt(b"", salt=b"", n=2, r=1, p=1, dklen=32)) == 32


@pytest.mark.parametrize("weak", ["short", "a" * 40, "abcabcabcabcabc", "x" * 2000])
def test_a_weak_password_is_refused(tmp_path: Path, weak: str) -> None:
    with pytest.raises(InputError, match="password"):
        set_password(tmp_path / "dashboard.json", weak, cost=CHEAP)
    assert not (tmp_path / "dashboard.json").exists()


@pytest.mark.parametrize(("content", "mode"), [(b"{}", 0o600), (None, 0o644)])
def test_a_password_file_that_cannot_be_trusted_is_refused(
    tmp_path: Path, content: bytes | None, mode: int
) -> None:
    file = tmp_path / "dashboard.json"
    set_password(file, PASSWORD, cost=CHEAP)
    if content is not None:
        file.write_bytes(content)
    file.chmod(mode)
    with pytest.raises(InputError, match="--set-password"):
        read_password(file)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate and its key."""
    folder = tmp_path_factory.mktemp("pki")
    issued = CertificateAuthority.create(folder, name="hub").issue_server(["hub.example.org"])
    return issued.certificate, issued.key


def test_other_machines_need_tls_or_a_word(pair: tuple[Path, Path]) -> None:
    open_place = Place("192.0.2.7", 8450)
    with pytest.raises(InputError, match="--tls-certificate"):
        choose_place(open_place, without_tls=False)
    assert choose_place(open_place, without_tls=True).is_open
    assert choose_place(replace(open_place, certificate=pair[0], key=pair[1]), without_tls=False)


def test_everywhere_needs_a_name_that_browsers_use(pair: tuple[Path, Path]) -> None:
    everywhere = Place("0.0.0.0", 443, *pair)
    with pytest.raises(InputError, match="--name"):
        choose_place(everywhere, without_tls=False)
    named = choose_place(replace(everywhere, names=("Hub.example.org",)), without_tls=False)
    assert named.hosts(443)[-2:] == ("hub.example.org:443", "hub.example.org")
    assert "0.0.0.0:443" not in named.hosts(443)


def test_a_pair_that_cannot_be_used_is_refused_before_anything_listens(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    certificate, key = pair
    for wrong, words in (
        ((certificate, None), "together"),
        ((key, key), "unencrypted"),
        ((certificate, tmp_path / "none.pem"), "none.pem"),
        ((certificate, certificate.parent / "ca.crt"), "closed to other accounts"),
    ):
        with pytest.raises(InputError, match=words):
            choose_place(Place("127.0.0.1", 8450, *wrong), without_tls=False)


def test_a_loopback_place_answers_to_its_own_names_alone() -> None:
    place = choose_place(Place("127.0.0.1", 8450), without_tls=False)
    assert set(place.hosts(8450)) == {HOST, "localhost:8450", "[::1]:8450"}
    assert place.url(8450) == f"http://{HOST}/"


def test_a_port_that_is_taken_is_told() -> None:
    with Place("127.0.0.1", 0).bind() as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} to be free"):
            Place("127.0.0.1", port).bind()
