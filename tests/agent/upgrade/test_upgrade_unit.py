"""exclave-upgrade.service: when it starts, and how often it tries."""

from __future__ import annotations

from pathlib import Path

import pytest

from exclave_agent.upgrade import root
from exclave_agent.upgrade.pace import SystemPace
from exclave_agent.upgrade.ports import Pace
from exclave_agent.upgrade.state import Phase, State
from exclave_testing.processes import ROOT

UNITS = ROOT / "packaging" / "systemd" / "system"


def unit(name: str) -> dict[str, str]:
    """Directives by name; of one that stands twice, the last."""
    lines = (UNITS / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def test_at_boot_it_waits_for_what_the_agent_waits_for() -> None:
    agent = {name for name in unit("exclave-agent.service")["After"].split() if "target" in name}
    assert agent <= set(unit("exclave-upgrade.service")["After"].split())


def test_an_error_is_tried_again_after_a_while_and_for_ever() -> None:
    service = unit("exclave-upgrade.service")
    assert service["Restart"] == "on-failure"
    tries = int(service["StartLimitIntervalSec"]) / int(service["RestartSec"])
    # As many again, and more, are somebody's who asks and is refused: once in ten seconds.
    asked = int(service["StartLimitIntervalSec"]) / 10
    assert tries + asked < int(service["StartLimitBurst"])


class Engine:
    def __init__(self, end: Phase | OSError) -> None:
        self._end = end

    def run(self) -> State:
        if isinstance(self._end, OSError):
            raise self._end
        return State(self._end, "", 0, 0)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (Phase.DONE, 0),
        (Phase.REVERTED, 0),
        (Phase.REFUSED, 0),
        (Phase.FAILED, root.EXIT_UNWELL),
        (OSError(28, "No space left on device"), root.EXIT_FAILED),
    ],
)
def test_only_an_error_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, end: Phase | OSError, code: int
) -> None:
    def build(_pace: Pace) -> Engine:
        return Engine(end)

    monkeypatch.setattr(root, "build", build)
    monkeypatch.setattr(root, "RUNNING", tmp_path / "running")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(SystemPace, "listen", lambda _self: None)
    assert root.main() == code
    prevented = unit("exclave-upgrade.service")["RestartPreventExitStatus"].split()
    assert prevented == [str(root.EXIT_UNWELL)]
