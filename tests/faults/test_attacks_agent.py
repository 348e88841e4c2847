"""What somebody does to an agent's database file: the start, `audit verify` or the next upload
says so (docs/attacks.md, A)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from exclave_agent.audit.tiled import prove
from exclave_agent.errors import StorageError
from exclave_agent.storage.home import read_log
from exclave_protocol.checkpoint import Checkpoint, sign_checkpoint
from exclave_protocol.leaf import LeafType, decode_leaf, encode_leaf
from exclave_protocol.note import add_signature, split_note
from exclave_protocol.proof import verify_proof
from exclave_protocol.report import Verdict
from exclave_protocol.tree import leaf_hash
from exclave_testing.attacks import attack
from exclave_testing.audit import ORIGIN, signing_key, witness_key
from exclave_testing.centre import judge
from exclave_testing.homes import KEY, execute, state
from exclave_testing.tampering import FIRST, cut, leaf_at, put, rechain
from exclave_testing.uploading import Pair

SIZE = 21
TILED = 301
"""Leaves of a log that has a stored node of the tree."""


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def forget_heads(pair: Pair) -> None:
    execute(state(pair.home), "DELETE FROM checkpoint")


def put_head(pair: Pair, note: bytes, size: int, *, cosigned: bool = False) -> None:
    forget_heads(pair)
    execute(
        state(pair.home),
        "INSERT INTO checkpoint (epoch, size, note, cosigned) VALUES (1, ?, ?, ?)",
        [size, note, int(cosigned)],
    )


async def test_an_untouched_home_starts_verifies_and_uploads(pair: Pair) -> None:
    """Without this, nothing here would prove anything."""
    kept = await pair.honest(TILED)
    assert (await pair.starts(), pair.verified()) == ("", "")
    async with pair.centre() as centre, pair.agent(centre.line()) as agent:
        await agent.add(9)
        await agent.once()
        bundle = await centre.export(pair.folder / "b.zip")
        assert judge(bundle, kept, await agent.kept()).verdict is Verdict.WITNESSED


# --- records: file access alone -----------------------------------------------------------------


@attack("A1")
@pytest.mark.parametrize("seq", [0, 1, 7, SIZE - 2])
async def test_a_record_is_dropped(pair: Pair, seq: int) -> None:
    await pair.honest(SIZE)
    execute(state(pair.home), "DELETE FROM leaf WHERE id = ?", [FIRST + seq])
    assert (await pair.starts(), pair.verified()) == ("log_altered", "log_altered")


@attack("A2")
async def test_two_records_are_exchanged(pair: Pair) -> None:
    await pair.honest(SIZE)
    one, other = leaf_at(pair.home, 6), leaf_at(pair.home, 8)
    put(pair.home, 6, *other)
    put(pair.home, 8, *one)
    assert (await pair.starts(), pair.verified()) == ("log_altered", "log_altered")


@attack("A3")
@pytest.mark.parametrize("size", [0, 1, SIZE - 1])
async def test_the_tail_is_cut_off_below_the_signed_head(pair: Pair, size: int) -> None:
    await pair.honest(SIZE)
    cut(pair.home, size)
    assert (await pair.starts(), pair.verified()) == ("log_truncated", "log_truncated")


@attack("A4")
@pytest.mark.parametrize("seq", [0, 5, SIZE - 1])
async def test_a_record_is_edited_under_its_old_hash(pair: Pair, seq: int) -> None:
    await pair.honest(SIZE)
    data, digest = leaf_at(pair.home, seq)
    forged = replace(decode_leaf(data), body={"decision": "forged"})
    put(pair.home, seq, encode_leaf(forged), digest)
    assert (await pair.starts(), pair.verified()) == ("log_altered", "log_altered")


@attack("A5")
@pytest.mark.parametrize("seq", [0, 5, SIZE - 1])
async def test_a_record_is_edited_with_its_hash(pair: Pair, seq: int) -> None:
    await pair.honest(SIZE)
    leaf = decode_leaf(leaf_at(pair.home, seq)[0])
    put(pair.home, seq, encode_leaf(replace(leaf, body={"decision": "forged"})))
    assert (await pair.starts(), pair.verified()) == ("log_altered", "log_altered")


@attack("A6")
async def test_a_second_genesis_is_put_in(pair: Pair) -> None:
    await pair.honest(SIZE)
    first, (_, prev) = decode_leaf(leaf_at(pair.home, 0)[0]), leaf_at(pair.home, SIZE - 1)
    # The encoder makes no such leaf, so it is written by hand.
    data = encode_leaf(replace(first, seq=SIZE, prev=prev, type=LeafType.BOOT))
    data = data.replace(b'"type":"BOOT"', b'"type":"GENESIS"')
    execute(
        state(pair.home),
        "INSERT INTO leaf (id, hash, data) VALUES (?, ?, ?)",
        [FIRST + SIZE, leaf_hash(data), data],
    )
    assert (await pair.starts(), pair.verified()) == ("log_altered", "log_altered")


@attack("A7")
async def test_all_is_chained_anew_and_the_signed_head_left(pair: Pair) -> None:
    await pair.honest(TILED)
    rechain(pair.home, 5)
    assert (await pair.starts(), pair.verified()) == ("log_altered", "log_altered")


@attack("A8")
async def test_all_is_chained_anew_and_every_head_deleted(pair: Pair) -> None:
    """Whoever has the file alone needs no key for this; the witness remembers the other tree."""
    await pair.honest(TILED)
    rechain(pair.home, 5)
    forget_heads(pair)
    # The values are bound to the hashes that their records had.
    assert (await pair.starts(), pair.verified()) == ("", "vault_damaged")
    assert await pair.uploads(more=2) == "head_forked"


# --- the end of the log -------------------------------------------------------------------------


async def uploaded_tail(pair: Pair) -> None:
    """`SIZE` leaves cosigned, four more at the coordinator, under no head of anybody's yet."""
    await pair.honest(SIZE)
    async with pair.centre() as centre, pair.agent(centre.line()) as agent:
        await agent.once()
        await agent.add(4)
        leaves, term = (await agent.leaves())[SIZE:], agent.terms.number
        await centre.line().append(1, SIZE, leaves, term=term)


