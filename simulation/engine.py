"""Runs unmodified Flower apps in this process, or spread over forked workers.

No SuperLink, no Ray: the grid hands each message straight to the client app. A round costs the
apps' own work and next to nothing else, and the same apps run unchanged on real sites.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess

from flwr.app import Context, Error, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from simulation.array_codec import quick_arrays

ReplyHook = Callable[[Message], None]

_SERVER_NODE_ID = 1
_FIRST_NODE_ID = 2
_FIT_FOR_TRAINING = {-3: 1 << 30, -1: 2**31 - 1, -2: 64 << 20}
"""glibc's M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD: keep freed pages for the next step."""


@dataclass(frozen=True)
class Nodes:
    """The client side of a simulated federation.

    Attributes:
        app: The client app that every node runs.
        contexts: Context of each node by node id, kept from message to message.
    """

    app: ClientApp
    contexts: Mapping[int, Context]

    def answer(self, message: Message) -> Message:
        """The node's reply; an exception of the app becomes an error reply, as on a real site."""
        node = message.metadata.dst_node_id
        context = self.contexts[node]
        TaskIdentity.node_id = node
        try:
            return self.app(message, context)
        except Exception as error:  # noqa: BLE001 - whatever the app raises is its answer
            reason = f"{type(error).__name__}: {error}"
            code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
            return Message(Error(code=code, reason=reason), reply_to=message)
        finally:
            TaskIdentity.node_id = _SERVER_NODE_ID


