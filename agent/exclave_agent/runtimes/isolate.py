"""Takes from the worker's own process what an engine never needs: network, privileges, dumps.

Called once, at the start, while the process has one thread: `unshare(CLONE_NEWUSER)` demands
it. Each wall is verified by trying to get through it, and only walls that hold are reported.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import resource
import signal
import socket
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

# Options of the prctl system call.
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_GET_DUMPABLE = 3
PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
PR_GET_NO_NEW_PRIVS = 39
SECCOMP_MODE_FILTER = 2

# seccomp(2), bpf: struct seccomp_data { int nr; u32 arch; u64 ip; u64 args[6]; }
_LOAD, _JEQ, _JGE, _RET = 0x20, 0x15, 0x35, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_X32_BIT = 0x40000000


@dataclass(frozen=True, slots=True)
class _Numbers:
    """System calls of one kind of machine."""

    architecture: int
    """As the audit subsystem names it."""
    refused: tuple[int, ...]
    """What reaches out of the process besides sockets: ptrace, process_vm_readv/writev,
    io_uring_setup (its rings open sockets too), bpf, pidfd_getfd (takes descriptors from other
    processes), kill, tkill, rt_sigqueueinfo, rt_tgsigqueueinfo, pidfd_send_signal, execve,
    execveat."""
    tgkill: int
    """Stays for the process itself: abort(3) raises its signal with it."""
    prlimit: int
    """As well: a limit of no processor time is a SIGKILL for a process of the same user."""
    fcntl: int
    """But for the commands that have the kernel send a signal to somebody."""
    socket: int
    sendto: int
    outward: tuple[int, ...]
    """How a Unix socket would reach somebody, or be reached: connect, accept, accept4, sendmsg,
    sendmmsg. Where there is an NVIDIA driver, whose library listens on a socket of its own (and
    fails where it may not), these are refused in place of every socket."""


_SYSCALLS = {
    "x86_64": _Numbers(
        0xC000003E,
        (101, 310, 311, 425, 321, 438, 62, 200, 129, 297, 424, 59, 322),
        tgkill=234,
        prlimit=302,
        fcntl=72,
        socket=41,
        sendto=44,
        outward=(42, 43, 288, 46, 307),
    ),
    "aarch64": _Numbers(
        0xC00000B7,
        (117, 270, 271, 425, 280, 438, 129, 130, 138, 240, 424, 221, 281),
        tgkill=131,
        prlimit=261,
        fcntl=25,
        socket=198,
        sendto=206,
        outward=(203, 202, 242, 211, 269),
    ),
}
_OWNERS = (8, 10, 15)
"""F_SETOWN, F_SETSIG, F_SETOWN_EX."""
NVIDIA = Path("/dev/nvidiactl")
"""There where CUDA may work."""


def isolate(parent: int | None) -> tuple[str, ...]:
    """Raise every wall that the OS grants and return the names of those that stand.

    "netns": a network namespace of our own with nothing but a downed loopback. "seccomp": no
    socket can be made at all; where there is an NVIDIA driver Unix ones can, which reach nobody
    and are reached by nobody. "no_new_privs", "no_dump", "no_caps": as prctl(2) and
    capabilities(7) mean them; where seccomp stands no other process can be signalled and no
    program started. "parent_death": the kernel ends this process with its parent.

    `parent` None: a service manager started us and ends us; we outlive no agent all the same, as
    its end closes our socket. Raises: SystemExit when `parent` (a process id) has already gone.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    # Without types ctypes would pass 32 bits where the kernel reads and compares 64.
    libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    before = _network_namespace()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # In one call: a user namespace alone gives the right to make the network namespace.
    # Root in a container often may make neither; seccomp below is then the wall.
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        libc.unshare(CLONE_NEWNET)
    # After unshare: a change of credentials clears both settings.
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    if parent is not None:
        libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            raise SystemExit("the parent process has gone")
    _drop_capabilities(libc)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1:
        _forbid_sockets(libc)
    walls = _standing(libc, before)
    return walls if parent is None else ("parent_death", *walls)


def has_network() -> bool:
    """True unless both IPv4 and IPv6 fail as they do with no interface up, or no socket at all.

    A datagram socket's `connect` asks for a route and sends nothing.
    """
    return any(
        _has_route(family, address)
        for family, address in (
            (socket.AF_INET, ("127.0.0.1", 9)),
            (socket.AF_INET, ("192.0.2.1", 9)),
            (socket.AF_INET6, ("::1", 9)),
        )
    )


