"""The in-process engine against Flower's rules, and workers against none."""

import os
import time

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from simulation.engine import run_in_process

NODES = 5


def make_client() -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if context.node_config.get("fails"):
            msg = "this node fails"
            raise ValueError(msg)
        context.state["seen"] = ConfigRecord(
            {"count": int(context.state.config_records.get("seen", {"count": 0})["count"]) + 1}
        )
        weights = message.content["arrays"].to_numpy_ndarrays()
        moved = [w + float(context.node_config["step"]) for w in weights]
        return Message(
            RecordDict(
                {
                    "arrays": ArrayRecord(moved),
                    "metrics": MetricRecord(
                        {
                            "num-examples": 1,
                            "seen": float(context.state["seen"]["count"]),
                            "pid": float(os.getpid()),
                        }
                    ),
                }
            ),
            reply_to=message,
        )

    return app


def run_fedavg(*, workers: int, configs: list[dict] | None = None) -> tuple[list, dict, list]:
    import numpy as np

    seen: list[Message] = []
    outcome: dict = {}
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=NODES)
        result = strategy.start(
            grid, ArrayRecord([np.zeros(3)]), num_rounds=int(context.run_config["rounds"])
        )
        outcome["arrays"] = result.arrays.to_numpy_ndarrays()
        outcome["metrics"] = result.train_metrics_clientapp

    run_in_process(
        app,
        make_client(),
        node_configs=configs or [{"step": float(i)} for i in range(NODES)],
        run_config={"rounds": 3},
        workers=workers,
        on_reply=seen.append,
    )
    return outcome["arrays"], outcome["metrics"], seen


@pytest.mark.parametrize("workers", [1, 2])
def test_flowers_own_strategy_runs_unmodified(workers: int) -> None:
    arrays, metrics, seen = run_fedavg(workers=workers)
    # FedAvg draws the order of the nodes, and floating-point sums follow it.
    assert arrays[0] == pytest.approx([6.0, 6.0, 6.0])
    assert len(seen) == 3 * NODES
    # Each node keeps its own context from message to message.
    assert [metrics[r]["seen"] for r in (1, 2, 3)] == pytest.approx([1.0, 2.0, 3.0])


def test_workers_are_other_processes_and_end_with_the_run() -> None:
    _, _, seen = run_fedavg(workers=2)
    pids = {int(m.content["metrics"]["pid"]) for m in seen}  # type: ignore[index]
    assert len(pids) == 2
    assert os.getpid() not in pids
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_app_that_raises_becomes_an_error_reply(workers: int) -> None:
    configs = [{"step": 1.0}] * (NODES - 1) + [{"step": 1.0, "fails": True}]
    arrays, _, seen = run_fedavg(workers=workers, configs=configs)
    assert arrays[0] == pytest.approx([3.0, 3.0, 3.0])
    errors = [m.error.reason for m in seen if m.has_error()]
    assert len(errors) == 3
    assert all("this node fails" in reason for reason in errors)


def test_replies_keep_the_order_of_the_messages_whoever_is_slow() -> None:
    app, client = ServerApp(), ClientApp()
    order: list[list[int]] = []

    @client.query()
    def wait(message: Message, context: Context) -> Message:
        time.sleep(float(context.node_config["delay_s"]))
        return Message(message.content, reply_to=message)

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        asked = [Message(RecordDict(), node, "query") for node in grid.get_node_ids()]
        replies = grid.send_and_receive(asked)
        order.append([m.metadata.dst_node_id for m in asked])
        order.append([m.metadata.src_node_id for m in replies])

    configs = [{"delay_s": delay} for delay in (0.4, 0.0, 0.0, 0.0)]
    run_in_process(app, client, node_configs=configs, run_config={}, workers=2)
    assert order[0] == order[1]


def test_large_messages_do_not_lock_the_workers() -> None:
    big = b"\0" * (1 << 20)
    app, client = ServerApp(), ClientApp()
    sizes = []

    @client.query()
    def echo(message: Message, context: Context) -> Message:
        return Message(message.content, reply_to=message)

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        content = RecordDict({"a": ArrayRecord({"x": Array("uint8", (1 << 20,), "raw", big)})})
        messages = [Message(content, node, "query") for node in grid.get_node_ids()]
        replies = grid.send_and_receive(messages)
        sizes.extend(len(r.content.array_records["a"]["x"].data) for r in replies)

    run_in_process(app, client, node_configs=[{}] * NODES, run_config={}, workers=2)
    assert sizes == [1 << 20] * NODES


def test_what_the_server_app_raises_reaches_the_caller() -> None:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        msg = "no quorum"
        raise RuntimeError(msg)

    with pytest.raises(RuntimeError, match="no quorum"):
        run_in_process(app, ClientApp(), node_configs=[{}], run_config={}, workers=2)
