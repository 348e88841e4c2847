"""An agent's home, its uploader, and the real coordinator's rooms that it uploads to."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from exclave_agent.audit.checkpoint import Checkpointer
from exclave_agent.audit.epoch import Frost
from exclave_agent.audit.store import LogReader, StoredCheckpoint
from exclave_agent.audit.term import Terms
from exclave_agent.audit.upload import Uploader
from exclave_agent.audit.verify import LogState, verify_log
from exclave_agent.errors import AgentError, AuditDiverged, StorageError
from exclave_agent.ports import AuditSink
from exclave_agent.storage.home import read_log
from exclave_protocol.leaf import decode_leaf

from .audit import ORIGIN, witness_key
from .centre import SPIFFE, Centre, CentreClock
from .homes import KEY, Home, execute, intent, result


class Working:
    """An open home with its uploader."""

    def __init__(self, home: Home, sink: AuditSink) -> None:
        self.home = home
        self.sink = sink
        self.checkpointer: Checkpointer
        self.uploader: Uploader
        self.terms: Terms
        self.frozen: list[str] = []

    async def restart(self) -> None:
        """A term, and an uploader that knows nothing yet, as after a start of the process."""
        self.terms = terms = self.home.terms()
        await terms.begin()

        async def freeze(found: Frost) -> None:
            self.frozen.append(found.code)

        self.checkpointer = Checkpointer(self.home.database, terms)
        self.uploader = Uploader(
            self.home.log,
            self.checkpointer,
            self.sink,
            terms=terms,
            freeze=freeze,
            witness=witness_key().verify_key,
            clock=self.home.clock,
            rng=self.home.rng,
        )

    async def add(self, count: int, told: str = "d") -> None:
        """So many leaves more: INTENT and RESULT in turn."""
        size = self.home.log.size
        drafts = (
            intent(f"{told}{seq}") if seq % 2 else result(f"{told}{seq - 1}", seq - 1)
            for seq in range(size, size + count)
        )
        await asyncio.gather(*map(self.home.log.append, drafts))

    async def once(self) -> None:
        """One round of the upload, heads asked for anew. Raises: LinkError, StorageError."""
        await self.restart()
        await self.uploader.once()

    async def once_without_cosigning(self) -> None:
        """A round that is cut off before the head is cosigned. Raises: LinkError, StorageError."""
        await self.restart()
        await self.uploader._learn()
        await self.uploader._prove_term()
        await self.uploader._upload()

    async def refused(self) -> str:
        """The code by which one round fails, and the incident on record where it is one."""
        with pytest.raises(AgentError) as caught:
            await self.once()
        if isinstance(caught.value, AuditDiverged):
            await self.uploader._report(caught.value)
            assert caught.value.code in await self.incidents()
        return caught.value.code

    async def leaves(self) -> list[bytes]:
        """The log's exact bytes."""
        return await self.home.database.read(lambda r: r.leaves(0, 1 << 20, 1 << 30))

    async def incidents(self) -> list[str]:
        """Codes of what is on record against the coordinator."""
        decoded = map(decode_leaf, await self.leaves())
        return [str(leaf.body["code"]) for leaf in decoded if leaf.type == "INCIDENT"]

    async def kept(self) -> bytes:
        """The newest cosigned checkpoint."""

        def newest(reader: LogReader) -> StoredCheckpoint | None:
            return reader.checkpoint(cosigned=True)

        found = await self.home.database.read(newest)
        assert found is not None
        return found.note


class Pair:
    """A folder with an agent's home and a coordinator's database, both closed or open."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.home = folder / "agent"
        self.database = folder / "coordinator.db"
        self.clock = CentreClock()
        self._starts = 0

    @asynccontextmanager
    async def centre(self) -> AsyncIterator[Centre]:
        """The coordinator at work."""
        opened = Centre(self.database, self.clock)
        try:
            yield opened
        finally:
            opened.close()

    @asynccontextmanager
    async def agent(self, sink: AuditSink, home: Path | None = None) -> AsyncIterator[Working]:
        """The agent at work; `home`: a copy of its home. Raises: StorageError."""
        place = home or self.home
        self._starts += 1  # each start has its own chance, as it has its own keys
        async with Home(place, clock=self.clock, agent=SPIFFE, seed=self._starts) as opened:
            working = Working(opened, sink)
            await working.restart()
            yield working

    async def honest(self, size: int, *, witnessed: bool = True) -> bytes:
        """A log of `size` leaves, uploaded and cosigned; the checkpoint that the tenant keeps."""
        async with self.centre() as centre, self.agent(centre.line()) as agent:
            await agent.add(size - agent.home.log.size)
            if not witnessed:
                return b""
            await agent.once()
            return await agent.kept()

    def without_terms(self) -> None:
        """The coordinator, closed, has the log of an agent that never began a term."""
        execute(self.database, "DELETE FROM terms")

    def copy(self, name: str) -> Path:
        """The home as it is now, elsewhere."""
        return shutil.copytree(self.home, self.folder / name)

    async def starts(self) -> str:
        """The code by which the agent refuses to start on this home; "": it starts."""
        try:
            async with Home(self.home, clock=self.clock):
                return ""
        except StorageError as error:
            return error.code

    def verified(self) -> str:
        """The code by which `exclave-agent audit verify` fails; "": it does not."""
        try:
            self.verify()
        except StorageError as error:
            return error.code
        return ""

    async def uploads(self, home: Path | None = None, more: int = 0) -> str:
        """The code by which the next upload fails, after so many records more."""
        async with self.centre() as centre, self.agent(centre.line(), home) as agent:
            await agent.add(more, "mine")
            return await agent.refused()

    def verify(self) -> LogState:
        """`exclave-agent audit verify`. Raises: StorageError."""
        return read_log(self.home, lambda r: verify_log(r, origin=ORIGIN, epoch=1, key=KEY))
