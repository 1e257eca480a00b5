"""Peak memory of the coordinator's server app, by number of sites and of parameters.

    python benchmarks/coordinator_memory.py [--sites 2 10 50] [--parameters 60000 1000000 25000000]

The server app runs in a process of its own, on the engine's own connection, whose requests go
through a pipe to this process: it plays the engine's server and the sites, which all answer at
once. The rival is what cannot be gone below: the same process before the run, plus one copy each of
weights, velocity, average and network.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import multiprocessing
import re
import sys
import tempfile
import threading
import time
from dataclasses import replace
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto import message_pb2, runtime_pb2
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_body,
    get_object_tree,
    iterate_object_tree,
)

from privacy.keys import public_line, sign
from privacy.secure_sum import exchange_key, exchange_statement, public_bytes
from server.signing import ready_signing_key
from server.study_file import render_study
from shared_models.consortium import (
    ConsortiumConfig,
    CoordinatorConfig,
    FairnessConfig,
    NetworkConfig,
    PrivacyConfig,
    StudyConfig,
    TrainingConfig,
    load_consortium,
)
from shared_models.features import BEHAVIOUR
from shared_models.messages import Anchor, HelloRequest, SiteHello, anchor_statement
from shared_models.messages import hello_statement as statement_of
from shared_models.records import attach_anchor, encode_reply
from shared_models.roster import SiteEntry

ANSWERS = {
    "GetNodes": runtime_pb2.GetNodesResponse,
    "PushMessages": runtime_pb2.PushAppMessagesResponse,
    "PullMessages": runtime_pb2.PullAppMessagesResponse,
    "PushObject": message_pb2.PushObjectResponse,
    "PullObject": message_pb2.PullObjectResponse,
    "ConfirmMessageReceived": message_pb2.ConfirmMessageReceivedResponse,
}
QUESTIONS = {
    "GetNodes": runtime_pb2.GetNodesRequest,
    "PushMessages": runtime_pb2.PushAppMessagesRequest,
    "PullMessages": runtime_pb2.PullAppMessagesRequest,
    "PushObject": message_pb2.PushObjectRequest,
    "PullObject": message_pb2.PullObjectRequest,
    "ConfirmMessageReceived": message_pb2.ConfirmMessageReceivedRequest,
}
RUN_ID = "1"
FIRST_NODE = 2


class PipeClient:
    """What the engine's connection takes for its HTTP client."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def __getattr__(self, method: str):
        def ask(request):
            with self._lock:
                self._pipe.send((method, request.SerializeToString()))
                return ANSWERS[method].FromString(self._pipe.recv_bytes())

        return ask


def channels_for(parameters: int) -> tuple[int, int, int]:
    """Widths with which the study's network has about so many parameters."""
    features = len(BEHAVIOUR.features)
    width = (-10 * features + math.sqrt((10 * features) ** 2 + 40 * parameters)) / 20
    return (max(8, 8 * round(width / 8)),) * 3


def conduct(pipe: Connection, folder: Path, parameters: int) -> None:
    """In a process of its own: the run, and its memory before and at its peak."""
    from flwr.supercore.run import Run
    from flwr.supercore.task_identity import TaskIdentity
    from flwr.superlink.grid.http_grid import HttpGrid

    from server.app import conduct_run
    from shared_models.networks import NETWORKS, BehaviourNet

    channels = channels_for(parameters)
    NETWORKS["behaviour_net"] = lambda _size, features: BehaviourNet(features, channels)
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, int(RUN_ID), 1
    grid = HttpGrid(insecure=True, token="none")
    grid.set_run(Run.create_empty(int(RUN_ID)))
    vars(grid)["_client"] = PipeClient(pipe)
    before, started = peak_mib(), time.monotonic()
    report = conduct_run(grid, folder, run_id=RUN_ID)
    counted = report.rounds[-1].participants
    pipe.send(("done", (before, peak_mib(), time.monotonic() - started, len(counted))))


def peak_mib() -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024


