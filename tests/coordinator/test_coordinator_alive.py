"""The watchdog is fed by what was seen working, and by nothing else."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest

from exclave_coordinator.alive import Watch, greet
from exclave_coordinator.errors import NotAlive, SetupError, StorageFull
from exclave_coordinator.ports import AgentKey, Evidence, Store, Tx
from exclave_coordinator.system import SystemClock
from exclave_service.sd import Manager
from exclave_testing.coordinator import RunningCoordinator, new_home

T = TypeVar("T")
SECONDS = 10.0
PERIOD = 0.6
"""Seconds of the watchdog in these tests: a proof every 0.2 s."""


class FakeManager:
    """The socket that a service manager listens on."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.socket.settimeout(SECONDS)

    def hears(self) -> list[str]:
        """The lines of the next datagram."""
        return self.socket.recv(4096).decode().splitlines()

    async def next(self) -> list[str]:
        """The same, beside the event loop."""
        return await asyncio.to_thread(self.hears)

    async def until(self, line: str) -> None:
        """Hear on until that line is said."""
        while line not in await self.next():
            pass

    def forget(self) -> None:
        """What was said so far does not count."""
        self.socket.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                self.socket.recv(4096)
        self.socket.settimeout(SECONDS)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[FakeManager]:
    """A manager that listens."""
    fake = FakeManager(tmp_path)
    yield fake
    fake.socket.close()


def watch(
    centre: RunningCoordinator,
    manager: FakeManager,
    *,
    store: Store | None = None,
    ports: tuple[tuple[str, int], ...] | None = None,
    period: float = PERIOD,
) -> Watch:
    """A watch over a coordinator that serves."""
    return Watch(
        Manager(str(manager.path), period),
        store or centre.up.parts.store,
        centre.up.ports if ports is None else ports,
        serving="serving",
        clock=SystemClock(),
    )


@pytest.fixture
async def fed(centre: RunningCoordinator, manager: FakeManager) -> AsyncIterator[Watch]:
    """A watch that feeds the manager's watchdog."""
    watching = watch(centre, manager)
    task = asyncio.create_task(watching.run())
    await manager.until("WATCHDOG=1")
    yield watching
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_ready_is_said_once_both_ports_and_the_database_answer(
    centre: RunningCoordinator, manager: FakeManager
) -> None:
    await watch(centre, manager).ready()
    assert await manager.next() == ["READY=1", "STATUS=serving"]


async def test_a_manager_that_does_not_listen_is_named(
    centre: RunningCoordinator, tmp_path: Path, manager: FakeManager
) -> None:
    deaf = Watch(
        Manager(str(tmp_path / "nobody")),
        centre.up.parts.store,
        centre.up.ports,
        serving="serving",
        clock=SystemClock(),
    )
    with pytest.raises(SetupError, match="READY"):
        await deaf.ready()


async def test_without_a_watchdog_there_is_nothing_to_feed(
    centre: RunningCoordinator, manager: FakeManager
) -> None:
    await asyncio.wait_for(watch(centre, manager, period=0).run(), SECONDS)


async def starved(manager: FakeManager, caplog: pytest.LogCaptureFixture, part: str) -> None:
    """Three proofs have failed, naming that part, and nothing was said meanwhile."""
    manager.forget()
    caplog.clear()

    def named() -> int:
        return sum(f"{part} does not answer" in record.message for record in caplog.records)

    async with asyncio.timeout(SECONDS):
        # The first failure may be of a proof that had begun before: what it heard is forgotten.
        while named() < 1:
            await asyncio.sleep(0.01)
        manager.forget()
        while named() < 3:
            await asyncio.sleep(0.01)
    manager.socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.hears()
    manager.socket.settimeout(SECONDS)


@pytest.mark.parametrize(("part", "count"), [("writer", 1), ("reader", 4)])
async def test_a_stuck_database_thread_starves_the_watchdog(
    centre: RunningCoordinator,
    manager: FakeManager,
    fed: Watch,
    caplog: pytest.LogCaptureFixture,
    part: str,
    count: int,
) -> None:
    gate, store = threading.Event(), centre.up.parts.store

    def stuck(_tx: Tx) -> None:
        gate.wait(60)

    run = store.write if part == "writer" else store.read
    jobs = [asyncio.create_task(run(stuck)) for _ in range(count)]
    try:
        await starved(manager, caplog, f"the database's {part}")
    finally:
        gate.set()
        await asyncio.gather(*jobs)
    await manager.until("WATCHDOG=1")  # and once it works, all is well again


async def test_a_stuck_loop_starves_the_watchdog(
    centre: RunningCoordinator, manager: FakeManager, fed: Watch
) -> None:
    manager.forget()
    deadline = threading.Event()
    deadline.wait(PERIOD)  # on the loop's own thread: nothing else runs meanwhile
    manager.socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.hears()
    manager.socket.settimeout(SECONDS)
    await manager.until("WATCHDOG=1")


def _listen(backlog: int = 8) -> tuple[socket.socket, int]:
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen(backlog)
    return server, int(server.getsockname()[1])