class InProcessGrid(Grid):
    """A grid whose nodes live in this process or in forked workers.

    Args:
        nodes: The client side.
        run: What Flower's apps may ask about the run.
        workers: Connections to worker processes; empty to answer in this process.
        on_reply: Called with each reply as it arrives.
    """

    def __init__(
        self,
        nodes: Nodes,
        run: Run,
        *,
        workers: tuple[Connection, ...] = (),
        on_reply: ReplyHook | None = None,
    ) -> None:
        self._nodes = nodes
        self._run = run
        self._workers = workers
        self._on_reply = on_reply
        self._sent: dict[str, Message] = {}
        self._count = 0

    def set_run(self, run: Run) -> None:
        """Replace what is known of the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """What is known of the run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to a node."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Ids of all nodes; every one is always connected."""
        return list(self._nodes.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take messages to be answered on :meth:`pull_messages`."""
        ids = []
        for message in messages:
            self._count += 1
            # Flower's SuperLink sets the id in the same way: the property has no setter.
            message.metadata.__dict__["_message_id"] = str(self._count)
            self._sent[str(self._count)] = message
            ids.append(str(self._count))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to messages that were pushed, in the order of the messages."""
        pending = [self._sent.pop(message_id) for message_id in message_ids]
        answers = self._answer_in_workers(pending) if self._workers else map(self._answer, pending)
        return list(answers)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push messages and pull their replies; nothing here can be late."""
        del timeout
        return self.pull_messages(self.push_messages(messages))

    def _answer(self, message: Message) -> Message:
        reply = self._nodes.answer(message)
        if self._on_reply:
            self._on_reply(reply)
        return reply

    def _answer_in_workers(self, pending: list[Message]) -> list[Message]:
        """Every node has its worker, which keeps its data; one message at a time a worker."""
        queues: dict[Connection, list[tuple[int, Message]]] = {c: [] for c in self._workers}
        for position, message in enumerate(pending):
            owner = (message.metadata.dst_node_id - _FIRST_NODE_ID) % len(self._workers)
            queues[self._workers[owner]].append((position, message))
        replies: dict[int, Message] = {}
        busy: dict[Connection, int] = {}

        def send_next(worker: Connection) -> None:
            if queues[worker]:
                busy[worker], message = queues[worker].pop(0)
                worker.send_bytes(message_to_proto(message).SerializeToString())

        for worker in self._workers:
            send_next(worker)
        while busy:
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)  # noqa: S101 - wait returns what it was given
                reply = message_from_proto(ProtoMessage.FromString(ready.recv_bytes()))
                replies[busy.pop(ready)] = reply
                send_next(ready)
                if self._on_reply:
                    self._on_reply(reply)
        return [replies[position] for position in range(len(pending))]


def run_in_process(  # noqa: PLR0913 - two apps, their configurations, and how to run them
    server_app: ServerApp,
    client_app: ClientApp,
    *,
    node_configs: Iterable[UserConfig],
    run_config: UserConfig,
    workers: int = 1,
    on_reply: ReplyHook | None = None,
) -> None:
    """Run a server app against a node for each configuration, to its end.

    The result does not depend on the number of workers: each uses one thread, and replies keep
    the order of the messages.

    Args:
        server_app: The coordinator's app.
        client_app: The sites' app.
        node_configs: One a node.
        run_config: What both apps read from ``context.run_config``.
        workers: Processes that answer messages; 1 answers in this process.
        on_reply: Called with each reply as it arrives.

    Raises:
        Exception: Whatever the server app raises.
    """
    run_id = 1
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, run_id, _SERVER_NODE_ID
    contexts = {
        node: Context(run_id, node, config, RecordDict(), run_config)
        for node, config in enumerate(node_configs, start=_FIRST_NODE_ID)
    }
    _keep_freed_memory()
    nodes = Nodes(client_app, contexts)
    with _quiet_engine(), _one_thread(), quick_arrays(), _forked(nodes, workers) as connections:
        grid = InProcessGrid(
            nodes, Run.create_empty(run_id), workers=connections, on_reply=on_reply
        )
        server_app(grid, Context(run_id, _SERVER_NODE_ID, {}, RecordDict(), run_config))


def on_answers(message_type: str, tell: Callable[[], None]) -> ReplyHook:
    """A hook that is called with each reply and tells of those to one type of message."""

    def on_reply(reply: Message) -> None:
        if reply.metadata.message_type == message_type:
            tell()

    return on_reply


@contextmanager
def _forked(nodes: Nodes, workers: int) -> Iterator[tuple[Connection, ...]]:
    """Worker processes that inherit the apps and contexts; ended on the way out."""
    if workers <= 1:
        yield ()
        return
    fork = multiprocessing.get_context("fork")
    pairs = [fork.Pipe() for _ in range(workers)]
    processes: list[ForkProcess] = []
    for index, (_, theirs) in enumerate(pairs):
        others = [end for i, pair in enumerate(pairs) for end in pair if end is not pairs[index][1]]
        process = fork.Process(target=_work, args=(nodes, theirs, others), daemon=True)
        process.start()
        processes.append(process)
    for _, theirs in pairs:
        theirs.close()
    try:
        yield tuple(ours for ours, _ in pairs)
    finally:
        for ours, _ in pairs:
            ours.close()
        for process in processes:
            process.join()


def _work(nodes: Nodes, connection: Connection, others: list[Connection]) -> None:
    """Answer messages until the other end closes."""
    for end in others:
        # A copy of the parent's end would keep this loop alive after the parent is gone.
        end.close()
    while True:
        try:
            message = message_from_proto(ProtoMessage.FromString(connection.recv_bytes()))
        except (EOFError, KeyboardInterrupt):
            return
        connection.send_bytes(message_to_proto(nodes.answer(message)).SerializeToString())


@contextmanager
def _quiet_engine() -> Iterator[None]:
    """Flower tells each step of a strategy on the terminal; a simulation shows a progress bar."""
    engine = logging.getLogger("flwr")
    before = engine.level
    engine.setLevel(logging.WARNING)
    try:
        yield
    finally:
        engine.setLevel(before)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One torch thread: small networks gain nothing from more, and sums keep their order.

    Apps that do without torch are not made to wait for its import.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _keep_freed_memory() -> None:
    """Let glibc keep what a training step frees: page faults cost a quarter of small steps."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in _FIT_FOR_TRAINING.items():
            mallopt(parameter, value)
