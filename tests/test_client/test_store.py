"""The feature store: what goes in comes out, and nothing readable lies on the disk."""

from __future__ import annotations

import shutil
import signal
import stat
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from client.recordings.recording import Recording
from client.storage.frame_log import FrameLog, FrameOutcome
from client.storage.store import FeatureStore, StoreError
from client.storage.stored_recording import StoredIndicator, StoredReason, StoredRecording
from privacy.vault import Vault
from shared_models.features import BEHAVIOUR, BehaviourFeatures

KEY = bytes(range(32))
HASHES = {"file_sha256": "f" * 64, "schema_digest": BEHAVIOUR.digest, "face_model_sha256": "m" * 64}


def features(seed=0, digest=BEHAVIOUR.digest) -> BehaviourFeatures:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(2, 150, 24)).astype(np.float32)
    return BehaviourFeatures(values, rng.random(values.shape) > 0.1, np.array([0.0, 15.0]), digest)


def frame_log(frames=300) -> FrameLog:
    rng = np.random.default_rng(1)
    signals = rng.normal(size=(frames, 3)).astype(np.float32)
    signals[7] = np.nan
    return FrameLog(
        timestamps_s=np.arange(frames) / 30.0,
        outcome=rng.integers(0, len(FrameOutcome), frames).astype(np.uint8),
        faces=np.ones(frames, np.uint8),
        head_pose_deg=rng.normal(size=(frames, 3)).astype(np.float32),
        blendshapes=rng.random((frames, 52)).astype(np.float16),
        signals=signals,
        signal_names=("mouth_width", "Augenhöhe", "iris_drop"),
    )


def accepted(name="r1", subject="s1") -> StoredRecording:
    return StoredRecording(
        name,
        subject,
        "accepted",
        quality={"fps": 30.0, "decoded_fraction": None},
        indicators={"smile_peak": StoredIndicator(0.5, "1", 0.9, note="from 25 frames/s on")},
        provenance={**HASHES, "packages": {"numpy": "2"}},
    )


def rejected(name="r2", subject="s1") -> StoredRecording:
    reasons = (StoredReason("no_face", "No face"),)
    return StoredRecording(name, subject, "rejected", reasons=reasons)


def listed(name="r1", subject="s1") -> Recording:
    return Recording(name, subject, None, datetime(2026, 3, 2, tzinfo=UTC), 40.0, "female", 5.0)


def open_store(folder: Path, *, key=KEY, site_id="north", durable=True) -> FeatureStore:
    return FeatureStore(folder, Vault(key), site_id=site_id, durable=durable)


@pytest.fixture
def store(tmp_path) -> FeatureStore:
    return open_store(tmp_path / "store")


def stored_files(store: FeatureStore) -> list[Path]:
    return sorted(store.folder.glob("*/*.features"))


def is_current(store, name="r1", **changed) -> bool:
    return store.is_current(listed(name), HASHES | changed)


def assert_same_arrays(one: object, other: object, names: tuple[str, ...]) -> None:
    for name in names:
        left, right = getattr(one, name), getattr(other, name)
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)


def assert_same_features(one: BehaviourFeatures | None, other: BehaviourFeatures) -> None:
    assert one is not None
    assert one.schema_digest == other.schema_digest
    assert_same_arrays(one, other, ("values", "mask", "clip_start_s"))


@pytest.mark.parametrize("durable", [True, False])
def test_a_recording_comes_back_as_it_was_put_also_after_reopening(tmp_path, durable):
    store = open_store(tmp_path / "s", durable=durable)
    store.put(accepted(), features=features(), frames=frame_log())
    store.put(rejected(), features=None)
    again = open_store(tmp_path / "s")
    assert again.get("s1", "r1") == accepted()
    assert again.get("s1", "r2") == rejected()
    assert_same_features(again.features("s1", "r1"), features())
    assert again.features("s1", "r2") is None
    assert again.frames("s1", "r2") is None


def test_a_frame_log_comes_back_with_types_names_and_gaps(store):
    log = frame_log()
    store.put(accepted(), features=features(), frames=log)
    found = store.frames("s1", "r1")
    assert found is not None
    assert found.signal_names == log.signal_names
    arrays = ("timestamps_s", "outcome", "faces", "head_pose_deg", "blendshapes", "signals")
    assert_same_arrays(found, log, arrays)