async def test_a_port_that_only_the_kernel_answers_is_not_alive(
    centre: RunningCoordinator, manager: FakeManager
) -> None:
    server, port = _listen()
    try:
        watching = watch(centre, manager, ports=(("127.0.0.1", port),))
        with pytest.raises(NotAlive, match=f"the port {port} does not answer for"):
            await watching.prove()
    finally:
        server.close()
    with pytest.raises(NotAlive, match=f"the port {port} does not answer: "):
        await watching.prove()


async def test_a_port_that_speaks_something_else_is_not_alive() -> None:
    async def say(_reader: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        writer.close()

    server = await asyncio.start_server(say, "127.0.0.1", 0)
    async with server:
        with pytest.raises(ConnectionError, match="not TLS"):
            await greet("127.0.0.1", server.sockets[0].getsockname()[1])


async def test_greeting_leaves_no_trace(
    centre: RunningCoordinator, capfd: pytest.CaptureFixture[str]
) -> None:
    for host, port in centre.up.ports * 20:
        await greet(host, port)
    await centre.tenant("acme")  # gRPC has worked on since
    assert capfd.readouterr().err == ""


class FullStore:
    """A database whose disk is full."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def write(self, job: Callable[[Tx], T], *, after: Callable[[T], None] | None = None) -> T:
        """Nothing can be changed."""
        raise StorageFull("the disk is full; nothing was changed")

    async def read(self, job: Callable[[Tx], T]) -> T:
        """Reading goes on."""
        return await self._store.read(job)


async def test_a_full_disk_does_not_starve_the_watchdog(
    centre: RunningCoordinator, manager: FakeManager, caplog: pytest.LogCaptureFixture
) -> None:
    task = asyncio.create_task(watch(centre, manager, store=FullStore(centre.up.parts.store)).run())
    try:
        await manager.until("STATUS=trouble: the disk is full; nothing was changed")
        for _ in range(3):
            assert await manager.next() == ["WATCHDOG=1"]  # and the status is not repeated
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


async def test_the_empty_job_needs_no_room(
    centre: RunningCoordinator, manager: FakeManager, fed: Watch
) -> None:
    """A real database that can grow no more: its writer still says that it lives."""
    store, key = centre.up.parts.store, AgentKey("acme", "a")
    pages = await store.read(lambda tx: _pragma(tx, "page_count"))
    await store.write(lambda tx: _pragma(tx, f"max_page_count={pages}"))

    def fill(tx: Tx) -> None:
        tx.logs.insert_evidence(Evidence(key, 1, 1, "leaf", 1, "x", bytes(1 << 20)))

    with pytest.raises(StorageFull):
        await store.write(fill)
    manager.forget()
    for _ in range(3):
        await manager.until("WATCHDOG=1")
    assert await fed.prove() == ""


def _pragma(tx: Any, words: str) -> int:
    return int(tx.tenants._db.exec_driver_sql(f"PRAGMA {words}").scalar_one())


def test_serve_speaks_to_its_manager(tmp_path: Path, manager: FakeManager) -> None:
    home = new_home(tmp_path / "home")
    process = subprocess.Popen(
        [sys.executable, "-m", "exclave_coordinator.cli", "serve", "--home", str(home.path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "600000"},
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        said = manager.hears()
        assert said[0] == "READY=1"
        assert said[1].startswith("STATUS=serving on 127.0.0.1:")
        ready = json.loads(process.stdout.readline())
        for name in ("session", "enroll", "metrics"):
            host, port = ready[name].split(":")
            socket.create_connection((host, int(port)), SECONDS).close()
        for _ in range(3):
            assert manager.hears() == ["WATCHDOG=1"]
        process.send_signal(signal.SIGTERM)
        while (said := manager.hears()) == ["WATCHDOG=1"]:
            pass
        assert said == ["STOPPING=1", "STATUS=sessions are told to come back later"]
        assert manager.hears()[0].startswith("EXTEND_TIMEOUT_USEC=")
        assert process.wait(15) == 0
        assert b"Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.communicate(timeout=10)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_really_full_disk_does_not_end_a_coordinator(
    small_disk: Path, manager: FakeManager
) -> None:
    home = new_home(small_disk / "home")
    process = subprocess.Popen(
        [sys.executable, "-m", "exclave_coordinator.cli", "serve", "--home", str(home.path)],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "600000"},
    )
    try:
        while manager.hears() != ["WATCHDOG=1"]:
            pass
        with (small_disk / "filler").open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        manager.forget()
        for _ in range(5):
            assert manager.hears() == ["WATCHDOG=1"]
    finally:
        process.kill()
        process.wait(10)


def test_a_stopped_process_says_nothing(tmp_path: Path, manager: FakeManager) -> None:
    """What the manager's patience is for: a process that does not run does not speak."""
    home = new_home(tmp_path / "home")
    process = subprocess.Popen(
        [sys.executable, "-m", "exclave_coordinator.cli", "serve", "--home", str(home.path)],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "300000"},
    )
    try:
        while manager.hears() != ["WATCHDOG=1"]:
            pass
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        manager.forget()
        manager.socket.settimeout(0.6)
        with pytest.raises(TimeoutError):
            manager.hears()
        manager.socket.settimeout(SECONDS)
        process.send_signal(signal.SIGCONT)
        assert manager.hears() == ["WATCHDOG=1"]
    finally:
        process.kill()
        process.wait(10)
