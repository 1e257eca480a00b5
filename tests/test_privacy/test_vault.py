"""Sealed objects open only unchanged, under their key and for what they were bound to."""

import os
import stat

import pytest

from privacy.sealed_parts import CHUNK_BYTES, SealedFile, seal_parts
from privacy.vault import (
    TAG_BYTES,
    ErasedError,
    Vault,
    VaultError,
    erase_sealed,
    write_atomic,
    write_chunks,
)

BOUND = b"site-a|subject-1|schema-3"


@pytest.fixture
def vault():
    return Vault(os.urandom(32))


@pytest.mark.parametrize("plaintext", [b"", b"x", os.urandom(100_000)])
def test_what_was_sealed_opens_again(vault, plaintext):
    assert vault.open(vault.seal(plaintext, associated=BOUND), associated=BOUND) == plaintext


def test_every_single_changed_byte_is_noticed(vault):
    sealed = vault.seal(b"features of a subject", associated=BOUND)
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises(VaultError):
            vault.open(bytes(changed), associated=BOUND)


def test_every_shortened_object_is_noticed(vault):
    sealed = vault.seal(b"features", associated=BOUND)
    for length in range(len(sealed)):
        with pytest.raises(VaultError):
            vault.open(sealed[:length], associated=BOUND)


def test_an_object_cannot_be_passed_off_as_another_subjects(vault):
    sealed = vault.seal(b"features", associated=BOUND)
    with pytest.raises(VaultError, match="belongs to another"):
        vault.open(sealed, associated=b"site-a|subject-2|schema-3")


def test_another_key_opens_nothing(vault):
    with pytest.raises(VaultError, match="another storage key"):
        Vault(os.urandom(32)).open(vault.seal(b"x", associated=BOUND), associated=BOUND)


def test_a_foreign_file_and_a_later_version_are_told_apart(vault):
    with pytest.raises(VaultError, match="something else"):
        vault.open(b"PK\x03\x04" + bytes(100), associated=BOUND)
    sealed = vault.seal(b"x", associated=BOUND)
    with pytest.raises(VaultError, match="version"):
        vault.open(sealed[:4] + b"\x02" + sealed[5:], associated=BOUND)


def test_equal_plaintexts_look_unrelated(vault):
    first, second = (vault.seal(b"same", associated=BOUND) for _ in range(2))
    assert first[5:] != second[5:]
    assert b"same" not in first


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_of_the_wrong_length_is_refused(length):
    with pytest.raises(VaultError, match="32 bytes"):
        Vault(bytes(length))


def test_the_key_does_not_show_in_the_vaults_description():
    key = b"k" * 32
    assert "kkk" not in repr(Vault(key))


def test_erasing_destroys_the_data_key_even_for_who_kept_a_link_to_the_file(vault, tmp_path):
    path, link = tmp_path / "object", tmp_path / "link"
    write_atomic(path, vault.seal(b"features", associated=BOUND))
    link.hardlink_to(path)
    erase_sealed(path)
    assert not path.exists()
    with pytest.raises(ErasedError):
        vault.open(link.read_bytes(), associated=BOUND)
    erase_sealed(path)


def test_a_failed_write_leaves_the_old_content_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "object"
    write_atomic(path, b"old")

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_breaks_off_between_two_pieces_leaves_the_old_content(tmp_path):
    path = tmp_path / "object"
    write_chunks(path, [b"old ", b"content"])

    def pieces():
        yield b"new"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_chunks(path, pieces())
    assert path.read_bytes() == b"old content"
    assert list(tmp_path.iterdir()) == [path]


def test_an_atomic_write_sets_the_mode_asked_for(tmp_path):
    write_atomic(tmp_path / "public", b"x", mode=0o644)
    assert stat.S_IMODE((tmp_path / "public").stat().st_mode) == 0o644


# Several parts in one file.

PARTS = {
    "facts": b"{}",
    "empty": b"",
    "exact": os.urandom(2 * CHUNK_BYTES),
    "long": os.urandom(2 * CHUNK_BYTES + 5),
}
SEALED_CHUNK = CHUNK_BYTES + TAG_BYTES


def write_parts(path, vault, parts=PARTS, associated=BOUND, label=b"schema-3"):
    path.write_bytes(b"".join(seal_parts(parts, vault=vault, associated=associated, label=label)))


def read_parts(path, vault, associated=BOUND):
    with SealedFile(path, vault=vault, associated=associated) as file:
        return {name: file.read(name) for name in file.parts}


def long_part(data):
    """Where the chunks of the last part lie."""
    start = len(data) - (2 * SEALED_CHUNK + 5 + TAG_BYTES)
    return [start, start + SEALED_CHUNK, start + 2 * SEALED_CHUNK, len(data)]


@pytest.fixture
def sealed(vault, tmp_path):
    path = tmp_path / "object"
    write_parts(path, vault)
    return path


