"""The ledger's SQLite file: its tables, and how several processes open it safely."""

import contextlib
import fcntl
import os
import sqlite3
from pathlib import Path

_BUSY_TIMEOUT_S = 30.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS releases (
    sequence INTEGER PRIMARY KEY, release_id TEXT NOT NULL UNIQUE, purpose TEXT NOT NULL,
    noise_multiplier REAL NOT NULL, sample_rate REAL NOT NULL, steps INTEGER NOT NULL,
    delta REAL NOT NULL, cap_epsilon REAL NOT NULL, epsilon_after REAL NOT NULL,
    subjects INTEGER NOT NULL, cohort TEXT NOT NULL, reserved_at TEXT NOT NULL,
    previous TEXT NOT NULL, hash TEXT NOT NULL, signature BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS participation (
    subject TEXT NOT NULL, sequence INTEGER NOT NULL, PRIMARY KEY (subject, sequence)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS participation_by_release ON participation (sequence);
CREATE TRIGGER IF NOT EXISTS releases_stay BEFORE DELETE ON releases
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS releases_keep BEFORE UPDATE ON releases
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS participation_stays BEFORE DELETE ON participation
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS participation_keeps BEFORE UPDATE ON participation
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""


def open_ledger_file(path: Path) -> sqlite3.Connection:
    """Connection to the ledger's file, created with mode 0600 if absent; every commit is durable.

    Args:
        path: the file, in an existing folder.
    """
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        # Two processes that both switch a new file to WAL would see each other as a failure.
        fcntl.flock(folder, fcntl.LOCK_EX)
        _create(path)
        database = sqlite3.connect(
            path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.executescript(_SCHEMA)
        os.fsync(folder)
    finally:
        os.close(folder)
    return database


def _create(path: Path) -> None:
    """Make the file if there is none, and never open one that is there.

    To close any descriptor of a file drops all locks that the process holds on it, those of an
    open ledger too: whoever closes the ledger next, in another process, then takes itself for the
    last and removes the log in which this process still writes its charges.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
