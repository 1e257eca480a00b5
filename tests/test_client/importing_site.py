"""A site to import into, and the command from outside."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from agreed_study import STUDY
from click.testing import Result
from typer.testing import CliRunner

from client.cli import app
from client.site import Site, init_site, open_site


def make_site(folder: Path, *, settings: str = "", videos: tuple[str, ...] = ()) -> Site:
    study = folder / "study.toml"
    study.write_text(STUDY)
    site = init_site(folder / "site", site_id="north", consortium_file=study)
    site.config_file.write_text(site.config_file.read_text() + settings)
    for name in videos:
        (site.folder / "videos" / name).write_bytes(b"video of " + name.encode())
    return open_site(site.folder)


def run(site: Site, *words: object) -> tuple[Result, dict]:
    command = ["import", str(site.folder), *map(str, words), "--json"]
    result = CliRunner().invoke(app, command)
    lines = result.stdout.strip().splitlines()
    return result, json.loads(lines[-1]) if lines else {}


def table(site: Site) -> dict[str, dict[str, str]]:
    with site.paths.recordings.open(newline="") as file:
        return {row["recording_id"]: row for row in csv.DictReader(file)}


def places(answer: dict) -> set[tuple[str, int, str]]:
    return {(one["file"], one["line"], one["column"]) for one in answer["faults"]}
