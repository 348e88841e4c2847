"""What somebody does to the coordinator's database: its bundle is not written, does not verify, or
contradicts the head that the tenant kept (docs/attacks.md, C)."""

from __future__ import annotations

import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from exclave_coordinator.errors import StorageError
from exclave_protocol.checkpoint import Checkpoint, sign_checkpoint
from exclave_protocol.evidence import verify_bundle
from exclave_protocol.leaf import NO_PREV, decode_leaf, encode_leaf
from exclave_protocol.note import split_note
from exclave_protocol.report import Report, Verdict
from exclave_protocol.tree import Frontier, leaf_hash
from exclave_testing.attacks import attack
from exclave_testing.audit import ORIGIN, signing_key
from exclave_testing.centre import PIN, judge, said
from exclave_testing.homes import execute
from exclave_testing.tampering import told_otherwise
from exclave_testing.uploading import Pair

SIZE = 21
LIE = sha256(b"lie").digest()
OLD = 12
"""Size of an older cosigned head."""


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def sql(pair: Pair, statement: str, *values: object) -> list[tuple[object, ...]]:
    """One statement on the coordinator's database."""
    return execute(pair.database, statement, values)


async def exported(pair: Pair, *kept: bytes) -> Report:
    """The verdict on what the coordinator exports now."""
    async with pair.centre() as centre:
        return judge(await centre.export(pair.folder / "b.zip"), *kept)


async def refused(pair: Pair) -> str:
    """Why no bundle is written."""
    async with pair.centre() as centre:
        with pytest.raises(StorageError) as caught:
            await centre.export(pair.folder / "b.zip")
        assert caught.value.code == "database_altered"
        return str(caught.value)


def stored(pair: Pair, seq: int) -> tuple[bytes, bytes]:
    """(data, hash)"""
    ((data, digest),) = sql(pair, "SELECT data, hash FROM leaves WHERE seq = ?", seq)
    assert isinstance(data, bytes)
    assert isinstance(digest, bytes)
    return data, digest


def put(pair: Pair, seq: int, data: bytes, digest: bytes | None = None) -> None:
    values = (data, digest or leaf_hash(data), seq)
    sql(pair, "UPDATE leaves SET data = ?, hash = ? WHERE seq = ?", *values)


def rechain(pair: Pair, first: int) -> Frontier:
    """Another record `first`, and everything after it chained anew."""
    prev, frontier = NO_PREV, Frontier()
    for (data,) in sql(pair, "SELECT data FROM leaves ORDER BY seq"):
        assert isinstance(data, bytes)
        leaf = decode_leaf(data)
        leaf = told_otherwise(leaf) if leaf.seq == first else leaf
        data = encode_leaf(replace(leaf, prev=prev))
        put(pair, leaf.seq, data)
        prev = leaf_hash(data)
        frontier.append(prev)
    sql(pair, "UPDATE logs SET head = ?", prev)
    return frontier


async def test_an_untouched_database_exports_what_verifies(pair: Pair) -> None:
    """Without this, nothing here would prove anything."""
    old = await pair.honest(OLD)
    kept = await pair.honest(SIZE)
    assert (await exported(pair, old, kept)).verdict is Verdict.WITNESSED


# --- leaves -------------------------------------------------------------------------------------


@attack("C1")
@pytest.mark.parametrize("seq", [0, 7, SIZE - 1])
async def test_a_leaf_is_dropped(pair: Pair, seq: int) -> None:
    await pair.honest(SIZE)
    sql(pair, "DELETE FROM leaves WHERE seq = ?", seq)
    assert f"{SIZE - 1} where the checkpoint has {SIZE}" in await refused(pair)


@attack("C2")
async def test_a_leaf_is_dropped_that_is_not_cosigned_yet(pair: Pair) -> None:
    kept = await pair.honest(SIZE)
    async with pair.centre() as centre, pair.agent(centre.line()) as agent:
        await agent.add(4)
        await agent.once_without_cosigning()
    sql(pair, "DELETE FROM leaves WHERE seq = ?", SIZE + 1)
    assert await pair.uploads() == "unreachable", "its own loss, and nobody is reproached with it"
    async with pair.centre() as centre:
        assert await centre.evidence() == []
    assert (await exported(pair, kept)).verdict is Verdict.WITNESSED, "up to the cosigned head"


