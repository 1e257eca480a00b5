"""The process that runs a server app, behind a gate: no bundle but ours, no folder but ours.

Whoever reaches the engine's port on loopback can start a run with a bundle and a folder of their
choice, and the engine would unpack and run that as the coordinator. Here the bundle's bytes are
compared with the coordinator's own before they are unpacked, and the folder of the run has to lie
among its runs.

**Guarantees.** Of a bundle with other bytes nothing is unpacked, read as configuration or imported;
the run fails with the reason. The gate replaces private names of the engine, so it first compares
the source that uses them with the one it was written for and refuses to run any other.

The token of the task comes through standard input: on a command line every account could read it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from types import ModuleType
from typing import TYPE_CHECKING

from server.bundle import RUN_FOLDER

if TYPE_CHECKING:
    from flwr.app import Context

# Imported by name: the package hides the module behind the function of the same name.
ENGINE_MODULE = "flwr.superlink.runtime.run_serverapp"
GATED_SOURCE = "2cf00cc3bc7ef87c52d78be204a566aec13007e7a17625ea48c31f2dff6fe8ea"
"""SHA-256 of the source of ``run_serverapp``, flwr 1.41."""
GATED_NAMES = ("install_from_fab", "run_")


class GateError(RuntimeError):
    """The engine is not the one that the gate was written for."""


class RefusedAppError(Exception):
    """A bundle or a folder that is not the coordinator's own; the engine keeps the reason."""


@dataclass(frozen=True)
class AppGate:
    """What may run.

    Attributes:
        bundle: File of the coordinator's own bundle.
        runs: The folder in which every run has its own.
    """

    bundle: Path
    runs: Path

    def check_bundle(self, content: bytes) -> None:
        """Refuse other bytes than those of the coordinator's own bundle.

        Raises:
            RefusedAppError: If they differ, with both digests.
        """
        digest = hashlib.sha256(content).hexdigest()
        approved = hashlib.sha256(self.bundle.read_bytes()).hexdigest()
        if digest != approved:
            msg = (
                f"bundle_not_approved: expected the coordinator's own bundle {approved}, got "
                f"{digest}; nothing of it was run"
            )
            raise RefusedAppError(msg)

    def check_folder(self, folder: str) -> None:
        """Refuse a folder that ``vultus-coordinator run`` did not make.

        Raises:
            RefusedAppError: If it does not lie among the coordinator's runs.
        """
        if Path(folder).resolve().parent != self.runs.resolve():
            msg = f"run_folder_not_approved: expected a folder in {self.runs}, got {folder!r}"
            raise RefusedAppError(msg)


def install_gate(gate: AppGate) -> Callable[..., None]:
    """The engine's own function that conducts a run, with the gate in it.

    Raises:
        GateError: If it differs from that of flwr 1.41.
    """
    engine = importlib.import_module(ENGINE_MODULE)
    _refuse_unknown(engine)
    unpack, conduct = engine.install_from_fab, engine.run_

    def gated_unpack(content: bytes, **others: object) -> object:
        gate.check_bundle(content)
        return unpack(content, **others)

    def gated_conduct(*, context: Context, **others: object) -> Context:
        gate.check_folder(str(context.run_config[RUN_FOLDER]))
        conducted: Context = conduct(context=context, **others)
        return conducted

    engine.install_from_fab, engine.run_ = gated_unpack, gated_conduct  # type: ignore[attr-defined]
    run: Callable[..., None] = engine.run_serverapp
    return run


def _refuse_unknown(engine: ModuleType) -> None:
    function = getattr(engine, "run_serverapp", None)
    source = inspect.getsource(function) if inspect.isfunction(function) else ""
    missing = [name for name in GATED_NAMES if not callable(getattr(engine, name, None))]
    if missing or hashlib.sha256(source.encode()).hexdigest() != GATED_SOURCE:
        msg = (
            f"Expected run_serverapp of {ENGINE_MODULE} as in flwr 1.41, got other code. No run is "
            "started, because the gate against foreign bundles might not hold: install the "
            "version of flwr that vultus names."
        )
        raise GateError(msg)


def main(arguments: list[str]) -> None:
    """Take the token, then conduct one run behind the gate."""
    parser = argparse.ArgumentParser(prog="app_gate", description=__doc__)
    parser.add_argument("--runtime-api-address", required=True, help="the engine, host:port")
    parser.add_argument("--root-certificates", type=Path, required=True, help="verify it with")
    parser.add_argument("--bundle", type=Path, required=True, help="the coordinator's own")
    parser.add_argument("--runs", type=Path, required=True, help="folder of all runs")
    parser.add_argument("--parent-pid", type=int, required=True, help="ends when that one ends")
    options = parser.parse_args(arguments)
    run_serverapp = install_gate(AppGate(options.bundle, options.runs))
    run_serverapp(
        runtime_api_address=options.runtime_api_address,
        # What the app says goes to this process's output, not into the engine's database.
        log_queue=Queue(),
        token=sys.stdin.readline().strip(),
        insecure=False,
        certificates=options.root_certificates.read_bytes(),
        parent_pid=options.parent_pid,
        runtime_dependency_install=False,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
