"""docs/hardening.md says what the units have: which directives, which values, how exposed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from exclave_testing.processes import ROOT

SYSTEMD = ROOT / "packaging" / "systemd"
UNITS = {
    "A": "exclave-agent.service",
    "W": "exclave-worker@.service",
    "C": "exclave-coordinator.service",
    "U": "exclave-upgrade.service",
}
GPU = "exclave-worker@.service with 20-exclave-gpu.conf"
BARS = {UNITS["A"]: 1.3, UNITS["W"]: 0.5, GPU: 0.5, UNITS["C"]: 1.5, UNITS["U"]: 3.6}
NO_WALLS = (
    *("Type", "NotifyAccess", "ExecStart", "ExecReload", "Environment", "LogNamespace"),
    *("Restart", "RestartSec", "RestartPreventExitStatus", "WatchdogSec", "KillMode"),
    *("SendSIGKILL", "TimeoutStartSec", "TimeoutStopSec", "FileDescriptorStoreMax"),
    *("StateDirectory", "RuntimeDirectory", "RuntimeDirectoryPreserve", "ConfigurationDirectory"),
)
"""How a service starts, ends and tells; the page is about the rest."""
LEAST, MEASURED = 252, 252
"""systemd that knows --offline; systemd whose figures the page shows."""


def page() -> str:
    return (ROOT / "docs" / "hardening.md").read_text(encoding="utf-8")


def rows(start: str, end: str) -> list[list[str]]:
    """Cells of the tables between two headings."""
    part = page().partition(f"\n## {start}\n")[2].partition(f"\n## {end}\n")[0]
    lines = [line for line in part.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def directives(unit: str) -> dict[str, list[str]]:
    """What [Service] of a unit has, by name."""
    text = (SYSTEMD / "system" / unit).read_text().partition("[Service]\n")[2]
    found: dict[str, list[str]] = {}
    for line in text.partition("\n[")[0].splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return {name: values for name, values in found.items() if name not in NO_WALLS}


def test_every_directive_is_on_the_page_with_the_units_that_have_it() -> None:
    units = {letter: directives(unit) for letter, unit in UNITS.items()}
    wanted = {
        name: "".join(letter for letter, has in units.items() if name in has)
        for name in sorted(set().union(*units.values()))
    }
    shown = {cells[0].strip("`").partition("=")[0]: cells[1] for cells in _directive_rows()}
    assert shown == wanted
    assert len(_directive_rows()) == len(shown), "none stands twice"


def test_values_on_the_page_are_those_of_the_units() -> None:
    for name, where, *_ in _directive_rows():
        directive, _, value = name.strip("`").partition("=")
        if value:
            held = {letter: directives(UNITS[letter])[directive] for letter in where}
            assert held == {letter: [value] for letter in where}, directive


def _directive_rows() -> list[list[str]]:
    return rows("The directives", "What we do not use, and why")


# --- figures --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def version() -> int:
    """Of the systemd-analyze that is here."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    done = subprocess.run(
        ["systemd-analyze", "--version"], capture_output=True, text=True, timeout=30, check=True
    )
    found = int(done.stdout.split()[1])
    if found < LEAST:
        pytest.skip(f"systemd-analyze {found} cannot judge unit files: --offline came with {LEAST}")
    return found


def exposure(folder: Path, name: str) -> float:
    """How exposed a unit is, by systemd's own scale."""
    unit, _, drop_in = name.partition(" with ")
    shutil.copy(SYSTEMD / "system" / unit, folder)
    if drop_in:
        (folder / f"{unit}.d").mkdir()
        shutil.copy(SYSTEMD / "drop-ins" / "20-gpu.conf", folder / f"{unit}.d" / drop_in)
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(folder / unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    figure = re.search(r"Overall exposure level for \S+: (\d+\.\d)", done.stdout)
    assert figure is not None, done.stdout + done.stderr
    return float(figure[1])


def figures() -> dict[str, tuple[float, float]]:
    """Exposure and bar of each unit on the page."""
    table = rows("How exposed", "The directives")
    return {name.replace("`", ""): (float(is_), float(bar)) for name, is_, bar in table}


def test_the_pages_bars_are_these() -> None:
    assert {name: bar for name, (_, bar) in figures().items()} == BARS


@pytest.mark.parametrize("name", BARS)
def test_exposure_is_below_its_bar(version: int, tmp_path: Path, name: str) -> None:
    assert exposure(tmp_path, name) <= BARS[name]


@pytest.mark.parametrize("name", BARS)
def test_exposure_is_as_the_page_says(version: int, tmp_path: Path, name: str) -> None:
    if version != MEASURED:
        pytest.skip(f"the page's figures are systemd {MEASURED}'s; this is {version}")
    assert exposure(tmp_path, name) == figures()[name][0]