@attack("C3")
async def test_a_leaf_is_edited_under_its_old_hash(pair: Pair) -> None:
    kept = await pair.honest(SIZE)
    data, digest = stored(pair, 7)
    put(pair, 7, data.replace(b'"decision":"d', b'"decision":"e'), digest)
    report = await exported(pair, kept)
    assert report.verdict is Verdict.INVALID
    assert f"{ORIGIN} seq 7 (" in said(report)


@attack("C4")
async def test_a_leaf_is_edited_with_its_hash(pair: Pair) -> None:
    kept = await pair.honest(SIZE)
    put(pair, 7, stored(pair, 7)[0].replace(b'"decision":"d', b'"decision":"e'))
    report = await exported(pair, kept)
    assert report.verdict is Verdict.INVALID
    assert "their root is not the one in the checkpoint" in said(report)


@attack("C5")
@pytest.mark.parametrize("seq", [1, 7, SIZE - 1])
async def test_all_leaves_are_chained_anew(pair: Pair, seq: int) -> None:
    kept = await pair.honest(SIZE)
    rechain(pair, seq)
    assert (await exported(pair, kept)).verdict is Verdict.INVALID
    assert await pair.uploads(more=2) == "leaf_invalid", "what comes continues another leaf"


@attack("C6")
async def test_two_leaves_are_exchanged(pair: Pair) -> None:
    kept = await pair.honest(SIZE)
    one, other = stored(pair, 6), stored(pair, 8)
    put(pair, 6, *other)
    put(pair, 8, *one)
    assert (await exported(pair, kept)).verdict is Verdict.INVALID


@attack("C7")
async def test_the_log_is_truncated(pair: Pair) -> None:
    await pair.honest(SIZE)
    sql(pair, "DELETE FROM leaves WHERE seq >= ?", OLD)
    sql(pair, "UPDATE logs SET size = ?, head = ?", OLD, stored(pair, OLD - 1)[1])
    assert f"{OLD} where the checkpoint has {SIZE}" in await refused(pair)
    assert await pair.uploads() == "head_foreign"


# --- the database of before -----------------------------------------------------------------------


async def rolled_back(pair: Pair) -> bytes:
    """The file as it was at `OLD`; the head that the tenant keeps is newer."""
    await pair.honest(OLD)
    saved = shutil.copy(pair.database, pair.folder / "saved.db")
    pair.clock.step(60)
    kept = await pair.honest(SIZE)
    shutil.copy(saved, pair.database)
    pair.clock.step(60)
    return kept


@attack("C8")
async def test_the_database_is_rolled_back_to_a_copy(pair: Pair) -> None:
    kept = await rolled_back(pair)
    assert (await exported(pair)).verdict is Verdict.WITNESSED
    report = await exported(pair, kept)
    assert report.verdict is Verdict.INCOMPLETE
    assert f"the witness saw size {SIZE} at" in said(report)


@attack("C9")
async def test_a_rolled_back_database_is_on_the_agents_record(pair: Pair) -> None:
    kept = await rolled_back(pair)
    async with pair.centre() as centre, pair.agent(centre.line()) as agent:
        await agent.once()
        assert await agent.incidents() == ["head_rolled_back"]
        assert await centre.leaves() == await agent.leaves()
    assert (await exported(pair, kept)).verdict is Verdict.WITNESSED


@attack("C10")
async def test_a_rolled_back_database_takes_another_story(pair: Pair) -> None:
    """With the agent's key: what the coordinator forgot is told anew, and cosigned."""
    await pair.honest(OLD)
    clone = pair.copy("clone")
    kept = await rolled_back_after(pair)
    async with pair.centre() as centre, pair.agent(centre.line(), clone) as agent:
        await agent.add(SIZE - OLD, "another")
        await agent.once()
        assert len(await centre.leaves()) == SIZE
    assert (await exported(pair)).verdict is Verdict.WITNESSED
    assert (await exported(pair, kept)).verdict is Verdict.DIVERGED
    assert await pair.uploads() == "head_forked"


async def rolled_back_after(pair: Pair) -> bytes:
    saved = shutil.copy(pair.database, pair.folder / "saved.db")
    kept = await pair.honest(SIZE)
    shutil.copy(saved, pair.database)
    return kept


