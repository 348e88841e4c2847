"""Real agent homes in temporary folders, and what tests do to their files."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from exclave_agent.audit import drafts
from exclave_agent.audit.append import Log
from exclave_agent.audit.boot import Boot, Starting, record_boot
from exclave_agent.audit.epoch import Epoch
from exclave_agent.audit.term import Terms
from exclave_agent.ports import Clock, LeafDraft, Rng
from exclave_agent.storage.home import STATE_FILE, VAULT_FILE, Storage
from exclave_agent.storage.leaves import LeafDatabase
from exclave_protocol.note import VerifyKey

from .audit import ORIGIN, log_private, signing_key
from .clock import FakeClock, SeededRng

KEY: VerifyKey = signing_key().verify_key


class Home:
    """An open home with its log; GENESIS is written when the log is new."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock | None = None,
        rng: Rng | None = None,
        seed: int = 1,
        agent: str = "spiffe://t",
        epoch: int = 1,
    ) -> None:
        self.path = path
        self.epoch = epoch
        self.key = signing_key(ORIGIN.removesuffix("1") + str(epoch)).verify_key
        self.agent = agent
        self.clock = clock or FakeClock()
        self.rng = rng or SeededRng(seed)
        self.storage = Storage(path, self.rng)
        self.database: LeafDatabase
        self.log: Log

    async def __aenter__(self) -> Home:
        try:
            self.database = self.storage.open_log(self.key.name, self.key, epoch=self.epoch)
        except BaseException:
            await self.storage.close()
            raise
        self.log = Log(self.database, self.clock, self.rng)
        if self.log.size == 0:
            await self.log.append(drafts.genesis(agent=self.agent, vkey=self.key.vkey, version="1"))
        return self

    def terms(self) -> Terms:
        """Of this home; `begin` one."""
        return Terms(self.storage.state, log_private(), self.key.name, self.epoch, self.rng)

    async def boot(
        self,
        *,
        heartbeat: float = 3600,
        epoch: Epoch | None = None,
        terms: Terms | None = None,
    ) -> Boot:
        """Write a start into the log, as the agent does."""
        start = Starting(
            agent="spiffe://t",
            vkey=self.key.vkey,
            version="1",
            boot_id="b",
            runtimes=["llama"],
            certificate=await (terms or self.terms()).begin(),
            epoch=epoch or Epoch(),
            heartbeat=heartbeat,
        )
        return await record_boot(self.log, start, self.clock.now_ns())

    async def __aexit__(self, *error: object) -> None:
        await self.storage.close()


def intent(decision: str, prompt: str = "a secret prompt", subject: str = "key-1") -> LeafDraft:
    """An INTENT with one private field."""
    return LeafDraft("INTENT", {"decision": decision}, {"prompt": prompt}, subject)


def result(decision: str, seq: int, output: str = "a secret answer") -> LeafDraft:
    """The RESULT of an INTENT."""
    body = {"decision": decision, "intent": str(seq), "outcome": "answered"}
    return LeafDraft("RESULT", dict(body), {"output": output}, "key-1")


def execute(path: Path, sql: str, values: Iterable[object] = ()) -> list[tuple[object, ...]]:
    """One statement on a database file, as an intruder or an examiner would run it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return connection.execute(sql, tuple(values)).fetchall()


def state(home: Path) -> Path:
    """The home's state database."""
    return home / STATE_FILE


def vault(home: Path) -> Path:
    """The home's vault."""
    return home / VAULT_FILE
