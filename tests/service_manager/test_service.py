"""The agent under a service manager: its watchdog, its kept sockets, its reload."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from exclave_agent.api.server import serving
from exclave_agent.service import KeptSockets, Liveness, NotAlive, http_answers
from exclave_service.sd import Manager
from exclave_testing.clock import FakeClock


@pytest.fixture
def manager_end(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        yield sock


def heard(sock: socket.socket) -> list[str]:
    """Everything that was said until now."""
    lines: list[str] = []
    while True:
        try:
            lines += sock.recv(4096).decode().splitlines()
        except BlockingIOError:
            return lines


async def answers() -> None:
    """A part that works."""


async def test_the_watchdog_is_fed_only_while_every_part_answers(
    manager_end: socket.socket, tmp_path: Path
) -> None:
    clock = FakeClock()
    well = True

    async def part() -> None:
        if not well:
            raise NotAlive("dead")

    alive = Liveness(
        Manager(str(tmp_path / "notify"), watchdog_seconds=30),
        clock,
        {"loop": answers, "part": part},
        lambda: "fine",
    )
    task = asyncio.create_task(alive.run())
    await clock.until_sleepers(1)
    assert heard(manager_end) == ["STATUS=fine", "WATCHDOG=1"]
    await clock.advance(10)
    assert heard(manager_end) == ["STATUS=fine", "WATCHDOG=1"]
    well = False
    await clock.advance(10)
    assert heard(manager_end) == ["STATUS=not answering: part"]
    task.cancel()


async def test_a_part_that_hangs_is_a_part_that_does_not_answer(
    manager_end: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exclave_agent.service.ANSWER_SECONDS", 0.01)

    async def hangs() -> None:
        await asyncio.Event().wait()

    clock = FakeClock()
    alive = Liveness(
        Manager(str(tmp_path / "notify"), watchdog_seconds=0.03), clock, {"it": hangs}, lambda: ""
    )
    task = asyncio.create_task(alive.run())
    async with asyncio.timeout(10):
        while not (said := heard(manager_end)):
            await asyncio.sleep(0.005)
    assert said == ["STATUS=not answering: it"]
    task.cancel()


async def test_without_a_manager_it_ends_at_once() -> None:
    await Liveness(Manager(), FakeClock(), {"it": answers}, lambda: "").run()


async def nothing(scope: object, receive: object, send: object) -> None:
    """An application that is never called here."""


@pytest.fixture
async def listening(tmp_path: Path) -> AsyncIterator[tuple[str, int, Path]]:
    from starlette.applications import Starlette

    unix = tmp_path / "api.sock"
    async with serving(Starlette(), port=0, unix=unix) as up:
        assert up.host and up.port
        yield up.host, up.port, unix


async def test_a_real_answer_is_asked_for(listening: tuple[str, int, Path]) -> None:
    host, port, unix = listening
    await http_answers(host, port, None)
    await http_answers(None, 0, unix)


async def test_silence_is_no_answer(tmp_path: Path) -> None:
    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_unix_server(close, str(tmp_path / "s"))
    async with server:
        with pytest.raises((NotAlive, OSError)):
            await http_answers(None, 0, tmp_path / "s")


async def test_sockets_outlive_a_run(tmp_path: Path) -> None:
    """What systemd does between two runs: it holds duplicates and hands them back."""
    from starlette.applications import Starlette

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    notify = tmp_path / "notify"
    unix = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(notify))
        end.settimeout(5)
        manager = Manager(str(notify))
        async with serving(Starlette(), port=port, unix=unix, keeper=KeptSockets(manager)):
            stored: dict[str, tuple[int, ...]] = {}
            for _ in range(2):
                data, descriptors, _, _ = socket.recv_fds(end, 4096, 4)
                name = data.decode().split("FDNAME=")[1].splitlines()[0]
                stored[name] = tuple(descriptors)
        assert set(stored) == {"http", "unix"}
        assert unix.is_socket(), "the path of a kept socket stays"
        # Between the runs a client is not refused: it waits.
        with socket.create_connection(("127.0.0.1", port), timeout=5) as waiting:
            again = Manager(str(notify), stored=stored)
            async with serving(Starlette(), port=port, unix=unix, keeper=KeptSockets(again)):
                await http_answers(None, 0, unix)
                waiting.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                answer = await asyncio.to_thread(waiting.recv, 64)
                assert answer.startswith(b"HTTP/1.1 404")


async def test_a_connection_accepted_before_the_stop_gets_its_answer(tmp_path: Path) -> None:
    from starlette.applications import Starlette

    client = socket.socket(socket.AF_UNIX)
    client.settimeout(5)
    async with serving(Starlette(), host=None, unix=tmp_path / "s") as _:
        client.connect(str(tmp_path / "s"))
        # Its own request, so that the server has accepted the one before.
        await http_answers(None, 0, tmp_path / "s")
        stopping = asyncio.get_running_loop().call_later(
            0.2, client.sendall, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        )
    assert client.recv(64).startswith(b"HTTP/1.1 404")
    assert stopping.when()
    client.close()


async def test_a_unix_socket_whose_path_is_gone_is_let_go(tmp_path: Path) -> None:
    """A stop removed its folder; what systemd still holds under the name must not come back."""
    from starlette.applications import Starlette

    unix = tmp_path / "api.sock"
    old = socket.socket(socket.AF_UNIX)
    old.bind(str(unix))
    old.listen()
    unix.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.setblocking(False)
        kept = KeptSockets(Manager(str(tmp_path / "notify"), stored={"unix": (old.detach(),)}))
        async with serving(Starlette(), host=None, unix=unix, keeper=kept):
            await http_answers(None, 0, unix)
        assert heard(end) == [
            *("FDSTOREREMOVE=1", "FDNAME=unix"),
            *("FDSTORE=1", "FDNAME=unix", "FDPOLL=0"),
        ]


async def test_of_two_sockets_under_one_name_neither_is_believed(tmp_path: Path) -> None:
    unix = tmp_path / "api.sock"
    sockets = []
    for _ in range(2):
        unix.unlink(missing_ok=True)
        sockets.append(socket.socket(socket.AF_UNIX))
        sockets[-1].bind(str(unix))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.setblocking(False)
        stored = {"unix": tuple(each.detach() for each in sockets)}
        assert KeptSockets(Manager(str(tmp_path / "notify"), stored=stored)).take(
            "unix", str(unix)
        ) is None  # fmt: skip
        assert heard(end) == ["FDSTOREREMOVE=1", "FDNAME=unix"]


async def test_a_socket_that_is_no_longer_configured_is_closed(tmp_path: Path) -> None:
    from starlette.applications import Starlette

    old = socket.socket()
    old.bind(("127.0.0.1", 0))
    old.listen()
    port = old.getsockname()[1]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.setblocking(False)
        kept = KeptSockets(Manager(str(tmp_path / "notify"), stored={"http": (old.detach(),)}))
        async with serving(Starlette(), host=None, unix=tmp_path / "s", keeper=kept):
            assert heard(end)[-2:] == ["FDSTOREREMOVE=1", "FDNAME=http"]
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), timeout=5)


async def test_a_kept_socket_of_another_address_is_let_go(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.setblocking(False)
        old = socket.socket()
        old.bind(("127.0.0.1", 0))
        kept = KeptSockets(Manager(str(tmp_path / "notify"), stored={"http": (old.detach(),)}))
        assert kept.take("http", ("127.0.0.1", 1)) is None
        assert heard(end) == ["FDSTOREREMOVE=1", "FDNAME=http"]
