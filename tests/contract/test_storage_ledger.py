"""What every Ledger and every CompletionStore promise, fakes included."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from exclave_agent.errors import StorageError
from exclave_agent.ports import (
    AuditLog,
    CompletionStore,
    KeptCompletion,
    LeafDraft,
    Ledger,
    LedgerEntry,
)
from exclave_agent.storage.home import Storage
from exclave_testing.audit import FakeAuditLog
from exclave_testing.clock import SeededRng
from exclave_testing.homes import Home, execute, vault
from exclave_testing.storage import FakeCompletionStore

BOOKS = [
    LedgerEntry("tenant", "2026-11", 700, 25_000_000),
    LedgerEntry("tenant/team:a", "2026-11-26", 700, 25_000_000),
]


@dataclass
class Books:
    log: AuditLog
    ledger: Ledger


@pytest.fixture(params=["fake", "real"])
async def books(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Books]:
    if request.param == "fake":
        log = FakeAuditLog()
        yield Books(log, log.ledger)
        return
    async with Home(tmp_path) as home:
        yield Books(home.log, home.storage.ledger)


def leaf(kind: str, *entries: LedgerEntry, decision: str = "d", **more: str) -> LeafDraft:
    return LeafDraft(kind, {"decision": decision, **more}, ledger=entries)


async def test_nothing_is_spent_at_first(books: Books) -> None:
    assert dict(await books.ledger.totals()) == {}


async def test_amounts_of_leaves_add_up(books: Books) -> None:
    await books.log.append(leaf("INTENT", *BOOKS))
    refund = [LedgerEntry(each.account, each.period, -200, -5_000_001) for each in BOOKS]
    await books.log.append(leaf("RESULT", *refund))
    assert dict(await books.ledger.totals()) == {
        ("tenant", "2026-11"): (500, 19_999_999),
        ("tenant/team:a", "2026-11-26"): (500, 19_999_999),
    }


async def test_a_refused_leaf_adds_nothing(books: Books) -> None:
    with pytest.raises(StorageError):
        await books.log.append(LeafDraft("INTENT", {"decision": "d", "bad": 1.5}, ledger=(*BOOKS,)))  # type: ignore[dict-item]  # a float is the fault
    assert dict(await books.ledger.totals()) == {}


async def test_periods_that_are_over_are_forgotten(books: Books) -> None:
    await books.log.append(leaf("INTENT", *BOOKS))
    await books.ledger.forget(["2026-11", "1999-01"])
    assert list(await books.ledger.totals()) == [("tenant/team:a", "2026-11-26")]


# --- kept answers -------------------------------------------------------------------------------

SECRET = b"the diagnosis of Erika Mustermann"


@dataclass
class Kept:
    store: CompletionStore
    erase: Callable[[str], None]
    files: Callable[[], bytes]


@pytest.fixture(params=["fake", "real"])
async def kept(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Kept]:
    if request.param == "fake":
        fake = FakeCompletionStore()
        yield Kept(fake, fake.erase, bytes)
        return

    async with Storage(tmp_path, SeededRng()) as storage:

        def erase(subject: str) -> None:
            tag = storage.completions._master.tag(subject)
            execute(vault(tmp_path), "DELETE FROM subject WHERE tag = ?", (tag,))

        def files() -> bytes:
            return b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())

        yield Kept(storage.completions, erase, files)


def row(name: bytes, scope: bytes = b"", expires_ns: int = 1 << 60) -> KeptCompletion:
    return KeptCompletion(name.ljust(32, b"k"), scope, 100, expires_ns)


async def test_a_kept_value_comes_back_and_others_are_unknown(kept: Kept) -> None:
    await kept.store.put(row(b"a"), "erika", SECRET)
    assert await kept.store.get(row(b"a").key) == SECRET
    assert await kept.store.get(row(b"b").key) is None
    assert SECRET not in kept.files()
    assert b"erika" not in kept.files()


async def test_the_index_lists_the_oldest_first(kept: Kept) -> None:
    for name in (b"c", b"a", b"b"):
        await kept.store.put(row(name, b"s"), "erika", SECRET)
    await kept.store.put(row(b"c", b"s"), "erika", b"newer")
    assert list(await kept.store.index()) == [row(n, b"s") for n in (b"a", b"b", b"c")]
    assert await kept.store.get(row(b"c").key) == b"newer"


async def test_put_drops_others_with_it_and_drop_forgives(kept: Kept) -> None:
    await kept.store.put(row(b"a"), "erika", SECRET)
    await kept.store.put(row(b"b"), "erika", SECRET, drop=[row(b"a").key])
    assert [each.key for each in await kept.store.index()] == [row(b"b").key]
    await kept.store.drop([row(b"b").key, row(b"x").key])
    assert list(await kept.store.index()) == []


async def test_similar_shows_the_newest_vectors_of_a_scope(kept: Kept) -> None:
    for number in range(4):
        await kept.store.put(row(b"%d" % number, b"s"), "erika", SECRET, b"v%d" % number)
    await kept.store.put(row(b"other", b"t"), "erika", SECRET, b"w")
    await kept.store.put(row(b"none", b"s"), "erika", SECRET)
    found = await kept.store.similar(b"s", 3, list)
    assert found == [(row(b"%d" % n).key, b"v%d" % n) for n in (3, 2, 1)]
    assert b"v3" not in kept.files() or kept.files() == b""


async def test_an_erased_subject_cannot_be_read_and_is_swept(kept: Kept) -> None:
    await kept.store.put(row(b"a", b"s"), "erika", SECRET, b"vector")
    await kept.store.put(row(b"b", b"s"), "heinz", SECRET, b"vector")
    kept.erase("erika")
    assert await kept.store.get(row(b"a").key) is None
    assert await kept.store.get(row(b"b").key) == SECRET
    assert await kept.store.similar(b"s", 9, list) == [(row(b"b").key, b"vector")]
    assert list(await kept.store.sweep(0)) == [row(b"a").key]
    assert [each.key for each in await kept.store.index()] == [row(b"b").key]


async def test_what_has_expired_is_swept(kept: Kept) -> None:
    await kept.store.put(row(b"a", expires_ns=10), "erika", SECRET)
    await kept.store.put(row(b"b", expires_ns=11), "erika", SECRET)
    assert list(await kept.store.sweep(10)) == [row(b"a").key]
    assert list(await kept.store.sweep(10)) == []


def test_tags_are_the_same_for_the_same_digest_only() -> None:
    store = FakeCompletionStore()
    assert store.tag(b"a") == store.tag(b"a") != store.tag(b"b")


async def test_the_real_tag_depends_on_the_vault(tmp_path: Path) -> None:
    tags = []
    for seed in (1, 2):
        async with Storage(tmp_path / str(seed), SeededRng(seed)) as storage:
            tags.append(storage.completions.tag(bytes(32)))
            assert storage.completions.tag(bytes(32)) == tags[-1]
            assert len(tags[-1]) == 32
    assert tags[0] != tags[1]
    assert bytes(32) not in tags
