"""A ledger that is opened twice in one process, while another process looks at it and goes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.ledger import PrivacyLedger

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
LOOK = """
import sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from privacy.ledger import PrivacyLedger
key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
with PrivacyLedger(Path(sys.argv[1]), key=key) as ledger:
    print(*[row.release_id for row in ledger.releases()])
"""


def look(path: Path) -> list[str]:
    """What another process finds, as 'vultus-site budget' does."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK, path], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def charge(ledger: PrivacyLedger, name: str) -> None:
    ledger.reserve(name, ["a", "b"], noise_multiplier=5.0, sample_rate=1.0, steps=1, delta=1e-3,
                   purpose="train", cap_epsilon=10.0, once=True)  # fmt: skip


def charge_while_others_look(path: Path, meanwhile: Callable[[Path], object]) -> list[str]:
    """What other processes find of the charges of one that opened its ledger twice."""
    with PrivacyLedger(path, key=KEY) as first:
        charge(first, "run/1")
        with PrivacyLedger(path, key=KEY) as second:
            meanwhile(path)
            look(path)
            charge(second, "run/2")
            look(path)
            charge(first, "run/3")
            return look(path)


def test_charges_reach_the_disk_whoever_looked_in_between(tmp_path: Path) -> None:
    found = charge_while_others_look(tmp_path / "ledger.sqlite", lambda _: None)
    assert found == ["run/1", "run/2", "run/3"]


def open_and_close(path: Path) -> None:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def test_an_open_and_close_of_the_file_itself_is_noticed(tmp_path: Path) -> None:
    """Locks are lost by it: the charges of this process then go into a file that is no more."""
    found = charge_while_others_look(tmp_path / "ledger.sqlite", open_and_close)
    assert found != ["run/1", "run/2", "run/3"]


def open_files(path: Path) -> int:
    links = Path("/proc/self/fd").iterdir()
    return sum(link.is_symlink() and link.readlink() == path for link in links)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_a_ledger_that_nobody_holds_lets_go_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    for number in range(5):
        charge(PrivacyLedger(path, key=KEY), f"run/{number}")
    assert open_files(path) == 0
    with PrivacyLedger(path, key=KEY) as ledger:
        assert open_files(path) == 1
        assert len(ledger.releases()) == 5
