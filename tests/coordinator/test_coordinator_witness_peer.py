"""Somebody else's implementation of tlog-witness, as a witness of ours and as a log that ours
cosigns: PyPI's witness-log, in a process of its own."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from exclave_coordinator.errors import Denied, Inconsistent, NotFound, Stale
from exclave_coordinator.outside import reaching
from exclave_protocol.checkpoint import verify_cosignature
from exclave_protocol.note import VerifyKey, split_note
from exclave_testing.coordinator import TIMEOUT, running_coordinator
from exclave_testing.processes import ROOT
from exclave_testing.witnesses import OutsideTree


class Peer:
    """The other implementation's process."""

    def __init__(self, process: asyncio.subprocess.Process, opening: dict[str, Any]) -> None:
        self.process = process
        self.opening = opening

    async def ask(self, **question: Any) -> dict[str, Any]:
        """One line each way."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(question).encode() + b"\n")
        return await hear(self.process)


async def hear(process: asyncio.subprocess.Process) -> dict[str, Any]:
    """Its next line."""
    assert process.stdout is not None
    async with asyncio.timeout(TIMEOUT):
        said: dict[str, Any] = json.loads(await process.stdout.readline())
    return said


@asynccontextmanager
async def peer(*words: str) -> AsyncIterator[Peer]:
    """A process of it, until the block ends."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        ROOT / "bench" / "witness_peer.py",
        *words,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Peer(process, await hear(process))
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


async def test_the_peer_cosigns_for_us() -> None:
    tree = OutsideTree("example.org/_witness/coordinator/e1", size=20)
    async with peer("witness", tree.vkey) as other:
        key = VerifyKey.parse(other.opening["vkey"])
        async with reaching([(other.opening["url"], key)]) as (witness,):
            old = 0
            for size in (3, 8, 20):
                line = await witness.add_checkpoint(old, tree.proof(old, size), tree.note(size))
                assert verify_cosignature(split_note(tree.note(size))[0], line, key) > 0
                old = size
            with pytest.raises(Stale) as stale:
                await witness.add_checkpoint(0, (), tree.note())
            assert stale.value.size == 20
            fork = OutsideTree(tree.origin, size=0).add(25, "another story")
            with pytest.raises(Inconsistent):
                await witness.add_checkpoint(20, fork.proof(20), fork.note())
            with pytest.raises(NotFound):
                await witness.add_checkpoint(0, (), OutsideTree("other.example/x", size=1).note())
            forged = OutsideTree(tree.origin, "another key", 25)
            with pytest.raises(Denied):
                await witness.add_checkpoint(20, forged.proof(20), forged.note())


async def test_we_cosign_for_the_peer(tmp_path: Path) -> None:
    async with peer("log") as other:
        vkey = other.opening["vkey"]
        async with running_coordinator(
            tmp_path / "home", witness_listen="127.0.0.1:0", witness_logs=(vkey,)
        ) as centre:
            url, old = f"http://{centre.up.witness}", 0
            for count in (1, 4, 15):
                said = await other.ask(append=count, submit=url, old=old)
                assert said["status"] == 200, said
                old += count
                kept = await centre.read(lambda tx: tx.witnessing.log(other.opening["origin"]))
                assert kept.size == old
                text = split_note(kept.checkpoint)[0]
                ours = VerifyKey.parse(centre.up.parts.witness.vkey)
                verify_cosignature(text, said["body"].encode(), ours)
            said = await other.ask(append=1, submit=url, old=0)
            assert said == {"status": 409, "type": "text/x.tlog.size", "body": "20\n"}
            said = await other.ask(append=0, submit=url, old=20)
            assert said["status"] == 200