@attack("A9")
async def test_a_tail_is_cut_off_that_was_uploaded(pair: Pair) -> None:
    await uploaded_tail(pair)
    cut(pair.home, SIZE + 1)
    assert await pair.starts() == ""
    assert await pair.uploads() == "head_ahead"


@attack("A10")
@pytest.mark.parametrize(
    ("more", "code"), [(0, "term_inconsistent"), (3, "leaf_invalid")], ids=["even", "longer"]
)
async def test_a_tail_is_replaced_that_was_uploaded(pair: Pair, more: int, code: str) -> None:
    await uploaded_tail(pair)
    rechain(pair.home, SIZE + 1)
    assert await pair.starts() == ""
    assert await pair.uploads(more=more) == code


@attack("A11")
async def test_a_tail_is_cut_off_that_nobody_saw(pair: Pair) -> None:
    """The un-witnessed tail of the threat model: what was neither signed nor uploaded is gone."""
    kept = await pair.honest(SIZE)
    async with pair.centre() as centre, pair.agent(centre.line()) as agent:
        await agent.add(4)
    cut(pair.home, SIZE)
    assert (await pair.starts(), pair.verified()) == ("", "")
    async with pair.centre() as centre:
        bundle = await centre.export(pair.folder / "b.zip")
        assert judge(bundle, kept).verdict is Verdict.WITNESSED


# --- the stored tree ----------------------------------------------------------------------------


@attack("A12")
async def test_a_node_of_the_tree_is_edited(pair: Pair) -> None:
    await pair.honest(TILED)
    execute(state(pair.home), "UPDATE node SET hash = zeroblob(32)")
    assert pair.verified() == "log_altered"
    assert await pair.uploads(more=300) == "head_forked"


