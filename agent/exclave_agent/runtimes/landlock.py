"""Takes from a worker every file but its model and what its engine is made of (landlock(7)).

A worker runs as the agent's user, who may read the vault's key and the databases: without
this wall a model file that subverts its engine could as well. Landlock also keeps it from
looking into other processes' memory (/proc/PID/mem), and on Linux 6.12 from signalling them.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterable
from contextlib import suppress
from glob import glob
from pathlib import Path

from exclave_agent.runtimes.isolate import NVIDIA

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""Of every architecture."""
_VERSION = 1
_PATH_BENEATH = 1

_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_READ = _READ_FILE | _READ_DIR
_FILE_RIGHTS = 1 | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
"""Rights that a rule for a single file may grant."""
_HANDLED = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
"""Rights to files by version of the interface, later ones as 5."""
_HANDLED_LATER = (1 << 16) - 1
_SCOPE_SIGNALS = 0b11
"""Abstract Unix sockets and signals, from version 6 on."""

_SYSTEM = (
    *("/usr", "/lib", "/lib64", "/proc", "/sys"),
    *("/etc/ld.so.cache", "/etc/localtime", "/etc/nsswitch.conf", "/etc/passwd"),
)
_DEVICES = ("null", "zero", "random", "urandom", "nvidia*", "dri", "kfd")


def confine(*models: Path) -> bool:
    """Restrict this process to reading `models` and the code it runs. Call while it has one
    thread, after `no_new_privs`. Returns whether the wall stands, tried by running against it;
    False: the kernel is older than Linux 5.13, or has it switched off.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)
    if version < 1:
        return False
    handled = _HANDLED.get(version, _HANDLED_LATER)
    # struct landlock_ruleset_attr { u64 files; u64 network; u64 scoped; }, longer by version.
    # Of the network nothing: no socket can be made at all (isolate.py).
    attributes = struct.pack("=QQQ", handled, 0, _SCOPE_SIGNALS if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(size), 0)
    if rules < 0:
        return False
    try:
        for path in {*map(str, models), *_code(), *_SYSTEM}:
            _allow(libc, rules, path, _READ & handled)
        for name in _DEVICES:
            for path in glob(f"/dev/{name}"):
                _allow(libc, rules, path, (_READ | _WRITE_FILE | _IOCTL_DEV) & handled)
        if NVIDIA.exists():
            # CUDA writes the names of its threads, and does not start where it may not.
            own = f"/proc/{os.getpid()}/task"
            _allow(libc, rules, own, (_READ | _WRITE_FILE | _TRUNCATE) & handled)
        if libc.syscall(_RESTRICT_SELF, rules, 0) != 0:
            return False
    finally:
        os.close(rules)
    return _closed(Path("/"))


def _code() -> Iterable[str]:
    """Where Python and the engines' libraries come from."""
    yield from (sys.prefix, sys.base_prefix, *filter(None, sys.path))
    yield from filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":"))


def _allow(libc: ctypes.CDLL, rules: int, path: str, rights: int) -> None:
    """Grant rights below a path; one that is not there needs none."""
    with suppress(OSError):
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not Path(path).is_dir():
                rights &= _FILE_RIGHTS
            # struct landlock_path_beneath_attr { u64 rights; s32 parent; }, packed
            rule = struct.pack("=Qi", rights, handle)
            libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, rule, 0)
        finally:
            os.close(handle)


def _closed(folder: Path) -> bool:
    try:
        os.listdir(folder)
    except PermissionError:
        return True
    return False
