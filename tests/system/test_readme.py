"""The README's tour, run line for line as it stands there."""

from __future__ import annotations

import os
import re
import signal
import subprocess

import pytest

from exclave_testing.models import smollm2_path
from exclave_testing.processes import BIN, ROOT, run, wait_for

COMMANDS = ("exclave", "exclave-agent", "exclave-coordinator", "exclave-verify")


def tour() -> str:
    """All `bash tour` blocks of the README, in order, as one script."""
    blocks = re.findall(r"```bash tour\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 5, "one block for each of the five kinds of user"
    return "\n".join(blocks)


def test_the_tour_runs_as_written() -> None:
    assert smollm2_path().exists()
    script = "set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n" + tour()
    process = subprocess.Popen(
        ["bash", "-c", script],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        out, _ = process.communicate(timeout=110)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 0, out
    assert '"finish_reason"' in out
    assert "WITNESSED" in out


def test_every_command_has_help_within_reason() -> None:
    for command in COMMANDS:
        assert "Usage" in run([BIN / command, "--help"]).stdout.replace("usage", "Usage")


def test_links_in_the_documents_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(
            r"\]\(([^)#:]+)(?:#[^)]*)?\)", re.sub(r"`[^`]*`", "", page.read_text())
        ):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_waiting_says_what_it_waited_for() -> None:
    with pytest.raises(AssertionError, match="pigs to fly"):
        wait_for("pigs to fly", lambda: False, 0.01)
