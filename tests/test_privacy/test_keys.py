"""Key files are private, never overwritten, and are what the other programs expect."""

import shutil
import stat
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from privacy import keys
from privacy.keys import KeyFileError


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "keys"
    path.mkdir(mode=0o700)
    return path


def create_identity(folder):
    return keys.create_identity_key(folder / "identity", folder / "identity.pub")


KINDS = {
    "storage": (keys.create_storage_key, keys.load_storage_key),
    "ledger": (keys.create_ledger_key, keys.load_ledger_key),
    "identity": (
        lambda path: keys.create_identity_key(path, path.with_suffix(".pub")),
        keys.load_identity_key,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_key_lies_in_a_private_file_and_folder(tmp_path, kind):
    create, _ = KINDS[kind]
    path = tmp_path / "new" / "key"
    create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o660, 0o644])
def test_a_key_file_open_to_others_is_refused_with_the_remedy(folder, kind, mode):
    create, load = KINDS[kind]
    create(folder / "key")
    (folder / "key").chmod(mode)
    with pytest.raises(KeyFileError, match=f"mode 0{mode:o}: run chmod 600"):
        load(folder / "key")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", [0o750, 0o705, 0o755])
def test_a_key_folder_open_to_others_is_refused_with_the_remedy(folder, kind, mode):
    create, load = KINDS[kind]
    create(folder / "key")
    folder.chmod(mode)
    with pytest.raises(KeyFileError, match="run chmod 700"):
        load(folder / "key")
    with pytest.raises(KeyFileError, match="run chmod 700"):
        create(folder / "second")


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_is_never_overwritten(folder, kind):
    create, load = KINDS[kind]
    create(folder / "key")
    before = (folder / "key").read_bytes()
    with pytest.raises(KeyFileError, match="never overwritten"):
        create(folder / "key")
    assert (folder / "key").read_bytes() == before
    load(folder / "key")


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_or_foreign_key_file_says_what_to_do(folder, kind):
    _, load = KINDS[kind]
    with pytest.raises(KeyFileError, match="found none"):
        load(folder / "key")
    (folder / "key").write_bytes(b"not a key")
    (folder / "key").chmod(0o600)
    with pytest.raises(KeyFileError, match="restore the key"):
        load(folder / "key")


def test_keys_of_one_kind_are_not_taken_for_another(folder):
    keys.create_ledger_key(folder / "ledger")
    create_identity(folder)
    with pytest.raises(KeyFileError):
        keys.load_identity_key(folder / "ledger")
    with pytest.raises(KeyFileError):
        keys.load_ledger_key(folder / "identity")


def test_storage_keys_are_random(folder):
    first = keys.create_storage_key(folder / "a")
    assert len(first) == 32
    assert first != keys.create_storage_key(folder / "b")
    assert keys.load_storage_key(folder / "a") == first


def test_the_ledger_key_loads_as_it_was_made(folder):
    made = keys.create_ledger_key(folder / "ledger")
    assert keys.load_ledger_key(folder / "ledger").private_bytes_raw() == made.private_bytes_raw()


def test_the_identity_key_has_the_form_that_supernode_authentication_reads(folder):
    create_identity(folder)
    key = load_ssh_private_key((folder / "identity").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    line = (folder / "identity.pub").read_text()
    assert line.startswith("ecdsa-sha2-nistp384 ")
    assert keys.public_line(key) == line.strip()


def test_a_signature_holds_for_its_message_and_key_only(folder):
    key = create_identity(folder)
    public = (folder / "identity.pub").read_text()
    signature = keys.sign(key, b"model 7")
    assert keys.verify(public, signature, b"model 7")
    assert keys.verify(public.strip() + " site-a@hospital", signature, b"model 7")
    assert not keys.verify(public, signature, b"model 8")
    assert not keys.verify(public, b"\x00" + signature[1:], b"model 7")
    other = keys.public_line(ec.generate_private_key(ec.SECP384R1()))
    assert not keys.verify(other, signature, b"model 7")


def test_other_curves_and_kinds_are_refused_as_identity():
    small = keys.public_line(ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(KeyFileError, match="P-384"):
        keys.load_public_line(small)
    with pytest.raises(KeyFileError, match="ecdsa-sha2-nistp384"):
        keys.load_public_line("hello")


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
def test_the_fingerprint_is_the_one_that_ssh_keygen_prints(folder):
    create_identity(folder)
    command = ["ssh-keygen", "-l", "-f", str(folder / "identity.pub")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert keys.fingerprint((folder / "identity.pub").read_text()) == printed.split(" ")[1]


def test_fingerprints_tell_keys_apart_and_ignore_comments():
    line = keys.public_line(ec.generate_private_key(ec.SECP384R1()))
    assert keys.fingerprint(line) == keys.fingerprint(line + " comment")
    other = keys.public_line(ec.generate_private_key(ec.SECP384R1()))
    assert keys.fingerprint(line) != keys.fingerprint(other)