def test_every_part_opens_alone_and_in_any_order(vault, sealed):
    with SealedFile(sealed, vault=vault, associated=BOUND) as file:
        assert file.label == b"schema-3"
        assert file.parts == {name: len(data) for name, data in PARTS.items()}
        for name in reversed(PARTS):
            assert file.read(name) == PARTS[name]
        with pytest.raises(KeyError):
            file.read("frames")


def test_every_single_changed_byte_of_a_small_file_is_noticed(vault, sealed):
    write_parts(sealed, vault, {"facts": b"some facts", "features": b"many numbers"})
    data = sealed.read_bytes()
    for position in range(len(data)):
        sealed.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        with pytest.raises(VaultError):
            read_parts(sealed, vault)


def test_every_shortened_or_lengthened_file_is_noticed(vault, sealed):
    write_parts(sealed, vault, {"facts": b"some facts", "features": b"many numbers"})
    data = sealed.read_bytes()
    for other in [data[:length] for length in range(len(data))] + [data + b"x"]:
        sealed.write_bytes(other)
        with pytest.raises(VaultError):
            read_parts(sealed, vault)


def rearranged(data, kind):
    first, second, third, end = long_part(data)
    one, two, last = data[first:second], data[second:third], data[third:end]
    exact = data[first - 2 * SEALED_CHUNK : first]
    return {
        "chunks swapped": data[:first] + two + one + last,
        "a chunk repeated": data[:first] + one + one + last,
        "parts swapped": data[: first - len(exact)] + one + two + exact + last,
        "a chunk of another part": data[: first - len(exact)] + one + exact[SEALED_CHUNK:]
        + data[first:],
    }[kind]  # fmt: skip


@pytest.mark.parametrize(
    "kind", ["chunks swapped", "a chunk repeated", "parts swapped", "a chunk of another part"]
)
def test_rearranged_chunks_are_noticed(vault, sealed, kind):
    data = sealed.read_bytes()
    other = rearranged(data, kind)
    assert len(other) == len(data)
    assert other != data
    sealed.write_bytes(other)
    with pytest.raises(VaultError, match="changed"):
        read_parts(sealed, vault)


def test_a_part_cut_at_a_chunk_is_noticed_even_with_a_forged_length(vault, sealed):
    """The header says how long a part is, so whoever cuts a part must change the header too."""
    data = bytearray(sealed.read_bytes())
    length = len(PARTS["long"]).to_bytes(8, "big")
    at = data.index(length)
    data[at : at + 8] = (2 * CHUNK_BYTES).to_bytes(8, "big")
    sealed.write_bytes(bytes(data[: long_part(bytes(data))[2]]))
    with SealedFile(sealed, vault=vault, associated=BOUND) as file:
        assert file.parts["long"] == 2 * CHUNK_BYTES
        with pytest.raises(VaultError, match="changed"):
            file.read("long")


def test_a_chunk_of_another_file_is_noticed(vault, sealed, tmp_path):
    other = tmp_path / "other"
    write_parts(other, vault)
    data = sealed.read_bytes()
    place = slice(*long_part(data)[:2])
    mixed = bytearray(data)
    mixed[place] = other.read_bytes()[place]
    sealed.write_bytes(bytes(mixed))
    with pytest.raises(VaultError, match="changed"):
        read_parts(sealed, vault)


def test_a_sealed_file_of_another_subject_or_key_does_not_open(vault, sealed):
    with pytest.raises(VaultError, match="belongs to another"):
        read_parts(sealed, vault, b"site-a|subject-2|schema-3")
    with pytest.raises(VaultError, match="another storage key"):
        read_parts(sealed, Vault(os.urandom(32)))


def test_an_erased_file_is_told_from_a_damaged_one(vault, sealed, tmp_path):
    link = tmp_path / "link"
    link.hardlink_to(sealed)
    erase_sealed(sealed)
    with pytest.raises(ErasedError):
        read_parts(link, vault)
    link.write_bytes(b"")
    with pytest.raises(VaultError, match="something else"):
        read_parts(link, vault)


def test_a_header_that_promises_more_than_there_is_costs_no_memory(vault, sealed):
    data = bytearray(sealed.read_bytes())
    at = data.index(len(PARTS["long"]).to_bytes(8, "big"))
    data[at : at + 8] = (1 << 62).to_bytes(8, "big")
    sealed.write_bytes(bytes(data))
    with pytest.raises(VaultError, match="cut or added to"):
        read_parts(sealed, vault)


def test_no_nonce_is_used_twice_in_a_file(vault, monkeypatch):
    used = []
    genuine = seal_parts.__globals__["_nonce"]
    monkeypatch.setitem(
        seal_parts.__globals__, "_nonce", lambda *place: used.append(genuine(*place)) or used[-1]
    )
    list(seal_parts(PARTS, vault=vault, associated=BOUND))
    assert len(used) == len(set(used)) == 1 + 1 + 2 + 3
