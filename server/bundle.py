"""The bundle that the engine sends to every site: a description of the app, and no code.

Both parties run what is installed on their own machines. A site accepts a bundle only if its hash
stands in its own policy, so the coordinator builds it once, keeps the file, and starts every run
with those very bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

BUNDLE_FILE = "vultus.fab"

RUN_FOLDER = "run-folder"
"""The one setting of a run: where the coordinator keeps it. Sites ignore it."""

DESCRIPTION = """\
[project]
name = "{name}"
version = "{version}"
description = "Federated training of depression severity; holds no code."
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "vultus"
fab-include = ["LICENSE"]

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "{client_app}"

[tool.flwr.app.config]
{settings}
"""

NOTICE = """\
SPDX-License-Identifier: Apache-2.0

This bundle holds no code. It names the modules server.app and client.app of the package vultus,
which coordinator and sites install themselves.
"""


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk.

    Attributes:
        path: The file.
        sha256: Digest of its bytes, hexadecimal; what sites approve.
    """

    path: Path
    sha256: str

    @property
    def content(self) -> bytes:
        """The bytes that travel.

        Raises:
            ValueError: If the file changed since its digest was taken.
        """
        content = self.path.read_bytes()
        if hashlib.sha256(content).hexdigest() != self.sha256:
            msg = f"Expected {self.path} with SHA-256 {self.sha256}, got a file that has changed."
            raise ValueError(msg)
        return content


def describe_app(name: str, *, client_app: str, settings: Sequence[str]) -> str:
    """The ``pyproject.toml`` of a bundle without code.

    Args:
        name: Name of the app.
        client_app: Module and attribute of the client app that is installed at the nodes.
        settings: Keys that a run may set; undeclared ones the engine refuses.
    """
    return DESCRIPTION.format(
        name=name,
        version=version("vultus"),
        client_app=client_app,
        settings="\n".join(f'{key} = ""' for key in settings),
    )


def build_bundle(folder: Path) -> Bundle:
    """The bundle of the installed version, written into a folder.

    The same versions of this package, of the engine and of Python give the same bytes: the engine
    dates every entry alike and sorts them.

    Args:
        folder: Where ``vultus.fab`` is written, replacing an earlier one.
    """
    # The engine's own builder, so that the file is what its command line would have made.
    from flwr.cli.build import build_fab_from_files

    description = describe_app("vultus", client_app="client.app:app", settings=(RUN_FOLDER,))
    content, _ = build_fab_from_files(
        {"pyproject.toml": description.encode(), "LICENSE": NOTICE.encode()}
    )
    path = folder / BUNDLE_FILE
    path.write_bytes(content)
    return Bundle(path, hashlib.sha256(content).hexdigest())


def load_bundle(folder: Path) -> Bundle:
    """The bundle that a folder holds.

    Raises:
        FileNotFoundError: If it holds none.
    """
    path = folder / BUNDLE_FILE
    return Bundle(path, hashlib.sha256(path.read_bytes()).hexdigest())
