"""What the coordinator asks of the engine: keys, connected nodes, runs.

The only file of the command line that speaks the engine's control protocol. It uses the client of
the engine's own command line, because that program exits with 0 whatever happens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from shared_models.console import CommandError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from flwr.proto.node_pb2 import NodeInfo
    from flwr.supercore.control import ControlHttpClient

T = TypeVar("T")

ONLINE = "online"
KEY_IN_USE = 23
FINISHED = "finished"


class EngineError(CommandError):
    """The engine did not do what it was asked, in its own words."""


class NotRunningError(CommandError):
    """Nothing answers where the coordinator's engine should listen."""


@dataclass(frozen=True)
class Node:
    """A site's connection as the engine sees it.

    Attributes:
        node_id: The engine's number for it.
        public_key: The key it is registered with, PEM.
        state: registered (never seen), online, or offline.
        last_seen_s: Seconds since its last sign of life; None if there was none.
    """

    node_id: int
    public_key: bytes
    state: str
    last_seen_s: float | None


@dataclass(frozen=True)
class RunState:
    """How far the engine says a run is.

    Attributes:
        run_id: The engine's number for it.
        status: pending, starting, running or finished.
        outcome: completed, failed or stopped once it is finished, else empty.
        details: The engine's reason for a failure.
    """

    run_id: int
    status: str
    outcome: str
    details: str

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        return self.status == FINISHED


class Engine:
    """The engine's control interface at one address.

    Args:
        address: ``host:port`` on this machine.
        ca_certificate: The consortium's authority.
    """

    def __init__(self, address: str, *, ca_certificate: Path) -> None:
        self._address = address
        self._ca = ca_certificate

    def is_up(self) -> bool:
        """Whether the engine answers its health check."""
        import ssl

        import httpx

        trust = ssl.create_default_context(cafile=str(self._ca))
        try:
            with httpx.Client(verify=trust, trust_env=False, timeout=3.0) as client:
                return client.get(f"https://{self._address}/health").is_success
        except httpx.HTTPError:
            return False

    def register(self, public_key: bytes, *, name: str) -> bool:
        """Let the holder of a key connect; False if it could already.

        Args:
            public_key: EC public key, PEM.
            name: The site's id.
        """
        from flwr.proto.control_pb2 import RegisterNodeRequest

        request = RegisterNodeRequest(public_key=public_key, name=name)
        try:
            self._call(lambda client: client.RegisterNode(request))
        except _CodedError as error:
            if error.code == KEY_IN_USE:
                return False
            raise
        return True

    def unregister(self, node_id: int) -> None:
        """Disconnect a node for good; its key is not accepted again."""
        from flwr.proto.control_pb2 import UnregisterNodeRequest

        self._call(lambda client: client.UnregisterNode(UnregisterNodeRequest(node_id=node_id)))

    def nodes(self) -> Sequence[Node]:
        """Every registered node."""
        from flwr.proto.control_pb2 import ListNodesRequest

        answer = self._call(lambda client: client.ListNodes(ListNodesRequest()))
        return [_node(info) for info in answer.nodes_info if info.status != "unregistered"]

    def start_run(self, bundle: bytes, sha256: str, *, config: Mapping[str, str]) -> int:
        """Start a run with exactly these bytes; its number.

        Args:
            bundle: The bundle that sites have approved.
            sha256: Its digest.
            config: Values of keys that the bundle declares.
        """
        from flwr.common.serde import fab_to_proto, user_config_to_proto
        from flwr.proto.control_pb2 import StartRunRequest
        from flwr.supercore.fab import Fab

        request = StartRunRequest(
            fab=fab_to_proto(Fab(sha256, bundle, {})),
            override_config=user_config_to_proto(dict(config)),
        )
        answer = self._call(lambda client: client.StartRun(request))
        if not answer.HasField("run_id"):
            msg = "Expected the engine to start a run, got no run: see logs/superlink.log."
            raise EngineError(msg)
        return int(answer.run_id)

    def run_state(self, run_id: int) -> RunState:
        """How far a run is."""
        from flwr.proto.control_pb2 import ListRunsRequest

        answer = self._call(lambda client: client.ListRuns(ListRunsRequest(run_id=run_id)))
        if run_id not in answer.run_dict:
            msg = f"Expected run {run_id} in the engine's database, got none of that number."
            raise EngineError(msg)
        status = answer.run_dict[run_id].status
        return RunState(run_id, status.status, status.sub_status, status.details)

    def stop_run(self, run_id: int) -> None:
        """End a run that is under way."""
        from flwr.proto.control_pb2 import StopRunRequest

        self._call(lambda client: client.StopRun(StopRunRequest(run_id=run_id)))

    def _call(self, ask: Callable[[ControlHttpClient], T]) -> T:
        with self._client() as client, _translated(self._address):
            return ask(client)

    @contextmanager
    def _client(self) -> Iterator[ControlHttpClient]:
        from flwr.supercore.control import ControlHttpClient
        from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

        client = ControlHttpClient.from_server_address(
            self._address,
            insecure=False,
            root_certificates=self._ca.read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
        )
        try:
            yield client
        finally:
            client.close()


class _CodedError(EngineError):
    """A refusal with a code of the engine's catalogue."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@contextmanager
def _translated(address: str) -> Iterator[None]:
    """The client's exceptions as ours: silence, or a refusal with its reason."""
    import httpx
    from flwr.supercore.error import FlowerError

    try:
        yield
    except httpx.HTTPStatusError as error:
        known = FlowerError.from_json(error.response.text)
        code, reason = (known.code, known.message) if known else (0, error.response.text[:200])
        msg = f"Expected the engine to agree, got: {reason} (status {error.response.status_code})."
        raise _CodedError(code, msg) from error
    except httpx.HTTPError as error:
        msg = (
            f"Expected the coordinator to answer at {address}, got: {error}. "
            "Start it with 'vultus-coordinator start DIR' in another terminal."
        )
        raise NotRunningError(msg) from error


def _node(info: NodeInfo) -> Node:
    return Node(info.node_id, info.public_key, info.status, _last_seen_s(info))


def _last_seen_s(info: NodeInfo) -> float | None:
    """While a node is online, ``online_until`` lies two heartbeat intervals after its last one."""
    from flwr.common.constant import HEARTBEAT_PATIENCE

    if info.status == ONLINE:
        seen = info.online_until - HEARTBEAT_PATIENCE * info.heartbeat_interval
    elif info.last_deactivated_at:
        seen = datetime.fromisoformat(info.last_deactivated_at).timestamp()
    else:
        return None
    return max(0.0, time.time() - seen)
