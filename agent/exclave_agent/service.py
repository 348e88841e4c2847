"""The agent under a service manager: proof of life for its watchdog, sockets kept for us."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from exclave_agent.errors import AgentError
from exclave_agent.ports import Clock
from exclave_service.sd import Manager, NotifyError

log = logging.getLogger(__name__)

TELL_SECONDS = 10.0
"""Between two looks where no watchdog sets the pace."""
ANSWER_SECONDS = 5.0
"""Least time that a probe gets, however short the watchdog's."""

Probe = Callable[[], Awaitable[None]]


class NotAlive(AgentError):
    """A part of the agent that does not answer."""

    code = "not_alive"


class Liveness:
    """Tells the manager that the agent lives, for as long as every part of it was seen to."""

    def __init__(
        self,
        manager: Manager,
        clock: Clock,
        probes: Mapping[str, Probe],
        describe: Callable[[], str],
    ) -> None:
        """A probe returns when its part answered and raises when it did not; `describe` is the
        line that `systemctl status` shows."""
        self._manager = manager
        self._clock = clock
        self._probes = probes
        self._describe = describe

    async def run(self) -> None:
        """Own this by the agent's task group.

        MUST NOT feed the watchdog unless all probes have just succeeded: a process that runs and
        serves nobody is to be started again.
        """
        seconds = self._manager.watchdog_seconds
        pace = seconds / 3 if seconds > 0 else TELL_SECONDS
        while self._manager.present:
            silent = await self._silent(max(pace, ANSWER_SECONDS))
            try:
                if silent:
                    self._manager.status(f"not answering: {', '.join(silent)}")
                else:
                    self._manager.status(self._describe())
                    if seconds > 0:
                        self._manager.watchdog()
            except NotifyError as error:
                log.warning("%s", error)
            await self._clock.sleep(pace)

    async def _silent(self, seconds: float) -> list[str]:
        """The parts that did not answer in time."""
        silent = []
        for name, probe in self._probes.items():
            try:
                async with asyncio.timeout(seconds):
                    await probe()
            except (TimeoutError, OSError, AgentError) as error:
                why = error.message if isinstance(error, AgentError) else type(error).__name__
                log.error("%s does not answer (%s)", name, why)
                silent.append(name)
        return silent


async def http_answers(host: str | None, port: int, unix: Path | None) -> None:
    """A real request to our own socket. Raises: NotAlive, OSError."""
    if host is not None:
        reader, writer = await asyncio.open_connection(host, port)
    else:
        reader, writer = await asyncio.open_unix_connection(str(unix))
    try:
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        line = await reader.readline()
    finally:
        writer.close()
    # Any answer will do: an agent that is busy, or has no release, is alive.
    if not line.startswith(b"HTTP/1.1 "):
        raise NotAlive("its answer is not HTTP")


class KeptSockets:
    """Listening sockets that outlive a restart: between two runs clients wait in their queues."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._kept = {name: list(fds) for name, fds in manager.stored.items()}

    def take(self, name: str, address: object) -> socket.socket | None:
        """The socket kept under a name, if it is the only one and listens on that address.

        Whatever else is kept under the name is let go, there as well as here: of two sockets
        nobody could say which one clients reach.
        """
        held = [socket.socket(fileno=each) for each in self._kept.pop(name, [])]
        if len(held) == 1 and _address(held[0]) == address:
            return held[0]
        for each in held:
            each.close()
        if held:
            self._say(lambda: self._manager.drop(name))
        return None

    def keep(self, name: str, sock: socket.socket) -> bool:
        """Give a socket into keeping; whether anybody keeps it."""
        if not self._manager.present:
            return False
        return self._say(lambda: self._manager.keep(name, [sock.fileno()]))

    def let_go(self) -> None:
        """Close what was kept and not taken, here and there: nobody would ever accept from it."""
        for name in list(self._kept):
            self.take(name, None)

    def _say(self, what: Callable[[], None]) -> bool:
        try:
            what()
        except NotifyError as error:
            log.warning("%s: a restart will refuse connections for a moment", error)
            return False
        return True


def _address(sock: socket.socket) -> object:
    name = sock.getsockname()
    return name[:2] if isinstance(name, tuple) else name