@attack("A13")
async def test_a_node_of_the_tree_is_deleted(pair: Pair) -> None:
    await pair.honest(TILED)
    execute(state(pair.home), "DELETE FROM node")
    assert pair.verified() == "log_altered"
    with pytest.raises(StorageError) as caught:
        read_log(pair.home, lambda r: prove(r, 290))
    assert caught.value.code == "log_altered"


# --- heads and cosignatures ---------------------------------------------------------------------


@attack("A14")
async def test_a_head_of_another_key_is_put_in_place(pair: Pair) -> None:
    await pair.honest(SIZE)
    forged = Checkpoint(ORIGIN, SIZE, bytes(32))
    put_head(pair, sign_checkpoint(forged, signing_key(seed=b"x" * 32)), SIZE)
    assert (await pair.starts(), pair.verified()) == ("checkpoint_invalid", "checkpoint_invalid")


@attack("A15")
async def test_a_head_is_stored_under_another_size(pair: Pair) -> None:
    kept = await pair.honest(SIZE)
    put_head(pair, kept, SIZE - 4, cosigned=True)
    assert (await pair.starts(), pair.verified()) == ("checkpoint_invalid", "checkpoint_invalid")


@attack("A16")
async def test_an_older_head_is_put_back_and_the_tail_cut_off(pair: Pair) -> None:
    old = await pair.honest(SIZE)
    await pair.honest(SIZE + 10)
    put_head(pair, old, SIZE, cosigned=True)
    cut(pair.home, SIZE + 2)
    assert (await pair.starts(), pair.verified()) == ("", "")
    assert await pair.uploads() == "head_ahead"


@attack("A17")
async def test_the_cosignature_is_removed(pair: Pair) -> None:
    kept = await pair.honest(SIZE)
    text, (*ours, _) = split_note(kept)
    put_head(pair, text.encode() + b"\n" + b"".join(s.line() for s in ours), SIZE)
    proof = read_log(pair.home, lambda r: prove(r, 7))
    assert verify_proof(proof, KEY, [witness_key().verify_key]).verdict is Verdict.UNANCHORED
    # The coordinator has it still, and the next round brings it back.
    async with pair.centre() as centre, pair.agent(centre.line()) as agent:
        await agent.once()
        assert await agent.kept() == kept


@attack("A18")
async def test_the_cosignature_of_another_size_is_put_in_place(pair: Pair) -> None:
    old = await pair.honest(SIZE)
    kept = await pair.honest(SIZE + 10)
    put_head(pair, add_signature(kept, split_note(old)[1][-1].line()), SIZE + 10, cosigned=True)
    proof = read_log(pair.home, lambda r: prove(r, 7))
    assert verify_proof(proof, KEY, [witness_key().verify_key]).verdict is Verdict.INVALID


# --- whose log it is ----------------------------------------------------------------------------


@attack("A19")
async def test_the_origin_is_set_to_another_agents(pair: Pair) -> None:
    await pair.honest(SIZE)
    execute(state(pair.home), "UPDATE epoch SET origin = replace(origin, 'edge-1', 'edge-2')")
    assert await pair.starts() == "log_foreign"


@attack("A20")
async def test_another_agents_log_is_put_in_place(pair: Pair) -> None:
    await pair.honest(SIZE)
    rechain(pair.home, 0, lambda leaf: replace(leaf, log=ORIGIN.replace("edge-1", "edge-2")))
    forget_heads(pair)
    assert (await pair.starts(), pair.verified()) == ("log_altered", "log_altered")


@attack("A21")
@pytest.mark.parametrize("heads", [False, True])
async def test_the_log_is_moved_to_another_epoch(pair: Pair, heads: bool) -> None:
    await pair.honest(SIZE)
    execute(state(pair.home), "UPDATE leaf SET id = id + ?", [FIRST])
    if not heads:
        assert (await pair.starts(), pair.verified()) == ("log_truncated", "log_truncated")
        return
    execute(state(pair.home), "UPDATE checkpoint SET epoch = 2")
    # An empty log begins anew, with a GENESIS of its own: its coordinator has the old one.
    assert await pair.uploads(more=3) == "head_ahead"
