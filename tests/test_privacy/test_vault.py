"""Sealed objects open only unchanged, under their key and for what they were bound to."""

import os
import stat

import pytest

from privacy.vault import (
    Vault,
    VaultError,
    erase_sealed,
    read_sealed,
    write_atomic,
    write_sealed,
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


def test_a_sealed_file_is_private_and_opens_again(vault, tmp_path):
    path = tmp_path / "object"
    write_sealed(path, b"features", vault=vault, associated=BOUND)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_sealed(path, vault=vault, associated=BOUND) == b"features"
    with pytest.raises(VaultError, match=r"Cannot open object: .*belongs to another"):
        read_sealed(path, vault=vault, associated=b"other")


def test_erasing_destroys_the_data_key_even_for_who_kept_a_link_to_the_file(vault, tmp_path):
    path, link = tmp_path / "object", tmp_path / "link"
    write_sealed(path, b"features", vault=vault, associated=BOUND)
    link.hardlink_to(path)
    erase_sealed(path)
    assert not path.exists()
    with pytest.raises(VaultError):
        read_sealed(link, vault=vault, associated=BOUND)
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


def test_an_atomic_write_sets_the_mode_asked_for(tmp_path):
    write_atomic(tmp_path / "public", b"x", mode=0o644)
    assert stat.S_IMODE((tmp_path / "public").stat().st_mode) == 0o644
