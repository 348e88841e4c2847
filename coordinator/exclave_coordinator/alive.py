"""Proves that the coordinator works, part by part, and only then says so to the service manager."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Iterator, Sequence
from typing import Final

from exclave_coordinator.errors import NotAlive, SetupError, StorageError
from exclave_coordinator.ports import Clock, Store, Tx
from exclave_service.sd import Manager, NotifyError

log = logging.getLogger(__name__)

PROOFS: Final = 3
"""Proofs in one period of the watchdog, each a third of it at most: one may fail."""
LONGEST: Final = 30.0
"""Seconds that a proof may take where no watchdog gives a bound."""

_HANDSHAKE: Final = b"\x16"
"""First byte of a TLS record that carries a ServerHello."""


class Watch:
    """Feeds the watchdog for as long as every part answers, and keeps the status line true."""

    def __init__(
        self,
        manager: Manager,
        store: Store,
        ports: Sequence[tuple[str, int]],
        *,
        serving: str,
        clock: Clock,
    ) -> None:
        """`ports`: where this process listens for TLS; `serving`: the status while all is well."""
        self._manager = manager
        self._store = store
        self._ports = ports
        self._serving = serving
        self._clock = clock
        self._said = ""
        self._interval = manager.watchdog_seconds / PROOFS
        self._patience = self._interval or LONGEST

    async def ready(self) -> None:
        """Both ports and the database answer: tell the manager. Raises: NotAlive, SetupError."""
        trouble = await self.prove()
        self._said = trouble or self._serving
        try:
            self._manager.ready(self._said)
        except NotifyError as error:
            raise SetupError(str(error)) from error

    async def run(self) -> None:
        """Prove and say so until cancelled; without a watchdog there is nothing to do.

        MUST: WATCHDOG=1 is said only after all parts have answered. One that does not is
        named in the log, and the manager's patience decides.
        """
        due = self._clock.monotonic() + self._interval
        while self._interval:
            await self._clock.sleep(max(0.0, due - self._clock.monotonic()))
            due = self._clock.monotonic() + self._interval
            try:
                trouble = await self.prove()
                self._manager.watchdog()
                self._tell(trouble or self._serving)
            except (NotAlive, NotifyError) as error:
                log.error("watchdog not fed: %s", error)

    async def prove(self) -> str:
        """Reader, writer and ports have answered; returns what the database complains of.

        A refusal of the database is an answer: a full disk is not cured by a restart, and
        sessions go on meanwhile. That this runs is the proof of the event loop.
        Raises: NotAlive.
        """
        trouble, part = "", ""
        try:
            async with asyncio.timeout(self._patience):
                part = "the database's reader"
                trouble = await _answer(self._store.read(_look))
                part = "the database's writer"
                trouble = await _answer(self._store.write(_nothing)) or trouble
                for host, port in self._ports:
                    part = f"the port {port}"
                    await greet(host, port)
        except TimeoutError as error:
            raise NotAlive(f"{part} does not answer for {self._patience:.1f} s") from error
        except OSError as error:
            raise NotAlive(f"{part} does not answer: {error}") from error
        return trouble

    def _tell(self, status: str) -> None:
        if status != self._said:
            self._manager.status(status)
            self._said = status


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Say what the manager need not hear for us to go on."""
    try:
        yield
    except NotifyError as error:
        log.warning("%s", error)


async def greet(host: str, port: int) -> None:
    """Say hello in TLS and hear the answer's first byte, then hang up.

    More than a connection, which the kernel accepts for a process that is stuck; less than a
    handshake, which would need a certificate of ours and leave a line in gRPC's log.
    Raises: OSError.
    """
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(_hello())
        if await reader.read(1) != _HANDSHAKE:
            raise ConnectionError("the answer is not TLS")
    finally:
        writer.transport.abort()


def _hello() -> bytes:
    """A ClientHello."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    # Nothing is sent or believed: it ends before the server shows its certificate.
    context.verify_mode = ssl.CERT_NONE
    outgoing = ssl.MemoryBIO()
    # It waits for the server; what it would say first is what we want.
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()


async def _answer(question: Awaitable[object]) -> str:
    try:
        await question
    except StorageError as error:
        return f"trouble: {error.message}"
    return ""


def _look(tx: Tx) -> None:
    tx.operators.state()


def _nothing(_tx: Tx) -> None:
    """An empty transaction: the writer's thread, its lock and its commit, without a byte."""
