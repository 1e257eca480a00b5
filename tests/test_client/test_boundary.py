"""The boundary between the halves of a site, enforced by the kernel and tried with processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="namespaces and Landlock are Linux's")
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as two users")


ACT_AS = """
set -e
closed=$1; prefix=$2; user=$3; shift 3
if [ -n "$closed" ]; then
  # The interpreter lies in a home that others cannot enter: show it alone, in this mount namespace.
  mount --make-rprivate /
  shown=/mnt
  mount -t tmpfs -o mode=755 tmpfs "$shown"
  mkdir -p "$shown/${prefix#$closed/}"
  mount --bind "$prefix" "$shown/${prefix#$closed/}"
  mount --rbind "$shown" "$closed"
fi
exec setpriv --reuid="$user" --regid="$user" --clear-groups "$@"
"""


def act_as(user: int | None) -> list[str]:
    """Words before a command that make it another user's."""
    if user is None:
        return []
    prefix = Path(sys.base_prefix).resolve()
    ways = [path for path in reversed(prefix.parents) if not path.stat().st_mode & 0o001]
    return ["unshare", "--mount", "sh", "-c", ACT_AS, "sh", *map(str, ways[:1] or [""]),
            str(prefix), str(user)]  # fmt: skip


def run_python(
    program: str, *words: object, user: int | None = None, before: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, as another user if asked."""
    code = textwrap.dedent(program)
    return subprocess.run(
        [*act_as(user), *before, sys.executable, "-c", code, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd="/",
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
             "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def can_unshare() -> bool:
    """Whether this kernel gives namespaces to those without privilege."""
    user = NOBODY if os.geteuid() == 0 else None
    return run_python("import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x50000000) != 0)",
                      user=user).returncode == 0  # fmt: skip


CONNECT = """
    import socket, sys
    from client.extraction.isolation import cut_network, has_only_loopback
    mode, port, readable = sys.argv[1:]
    print(cut_network(mode), has_only_loopback(), bool(open(readable).read()))
    try:
        socket.create_connection(("127.0.0.1", int(port)), timeout=5).close()
        print("connected")
    except OSError as error:
        print(type(error).__name__)
"""
USERS = [
    pytest.param(None, id="this user"),
    pytest.param(NOBODY, id="another user", marks=AS_ROOT),
]


@pytest.fixture
def listening() -> socket.socket:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@LINUX
@pytest.mark.parametrize("user", USERS)
def test_cut_process_reads_files_and_reaches_nobody(listening, user):
    if not can_unshare():
        pytest.skip("this kernel keeps namespaces to the privileged")
    port = listening.getsockname()[1]
    done = run_python(CONNECT, "cut", port, "/etc/passwd", user=user)
    assert done.stdout.split() == ["True", "True", "True", "OSError"], done.stderr


@LINUX
def test_open_process_reaches_the_same_server(listening):
    done = run_python(CONNECT, "open", listening.getsockname()[1], "/etc/passwd")
    assert done.stdout.split() == ["False", "False", "True", "connected"], done.stderr
