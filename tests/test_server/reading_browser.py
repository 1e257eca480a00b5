"""A real browser that reads a page as its file is, policy included, and tells what it found.

The page is put unchanged into a frame of a chosen width; a program outside the frame looks at it.
"""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--hide-scrollbars", "--force-color-profile=srgb",
)  # fmt: skip
needs_browser = pytest.mark.skipif(not BROWSER, reason="no Chromium here (apt install chromium)")
NARROWEST_PX = 360

LOOK = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")


def read_page(page: str, folder: Path, *, width_px: int = NARROWEST_PX, dark: bool = False):
    """What the browser found in a page at a width."""
    outside = folder / "outside.html"
    outside.write_text(
        '<!DOCTYPE html><html><meta charset="utf-8"><body><pre id="found"></pre>'
        f'<iframe style="border:0;width:{width_px}px;height:900px" srcdoc="{html.escape(page)}">'
        f"</iframe><script>{LOOK}</script></body></html>",
        encoding="utf-8",
    )
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    done = browse(folder, *scheme, "--virtual-time-budget=20000", "--dump-dom", outside.as_uri())
    found = re.search(r'<pre id="found">(.*?)</pre>', done, re.DOTALL)
    assert found, done[-500:]
    assert found[1], "the page did not load"
    return json.loads(html.unescape(found[1]))


def browse(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [BROWSER, *OPTIONS, f"--user-data-dir={folder / 'profile'}", *arguments],
        capture_output=True, text=True, encoding="utf-8", timeout=120, check=True,
    )  # fmt: skip
    return done.stdout
