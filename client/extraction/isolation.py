"""Processes that open videos, cut off from every network by the kernel; no privilege is needed.

A decoder reads files that people send in, so what takes it over must find no way out. The cut is a
network namespace without interfaces: a connection fails at once, to this machine itself as well.
Sockets that lie in the file system, and the pipes that a process was started with, go on working.

The kernel moves a process into a new user namespace only while it has one thread, and importing
NumPy starts threads of its linear algebra. So a worker begins in :mod:`client.extraction.entry`,
which takes the name of what to do and imports it after the cut.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Literal

NetworkMode = Literal["cut", "cut_if_possible", "open"]

_NEW_USER_NAMESPACE = 0x10000000
_NEW_NETWORK_NAMESPACE = 0x40000000
_SET_NO_NEW_PRIVILEGES = 38
_CAPABILITY_VERSION = 0x20080522
_LOOPBACK = "lo"
_REMEDY = (
    "Run the extraction under the units that 'vultus-site units' writes (PrivateNetwork=yes), in a "
    'container without network, or set [extraction] network = "cut_if_possible" in site.toml'
)


class IsolationError(RuntimeError):
    """The network could not be cut although the site demands it."""


class _CapabilityHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _CapabilitySets(ctypes.Structure):
    _fields_ = [
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    ]


def cut_network(mode: NetworkMode) -> bool:
    """Take the network from this process and all it will start, for good.

    Guarantees:
        If it returns True, the process has no interface but an own loopback that nobody else
        shares, and it can gain no privilege by which to return. Files stay as readable as before.
        Covered are Internet, netlink and abstract sockets; not covered are sockets in the file
        system, whose permissions decide.

    Args:
        mode: ``cut`` fails where the kernel refuses, ``cut_if_possible`` goes on, ``open`` does
            nothing.

    Returns:
        Whether the process has no network now.

    Raises:
        IsolationError: If the mode is ``cut`` and the kernel refuses; with the remedy.
    """
    if mode == "open":
        return False
    refusal = _leave_network()
    if refusal is None or has_only_loopback():
        return True
    if mode == "cut":
        msg = f"Expected the kernel to cut the network of the extractor, got: {refusal}. {_REMEDY}."
        raise IsolationError(msg)
    return False


def has_only_loopback() -> bool:
    """Whether this process sees no network interface but its own loopback."""
    try:
        lines = Path("/proc/self/net/dev").read_text(encoding="ascii").splitlines()[2:]
    except OSError:
        return False
    return {line.split(":")[0].strip() for line in lines} <= {_LOOPBACK}


def _leave_network() -> str | None:
    """Enter a network namespace of one's own; why not, if not."""
    if sys.platform != "linux":
        return f"no network namespaces on {sys.platform}"
    threads = sum(1 for _ in Path("/proc/self/task").iterdir())
    if threads > 1:
        return f"{threads} threads run already, and the cut has to come before the second"
    user, group = os.geteuid(), os.getegid()
    flags = _NEW_NETWORK_NAMESPACE | (_NEW_USER_NAMESPACE if user else 0)
    kernel = ctypes.CDLL(None, use_errno=True)
    if kernel.unshare(flags) != 0:
        return os.strerror(ctypes.get_errno())
    if user:
        # The same numbers inside as outside, so that owners and modes mean what they meant.
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")
        _drop_capabilities(kernel)
    kernel.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    return None


def _drop_capabilities(kernel: ctypes.CDLL) -> None:
    """Give up the power over its own namespaces that their maker holds."""
    header = _CapabilityHeader(_CAPABILITY_VERSION, 0)
    none = (_CapabilitySets * 2)()
    kernel.capset(ctypes.byref(header), ctypes.byref(none))
