"""The process that opens videos: it takes jobs from its link and answers with figures."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection, wait

from client.extraction.pipeline import extract_recording
from client.extraction.video import VideoError, probe_video
from client.extraction.wire import (
    ExtractionJob,
    ExtractionSettings,
    header_facts,
    pack_extraction,
    pack_message,
    to_job,
    unpack_message,
    unpack_settings,
)

_SIGN_OF_LIFE_S = 0.2


def work(link: Connection, settings: bytes) -> None:
    """Do what comes over the link until its other end is gone.

    Args:
        link: To the batch.
        settings: What all jobs share, as :func:`client.extraction.wire.pack_settings` packs them.
    """
    # Ctrl-C reaches the whole process group; the parent ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _silence_libraries()
    end_with_parent()
    shared = unpack_settings(settings)
    with suppress(EOFError, OSError):
        while True:
            facts, _ = unpack_message(link.recv_bytes())
            link.send_bytes(answer(link, facts, shared))


def answer(link: Connection, facts: dict[str, object], settings: ExtractionSettings) -> bytes:
    """The answer to one task; an error in it is an answer too."""
    job = to_job(facts)
    try:
        if facts["kind"] == "probe":
            return pack_message(header_facts(probe_video(job.path)))
        return _extract(link, job, settings)
    except VideoError as error:
        return pack_message({"error": str(error)})
    except Exception as error:  # noqa: BLE001 - one bad recording must not end the batch
        return pack_message({"error": f"{type(error).__name__}: {error}"})


def _extract(link: Connection, job: ExtractionJob, settings: ExtractionSettings) -> bytes:
    import cv2

    # The workers share the cores; threads of one would only wait for those of another.
    cv2.setNumThreads(1)
    extraction = extract_recording(
        job.path,
        settings.face_model,
        thresholds=settings.thresholds,
        clip_s=settings.clip_s,
        rate_hz=settings.rate_hz,
        annotations=job.annotations,
        analysis_hz=settings.analysis_hz,
        on_frame=_SignsOfLife(link).tell,
    )
    return pack_extraction(extraction, {})


class _SignsOfLife:
    """Tells the batch how many frames are done, a few times a second."""

    def __init__(self, link: Connection) -> None:
        self._link = link
        self._told_s = 0.0

    def tell(self, frames: int) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s >= _SIGN_OF_LIFE_S:
            self._told_s = now_s
            self._link.send_bytes(pack_message({"kind": "frames", "frames": frames}))


def end_with_parent() -> None:
    """End this process as soon as its parent is gone, in the midst of whatever it does."""
    # A parent that is killed cannot end its workers, and an hour's video would keep one busy.
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _silence_libraries() -> None:
    # The inference library writes warnings meant for its developers straight to file number 2.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