class PlayedEngine:
    """Server and sites: keeps what was asked, and one answer that all sites share."""

    def __init__(self, folder: Path, sites: int, *, mode: str, rounds: int) -> None:
        names = [f"site-{index:02d}" for index in range(sites)]
        self.keys = {name: ec.generate_private_key(ec.SECP384R1()) for name in names}
        self.nodes = dict(enumerate(names, start=FIRST_NODE))
        self.folder = folder / "run"
        self.folder.mkdir(parents=True)
        config = ConsortiumConfig(
            study=StudyConfig("memory", "phq9"),
            network=NetworkConfig(trainable="all"),
            training=TrainingConfig(rounds=rounds, quorum=sites, evaluate_every=rounds),
            privacy=PrivacyConfig(mode=mode, target_epsilon=3.0),
            fairness=FairnessConfig(),
            coordinator=CoordinatorConfig(ready_signing_key(folder)),
            sites=tuple(SiteEntry(n, 100, public_line(k)) for n, k in self.keys.items()),
        )
        (self.folder / "consortium.toml").write_text(render_study(config))
        self.consortium = load_consortium(self.folder / "consortium.toml")
        self.objects: dict[str, bytes] = {}
        self.asked: dict[str, message_pb2.Message] = {}
        self.trees: dict[str, message_pb2.ObjectTree] = {}
        self.topic: tuple[str, str] | None = None
        self.shared: ArrayRecord | None = None

    def answer(self, method: str, request):
        return getattr(self, f"on_{method}")(request)

    def on_GetNodes(self, _):  # noqa: N802 - the engine's names
        nodes = [NodeInfo(node_id=node) for node in self.nodes]
        return runtime_pb2.GetNodesResponse(nodes=nodes)

    def on_PushMessages(self, request):  # noqa: N802
        wanted: set[str] = set()
        for message, tree in zip(request.messages_list, request.message_object_trees, strict=True):
            topic = (message.metadata.message_type, message.metadata.group_id)
            if topic != self.topic:
                self.topic, self.shared = topic, None
                self.objects.clear()
            self.asked[message.metadata.message_id] = message
            self.trees[message.metadata.message_id] = tree
            wanted |= {part.object_id for part in iterate_object_tree(tree)}
        return runtime_pb2.PushAppMessagesResponse(
            message_ids=[message.metadata.message_id for message in request.messages_list],
            objects_to_push=sorted(wanted - self.objects.keys()),
            session_id="session",
        )

    def on_PushObject(self, request):  # noqa: N802
        self.objects[request.object_id] = request.object_content
        return message_pb2.PushObjectResponse(stored=True)

    def on_PullMessages(self, request):  # noqa: N802
        replies, trees = [], []
        for message_id in request.message_ids:
            if message_id in self.asked:
                reply = self.reply(message_from_proto(self.asked.pop(message_id)), message_id)
                reply.metadata.__dict__["_message_id"] = reply.object_id
                for object_id, part in get_all_nested_objects(reply).items():
                    if object_id not in self.objects:
                        self.objects[object_id] = part.deflate()
                replies.append(message_to_proto(remove_content_from_message(reply)))
                trees.append(get_object_tree(reply))
        return runtime_pb2.PullAppMessagesResponse(
            messages_list=replies, message_object_trees=trees
        )

    def on_PullObject(self, request):  # noqa: N802
        content = self.objects.get(request.object_id)
        return message_pb2.PullObjectResponse(
            object_found=content is not None,
            object_available=content is not None,
            object_content=content or b"",
        )

    def on_ConfirmMessageReceived(self, _):  # noqa: N802
        return message_pb2.ConfirmMessageReceivedResponse()

    def reply(self, message: Message, message_id: str) -> Message:
        site = self.nodes[message.metadata.dst_node_id]
        records = self.records(message_id)
        header = self.config_record(records["request"])
        if message.metadata.message_type.startswith("query"):
            content = self.hello(site, header, message.metadata.dst_node_id)
        else:
            content = self.step(site, message.metadata.message_type, header)
        return Message(content, reply_to=message)

    def hello(self, site: str, header: dict, node: int) -> RecordDict:
        fields = {name: header[name] for name in header if name in ("run_id", "nonce", "roster")}
        question, digest = HelloRequest(**fields), self.consortium.digest
        public = public_bytes(exchange_key(hashlib.sha256(site.encode()).digest(), RUN_ID))
        claim = statement_of(question, node_id=node, site_id=site)
        own = exchange_statement(RUN_ID, site, public)
        key = self.keys[site]
        return encode_reply(
            SiteHello(site, digest, version("vultus"), sign(key, claim), public, sign(key, own))
        )

    def step(self, site: str, kind: str, header: dict) -> RecordDict:
        distributed = self.consortium.config.privacy.mode == "distributed"
        if self.shared is None:
            self.shared = (
                self.tallies(header["server_round"], masked=distributed)
                if kind == "evaluate"
                else self.update(header["weights_form"], masked=distributed)
            )
        fields = {name: header[name] for name in ("server_round", "base_digest")}
        fields |= {"site_id": site, "epsilon_spent": 1.0}
        if distributed:
            fields["attempt"] = header["attempt"]
        content = RecordDict({"reply": ConfigRecord(fields), "arrays": self.shared})
        anchor = Anchor(1, "row", 1, "entry")
        signature = sign(self.keys[site], anchor_statement(anchor, site_id=site))
        attach_anchor(content, replace(anchor, signature=signature))
        return content

    def update(self, form: str, *, masked: bool) -> ArrayRecord:
        """Noise of the model's form, or of the ring's."""
        rng = np.random.default_rng(1)
        shapes = {name: tuple(shape) for name, _, shape in json.loads(form)}
        if masked:
            size = sum(math.prod(shape) for shape in shapes.values())
            return ring(rng, size)
        noise = {
            n: rng.standard_normal(s, np.float32) * np.float32(1e-4) for n, s in shapes.items()
        }
        return ArrayRecord(
            {n: Array("float32", part.shape, "raw", part.tobytes()) for n, part in noise.items()}
        )

    def tallies(self, server_round: int, *, masked: bool) -> ArrayRecord:
        cells = len(list(self.consortium.config.tally_groups(server_round)))
        columns = 2 * self.consortium.config.fairness.bins + 3
        if masked:
            return ring(np.random.default_rng(2), cells * columns)
        table = np.full((cells, columns), 5.0)
        return ArrayRecord({"tallies": Array("float64", table.shape, "raw", table.tobytes())})

    def records(self, message_id: str) -> dict[str, str]:
        """Object ids of a pushed message's records, by name."""
        [content] = [
            self.objects[child.object_id]
            for child in self.trees.pop(message_id).children
            if self.objects[child.object_id].startswith(b"RecordDict")
        ]
        return json.loads(get_object_body(content, RecordDict))

    def config_record(self, object_id: str) -> dict:
        return dict(ConfigRecord.inflate(self.objects[object_id]))


