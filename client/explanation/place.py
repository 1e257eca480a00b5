"""Where the explanation of a subject lies, under a name that tells nothing in a listing."""

from __future__ import annotations

import hashlib
from pathlib import Path

from client.site import Site

FOLDER = "explanations"


def page_file(site: Site, subject_id: str) -> Path:
    """The page of a subject: among what the site remembers, and removed with it."""
    digest = hashlib.sha256(subject_id.encode("utf-8", "surrogatepass")).hexdigest()
    return site.paths.state / FOLDER / f"{digest[:24]}.html"


def erase_explanation(site: Site, subject_id: str) -> bool:
    """Delete the page of a subject; False if there was none."""
    path = page_file(site, subject_id)
    existed = path.exists()
    path.unlink(missing_ok=True)
    return existed
