"""Commands that documents show, taken from their fences and typed into a booted system."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from exclave_testing.sandbox import Sandbox

_TOKEN = re.compile(
    r"^(?:#+ (?P<heading>[^\n]+)|```(?P<fence>[^\n]*)\n(?P<text>.*?)^```)$",
    re.MULTILINE | re.DOTALL,
)
_KEPT = "/run/kept-environment"


@dataclass(frozen=True, slots=True)
class Block:
    """One fence."""

    heading: str
    """The section that it stands in."""
    number: int
    """Its place among the blocks of that section, from 1."""
    line: int
    text: str

    @property
    def name(self) -> str:
        """Section and number, as tests name it."""
        return f"{self.heading} {self.number}"


def blocks(page: Path, fence: str) -> list[Block]:
    """All fences of a page that are opened with exactly these words, in order."""
    text = page.read_text(encoding="utf-8")
    found: list[Block] = []
    heading, number = "", 0
    for match in _TOKEN.finditer(text):
        if match["heading"] is not None:
            heading, number = match["heading"], 0
        elif match["fence"] == fence:
            number += 1
            line = text.count("\n", 0, match.start()) + 2
            found.append(Block(heading, number, line, match["text"]))
    return found


class Terminal:
    """Root's shell in a box: each block runs in a bash of its own, exported variables go on."""

    def __init__(self, box: Sandbox, folder: str) -> None:
        """`folder`: where root stands."""
        self._box = box
        self._folder = folder
        box.sh(f"mkdir -p {shlex.quote(folder)}")

    def type(self, text: str, *, seconds: float = 120) -> tuple[int, str]:
        """Exit code and output of a script, which ends at its first failing command."""
        script = (
            f"cd {shlex.quote(self._folder)}\nexec 2>&1\n"
            f"if [ -e {_KEPT} ]; then . {_KEPT}; fi\n"
            f"trap 'export -p > {_KEPT}' EXIT\nset -euo pipefail\n{text}\n"
        )
        # Nobody answers questions here: a command that asks fails.
        env = {"DEBIAN_FRONTEND": "noninteractive"}
        done = self._box.run(["bash", "-c", script], code=None, env=env, timeout=seconds)
        return done.returncode, done.stdout

    def run(self, page: Path, block: Block, says: Sequence[str] = ()) -> str:
        """Run a block; it must end well, and its output must match every pattern of `says`."""
        code, out = self.type(block.text)
        shown = f"{page.name}:{block.line} ({block.name}) ended with {code}:\n{out}"
        assert code == 0, shown
        for pattern in says:
            assert re.search(pattern, out, re.MULTILINE), f"nothing matches {pattern!r}\n{shown}"
        return out
