"""Persist before sign: no cosignature is over anything that a crash could take back."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from exclave_coordinator.audit import witness as room
from exclave_coordinator.audit.cosigned import CosignedLog
from exclave_coordinator.audit.witness import Witness
from exclave_coordinator.errors import Stale, StorageError
from exclave_coordinator.ports import Store, Tx
from exclave_coordinator.storage import database
from exclave_coordinator.storage.database import Database
from exclave_protocol.checkpoint import CosignerKey, cosigned_origin, verify_cosignature
from exclave_protocol.note import SigningKey, VerifyKey, split_note
from exclave_testing.coordinator import ShiftedClock
from exclave_testing.witnesses import OutsideTree, key_of

T = TypeVar("T")
DOMAIN = "example.org"


class BreakingStore:
    """`ports.Store` over a real one, which a test breaks before or after the commit."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.fails = ""
        """"before": the change is undone; "after": it is durable, and nobody hears of it."""

    async def write(self, job: Callable[[Tx], T], *, after: Callable[[T], None] | None = None) -> T:
        """See `ports.Store.write`."""
        failing = self.fails

        def run(tx: Tx) -> T:
            result = job(tx)
            if failing == "before":
                raise StorageError("the disk broke")
            return result

        result = await self.store.write(run, after=after)
        if failing == "after":
            raise StorageError("killed after the commit")
        return result

    async def read(self, job: Callable[[Tx], T]) -> T:
        """See `ports.Store.read`."""
        return await self.store.read(job)


@dataclass
class Rig:
    """A witness over a database of its own."""

    path: Path
    store: BreakingStore
    witness: Witness
    tree: OutsideTree

    def durable(self) -> tuple[int, int]:
        """(size cosigned of the outside log, leaves of the witness's log) as a crash leaves it."""
        with closing(sqlite3.connect(self.path)) as connection:
            size = connection.execute("SELECT size FROM outside_logs").fetchone()
            leaves = connection.execute("SELECT count(*) FROM cosigned_leaves").fetchone()
        return (size[0] if size else 0), leaves[0]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """Such a witness, which knows one outside log."""
    path = tmp_path / "coordinator.db"
    database.create(path)
    real = Database(path)
    store, clock, tree = BreakingStore(real), ShiftedClock(), OutsideTree(size=20)
    cosigner = CosignerKey(f"{DOMAIN}/witness", key_of("witness"))
    own = SigningKey(cosigned_origin(DOMAIN), key_of("operators"))
    witness = Witness(
        store,
        DOMAIN,
        cosigner,
        CosignedLog(own, cosigner.vkey, "test", clock=clock),
        outside=[VerifyKey.parse(tree.vkey)],
        clock=clock,
        alarm=lambda kind: None,
    )
    yield Rig(path, store, witness, tree)
    real.close()


async def test_what_is_signed_is_on_disk_with_its_leaf(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign, seen = room.cosign, []

    def watched(text: str, key: CosignerKey, timestamp: int) -> bytes:
        seen.append((int(text.split("\n")[1]), *rig.durable()))
        return sign(text, key, timestamp)

    monkeypatch.setattr(room, "cosign", watched)
    for old, new in ((0, 8), (8, 20), (20, 20)):
        await rig.witness.add_checkpoint(rig.tree.request(old, new))
    # GENESIS and a leaf each; asked again at once, there is nothing new to record.
    assert seen == [(8, 8, 2), (20, 20, 3), (20, 20, 3)]


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_store_that_fails_leaves_no_cosignature(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    made: list[Any] = []
    sign = room.cosign
    monkeypatch.setattr(room, "cosign", lambda *given: made.append(given) or sign(*given))
    await rig.witness.add_checkpoint(rig.tree.request(0, 8))
    made.clear()
    rig.store.fails = moment
    with pytest.raises(StorageError):
        await rig.witness.add_checkpoint(rig.tree.request(8, 20))
    assert made == []
    rig.store.fails = ""
    if moment == "before":
        assert rig.durable() == (8, 2)
        await rig.witness.add_checkpoint(rig.tree.request(8, 20))
    else:
        assert rig.durable() == (20, 3)
        with pytest.raises(Stale) as stale:
            await rig.witness.add_checkpoint(rig.tree.request(8, 20))
        assert stale.value.size == 20
        line = await rig.witness.add_checkpoint(rig.tree.request(20))
        verify_cosignature(split_note(rig.tree.note())[0], line, VerifyKey.parse(rig.witness.vkey))
    assert rig.durable() == (20, 3)


async def test_size_and_leaf_share_one_fate(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.witness.add_checkpoint(rig.tree.request(0, 8))

    def full(*_given: Any) -> int:
        raise StorageError("no room for the leaf")

    monkeypatch.setattr(CosignedLog, "append", full)
    with pytest.raises(StorageError):
        await rig.witness.add_checkpoint(rig.tree.request(8, 20))
    assert rig.durable() == (8, 2)


async def test_a_grown_log_is_not_rolled_back_by_a_slower_request(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The race that the specification describes: both were judged at 8, the larger one wins."""
    await rig.witness.add_checkpoint(rig.tree.request(0, 8))
    write, once = rig.store.write, [True]

    async def overtaken(job: Any, **options: Any) -> Any:
        if once:
            once.clear()
            await rig.witness.add_checkpoint(rig.tree.request(8, 20))
        return await write(job, **options)

    monkeypatch.setattr(rig.store, "write", overtaken)
    with pytest.raises(Stale) as stale:
        await rig.witness.add_checkpoint(rig.tree.request(8, 12))
    assert stale.value.size == 20
    assert rig.durable() == (20, 3)
