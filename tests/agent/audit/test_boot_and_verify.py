"""A start takes up exactly the log that was written, or says which leaf is not its own."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from exclave_agent.audit import verify
from exclave_agent.audit.checkpoint import Checkpointer
from exclave_agent.audit.store import LogReader, StoredLeaf
from exclave_agent.audit.verify import LogState, verify_log
from exclave_agent.errors import StorageError
from exclave_agent.storage.home import read_log
from exclave_protocol.checkpoint import Checkpoint, sign_checkpoint
from exclave_protocol.leaf import decode_leaf, encode_leaf
from exclave_protocol.tree import leaf_hash, root
from exclave_testing.audit import ORIGIN, signing_key
from exclave_testing.homes import KEY, Home, execute, intent, result, state


async def fill(path: Path, leaves: int, *, signed: bool = False) -> None:
    async with Home(path) as home:
        await asyncio.gather(*(home.log.append(intent(f"d{n}")) for n in range(leaves)))
        if signed:
            await Checkpointer(home.database, signing_key()).sign()


async def reopen(path: Path) -> int:
    async with Home(path) as home:
        return home.log.size


def audit(path: Path) -> LogState:
    return read_log(path, lambda r: verify_log(r, origin=ORIGIN, epoch=1, key=KEY))


def alter(path: Path, seq: int) -> None:
    """Change one byte of a leaf on disk."""
    ((data,),) = execute(state(path), "SELECT data FROM leaf WHERE id & 0xFFFFFFFFFF = ?", [seq])
    assert isinstance(data, bytes)
    changed = data.replace(b'"decision":"d', b'"decision":"e', 1)
    assert changed != data
    sql = "UPDATE leaf SET data = ? WHERE id & 0xFFFFFFFFFF = ?"
    execute(state(path), sql, [changed, seq])


async def test_a_first_start_is_born_and_boots(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        first = await home.boot()
        assert (first.closed, first.seq) == ((), 1)
    async with Home(tmp_path) as home:
        assert (await home.boot()).seq == 2
    types = [decode_leaf(data).type for data in read_log(tmp_path, lambda r: r.leaves(0, 9, 9999))]
    assert types == ["GENESIS", "BOOT", "BOOT"]


async def test_dangling_intents_are_closed_once_as_unknown(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        done = await home.log.append(intent("done"))
        await home.log.append(result("done", done.seq))
        await home.log.append(intent("open"))
    async with Home(tmp_path) as home:
        assert (await home.boot()).closed == ("open",)
    async with Home(tmp_path) as home:
        assert (await home.boot()).closed == ()
    seqs = read_log(tmp_path, lambda r: r.by_decision("open"))
    last = read_log(tmp_path, lambda r: r.leaf(seqs[-1]))
    assert last is not None
    body = decode_leaf(last.data).body
    assert (body["outcome"], body["intent"]) == ("unknown", str(seqs[0]))


async def test_a_crash_while_closing_loose_ends_finds_them_again(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        await home.log.append(intent("one"))
        await home.log.append(intent("two"))
    async with Home(tmp_path) as home:  # closes one, then dies
        assert set(home.database.dangling) == {"one", "two"}
        await home.log.append(result("one", home.database.dangling["one"]))
    async with Home(tmp_path) as home:
        assert (await home.boot()).closed == ("two",)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("seq", [1, 150, 300])
async def test_a_leaf_altered_on_disk_is_named_at_boot(
    tmp_path: Path, seq: int, signed: bool
) -> None:
    await fill(tmp_path, 300, signed=signed)
    alter(tmp_path, seq)
    with pytest.raises(StorageError, match=rf"leaf {seq} does not have its hash") as refused:
        await reopen(tmp_path)
    assert refused.value.code == "log_altered"
    with pytest.raises(StorageError, match=rf"leaf {seq} "):
        audit(tmp_path)


async def test_a_leaf_altered_together_with_its_hash_breaks_the_signed_tree(tmp_path: Path) -> None:
    await fill(tmp_path, 300, signed=True)
    alter(tmp_path, 150)
    ((data,),) = execute(state(tmp_path), "SELECT data FROM leaf WHERE id & 0xFFFFFFFFFF = 150")
    assert isinstance(data, bytes)
    sql = "UPDATE leaf SET hash = ? WHERE id & 0xFFFFFFFFFF = 150"
    execute(state(tmp_path), sql, [leaf_hash(data)])
    # As if all were settled: the boot then reads hashes only, and the signed tree decides.
    quiet = "INSERT OR REPLACE INTO state VALUES ('audit.quiet_before.1', CAST('301' AS BLOB))"
    execute(state(tmp_path), quiet)
    with pytest.raises(StorageError, match="not those that this agent signed"):
        await reopen(tmp_path)
    with pytest.raises(StorageError, match="leaf 151 breaks the chain"):
        audit(tmp_path)


async def test_a_missing_leaf_is_named(tmp_path: Path) -> None:
    await fill(tmp_path, 30)
    execute(state(tmp_path), "DELETE FROM leaf WHERE id & 0xFFFFFFFFFF = 7")
    with pytest.raises(StorageError, match="leaf 7 is missing"):
        await reopen(tmp_path)


async def test_a_truncated_tail_below_the_signed_head_is_noticed(tmp_path: Path) -> None:
    await fill(tmp_path, 30, signed=True)
    execute(state(tmp_path), "DELETE FROM leaf WHERE id & 0xFFFFFFFFFF >= 29")
    with pytest.raises(StorageError, match="29 leaves where 31 were signed") as refused:
        await reopen(tmp_path)
    assert refused.value.code == "log_truncated"


async def test_a_checkpoint_of_another_key_is_refused(tmp_path: Path) -> None:
    await fill(tmp_path, 3, signed=True)
    forged = sign_checkpoint(Checkpoint(ORIGIN, 4, bytes(32)), signing_key(seed=b"x" * 32))
    execute(state(tmp_path), "UPDATE checkpoint SET note = ?", [forged])
    with pytest.raises(StorageError) as refused:
        await reopen(tmp_path)
    assert refused.value.code == "checkpoint_invalid"


async def test_a_chain_rewritten_after_the_head_is_found_by_its_prev(tmp_path: Path) -> None:
    """Without the audit key an intruder can re-hash a leaf, but not what follows it."""
    await fill(tmp_path, 10)
    ((data,),) = execute(state(tmp_path), "SELECT data FROM leaf WHERE id & 0xFFFFFFFFFF = 5")
    assert isinstance(data, bytes)
    forged = encode_leaf(replace(decode_leaf(data), body={"decision": "forged"}))
    sql = "UPDATE leaf SET data = ?, hash = ? WHERE id & 0xFFFFFFFFFF = 5"
    execute(state(tmp_path), sql, [forged, leaf_hash(forged)])
    with pytest.raises(StorageError, match="leaf 6 breaks the chain"):
        await reopen(tmp_path)


async def test_a_damaged_tree_node_is_found(tmp_path: Path) -> None:
    await fill(tmp_path, 600)
    execute(state(tmp_path), "UPDATE node SET hash = zeroblob(32)")
    with pytest.raises(StorageError, match="stored tree does not belong"):
        audit(tmp_path)


async def test_a_boot_of_a_long_log_reads_its_tail_and_trusts_the_signed_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "BOOT_SCAN", 256)
    async with Home(tmp_path) as home:
        await home.boot()
        await asyncio.gather(*(home.log.append(intent(f"d{n}")) for n in range(1000)))
        await asyncio.gather(*(home.log.append(result(f"d{n}", n)) for n in range(1000)))
        await home.database.note_quiet()
        await Checkpointer(home.database, signing_key()).sign()
        await asyncio.gather(*(home.log.append(intent(f"e{n}")) for n in range(100)))
        await home.boot()
        before = await home.database.head()
    read: list[int] = []
    original = verify._check

    def watched(stored: StoredLeaf, seq: int, *, decode: bool) -> object:
        read.append(seq)
        return original(stored, seq, decode=decode)

    monkeypatch.setattr(verify, "_check", watched)
    async with Home(tmp_path) as home:
        assert await home.database.head() == before
        assert len(home.database.dangling) == 100
        tree = await home.database.read(lambda r: root(before.size, r.node))
        assert tree == before.root
    assert min(read) == (before.size - 256) & ~255
    state_now = audit(tmp_path)
    assert (state_now.size, state_now.root) == (before.size, before.root)


async def test_two_writers_cannot_fork_the_log(tmp_path: Path) -> None:
    """The lock forbids it; should somebody get past it, the loser freezes."""
    async with Home(tmp_path) as home:
        place = await home.log.append(intent("d1"))

        def copy_row(reader: LogReader) -> bytes:
            stored = reader.leaf(place.seq)
            assert stored is not None
            return stored.data

        data = await home.database.read(copy_row)
        sql = "INSERT INTO leaf (id, hash, data) VALUES ((1 << 40) + ?, ?, ?)"
        execute(state(tmp_path), sql, [place.seq + 1, leaf_hash(data), data])
        for _ in range(2):
            with pytest.raises(StorageError) as refused:
                await home.log.append(intent("d2"))
            assert refused.value.code == "log_forked"
