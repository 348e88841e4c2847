"""The agent's home on disk: takes its lock, opens its files, hands out what the rooms need."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from exclave_agent.audit.chain import Chain
from exclave_agent.audit.epoch import EPOCH_KEY, decode
from exclave_agent.audit.store import LogReader
from exclave_agent.audit.verify import verify_tail
from exclave_agent.errors import StorageError
from exclave_agent.ports import Rng
from exclave_protocol.note import VerifyKey

from .completions import SqliteCompletions
from .connect import check_pages, open_reader, open_writer, storage_error
from .keys import SqliteKeyRing
from .leaves import LeafDatabase, LeafReader, LeafTail
from .ledger import SqliteLedger
from .lock import HomeLock
from .migrations import ensure, state, vault
from .pool import ReadPool
from .referrals import SqliteReferrals
from .sqlite import Writer
from .state import SqliteStateStore
from .subjects import SqliteSubjects
from .vault import MasterKey, VaultReader, VaultWriter, check_master
from .wal import PAGES_MOST, WalKeeper

T = TypeVar("T")

STATE_FILE = "state.db"
VAULT_FILE = "vault.db"
VAULT_KEY = Path("identity") / "vault.key"


def claim(home: Path) -> None:
    """Make the home, which is its user's alone; blocking.

    One that others can look into is refused, not mended: it may be a folder such as /tmp, named
    by mistake. Raises: StorageError ("home_open").
    """
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = home.stat().st_mode & 0o777
    except OSError as error:
        raise StorageError(f"cannot create the home {home}: {error.strerror}") from error
    if mode & 0o077:
        raise StorageError(
            f"the home {home} is open to other users (mode {mode:03o}): chmod 700 it, or use "
            "another",
            code="home_open",
        )


def prepare(home: Path, rng: Rng) -> None:
    """Make the home's files, or bring them up to date. Idempotent; blocking.

    Raises: StorageForeign (not ours, damaged, newer, or key and vault apart), StorageFull,
    StorageError.
    """
    claim(home)
    ensure(home / STATE_FILE, state.KIND)
    # The key is made before the vault, so a vault without its key is a loss, not a crash.
    if not (home / VAULT_FILE).exists() and not (home / VAULT_KEY).exists():
        MasterKey.create(home / VAULT_KEY, rng)
    MasterKey.load(home / VAULT_KEY)
    ensure(home / VAULT_FILE, vault.KIND)


class Storage:
    """An open home. `close` MUST be awaited: it carries out what was submitted."""

    def __init__(self, home: Path, rng: Rng) -> None:
        """Blocking. Raises: as `prepare`, and StorageError "home_locked"."""
        with ExitStack() as stack:
            claim(home)
            self._lock = HomeLock(home)
            stack.callback(self._lock.release)
            prepare(home, rng)
            check_pages(home / STATE_FILE, state.KIND)
            check_pages(home / VAULT_FILE, vault.KIND)
            self._home = home
            try:
                self._connect(home, rng, stack)
            except sqlite3.Error as error:
                raise storage_error(error, "open the home's databases") from error
            self._to_close = stack.pop_all()

    def _connect(self, home: Path, rng: Rng, stack: ExitStack) -> None:
        connection = stack.enter_context(
            closing(open_writer(home / STATE_FILE, secure_delete=True))
        )
        values = stack.enter_context(closing(open_writer(home / VAULT_FILE, secure_delete=True)))
        master = MasterKey.load(home / VAULT_KEY)
        check_master(values, master, rng)
        self.keys = SqliteKeyRing(home / VAULT_FILE)
        """Local API keys."""
        stack.callback(self.keys.close)
        self._pool = ReadPool(home / STATE_FILE, home / VAULT_FILE, master)
        stack.callback(self._pool.close)
        self.vault_connection = values
        """For the writer's thread alone, once a log is open."""
        self._vault = VaultWriter(values, master, rng)
        connection.execute(f"PRAGMA wal_autocheckpoint = {PAGES_MOST}")
        keeper = WalKeeper(home / STATE_FILE)
        stack.callback(keeper.close)
        self.writer = Writer(connection, keeper)
        """The one writer of state.db."""
        self.state = SqliteStateStore(self.writer, self._pool)
        """Small named values."""
        self.ledger = SqliteLedger(self.writer, self._pool)
        """The budgets' sums."""
        self.referrals = SqliteReferrals(self.writer, self._pool)
        """Decisions that wait for a person."""
        self.completions = SqliteCompletions(self.writer, self._pool, self._vault, master)
        """Answers that are kept."""
        self.subjects = SqliteSubjects(self.writer, self._vault)
        """Whose values those are."""

    def open_log(self, origin: str, key: VerifyKey, *, epoch: int = 1) -> LeafDatabase:
        """Verify the log's tail and take it up.

        Blocking; once. Raises: StorageError ("log_altered" names the leaf, "log_truncated",
        "checkpoint_invalid", "log_foreign"), StorageFull.
        """
        path = self._home / STATE_FILE
        try:
            with closing(open_writer(path)) as connection:
                _claim_epoch(connection, origin, epoch)
            with closing(open_reader(path)) as connection:
                connection.execute("BEGIN")
                reader = LeafReader(connection, None, epoch)
                found = verify_tail(reader, origin=origin, epoch=epoch, key=key)
            chain = Chain(origin, epoch)
            chain.resume(found.size, found.peaks, found.prev, found.open_intents)
        except sqlite3.Error as error:
            raise storage_error(error, "open the log") from error
        return LeafDatabase(self.writer, self._pool, LeafTail(chain, self._vault))

    async def truncate(self) -> bool:
        """Move the write-ahead logs into the databases and empty them, so that what was destroyed
        is in none of the files; False: somebody still reads what was there before.

        Raises: StorageError.
        """
        return await asyncio.to_thread(self._truncate)

    def _truncate(self) -> bool:
        empty = True
        try:
            for name in (VAULT_FILE, STATE_FILE):
                with closing(open_writer(self._home / name)) as connection:
                    row = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                empty = empty and row is not None and row[0] == 0
        except sqlite3.Error as error:
            raise storage_error(error, "empty the write-ahead log") from error
        return empty

    async def close(self) -> None:
        """Carry out what was submitted, then close every file and let go of the lock."""
        await self.writer.close()
        await asyncio.to_thread(self._to_close.close)

    async def __aenter__(self) -> Storage:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


