"""What only root can see: looked at first, so that everything else runs as the home's user."""

from __future__ import annotations

from typing import Final

from exclave_agent.doctor.host import Host
from exclave_agent.doctor.machine import COMMAND_SECONDS
from exclave_agent.doctor.site import NTP, SERVICE, SYSTEMD, WORKER, WORKER_SOCKET, show_command
from exclave_agent.sealing import CREDENTIAL_FILE

READS: Final = (CREDENTIAL_FILE,)
RUNS: Final = (
    # Root reaches systemd without the message bus, which a minimal machine does not have.
    *(show_command(unit) for unit in (SERVICE, WORKER, WORKER_SOCKET)),
    NTP,
)


def foresee(host: Host) -> None:
    """Take now what checks ask for after root has become the home's user."""
    asked = RUNS if host.stat(SYSTEMD) is not None else ()
    host.remember(READS, [(argv, COMMAND_SECONDS) for argv in asked])
