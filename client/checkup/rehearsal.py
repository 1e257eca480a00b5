"""A dry run: a clip whose behaviour is known goes through extraction as a recording would."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from client.checkup.finding import Ailment
from client.site import Site
from shared_models.features import BEHAVIOUR

CLIP = Path(__file__).with_name("clips") / "rehearsal.mp4"
CLIP_S = 3.0
FRAMES = 60
SMILE_PEAK = 0.88
SMILE_PEAK_S = 2.0
SMILE_AT_REST = 0.11
TOLERANCE = 0.06
TOLERANCE_S = 0.2
DETECTED = 0.98


def find_bundle(site: Site, given: Path | None) -> Path:
    """The face landmarker bundle on this machine, checked by its hash; never a download."""
    from client.extraction.face_model import find_face_model

    return find_face_model([given, site.paths.face_model], url=None)


def rehearse(face_model: Path) -> str:
    """Extract the bundled clip in a worker, and compare with what it is known to show."""
    from client.extraction.parallel import (
        ExtractionJob,
        ExtractionResult,
        ExtractionSettings,
        extract_many,
    )

    results: list[ExtractionResult] = []
    settings = ExtractionSettings(face_model, clip_s=CLIP_S)
    extract_many([ExtractionJob("rehearsal", CLIP)], settings, on_done=results.append)
    (result,) = results
    if result.extraction is None:
        msg = f"The bundled clip could not be extracted: {result.error}"
        raise Ailment(msg)
    quality, features = result.extraction.quality, result.extraction.features
    if features is None or quality.frames != FRAMES or quality.detection_rate < DETECTED:
        why = "; ".join(reason.text for reason in quality.rejected_for) or "frames are missing"
        msg = f"Expected {FRAMES} frames with a face in the bundled clip, got: {why}. {_REINSTALL}"
        raise Ailment(msg)
    return _compare_smile(features.values[0, :, BEHAVIOUR.names.index("smile")])


_REINSTALL = "Reinstall mediapipe, opencv-python and numpy in the versions that Vultus asks for."


def _compare_smile(smile: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> str:
    peak, at_s, rest = smile.max(), smile.argmax() / BEHAVIOUR.rate_hz, smile[:10].max()
    found = f"smile {rest:.2f} at rest, {peak:.2f} at {at_s:.1f} s"
    if (
        abs(peak - SMILE_PEAK) > TOLERANCE
        or abs(rest - SMILE_AT_REST) > TOLERANCE
        or abs(at_s - SMILE_PEAK_S) > TOLERANCE_S
    ):
        msg = (
            f"Expected the bundled clip to give smile {SMILE_AT_REST} at rest, {SMILE_PEAK} at "
            f"{SMILE_PEAK_S} s, got {found}. {_REINSTALL}"
        )
        raise Ailment(msg)
    return f"{FRAMES} frames, {found}, as expected"
