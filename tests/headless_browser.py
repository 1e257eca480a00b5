"""A real Chromium without a window: pages as people see them."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
STARTS_WITHIN_S = 60.0
PHONE = (360, 740)
DESKTOP = (1280, 900)


def find_browser() -> str | None:
    """The first Chromium on this machine."""
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


class Page:
    """One tab."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self.requested: list[str] = []
        self.complaints: list[str] = []
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Answer of one command; what happens meanwhile is noted."""
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            told = json.loads(self._connection.recv(timeout=120))
            if told.get("id") == number:
                if "error" in told:
                    msg = f"{method}: {told['error']['message']}"
                    raise RuntimeError(msg)
                return told["result"]
            self._note(told)

    def open(self, url: str) -> None:
        """Load an address and wait until it is there."""
        self.call("Page.navigate", url=url)
        self.settle()

    def settle(self) -> None:
        """Wait until nothing is being loaded."""
        for _ in range(300):
            time.sleep(0.05)
            if self.run("document.readyState") == "complete":
                return
        raise TimeoutError(self.run("location.href"))

    def run(self, expression: str) -> Any:
        """Value of a JavaScript expression on the page."""
        told = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in told:
            raise RuntimeError(told["exceptionDetails"])
        return told["result"].get("value")

    def size(self, width: int, height: int) -> None:
        """Be a window of this size; a narrow one is a phone."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip

    def sign_in(self, password: str) -> None:
        """Fill in the login form by keyboard."""
        self.run("document.getElementById('password').focus()")
        self.call("Input.insertText", text=password)
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r",
                windowsVirtualKeyCode=13,
            )  # fmt: skip
        time.sleep(0.3)
        self.settle()

    def await_text(self, text: str, *, within_s: float = 30.0) -> None:
        """Wait until the page says something."""
        deadline = time.monotonic() + within_s
        while text not in self.run("document.body.innerText"):
            if time.monotonic() > deadline:
                raise TimeoutError(text)
            time.sleep(0.2)

    def picture(self, file: Path, *, whole: bool = True) -> Path:
        """What the page looks like, as a PNG."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(shot["data"]))
        return file

    def _note(self, told: dict[str, Any]) -> None:
        params = told.get("params", {})
        if told.get("method") == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])
        if told.get("method") == "Log.entryAdded":
            self.complaints.append(params["entry"]["text"])
        if told.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"].get("exception", params)))


@contextmanager
def open_browser(program: str) -> Iterator[Page]:
    """A browser with one tab, ended with the context."""
    from websockets.sync.client import connect

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [
                program, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
                "--disable-background-networking", "--remote-debugging-port=0",
                f"--user-data-dir={profile}", "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            address = _address(Path(profile))
            # A busy machine may be late with its signs of life.
            with connect(address, max_size=None, ping_interval=None) as connection:
                yield Page(connection)
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _address(profile: Path) -> str:
    """Where the first tab listens."""
    file = profile / "DevToolsActivePort"
    deadline = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < deadline:
        if file.exists() and (lines := file.read_text().split()):
            with urllib.request.urlopen(f"http://127.0.0.1:{lines[0]}/json/list") as answer:
                tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
            if tabs:
                return str(tabs[0]["webSocketDebuggerUrl"])
        time.sleep(0.1)
    msg = "Expected Chromium to listen, got nothing."
    raise TimeoutError(msg)
