"""A Debian tree to boot in a sandbox, built once by mmdebstrap and kept in the user's cache."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from exclave_testing.sandbox_cgroups import Unavailable
from exclave_testing.sandbox_files import inside

# What a booting Debian needs, and what our packages depend on (they are installed offline).
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "libnss-systemd",
    "libpam-systemd",
    "procps",
    "iproute2",
    "libgomp1",
    "libstdc++6",
)
# Manuals and translations of others: a third of the tree. Ours are installed later, all of them.
LEFT_OUT = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*")
# Raise it when the recipe below changes: the trees get new names and are built anew.
RECIPE = 2
# Command, and the Debian package that has it.
TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "mountpoint": "util-linux",
    "mount": "mount",
}


def ensure_tools() -> None:
    """Have every tool; root on Debian installs what is missing. Raises: Unavailable."""
    missing = sorted({package for tool, package in TOOLS.items() if shutil.which(tool) is None})
    if not missing:
        return
    install = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    if os.geteuid() != 0 or not Path("/etc/debian_version").exists():
        raise Unavailable(f"this machine lacks {', '.join(missing)} (Debian: {' '.join(install)})")
    print(f"missing for the sandbox: {', '.join(missing)}; running {' '.join(install)}", flush=True)
    for command in (["apt-get", "update", "-qq"], install):
        done = subprocess.run(
            command,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode != 0:
            raise Unavailable(f"`{' '.join(command)}` failed: {_last(done.stderr)}")


def debian_tree(suite: str = "bookworm", extra: Sequence[str] = ()) -> Path:
    """The folder of a minimal Debian with `extra` packages; builds it the first time.

    Nobody writes to it: sandboxes lay an overlay on it. Raises: Unavailable.
    """
    packages = sorted({*PACKAGES, *extra})
    options = json.dumps([RECIPE, suite, packages, LEFT_OUT, platform.machine()])
    key = hashlib.sha256(options.encode()).hexdigest()[:12]
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    tree = Path(cache).expanduser() / "exclave" / "trees" / f"{suite}-{key}"
    if tree.is_dir():
        return tree
    ensure_tools()
    tree.parent.mkdir(parents=True, exist_ok=True)
    with _locked(tree.with_suffix(".lock")):
        if not tree.is_dir():
            _build(suite, packages, tree)
    return tree


def _build(suite: str, packages: Sequence[str], tree: Path) -> None:
    """Build beside the final place, and rename when whole."""
    part = tree.with_suffix(".part")
    _remove(part)
    print(f"building a {suite} tree for the sandbox (under a minute): {tree}", file=sys.stderr)
    command = ["mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join(packages)}"]
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
    done = subprocess.run(
        [*command, suite, str(part)], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        _remove(part)
        raise Unavailable(f"mmdebstrap could not build {suite}: {_last(done.stderr)}")
    # Packages installed in the sandbox must come with all their files.
    (part / "etc/dpkg/dpkg.cfg.d/99mmdebstrap").unlink(missing_ok=True)
    # The host's name and resolver are not the sandbox's.
    (part / "etc/hostname").write_text("box\n")
    (part / "etc/hosts").write_text("127.0.0.1 localhost box\n::1 localhost box\n")
    (part / "etc/resolv.conf").unlink(missing_ok=True)
    (part / "etc/resolv.conf").write_text("")
    _make_folders(part)
    part.rename(tree)


def _make_folders(tree: Path) -> None:
    """Make the folders of what was left out: packages own them.

    A package that goes takes a folder along that nobody else has a file in, and then dpkg
    rewrites the lists of all packages that own it. On a machine that has its manuals it does not.
    """
    for listing in tree.glob("var/lib/dpkg/info/*.list"):
        for path in listing.read_text().splitlines():
            inside(tree, Path(path).parent).mkdir(parents=True, exist_ok=True)


def _remove(part: Path) -> None:
    """Remove what an interrupted build left, never crossing into something mounted there."""
    if part.exists():
        subprocess.run(["rm", "-rf", "--one-file-system", str(part)], check=True)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _last(text: str) -> str:
    """The lines of an error output that say something."""
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("E:", "Err:", "W:"))]
    return " / ".join((errors or lines)[-3:]) or "no message"
