"""A running coordinator's witness as its callers see it: over HTTP, with its log beside."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from exclave_protocol.checkpoint import Checkpoint
from exclave_protocol.leaf import LeafType, decode_leaf
from exclave_protocol.note import VerifyKey, split_note
from exclave_protocol.pb import admin_pb2
from exclave_protocol.tree import leaf_hash, root_of
from exclave_protocol.witness import AddCheckpoint
from exclave_testing.coordinator import TIMEOUT, RunningCoordinator, running_coordinator
from exclave_testing.witnesses import OutsideTree


class Asked:
    """The witness's HTTP interface of a coordinator that runs."""

    def __init__(self, centre: RunningCoordinator, http: httpx.AsyncClient) -> None:
        self.centre = centre
        self.http = http
        self.key = VerifyKey.parse(centre.up.parts.witness.vkey)

    async def post(self, request: AddCheckpoint | bytes, **options: Any) -> httpx.Response:
        """POST add-checkpoint."""
        body = request if isinstance(request, bytes) else request.encode()
        return await self.http.post("/add-checkpoint", content=body, **options)

    async def status(self, request: AddCheckpoint | bytes) -> int:
        """Only the status."""
        return (await self.post(request)).status_code

    async def leaves(self) -> list[dict[str, Any]]:
        """Bodies of the witness's log behind GENESIS, its chain and checkpoint verified."""
        answer = await self.centre.admin.ReadOperatorLog(
            admin_pb2.ReadOperatorLogRequest(log=admin_pb2.ReadOperatorLogRequest.COSIGNED),
            timeout=TIMEOUT,
        )
        leaves = [decode_leaf(data) for data in answer.leaves]
        for before, leaf in zip(answer.leaves, leaves[1:], strict=False):
            assert leaf.prev == leaf_hash(before)
        if leaves:
            assert leaves[0].type is LeafType.GENESIS
            assert leaves[0].body["witness_vkey"] == self.key.vkey
            head = Checkpoint.parse(split_note(answer.checkpoint)[0])
            assert head.origin == "example.org/_witness/coordinator/e1"
            assert (head.size, head.root) == (len(leaves), root_of(map(leaf_hash, answer.leaves)))
        assert all(leaf.type is LeafType.COSIGNED for leaf in leaves[1:])
        return [dict(leaf.body) for leaf in leaves[1:]]


@asynccontextmanager
async def asking(folder: Path, *logs: OutsideTree) -> AsyncIterator[Asked]:
    """A coordinator whose witness answers over HTTP."""
    vkeys = tuple(log.vkey for log in logs)
    async with (
        running_coordinator(folder, witness_listen="127.0.0.1:0", witness_logs=vkeys) as centre,
        httpx.AsyncClient(base_url=f"http://{centre.up.witness}", timeout=TIMEOUT) as http,
    ):
        yield Asked(centre, http)