# --- heads --------------------------------------------------------------------------------------


@attack("C11")
async def test_the_stored_head_is_replaced_by_one_of_another_key(pair: Pair) -> None:
    kept = await pair.honest(SIZE)
    stranger = signing_key(seed=b"s" * 32)
    for key in (stranger, signing_key(ORIGIN.replace("edge-1", "edge-2"))):
        forged = sign_checkpoint(Checkpoint(key.name, SIZE, LIE), key)
        sql(pair, "UPDATE logs SET checkpoint = ?", forged)
        report = await exported(pair, kept)
        assert report.verdict is Verdict.INVALID
        assert "not signed by any known key" in said(report)


@attack("C12")
async def test_the_stored_head_is_replaced_by_an_older_one(pair: Pair) -> None:
    old = await pair.honest(OLD)
    kept = await pair.honest(SIZE)
    text, (*ours, _) = split_note(old)
    head = text.encode() + b"\n" + b"".join(s.line() for s in ours)
    sql(pair, "UPDATE logs SET checkpoint = ?", head)
    assert f"{SIZE} where the checkpoint has {OLD}" in await refused(pair)
    # And all that belongs to it, so that it fits: the tail is withheld, and the tenant shows it.
    sql(pair, "UPDATE logs SET witnessed_size = ?", OLD)
    pair.clock.step(60)
    assert (await exported(pair)).verdict is Verdict.WITNESSED
    assert (await exported(pair, kept)).verdict is Verdict.INCOMPLETE


@attack("C13")
@pytest.mark.parametrize("size", [OLD, SIZE - 1])
async def test_the_cosigned_size_is_lowered(pair: Pair, size: int) -> None:
    await pair.honest(SIZE)
    sql(pair, "UPDATE logs SET witnessed_size = ?", size)
    assert f"{size} where the checkpoint has {SIZE}" in await refused(pair)
    assert await pair.uploads() == "head_foreign"


@attack("C14")
async def test_the_cosigned_size_is_taken_back_to_nothing(pair: Pair) -> None:
    await pair.honest(SIZE)
    sql(pair, "UPDATE logs SET witnessed_size = 0")
    assert f"0 where the checkpoint has {SIZE}" in await refused(pair)
    async with pair.centre() as centre, pair.agent(centre.line()) as agent:
        assert await agent.refused() == "link_error", "its peaks are of another size"
        assert await agent.incidents() == ["head_rolled_back"]


@attack("C15")
async def test_the_cosigned_size_is_raised(pair: Pair) -> None:
    kept = await pair.honest(SIZE)
    sql(pair, "UPDATE logs SET witnessed_size = ?", SIZE + 1)
    assert (await exported(pair, kept)).verdict is Verdict.WITNESSED, "the head counts, not this"
    assert await pair.uploads() == "head_foreign"


@attack("C16")
async def test_the_peaks_are_changed(pair: Pair) -> None:
    kept = await pair.honest(SIZE)
    ((peaks,),) = sql(pair, "SELECT peaks FROM logs")
    assert isinstance(peaks, bytes)
    sql(pair, "UPDATE logs SET peaks = ?", LIE + peaks[32:])
    assert (await exported(pair, kept)).verdict is Verdict.WITNESSED, "nothing is made of them"
    assert await pair.uploads(more=3) == "term_inconsistent"


@attack("C17")
async def test_the_stored_head_is_forked_with_the_agents_key(pair: Pair) -> None:
    """The coordinator signs what its database says: a cosignature in secret, by file access."""
    kept = await pair.honest(SIZE)
    frontier = rechain(pair, 7)
    forged = sign_checkpoint(Checkpoint(ORIGIN, SIZE, frontier.root()), signing_key())
    peaks = b"".join(frontier.peaks)
    sql(pair, "UPDATE logs SET checkpoint = ?, peaks = ?", forged, peaks)
    report = await exported(pair)
    assert report.verdict is Verdict.UNANCHORED
    assert "given in secret" in said(report)
    report = await exported(pair, kept)
    assert report.verdict is Verdict.DIVERGED
    assert f"the log's key signed another root at size {SIZE}" in said(report)
    assert await pair.uploads() == "head_forked"


