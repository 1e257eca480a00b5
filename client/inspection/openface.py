"""Frame by frame files that scripts written for OpenFace 2 can read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from client.extraction.behaviour.features import mean_blendshape
from client.extraction.behaviour.geometry import rotation_matrices
from client.extraction.track import BLENDSHAPES
from client.inspection.files import claim_file, claim_folder, safe_names
from client.inspection.indicator_table import NOTICE
from client.inspection.openface_columns import (
    ACTION_UNITS,
    GAZE_COLUMNS,
    PLACE_COLUMNS,
    PRESENT_FROM,
    TURN_COLUMNS,
    WITHOUT_INTENSITY,
    ActionUnit,
    describe_openface_columns,
)
from client.inspection.recordings import Inspection
from client.storage.frame_log import FrameLog, FrameOutcome
from client.storage.store import FeatureStore
from privacy.vault import write_atomic

if TYPE_CHECKING:
    import pyarrow as pa

FloatArray = NDArray[np.float64]

DROPPED_FOR = {
    FrameOutcome.USED: None,
    FrameOutcome.NO_FACE: "no_face",
    FrameOutcome.TURNED_AWAY: "turned_away",
    FrameOutcome.NOT_ANALYSED: "not_analysed",
}
README = "README.txt"
_TITLE = "Frames of recordings in the columns of OpenFace 2, written by 'vultus-site inspect'"
_MARK = b",dropped_for,faces"
_INTENSITY_PLACES = 3
_Y_AND_Z_TURNED = np.diag([1.0, -1.0, -1.0])


def write_openface(
    inspection: Inspection, folder: Path, *, store: FeatureStore
) -> tuple[list[Path], list[str]]:
    """Write one CSV a recording, a dictionary of the columns and a README; all mode 0600.

    Args:
        inspection: Names the recordings.
        folder: Where the files go; made if absent.
        store: Holds the frames.

    Returns:
        The files of recordings, and the recordings of which no frames are kept.

    Raises:
        InputError: If nothing was extracted yet, or a file of somebody else would be lost.
    """
    inspection.need_rows()
    claim_folder(folder, README, _TITLE.encode())
    written: dict[str, Path] = {}
    without = []
    signals: tuple[str, ...] = ()
    for recording_id, name in safe_names(r.recording_id for r, _ in inspection.rows).items():
        frames = store.frames(_subject(inspection, recording_id), recording_id)
        if frames is None:
            without.append(recording_id)
            continue
        signals = frames.signal_names
        written[recording_id] = folder / f"{name}.csv"
        claim_file(written[recording_id], _MARK)
        write_atomic(written[recording_id], encode_openface(openface_table(frames)))
    columns = describe_openface_columns(signals)
    text = json.dumps(columns, indent=2, ensure_ascii=False)
    write_atomic(folder / "columns.json", f"{text}\n".encode())
    write_atomic(folder / README, _readme(written, without, columns).encode())
    return list(written.values()), without


def stale_files(folder: Path, written: Sequence[Path]) -> list[Path]:
    """Files of earlier exports whose recordings are no longer among those written."""
    return sorted(set(folder.glob("*.csv")) - set(written))


def openface_table(frames: FrameLog) -> pa.Table:
    """One row a decoded frame in the columns of OpenFace 2; what is not measured is null.

    Args:
        frames: What was measured frame by frame.
    """
    import pyarrow as pa

    used = frames.outcome == FrameOutcome.USED
    nothing = np.full(len(frames), np.nan)
    dropped = [DROPPED_FOR[FrameOutcome(outcome)] for outcome in frames.outcome.tolist()]
    columns: dict[str, pa.Array] = {
        "frame": pa.array(np.arange(1, len(frames) + 1)),
        "face_id": pa.array(np.zeros(len(frames), np.int64)),
        "timestamp": _decimals(frames.timestamps_s, 6),
        "confidence": _decimals(used.astype(np.float64), 2),
        "success": pa.array(used.astype(np.int64)),
        **{name: _decimals(nothing, 3) for name in (*GAZE_COLUMNS, *PLACE_COLUMNS)},
        **dict(zip(TURN_COLUMNS, map(_radians, openface_turns(frames.head_pose_deg)), strict=True)),
        **dict(_action_units(frames, used)),
        "dropped_for": pa.array(dropped, pa.string()),
        "faces": pa.array(frames.faces.astype(np.int64)),
        **{
            f"vultus_{name}": _decimals(np.where(used, frames.signals[:, column], np.nan), 5)
            for column, name in enumerate(frames.signal_names)
        },
    }
    return pa.table(columns)


def encode_openface(table: pa.Table) -> bytes:
    """The table as CSV with a plain header, as OpenFace writes it."""
    import pyarrow as pa
    from pyarrow import csv

    buffer = pa.BufferOutputStream()
    buffer.write(f"{','.join(table.column_names)}\n".encode())
    options = csv.WriteOptions(include_header=False, quoting_style="none")
    csv.write_csv(table, buffer, options)
    return bytes(buffer.getvalue().to_pybytes())


def openface_turns(head_pose_deg: NDArray[np.floating]) -> FloatArray:
    """Head poses as the Euler angles of OpenFace: rotation = Rx Ry Rz, y down, z away.

    Args:
        head_pose_deg: ``[N, 3]`` pitch (chin up positive), yaw (nose to the right of the picture
            positive) and roll (counterclockwise positive) in degrees; NaN without a face.

    Returns:
        ``[3, N]`` radians.

    >>> openface_turns(np.array([[10.0, 0.0, 0.0], [0.0, -20.0, 0.0]])).round(4).tolist()
    [[-0.1745, 0.0], [0.0, 0.3491], [0.0, 0.0]]
    """
    from scipy.spatial.transform import Rotation

    turns = np.full((3, len(head_pose_deg)), np.nan)
    known = np.isfinite(head_pose_deg).all(axis=1)
    if known.any():
        turned = _Y_AND_Z_TURNED @ rotation_matrices(head_pose_deg[known]) @ _Y_AND_Z_TURNED
        # Exact zeros would otherwise be printed with the sign of their rounding.
        turns[:, known] = Rotation.from_matrix(turned).as_euler("XYZ").T + 0.0
    return turns


def _action_units(frames: FrameLog, used: NDArray[np.bool_]) -> Iterator[tuple[str, pa.Array]]:
    found = {one: np.where(used, _intensity(frames, one), np.nan) for one in ACTION_UNITS}
    for one, intensity in found.items():
        if one.number != WITHOUT_INTENSITY:
            yield f"AU{one.number}_r", _decimals(intensity, _INTENSITY_PLACES)
    for one, intensity in found.items():
        present = np.where(np.isfinite(intensity), intensity >= PRESENT_FROM, np.nan)
        yield f"AU{one.number}_c", _decimals(present, 2)


def _intensity(frames: FrameLog, one: ActionUnit) -> FloatArray:
    if not one.blendshapes:
        return np.full(len(frames), np.nan)
    shapes = [_activation(frames, name) for name in one.blendshapes]
    activation = np.mean(shapes, axis=0)
    if one.minus:
        activation = np.maximum(activation - _activation(frames, one.minus), 0.0)
    # Rounded as printed, so that a presence never contradicts the intensity beside it.
    return np.asarray(np.round(5.0 * activation, _INTENSITY_PLACES), dtype=np.float64)


def _activation(frames: FrameLog, name: str) -> FloatArray:
    if name in BLENDSHAPES:
        return frames.blendshapes[:, BLENDSHAPES.index(name)].astype(np.float64)
    return mean_blendshape(frames.blendshapes, name)


def _radians(values: FloatArray) -> pa.Array:
    return _decimals(values, 4)


def _decimals(values: FloatArray, places: int) -> pa.Array:
    """Numbers with a fixed count of places: a column of zeros must still be read as floats."""
    import pyarrow as pa

    rounded = pa.array(np.round(values, places), from_pandas=True)
    return rounded.cast(pa.decimal128(15, places))


def _subject(inspection: Inspection, recording_id: str) -> str:
    return next(r.subject_id for r, _ in inspection.rows if r.recording_id == recording_id)


def _readme(
    written: dict[str, Path], without: list[str], columns: dict[str, dict[str, str]]
) -> str:
    files = [f"  {path.name}: recording {recording_id}" for recording_id, path in written.items()]
    missing = [f"  {name}: none, no frame was decoded or kept" for name in without]
    about = [
        f"  {name}: {one['Description']} {one.get('DiffersFromOpenFace', '')}".rstrip()
        for name, one in columns.items()
    ]
    return "\n".join(
        [
            _TITLE,
            f"(vultus {version('vultus')}). {NOTICE}",
            "Figures of single subjects: these files stay at the site.",
            "",
            "Scripts that read OpenFace files find its columns here, but the numbers come from",
            "MediaPipe's face landmarker and not from OpenFace: do not pool them with OpenFace's.",
            "Every decoded frame has a row. What was not measured is empty, never 0.",
            "",
            "Files",
            *files,
            *missing,
            "",
            "Columns (the same as columns.json)",
            *about,
            "",
        ]
    )
