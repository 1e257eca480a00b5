"""The feature store: what goes in comes out, and nothing readable lies on the disk."""

from __future__ import annotations

import stat

import numpy as np
import pytest

from client.store import FeatureStore, StoreError
from client.stored_recording import StoredIndicator, StoredReason, StoredRecording, pack, unpack
from privacy.vault import Vault
from shared_models.features import BEHAVIOUR, BehaviourFeatures

KEY = bytes(range(32))
HASHES = {"file_sha256": "f" * 64, "schema_digest": BEHAVIOUR.digest, "face_model_sha256": "m" * 64}


def features(seed=0) -> BehaviourFeatures:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(2, 150, 24)).astype(np.float32)
    return BehaviourFeatures(
        values, rng.random(values.shape) > 0.1, np.array([0.0, 15.0]), BEHAVIOUR.digest
    )


def accepted(name="r1", seed=0) -> StoredRecording:
    return StoredRecording(
        name,
        "accepted",
        quality={"fps": 30.0, "decoded_fraction": None},
        indicators={"smile_peak": StoredIndicator(0.5, "1", 0.9)},
        provenance={**HASHES, "packages": {"numpy": "2"}},
        features=features(seed),
    )


def rejected(name="r2") -> StoredRecording:
    return StoredRecording(name, "rejected", reasons=(StoredReason("no_face", "No face"),))


@pytest.fixture
def store(tmp_path) -> FeatureStore:
    return FeatureStore(tmp_path / "store", Vault(KEY))


def contains(store, name="r1", **changed) -> bool:
    hashes = HASHES | changed
    return store.contains(
        name,
        file_sha256=hashes["file_sha256"],
        schema_digest=hashes["schema_digest"],
        model_sha256=hashes["face_model_sha256"],
    )


def assert_equal(a: StoredRecording, b: StoredRecording) -> None:
    assert (a.recording_id, a.verdict, a.reasons, a.quality) == (
        b.recording_id,
        b.verdict,
        b.reasons,
        b.quality,
    )
    assert (a.indicators, a.provenance) == (b.indicators, b.provenance)
    assert (a.features is None) == (b.features is None)
    if a.features is not None and b.features is not None:
        for name in ("values", "mask", "clip_start_s"):
            left, right = getattr(a.features, name), getattr(b.features, name)
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("record", [accepted(), rejected()], ids=["accepted", "rejected"])
@pytest.mark.parametrize("durable", [True, False])
def test_a_recording_comes_back_as_it_was_put_also_after_reopening(tmp_path, record, durable):
    FeatureStore(tmp_path / "s", Vault(KEY), durable=durable).put(record)
    assert_equal(FeatureStore(tmp_path / "s", Vault(KEY)).get(record.recording_id), record)


def test_strided_arrays_are_kept_by_value():
    whole = features()
    strided = BehaviourFeatures(
        whole.values[:, :, ::-1], whole.mask[:, :, ::-1], whole.clip_start_s, whole.schema_digest
    )
    record = StoredRecording("r", "accepted", features=strided)
    assert_equal(unpack(pack(record)), record)


def test_nothing_on_the_disk_is_readable_by_others_or_tells_an_id(store):
    store.put(accepted("subject-smith-visit-1"))
    content = b""
    for path in store.folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        content += path.name.encode() + path.read_bytes()
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    assert b"smith" not in content
    assert b"accepted" not in content


def test_file_names_differ_between_sites(tmp_path):
    names = []
    for site in ("a", "b"):
        store = FeatureStore(tmp_path / site, Vault(KEY))
        store.put(rejected())
        names += [path.name for path in store.folder.glob("*.features")]
    assert len(set(names)) == 2


def test_a_second_put_takes_the_place_of_the_first(store):
    store.put(rejected("r1"))
    store.put(accepted("r1"))
    assert [record.verdict for record in store.records()] == ["accepted"]
    assert not list(store.folder.glob(".*"))


def test_features_are_loaded_only_of_accepted_recordings_that_are_there(store):
    store.put(accepted("r1", seed=1))
    store.put(rejected("r2"))
    loaded = store.load_features(["r1", "r2", "r3"])
    assert list(loaded) == ["r1"]
    np.testing.assert_array_equal(loaded["r1"].values, features(1).values)


@pytest.mark.parametrize("changed", ["file_sha256", "schema_digest", "face_model_sha256"])
def test_a_changed_file_schema_or_model_is_to_be_extracted_again(store, changed):
    store.put(accepted())
    assert contains(store)
    assert not contains(store, **{changed: "other"})
    assert not contains(store, "r9")


def test_a_changed_byte_is_noticed_and_the_remedy_named(store):
    store.put(accepted())
    (path,) = store.folder.glob("*.features")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(StoreError, match=r"'r1'.*vultus-site extract"):
        store.get("r1")
    assert not contains(store)
    store.put(accepted())
    assert contains(store)


def test_records_of_two_recordings_cannot_be_swapped(store):
    store.put(accepted("r1", seed=1))
    store.put(accepted("r2", seed=2))
    first, second = store.folder.glob("*.features")
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    with pytest.raises(StoreError):
        store.get("r1")
    with pytest.raises(StoreError):
        list(store.records())


def test_another_key_does_not_open_the_store(store):
    store.put(accepted())
    with pytest.raises(StoreError, match="Restore the storage key"):
        FeatureStore(store.folder, Vault(bytes(32)))


def test_a_lost_name_key_is_named_instead_of_an_empty_store(store):
    store.put(accepted())
    (store.folder / "names.key").unlink()
    with pytest.raises(StoreError, match=r"names\.key"):
        FeatureStore(store.folder, Vault(KEY))


def test_an_unknown_recording_is_named(store):
    with pytest.raises(StoreError, match="'r9'"):
        store.get("r9")


def test_erased_recordings_are_gone(store):
    store.put(accepted())
    assert store.erase("r1")
    assert not store.erase("r1")
    assert not list(store.records())


def test_rejected_recordings_have_no_features_to_train_on(store):
    with pytest.raises(ValueError, match="rejected with"):
        store.put(StoredRecording("r", "rejected", features=features()))
    with pytest.raises(ValueError, match="accepted without"):
        store.put(StoredRecording("r", "accepted"))
