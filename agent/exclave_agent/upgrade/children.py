"""Other programs: those that may be given up after a while, and those that never may."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/root",
}
"""All that a child gets: nothing of ours leaks into maintainer scripts."""
ASK_SECONDS: Final = 90.0
_TAIL: Final = 2000


class ChildFailed(Exception):
    """Another exit status than 0, or none at all; the text is the line that says most of it."""


def ask(words: Sequence[str], *, seconds: float = ASK_SECONDS) -> str:
    """Output of a program that only looks, or asks another one. Raises: ChildFailed."""
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=ENVIRONMENT,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ChildFailed(f"{words[0]} did not end within {seconds:.0f} s") from error
    except OSError as error:
        raise ChildFailed(f"{words[0]} cannot be run ({error.strerror})") from error
    if done.returncode != 0:
        raise ChildFailed(_last_line(words[0], done.returncode, done.stderr))
    return done.stdout.decode("utf-8", "replace")


def work(words: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
    """Run a program that MUST NOT be interrupted: however long it takes, it is waited for.

    Its own session, so that no terminal's signal reaches it; its output goes to a file and not
    through a pipe of ours, so that it outlives us. Raises: ChildFailed.
    """
    with log.open("ab") as out:
        before = out.tell()
        try:
            child = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=ENVIRONMENT | dict(environment or {}),
                start_new_session=True,
            )
        except OSError as error:
            raise ChildFailed(f"{words[0]} cannot be run ({error.strerror})") from error
        code = child.wait()
    if code != 0:
        with log.open("rb") as said:
            said.seek(max(before, os.fstat(said.fileno()).st_size - _TAIL))
            raise ChildFailed(_last_line(words[0], code, said.read()))


def _last_line(program: str, code: int, output: bytes) -> str:
    lines = output.decode("utf-8", "replace").strip().splitlines()
    # dpkg's own last lines only count and name what went wrong before.
    telling = [x for x in lines if "error" in x.lower() and not x.startswith("Errors were")]
    last = "".join(c for c in ((telling or lines or [""])[-1])[:200] if c.isprintable())
    how = f"exited {code}" if code >= 0 else f"was ended by signal {-code}"
    return f"{program} {how}: {last}" if last else f"{program} {how}"