def _has_route(family: int, address: tuple[str, int]) -> bool:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)
    except OSError as error:
        return error.errno not in (
            errno.ENETUNREACH,
            errno.EADDRNOTAVAIL,
            errno.EPERM,
            errno.EAFNOSUPPORT,
        )
    return True


def _standing(libc: ctypes.CDLL, before: int) -> tuple[str, ...]:
    walls = []
    if _network_namespace() not in (before, -1):
        walls.append("netns")
    if _socket_refused():
        walls.append("seccomp")
    if libc.prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1:
        walls.append("no_new_privs")
    if libc.prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0:
        walls.append("no_dump")
    if _capabilities() == 0:
        walls.append("no_caps")
    return tuple(walls)


def _network_namespace() -> int:
    """Which network namespace this thread is in; -1 when /proc does not say."""
    with contextlib.suppress(OSError):
        return os.stat("/proc/thread-self/ns/net").st_ino
    return -1


def _socket_refused() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
    except PermissionError:
        return True
    return False


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """Empty the effective, permitted and inheritable sets (capset(2), version 3)."""
    header = struct.pack("=Ii", 0x20080522, 0)
    libc.capset(ctypes.create_string_buffer(header), ctypes.create_string_buffer(bytes(24)))


def _capabilities() -> int:
    """The effective set, as the kernel shows it; -1 when it cannot be read."""
    with contextlib.suppress(OSError), open("/proc/thread-self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    return -1


def _forbid_sockets(libc: ctypes.CDLL) -> None:
    """Install a filter that answers EPERM to what reaches out of the process (`_Numbers`)."""
    known = _SYSCALLS.get(platform.machine())
    if known is None or sys.byteorder != "little":
        return
    program = _assemble(_filter(known, os.getpid(), nvidia=NVIDIA.exists()))
    code = b"".join(struct.pack("=HBBI", *step) for step in program)
    steps = ctypes.create_string_buffer(code)
    # struct sock_fprog { unsigned short len; struct sock_filter *filter; }
    fprog = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(steps)))
    libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(fprog), 0, 0)


_Step = tuple[int, str, str, int] | str
"""Operation, where to if it holds and if not (empty: the next step), operand; or a label."""


def _filter(known: _Numbers, own: int, *, nvidia: bool = False) -> list[_Step]:
    """The filter; offsets are those of struct seccomp_data. `nvidia`: Unix sockets may be made."""
    number, first, second, fifth = 0, 16, 24, 48
    refused = (*known.refused, *(known.outward if nvidia else (known.socket,)))
    sockets: tuple[_Step, ...] = (
        (_JEQ, "unix", "", known.socket),
        (_JEQ, "no address", "", known.sendto),
    )
    return [
        (_LOAD, "", "", 4),
        (_JEQ, "ours", "", known.architecture),
        (_RET, "", "", _KILL),
        "ours",
        (_LOAD, "", "", number),
        # The x32 numbering would slip past the list below.
        (_JGE, "refuse", "", _X32_BIT),
        *((_JEQ, "refuse", "", call) for call in refused),
        *(sockets if nvidia else ()),
        (_JEQ, "own", "", known.tgkill),
        (_JEQ, "own or none", "", known.prlimit),
        (_JEQ, "no owner", "", known.fcntl),
        (_RET, "", "", _ALLOW),
        # An address says to whom, for sockets that are connected to nobody.
        "no address",
        (_LOAD, "", "", fifth),
        (_JEQ, "", "refuse", 0),
        (_LOAD, "", "", fifth + 4),
        (_JEQ, "allow", "refuse", 0),
        "unix",
        (_LOAD, "", "", first),
        (_JEQ, "allow", "refuse", socket.AF_UNIX),
        "own or none",
        (_LOAD, "", "", first),
        (_JEQ, "allow", "", 0),
        "own",
        (_LOAD, "", "", first),
        (_JEQ, "allow", "refuse", own),
        "no owner",
        (_LOAD, "", "", second),
        *((_JEQ, "refuse", "", command) for command in _OWNERS),
        "allow",
        (_RET, "", "", _ALLOW),
        "refuse",
        (_RET, "", "", _ERRNO | errno.EPERM),
    ]


def _assemble(steps: list[_Step]) -> list[tuple[int, int, int, int]]:
    """Labels become distances: BPF jumps are forward, counted from the next step."""
    places: dict[str, int] = {}
    program: list[tuple[int, str, str, int]] = []
    for step in steps:
        if isinstance(step, str):
            places[step] = len(program)
        else:
            program.append(step)
    return [
        (
            operation,
            places[yes] - at - 1 if yes else 0,
            places[no] - at - 1 if no else 0,
            operand,
        )
        for at, (operation, yes, no, operand) in enumerate(program)
    ]
