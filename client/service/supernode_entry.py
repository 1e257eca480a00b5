"""The site's networked process: the engine's SuperNode behind the site's gate.

Started by :mod:`client.service.supernode`; everything after ``--`` goes to the engine.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from client.approval.pending import note_refusal
from client.service.bundle_gate import BundleGate, install_gate
from client.service.ended_runs import drop_ended_requests
from client.service.pacing import pace_supernode
from privacy.audit import AuditLog
from shared_models.pacing import Pace

FAILED = 1
logger = logging.getLogger("vultus.site")

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
    end_with(supernode.flower_supernode)


def end_with(serve: Callable[[], None]) -> NoReturn:
    """End this process with what it serves, whatever threads are left.

    An answer that the engine does not expect, such as a 500 of a coordinator whose disk is full,
    ends its loop by an exception. Its other threads would go on: the site would look alive, be
    counted as online, and never ask for a message again. Ended, it is started again.
    """
    status = FAILED
    try:
        serve()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else FAILED
    except Exception:
        logger.exception("The engine's loop ended; this process is started again")
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


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