# --- keys, evidence, agents -----------------------------------------------------------------------


@attack("C18")
async def test_the_logs_key_is_replaced(pair: Pair) -> None:
    kept = await pair.honest(SIZE)
    thief = signing_key(seed=b"t" * 32)
    sql(pair, "UPDATE logs SET audit_key = ?", thief.verify_key.public)
    assert "not the key that you pinned" in said(await exported(pair, kept))
    unpinned = verify_bundle(pair.folder / "b.zip", witness_vkey=PIN)
    assert unpinned.verdict is Verdict.INVALID
    assert await pair.uploads(more=1) == "log_of_another_key"
    # With that key, a head over the very same leaves: only who knows the agent's key sees it.
    root = Checkpoint.parse(split_note(kept)[0]).root
    forged = sign_checkpoint(Checkpoint(ORIGIN, SIZE, root), thief)
    sql(pair, "UPDATE logs SET checkpoint = ?", forged)
    assert (await exported(pair, kept)).verdict is Verdict.INVALID
    unpinned = verify_bundle(pair.folder / "b.zip", witness_vkey=PIN)
    assert "GENESIS names another audit_vkey" in said(unpinned)


@attack("C19")
async def test_the_evidence_of_a_fork_is_deleted(pair: Pair) -> None:
    kept = await pair.honest(SIZE)
    fork = sign_checkpoint(Checkpoint(ORIGIN, SIZE, LIE), signing_key())
    async with pair.centre() as centre:
        with pytest.raises(Exception, match="kept as evidence"):
            await centre.line().witness(1, SIZE, [], fork)
    assert (await exported(pair, kept)).verdict is Verdict.DIVERGED
    sql(pair, "DELETE FROM evidence")
    assert (await exported(pair, kept)).verdict is Verdict.WITNESSED
    assert (await exported(pair, kept, fork)).verdict is Verdict.DIVERGED, "who has it shows it"


@attack("C20")
async def test_an_agent_is_renamed(pair: Pair) -> None:
    kept = await pair.honest(SIZE)
    for table, column in (("agents", "name"), ("logs", "agent")):
        sql(pair, f"UPDATE {table} SET {column} = 'edge-9'")
    report = await exported(pair, kept)
    assert report.verdict is Verdict.INVALID
    assert "not signed by any known key" in said(report)


@attack("C21")
@pytest.mark.parametrize("silent", [False, True], ids=["off the list", "never connected"])
async def test_an_agents_log_is_hidden(pair: Pair, silent: bool) -> None:
    kept = await pair.honest(SIZE)
    for table in ("leaves", "logs"):
        sql(pair, f"DELETE FROM {table}")
    sql(pair, "UPDATE agents SET last_seen = 0" if silent else "DELETE FROM agents")
    report = await exported(pair, kept)
    assert report.verdict is Verdict.INCOMPLETE
    assert "kept 1: its log is not in the bundle" in said(report)


@attack("C22")
async def test_a_tenants_log_is_given_to_another(pair: Pair) -> None:
    kept = await pair.honest(SIZE)
    sql(pair, "UPDATE tenants SET name = 'other'")
    for table in ("agents", "logs"):
        sql(pair, f"UPDATE {table} SET tenant = 'other'")
    async with pair.centre() as centre:
        bundle = await centre.export(pair.folder / "b.zip", tenant="other")
    report = judge(bundle, kept)
    assert report.verdict is Verdict.INVALID
    assert "not signed by any known key" in said(report)


@attack("C23")
async def test_the_times_are_changed_by_which_ranges_are_cut(pair: Pair) -> None:
    """A column of the database beside the leaf: what is left out shows by its own time."""
    pair.clock.step(1000)
    for size in (5, 10, 15, SIZE):
        await pair.honest(size)
        pair.clock.step(1000)
    begin = pair.clock.now() - 3500
    sql(pair, "UPDATE leaves SET time_ns = 0 WHERE seq BETWEEN 5 AND 9")
    async with pair.centre() as centre:
        bundle = await centre.export(pair.folder / "b.zip", begin)
    report = judge(bundle)
    assert report.verdict is Verdict.INCOMPLETE
    assert "seq 9 is dated in the range but was left out of it" in said(report)
