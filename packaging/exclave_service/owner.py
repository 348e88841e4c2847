"""Giving up root for the user that owns a home, for commands that root runs on it.

Root would leave files there that the service could no longer open, and needs none of its rights.
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path


def is_anothers(home: Path) -> bool:
    """Whether this process is root and the home belongs to somebody else."""
    return os.geteuid() == 0 and home.is_dir() and home.stat().st_uid != 0


def become_owner(home: Path) -> None:
    """Become the user that owns the home, for good; nothing to do for anyone but root."""
    if not is_anothers(home):
        return
    owner = home.stat()
    try:
        os.initgroups(pwd.getpwuid(owner.st_uid).pw_name, owner.st_gid)
    except KeyError:  # an owner without a name has no other groups
        os.setgroups([])
    os.setresgid(owner.st_gid, owner.st_gid, owner.st_gid)
    os.setresuid(owner.st_uid, owner.st_uid, owner.st_uid)
    # Whatever root's shell says, these are the user's now.
    os.environ["HOME"] = str(home)