def ring(rng: np.random.Generator, size: int) -> ArrayRecord:
    masked = rng.integers(0, 2**32, size, dtype=np.uint32)
    return ArrayRecord({"masked": Array("uint32", masked.shape, "raw", masked.tobytes())})


def measure(sites: int, parameters: int, *, mode: str, rounds: int) -> tuple[float, float, float]:
    """Memory of the server app before the run and at its peak in MiB, and the run's seconds."""
    with tempfile.TemporaryDirectory(prefix="vultus-memory-") as temporary:
        engine = PlayedEngine(Path(temporary), sites, mode=mode, rounds=rounds)
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        child = spawn.Process(target=conduct, args=(theirs, engine.folder, parameters))
        child.start()
        theirs.close()
        try:
            while True:
                method, request = ours.recv()
                if method == "done":
                    before, peak, seconds, counted = request
                    break
                answer = engine.answer(method, QUESTIONS[method].FromString(request))
                ours.send_bytes(answer.SerializeToString())
        except EOFError:
            sys.exit(f"the server app ended with {sites} sites and {parameters} parameters")
        child.join()
    if counted != sites:
        sys.exit(f"expected {sites} sites in the last round, got {counted}")
    return before, peak, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, nargs="+", default=[2, 10, 50])
    parser.add_argument(
        "--parameters", type=int, nargs="+", default=[60_000, 1_000_000, 25_000_000]
    )
    parser.add_argument("--mode", choices=["local", "distributed"], default="local")
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    print(f"{given.mode}, {given.rounds} rounds, peak MiB of the server app")
    print(f"{'parameters':>12} {'sites':>6} {'before':>8} {'peak':>8} {'floor':>8} {'s':>7}")
    for parameters in given.parameters:
        peaks = []
        for sites in given.sites:
            before, peak, seconds = measure(sites, parameters, mode=given.mode, rounds=given.rounds)
            floor = before + 4 * 4 * parameters / 2**20
            print(
                f"{parameters:12d} {sites:6d} {before:8.0f} {peak:8.0f} {floor:8.0f} "
                f"{seconds:7.1f}",
                flush=True,
            )
            peaks.append(peak)
        print(f"{'':12} {given.sites[-1]} sites take {peaks[-1] / peaks[0]:.2f} x {given.sites[0]}")


if __name__ == "__main__":
    main()
