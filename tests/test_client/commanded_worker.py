"""Workers whose answers are commanded by the name of the recording; they import next to nothing."""

from __future__ import annotations

import json
import os
import pickle
import time


def message(**facts: object) -> bytes:
    text = json.dumps(facts).encode()
    return len(text).to_bytes(4, "big") + text


def obey(link, settings: bytes) -> None:
    model = json.loads(settings[4:])["face_model"]
    while True:
        try:
            name = json.loads(link.recv_bytes()[4:])["recording_id"]
        except EOFError:
            return
        command = COMMANDS.get(name.split("-")[0])
        if command is None:
            link.send_bytes(message(error=f"done by {model}"))
        else:
            command(link)


def die(link) -> None:
    os._exit(7)


def hang(link) -> None:
    time.sleep(600.0)


def work_slowly(link) -> None:
    for frames in range(1, 10):
        time.sleep(0.7)
        link.send_bytes(message(kind="frames", frames=frames))
    link.send_bytes(message(error="done at last"))


def answer_with_an_object(link) -> None:
    link.send_bytes(pickle.dumps(os.getcwd))


def lie(link) -> None:
    link.send_bytes(message(extraction={"quality": {}}))


COMMANDS = {
    "die": die,
    "hang": hang,
    "slow": work_slowly,
    "pickle": answer_with_an_object,
    "lie": lie,
}


def refuse(network, entry, link, settings) -> None:
    """What a worker does where the kernel refuses the cut that the site demands."""
    from client.extraction import entry as start
    from client.extraction import isolation

    isolation._leave_network = lambda: "no namespaces here"
    isolation.has_only_loopback = lambda: False
    start.begin(network, entry, link, settings)
