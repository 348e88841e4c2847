"""What every outside witness must do: the fake, and a real one over HTTP."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from exclave_coordinator import outside as adapter
from exclave_coordinator.errors import Denied, Inconsistent, Invalid, NotFound, Stale, Unavailable
from exclave_coordinator.outside import reaching
from exclave_coordinator.witness_ports import OutsideWitness
from exclave_protocol.checkpoint import verify_cosignature
from exclave_protocol.note import VerifyKey, split_note
from exclave_testing.coordinator import running_coordinator
from exclave_testing.witnesses import FakeWitness, OutsideTree


@pytest.fixture
def tree() -> OutsideTree:
    """The log that the witness knows."""
    return OutsideTree(size=20)


@pytest.fixture(params=["fake", "http"])
async def witness(
    request: pytest.FixtureRequest, tmp_path: Path, tree: OutsideTree
) -> AsyncIterator[OutsideWitness]:
    """A witness that has cosigned nothing yet."""
    if request.param == "fake":
        yield FakeWitness((tree.vkey,))
        return
    async with running_coordinator(
        tmp_path / "home", witness_listen="127.0.0.1:0", witness_logs=(tree.vkey,)
    ) as centre:
        key = VerifyKey.parse(centre.up.parts.witness.vkey)
        async with reaching([(f"http://{centre.up.witness}", key)]) as (only,):
            yield only


async def test_it_cosigns_what_extends(witness: OutsideWitness, tree: OutsideTree) -> None:
    old = 0
    for size in (3, 8, 8, 20):
        line = await witness.add_checkpoint(old, tree.proof(old, size), tree.note(size))
        assert verify_cosignature(split_note(tree.note(size))[0], line, witness.key) > 0
        old = size


async def test_it_says_what_it_cosigned(witness: OutsideWitness, tree: OutsideTree) -> None:
    await witness.add_checkpoint(0, (), tree.note(8))
    with pytest.raises(Stale) as stale:
        await witness.add_checkpoint(0, (), tree.note())
    assert stale.value.size == 8


async def test_it_refuses(witness: OutsideWitness, tree: OutsideTree) -> None:
    with pytest.raises(NotFound):
        await witness.add_checkpoint(0, (), OutsideTree("other.example/x", size=3).note())
    with pytest.raises(Denied):
        await witness.add_checkpoint(0, (), OutsideTree(tree.origin, "other", 3).note())
    with pytest.raises(Invalid):
        await witness.add_checkpoint(0, (), b"no note")
    with pytest.raises(Invalid):
        await witness.add_checkpoint(5, (), tree.note(4))
    await witness.add_checkpoint(0, (), tree.note(8))
    lie = hashlib.sha256(b"lie").digest()
    for proof, note in (((), tree.note()), (tree.proof(8), tree.note(root=lie))):
        with pytest.raises(Inconsistent):
            await witness.add_checkpoint(8, proof, note)
    with pytest.raises(Inconsistent):
        await witness.add_checkpoint(8, (), tree.note(8, root=lie))


# --- what only a wire can do wrong ---------------------------------------------------------

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def lying(script: Script) -> AsyncIterator[OutsideWitness]:
    """A witness whose server does what the script does."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await script(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client has had enough
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with reaching([(f"http://127.0.0.1:{port}/prefix", FakeWitness().key)]) as (only,):
        try:
            yield only
        finally:
            server.close()


def _says(text: str) -> Script:
    async def script(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(text.replace("\n", "\r\n").encode())
        await writer.drain()

    return script


async def _silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def _endless(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"x" * 4096)
        await writer.drain()


async def _drips(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("script", "what"),
    [
        (_silent, "in time"),
        (_drips, "in time"),
        (_endless, "more than"),
        (_says(""), "cannot be reached"),
        (_says("garbage\n\n"), "cannot be reached"),
        (_says("HTTP/1.1 302 Found\nlocation: http://127.0.0.1:1/\n\n"), "status 302"),
        (_says("HTTP/1.1 409 Conflict\ncontent-length: 3\n\nno!"), "without a size"),
        (_says("HTTP/1.1 500 Oops\ncontent-length: 0\n\n"), "status 500"),
        (_says("HTTP/1.1 200 OK\ncontent-length: 100\n\nshort"), "cannot be reached"),
    ],
)
async def test_whatever_comes_back_is_unavailable_and_in_time(
    script: Script, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "TOTAL_SECONDS", 0.5)
    async with asyncio.timeout(10), lying(script) as witness:
        with pytest.raises(Unavailable, match=what):
            await witness.add_checkpoint(0, (), OutsideTree(size=1).note())


async def test_nothing_is_kept_of_a_witness_s_cookies() -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 404 No\r\nset-cookie: a=b\r\ncontent-length: 0\r\n")
        writer.write(b"connection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with reaching(
        [(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", FakeWitness().key)]
    ) as (witness,):
        for _ in range(2):
            with pytest.raises(NotFound):
                await witness.add_checkpoint(0, (), OutsideTree(size=1).note())
    server.close()
    assert len(heads) == 2
    assert not any(b"cookie" in head.lower() for head in heads)


async def test_nobody_listens() -> None:
    async with reaching([("http://127.0.0.1:1", FakeWitness().key)]) as (witness,):
        with pytest.raises(Unavailable, match="cannot be reached"):
            await witness.add_checkpoint(0, (), OutsideTree(size=1).note())
