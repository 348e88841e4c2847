"""systemd's manager, through systemctl, as a `ports.Services`."""

from __future__ import annotations

import contextlib
from typing import Final

from exclave_agent.upgrade.children import ChildFailed, ask
from exclave_agent.upgrade.ports import ServiceTrouble, UnitState

UNIT: Final = "exclave-agent.service"
_PROPERTIES: Final = "ActiveState,SubState,NRestarts,InvocationID,Job"


class Systemctl:
    """The agent's unit."""

    def __init__(self, unit: str = UNIT) -> None:
        self._unit = unit

    def unit(self) -> UnitState:
        lines = _ask("show", f"--property={_PROPERTIES}", self._unit).splitlines()
        found = dict(line.partition("=")[::2] for line in lines if "=" in line)
        restarts = found.get("NRestarts", "0")
        return UnitState(
            active=found.get("ActiveState", "unknown"),
            sub=found.get("SubState", "unknown"),
            restarts=int(restarts) if restarts.isdigit() else 0,
            invocation=found.get("InvocationID", ""),
            job=found.get("Job", "") not in ("", "0"),
        )

    def daemon_reload(self) -> None:
        _ask("daemon-reload")

    def restart(self) -> None:
        # A unit that failed too often would not be started; and its counter starts anew.
        with contextlib.suppress(ServiceTrouble):
            _ask("reset-failed", self._unit)
        _ask("--no-block", "restart", self._unit)


def _ask(*words: str) -> str:
    try:
        return ask(["systemctl", "--no-ask-password", *words])
    except ChildFailed as error:
        raise ServiceTrouble(str(error)) from error