def test_a_log_without_a_single_frame_comes_back(store):
    store.put(rejected("r1"), features=None, frames=frame_log(8))
    empty = FrameLog(
        np.zeros(0), *(np.zeros(0, np.uint8),) * 2, np.zeros((0, 3), np.float32),
        np.zeros((0, 52), np.float16), np.zeros((0, 0), np.float32), (),
    )  # fmt: skip
    store.put(rejected("r1"), features=None, frames=empty)
    found = store.frames("s1", "r1")
    assert found is not None
    assert len(found) == 0


def test_strided_arrays_are_kept_by_value(store):
    whole = features()
    strided = replace(whole, values=whole.values[:, :, ::-1], mask=whole.mask[:, :, ::-1])
    store.put(accepted(), features=strided)
    assert_same_features(store.features("s1", "r1"), strided)


def test_nothing_on_the_disk_is_readable_by_others_or_tells_an_id(store):
    store.put(accepted("visit-1", "smith"), features=features(), frames=frame_log())
    content = b""
    for path in (store.folder, *store.folder.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
        content += path.name.encode() + (b"" if path.is_dir() else path.read_bytes())
    assert b"smith" not in content
    assert b"visit-1" not in content
    assert b"accepted" not in content
    assert b"mouth_width" not in content


def test_names_differ_between_stores_and_between_subjects(tmp_path):
    names = []
    for site in ("a", "b"):
        store = open_store(tmp_path / site)
        for subject in ("s1", "s2"):
            store.put(rejected("r1", subject), features=None)
        names += [path.parent.name for path in stored_files(store)]
    assert len(set(names)) == 4


def test_the_recordings_of_a_subject_share_a_folder_and_are_found_without_the_table(store):
    for name, subject in (("r1", "s1"), ("r2", "s2"), ("r3", "s1")):
        store.put(rejected(name, subject), features=None)
    assert len({path.parent for path in stored_files(store)}) == 2
    assert {one.recording_id for one in store.records_of("s1")} == {"r1", "r3"}
    assert list(store.records_of("s9")) == []


def test_a_second_put_takes_the_place_of_the_first_and_destroys_its_key(store, tmp_path):
    store.put(rejected("r1"), features=None)
    (path,) = stored_files(store)
    (tmp_path / "kept").hardlink_to(path)
    store.put(accepted("r1"), features=features())
    assert [record.verdict for record in store.records()] == ["accepted"]
    assert not list(store.folder.rglob(".*"))
    shutil.copy(tmp_path / "kept", path)
    with pytest.raises(StoreError, match="not in the store"):
        store.get("s1", "r1")


def test_features_are_loaded_only_of_accepted_recordings_that_are_there(store):
    store.put(accepted("r1"), features=features(1))
    store.put(rejected("r2"), features=None)
    loaded = store.load_features([listed(name) for name in ("r1", "r2", "r3")])
    assert list(loaded) == ["r1"]
    assert_same_features(loaded["r1"], features(1))


def test_a_recording_that_now_belongs_to_another_subject_is_not_loaded(store):
    store.put(accepted("r1", "s1"), features=features())
    assert store.load_features([listed("r1", "s2")]) == {}
    assert [one.subject_id for one in store.strays([listed("r1", "s2")])] == ["s1"]
    assert store.strays([listed("r1", "s1")]) == []


def test_learning_reads_no_frames(store, monkeypatch):
    store.put(accepted(), features=features(), frames=frame_log())
    (path,) = stored_files(store)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    assert_same_features(store.load_features([listed()])["r1"], features())
    assert store.get("s1", "r1") == accepted()
    with pytest.raises(StoreError, match=r"'r1'.*vultus-site extract"):
        store.frames("s1", "r1")
    assert len(store.find_damaged()) == 1


def test_features_of_another_schema_are_refused_with_the_remedy(store):
    store.put(accepted(), features=features(digest="0" * 64))
    assert store.features("s1", "r1") is not None
    for read in (
        lambda: store.features("s1", "r1", schema_digest=BEHAVIOUR.digest),
        lambda: store.load_features([listed()], schema_digest=BEHAVIOUR.digest),
    ):
        with pytest.raises(StoreError, match=r"schema .*'r1'.* 000000000000: run .*extract"):
            read()


def test_a_forged_schema_in_the_open_is_noticed(store):
    store.put(accepted(), features=features(digest="0" * 64))
    (path,) = stored_files(store)
    forged = path.read_bytes().replace(b"0" * 64, BEHAVIOUR.digest.encode())
    path.write_bytes(forged)
    with pytest.raises(StoreError, match="changed"):
        store.features("s1", "r1", schema_digest=BEHAVIOUR.digest)


@pytest.mark.parametrize("changed", ["file_sha256", "schema_digest", "face_model_sha256", "new"])
def test_a_changed_file_schema_or_model_is_to_be_extracted_again(store, changed):
    store.put(accepted(), features=features())
    assert is_current(store)
    assert not is_current(store, **{changed: "other"})
    assert not is_current(store, **{changed: None})
    assert not is_current(store, "r9")


def test_a_changed_byte_is_noticed_and_the_remedy_named(store):
    store.put(accepted(), features=features())
    (path,) = stored_files(store)
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(StoreError, match=r"'r1'.*vultus-site extract"):
        store.get("s1", "r1")
    assert not is_current(store)
    store.put(accepted(), features=features())
    assert is_current(store)


@pytest.mark.parametrize(
    ("other", "subject"), [("r2", "s1"), ("r1", "s2")], ids=["recordings", "subjects"]
)
def test_files_cannot_be_passed_off_as_those_of_another(store, other, subject):
    store.put(accepted("r1", "s1"), features=features(1))
    store.put(accepted(other, subject), features=features(2))
    first, second = stored_files(store)
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    for read in (
        lambda: store.get("s1", "r1"),
        lambda: store.features(subject, other),
        lambda: list(store.records()),
    ):
        with pytest.raises(StoreError, match="belongs to another subject"):
            read()


def test_the_files_of_another_site_do_not_open_even_under_the_same_key(tmp_path):
    open_store(tmp_path / "s").put(rejected(), features=None)
    with pytest.raises(StoreError, match="another subject, site"):
        list(open_store(tmp_path / "s", site_id="south").records())


def test_another_key_does_not_open_the_store(store):
    store.put(accepted(), features=features())
    with pytest.raises(StoreError, match="Restore the storage key"):
        open_store(store.folder, key=bytes(32))


def test_a_lost_name_key_is_named_instead_of_an_empty_store(store):
    store.put(accepted(), features=features())
    (store.folder / "names.2.key").unlink()
    with pytest.raises(StoreError, match=r"names\.2\.key"):
        open_store(store.folder)


@pytest.mark.parametrize("name", ["names.key", f"{'a' * 40}.features"])
def test_a_store_of_the_first_layout_is_refused_with_the_remedy(tmp_path, name):
    (tmp_path / name).write_bytes(b"VLTS\x01" + bytes(80))
    with pytest.raises(StoreError, match=r"older version: empty the folder and run .*extract"):
        open_store(tmp_path)


def test_an_unknown_recording_is_named(store):
    with pytest.raises(StoreError, match="'r9'"):
        store.get("s1", "r9")


def test_rejected_recordings_have_no_features_to_train_on(store):
    with pytest.raises(ValueError, match="rejected with"):
        store.put(rejected(), features=features())
    with pytest.raises(ValueError, match="accepted without"):
        store.put(accepted(), features=None)
    assert stored_files(store) == []


def test_erased_recordings_are_gone_and_the_others_stay(store):
    store.put(accepted(), features=features())
    store.put(rejected(), features=None)
    assert store.erase("s1", "r1")
    assert not store.erase("s1", "r1")
    assert [one.recording_id for one in store.records()] == ["r2"]
    assert store.erase("s1", "r2")
    assert [path.name for path in store.folder.iterdir()] == ["names.2.key"]


def test_an_erased_subject_leaves_nothing_not_even_a_half_written_file(store):
    for name in ("r1", "r2"):
        store.put(accepted(name), features=features())
    store.put(accepted("r3", "s2"), features=features())
    (folder,) = {path.parent for path in stored_files(store)} - {store._folder.subject_folder("s2")}
    (folder / ".r9.features.abc").write_bytes(b"half a file")
    assert store.erase_subject("s1") == 2
    assert store.erase_subject("s1") == 0
    assert not folder.exists()
    assert [one.recording_id for one in store.records()] == ["r3"]


def test_what_an_erased_file_held_opens_no_more_even_before_it_is_unlinked(store, monkeypatch):
    store.put(accepted(), features=features())
    (path,) = stored_files(store)
    left: list[bytes] = []
    monkeypatch.setattr(Path, "unlink", lambda self: left.append(self.read_bytes()))
    store.erase_subject("s1")
    monkeypatch.undo()
    assert len(left) == 1
    assert path.read_bytes() == left[0]
    assert list(store.records()) == []
    assert store.find_damaged() == []
    with pytest.raises(StoreError, match="not in the store"):
        store.features("s1", "r1")
    assert store.erase_subject("s1") == 1


def test_without_overwriting_the_key_a_kept_link_would_still_open(store, tmp_path, monkeypatch):
    """The broken variant: unlinking alone is no erasure."""
    monkeypatch.setattr("privacy.vault.destroy_key", lambda file: None)
    store.put(accepted(), features=features())
    (path,) = stored_files(store)
    (tmp_path / "kept").hardlink_to(path)
    store.erase_subject("s1")
    path.parent.mkdir(mode=0o700)
    (tmp_path / "kept").rename(path)
    assert store.get("s1", "r1") == accepted()


@pytest.mark.parametrize("broken", ["os.fsync", "pathlib.Path.replace"])
def test_a_failed_put_leaves_the_old_record_and_no_litter(store, monkeypatch, broken):
    store.put(accepted(), features=features(1))

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(broken, fail)
    with pytest.raises(OSError, match="No space"):
        store.put(rejected("r1"), features=None)
    monkeypatch.undo()
    assert store.get("s1", "r1") == accepted()
    assert not list(store.folder.rglob(".*"))


def test_leftovers_of_a_crash_go_at_the_next_writing_and_not_before(store):
    store.put(accepted(), features=features())
    leftover = stored_files(store)[0].with_name(".r.features.x1")
    leftover.write_bytes(b"half a file")
    reader = open_store(store.folder)
    assert [one.recording_id for one in reader.records()] == ["r1"]
    assert leftover.exists()
    reader.put(rejected(), features=None)
    assert not leftover.exists()


def test_a_process_killed_at_any_moment_leaves_a_whole_store(tmp_path):
    program = (
        "import sys; sys.path[:0] = [{tests!r}, {root!r}]\n"
        "from pathlib import Path\n"
        "from test_store import *\n"
        "store = open_store(Path({folder!r}))\n"
        "print('ready', flush=True)\n"
        "for turn in range(100000):\n"
        "    store.put(accepted(f'r{{turn % 3}}'), features=features(turn % 5))\n"
    ).format(
        tests=str(Path(__file__).parent), root=str(Path(__file__).parents[2]),
        folder=str(tmp_path / "s"),
    )  # fmt: skip
    for delay_s in (0.02, 0.11, 0.25):
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
        store = open_store(tmp_path / "s")
        assert store.find_damaged() == []
        store.put(rejected("r9"), features=None)
        assert not list(store.folder.rglob(".*"))
        assert {one.recording_id for one in store.records()} <= {"r0", "r1", "r2", "r9"}


def test_facts_are_read_without_the_arrays_beside_them(store, monkeypatch):
    log = frame_log(20_000)
    store.put(accepted(), features=features(), frames=log)
    (path,) = stored_files(store)
    assert path.stat().st_size > 2_000_000
    read: list[int] = []
    monkeypatch.setattr(
        "privacy.sealed_parts.SealedFile._read",
        lambda self, wanted: read.append(wanted) or self._file.read(wanted),
    )
    store.get("s1", "r1")
    assert sum(read) < 5_000
