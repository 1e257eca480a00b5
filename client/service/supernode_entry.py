"""The site's networked process: the engine's SuperNode behind the site's gate.

Started by :mod:`client.service.supernode`; everything after ``--`` goes to the engine.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from pathlib import Path

from client.approval.pending import note_refusal
from client.service.bundle_gate import BundleGate, install_gate
from client.service.ended_runs import drop_ended_requests
from client.service.pacing import pace_supernode
from privacy.audit import AuditLog
from shared_models.pacing import Pace

NOT_AUTHENTIC = ("/v1/fleet/", "401 Unauthorized")
"""What the line of a request holds whose signature the coordinator does not accept."""


def main(arguments: list[str]) -> None:
    """Install the gate, then hand over to the engine for good."""
    options, engine_arguments = _parse(arguments)
    log = AuditLog(options.audit)
    # Before the gate, which stands in for the function that is looked at here.
    drop_ended_requests()
    install_gate(
        BundleGate(
            approved=frozenset(options.approve),
            on_refusal=lambda content: note_refusal(options.audit.parent, log, content),
            on_contact=options.contact.touch,
        )
    )
    pace_supernode(Pace())
    _tell_refusals()
    # Last of all: nothing of the engine runs before the gate stands.
    supernode = importlib.import_module("flwr.supernode.cli.flower_supernode")
    sys.argv = ["flower-supernode", *engine_arguments]
    supernode.flower_supernode()


def _tell_refusals() -> None:
    """Let the log hold that the coordinator refused a signature, as after a wrong clock.

    The engine then ends this process as if it had been asked to, and says nothing of the reason.
    """
    handler = logging.StreamHandler()
    handler.addFilter(lambda record: all(word in record.getMessage() for word in NOT_AUTHENTIC))
    requests = logging.getLogger("httpx")
    requests.setLevel(logging.INFO)
    requests.addHandler(handler)


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    end = arguments.index("--")
    parser = argparse.ArgumentParser(prog="supernode_entry", description=__doc__)
    parser.add_argument("--approve", action="append", default=[], help="SHA-256 of a bundle")
    parser.add_argument("--audit", type=Path, required=True, help="the site's audit log")
    parser.add_argument("--contact", type=Path, required=True, help="touched at each contact")
    return parser.parse_args(arguments[:end]), arguments[end + 1 :]


if __name__ == "__main__":
    main(sys.argv[1:])