def read_log(home: Path, query: Callable[[LogReader], T], epoch: int | None = None) -> T:
    """Run a query on a home's log, whether or not an agent is running there; blocking.

    `epoch` None: the present one.

    Raises: StorageForeign, StorageError.
    """
    for kind, name in ((state.KIND, STATE_FILE), (vault.KIND, VAULT_FILE)):
        if not (home / name).exists():
            raise StorageError(f"the home has no {name}: has the agent joined?")
        ensure(home / name, kind)
    master = MasterKey.load(home / VAULT_KEY)
    try:
        with (
            closing(open_reader(home / STATE_FILE)) as connection,
            closing(open_reader(home / VAULT_FILE)) as values,
        ):
            connection.execute("BEGIN")
            if epoch is None:
                epoch = present_epoch(connection)
            return query(LeafReader(connection, VaultReader(values, master), epoch))
    except sqlite3.Error as error:
        raise storage_error(error, "read the home's databases") from error


def present_epoch(connection: sqlite3.Connection) -> int:
    """The epoch in which a home writes. Raises: StorageError."""
    row = connection.execute("SELECT value FROM state WHERE key = ?", (EPOCH_KEY,)).fetchone()
    return decode(None if row is None else bytes(row[0])).number


def _claim_epoch(connection: sqlite3.Connection, origin: str, epoch: int) -> None:
    """A log belongs to one identity for good."""
    connection.execute(
        "INSERT INTO epoch (epoch, origin) VALUES (?, ?) ON CONFLICT DO NOTHING", (epoch, origin)
    )
    (found,) = connection.execute("SELECT origin FROM epoch WHERE epoch = ?", (epoch,)).fetchone()
    if found != origin:
        raise StorageError(
            f"epoch {epoch} in this home is the log of {found}, not of {origin}: use a home of "
            "its own for each agent",
            code="log_foreign",
        )
