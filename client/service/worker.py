"""The process that answers requests: it holds network and data for as long as the site runs.

It stands in for the engine's SuperExec and its process per request, which would import torch and
read the data anew each time. It also is the second half of the gate: the app is the installed
``client.app``, imported before the first request; a bundle is never unpacked, and its hash is
checked again for every request. When the app fails, the coordinator learns that it failed and no
more; the engine's own process would send the exception's text, which may hold a path or a subject.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode, SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import (
    pull_task_input,
    push_message,
    push_task_output,
)

from client.service.pacing import pace_worker
from client.service.wall import REREAD, identities
from shared_models.pacing import Pace

LONGEST_PAUSE_S = 1.0
"""Between two looks for a request when none has come for long; both are on this machine."""
ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
APP_FAILED = "The site could not answer; its own log says why"
LOST = 76
"""Exit status of a worker whose request the SuperNode took back; it is started again."""
REFUSED = "bundle_not_approved: this site has not approved the bundle of the run"

logger = logging.getLogger("vultus.site")


@dataclass(frozen=True)
class Worker:
    """Answers requests of one SuperNode with one app.

    Attributes:
        app: The installed client app.
        address: The SuperNode's interface on loopback.
        secret: What only the SuperNode and this process know.
        approved: SHA-256 of bundles whose runs are answered.
        current: Whether the files that the app lives on are still those of the start.
        pace: When the SuperNode is asked for requests.
    """

    app: ClientApp
    address: str
    secret: bytes
    approved: frozenset[str]
    current: Callable[[], bool] = lambda: True
    pace: Pace = field(default_factory=lambda: Pace(longest_s=LONGEST_PAUSE_S))

    def serve(self) -> None:
        """Answer one request after another, as long as the site's files are those of the start."""
        tasks = self._client(
            SuperExecAuthHttpInterceptor(
                master_secret=self.secret, protected_methods=frozenset({ACQUIRE})
            )
        )
        request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
        while self.current():
            answer = tasks.AcquireTask(request)
            if answer.HasField("task") and answer.token:
                self._run(answer.token)
                self.pace.note()
            else:
                self.pace.rest()

    def _run(self, token: str) -> None:
        """Take one request, answer it, and tell the SuperNode how it went."""
        client = self._client(RuntimeTokenHttpInterceptor(token))
        heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(client))
        heartbeat.start()
        context: Context | None = None
        status, details = SubStatus.FAILED, APP_FAILED
        try:
            message, context, _, fab = pull_task_input(client)
            reply = self._answer(message, context, fab.content)
            if not reply.has_error():
                status, details = SubStatus.COMPLETED, ""
            push_message(client, reply, context)
        except Exception:  # one failed exchange must not end the site
            logger.exception("A request could not be taken or its answer not be handed over")
        finally:
            push_task_output(client=client, context=context, sub_status=status, details=details)
            heartbeat.stop()
            client.close()

    def _answer(self, message: Message, context: Context, bundle: bytes) -> Message:
        """The app's reply, or an error that tells nothing of the site."""
        if hashlib.sha256(bundle).hexdigest() not in self.approved:
            return Message(Error(ErrorCode.INVALID_FAB, REFUSED), reply_to=message)
        try:
            return self.app(message=message, context=context)
        except Exception:
            logger.exception("The app failed")
            error = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, APP_FAILED)
            return Message(error, reply_to=message)

    def _client(self, interceptor: ProtobufClientInterceptor) -> RuntimeHttpClient:
        return RuntimeHttpClient.from_server_address(
            server_address=self.address,
            insecure=True,
            root_certificates=None,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec"), interceptor],
            retry_invoker=make_simple_http_retry_invoker(),
        )


def main(arguments: list[str]) -> None:
    """Import the app, then serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="worker", description=__doc__)
    parser.add_argument("--runtime-api-address", required=True, help="the SuperNode, host:port")
    parser.add_argument("--secret-file", type=Path, required=True, help="shared with the SuperNode")
    parser.add_argument("--approve", action="append", default=[], help="SHA-256 of a bundle")
    parser.add_argument("--watch", action="append", default=[], type=Path, help="a file to reread")
    options = parser.parse_args(arguments)
    began = identities(options.watch)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _give_up)
    app: ClientApp = importlib.import_module("client.app").app
    pace_worker()
    secret = options.secret_file.read_bytes()
    Worker(
        app,
        options.runtime_api_address,
        secret,
        frozenset(options.approve),
        current=lambda: identities(options.watch) == began,
    ).serve()
    sys.exit(REREAD)


def _leave(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def _give_up(_signal: int, _frame: FrameType | None) -> None:
    """End at once, as SIGKILL would: nothing is owed that is not on disk.

    The engine's client interrupts its own process when the SuperNode no longer knows a request. An
    exception may then leave the lock of its connections held, and whoever tells the SuperNode how
    the request went waits for that lock for ever.
    """
    os.write(2, b"The SuperNode took a request back; this worker ends.\n")
    os._exit(LOST)


if __name__ == "__main__":
    main(sys.argv[1:])
