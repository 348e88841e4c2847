"""What is sent to the real receiver and witness that is not an agent's log (docs/attacks.md, W)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import pytest

from exclave_agent.errors import LinkError
from exclave_protocol.checkpoint import Checkpoint, sign_checkpoint, verify_cosignature
from exclave_protocol.leaf import MAX_LEAF, Leaf, LeafType, decode_leaf, encode_leaf
from exclave_protocol.note import Signer, SigningKey, VerifyKey, sign, split_note
from exclave_protocol.report import Verdict
from exclave_protocol.tree import MemoryTree, consistency_proof, leaf_hash
from exclave_protocol.wire import MAX_BATCH_BYTES, MAX_BATCH_LEAVES
from exclave_testing.attacks import attack
from exclave_testing.audit import ORIGIN, signing_key, witness_key
from exclave_testing.centre import Centre, DirectLine, judge
from exclave_testing.uploading import Pair
from exclave_testing.witnesses import key_of

SIZE = 21
STORED = 15
"""Leaves that are cosigned before a test begins."""
LIE = sha256(b"lie").digest()


@dataclass
class Wire:
    """An agent's leaves, and the coordinator that has the first `STORED` of them."""

    folder: Path
    centre: Centre
    line: DirectLine
    leaves: list[bytes]
    kept: bytes

    @property
    def tree(self) -> MemoryTree:
        return MemoryTree(map(leaf_hash, self.leaves))

    def note(self, size: int, root: bytes | None = None, key: Signer | None = None) -> bytes:
        """A signed head; `root` to lie."""
        signer = key or signing_key()
        return sign_checkpoint(Checkpoint(signer.name, size, root or self.tree.root(size)), signer)

    async def witness(self, old: int, size: int, note: bytes | None = None) -> bytes:
        """What an honest agent would ask, or with another note."""
        proof = consistency_proof(old, max(old, size), self.tree.node)
        return await self.line.witness(1, old, proof, note or self.note(size))

    async def stands(self, size: int = STORED, witnessed: int = STORED) -> bool:
        """The coordinator has so many leaves, exactly ours, and cosigned so many."""
        head = await self.line.head(1)
        assert await self.centre.leaves() == self.leaves[: head.size]
        return (head.size, head.witnessed_size) == (size, witnessed)


@pytest.fixture
async def wire(tmp_path: Path) -> AsyncIterator[Wire]:
    pair = Pair(tmp_path)
    kept = await pair.honest(STORED)
    pair.without_terms()  # whose log it is, is another question
    async with AsyncExitStack() as stack:
        centre = await stack.enter_async_context(pair.centre())
        async with pair.agent(centre.line()) as agent:
            await agent.add(SIZE - STORED)
            leaves = await agent.leaves()
        yield Wire(tmp_path, centre, centre.line(), leaves, kept)


async def code(call: Awaitable[object]) -> str:
    """The code of a call that must fail."""
    with pytest.raises(LinkError) as caught:
        await call
    return caught.value.code


def changed(data: bytes, **fields: object) -> bytes:
    """The same leaf, told otherwise."""
    leaf = decode_leaf(data)
    return encode_leaf(replace(leaf, **fields))  # type: ignore[arg-type]  # tests name its fields


# --- leaves -------------------------------------------------------------------------------------


async def test_an_honest_upload_is_taken_and_cosigned(wire: Wire) -> None:
    """Without this, nothing here would prove anything."""
    assert await wire.line.append(1, STORED, wire.leaves[STORED:]) == SIZE
    line = await wire.witness(STORED, SIZE)
    verify_cosignature(split_note(wire.note(SIZE))[0], line, witness_key().verify_key)
    assert await wire.stands(SIZE, SIZE)


@attack("W1")
async def test_leaves_are_replayed(wire: Wire) -> None:
    for first, end in ((0, STORED), (3, 7), (0, SIZE), (0, SIZE)):
        await wire.line.append(1, first, wire.leaves[first:end])
    assert await wire.stands(SIZE)
    assert await wire.centre.evidence() == []


@attack("W2")
async def test_leaves_come_out_of_order(wire: Wire) -> None:
    fresh = wire.leaves[STORED:]
    for batch in (fresh[::-1], [fresh[1], fresh[0]], fresh[1:], [fresh[0], *fresh[2:]]):
        assert await code(wire.line.append(1, STORED, batch)) == "leaf_invalid"
    assert await wire.stands()


@attack("W3")
async def test_a_gap_is_left(wire: Wire) -> None:
    last = wire.leaves[STORED + 1 :]
    assert await code(wire.line.append(1, STORED + 1, last)) == "gap"
    assert await code(wire.line.append(2, 1, [changed(last[0], epoch=2, seq=1)])) == "leaf_invalid"
    assert await wire.stands()


@attack("W4")
@pytest.mark.parametrize(
    "change",
    [
        {"log": ORIGIN.replace("edge-1", "edge-2")},
        {"log": ORIGIN.replace("acme", "other")},
        {"log": ORIGIN.replace("e1", "e2"), "epoch": 2},
        {"epoch": 2},
        {"seq": STORED + 1},
        {"prev": LIE},
        {"type": LeafType.COSIGNED, "prev": LIE},
    ],
    ids=["agent", "tenant", "log", "epoch", "seq", "prev", "type"],
)
async def test_a_leaf_of_another_log_or_place(wire: Wire, change: dict[str, object]) -> None:
    forged = changed(wire.leaves[STORED], **change)
    assert await code(wire.line.append(1, STORED, [forged])) == "leaf_invalid"
    assert await wire.stands()


@attack("W5")
async def test_another_leaf_is_sent_for_a_place_that_is_taken(wire: Wire) -> None:
    forged = changed(wire.leaves[STORED - 1], body={"decision": "another"})
    for _ in range(3):
        assert await code(wire.line.append(1, STORED - 1, [forged])) == "leaf_conflict"
    assert await wire.centre.evidence() == ["leaf"], "kept, and kept once"
    assert await wire.stands()


def spaced(data: bytes) -> bytes:
    return data.replace(b'"v":1', b'"v": 1')


def twice(data: bytes) -> bytes:
    return data.replace(b'"v":1', b'"v":1,"v":1')


def unsorted(data: bytes) -> bytes:
    return b'{"v":1,' + data[1:].replace(b',"v":1}', b"}")


def floating(data: bytes) -> bytes:
    return data.replace(b'"v":1', b'"v":1.0')


def escaped(data: bytes) -> bytes:
    return data.replace(b'"type"', b'"\\u0074ype"')


def extended(data: bytes) -> bytes:
    return data.replace(b'"v":1', b'"v":1,"w":1')


def cut_off(data: bytes) -> bytes:
    return data[:-1]


def second_genesis(data: bytes) -> bytes:
    kind = decode_leaf(data).type
    return data.replace(f'"type":"{kind}"'.encode(), b'"type":"GENESIS"')


@attack("W6")
@pytest.mark.parametrize(
    "write",
    [spaced, twice, unsorted, floating, escaped, extended, cut_off, second_genesis],
    ids=lambda write: write.__name__,
)
async def test_a_leaf_that_is_not_canonical(wire: Wire, write: Callable[[bytes], bytes]) -> None:
    forged = write(wire.leaves[STORED])
    assert forged != wire.leaves[STORED]
    assert await code(wire.line.append(1, STORED, [forged])) == "leaf_invalid"
    assert await wire.stands()


def padded(data: bytes, size: int) -> bytes:
    """A canonical leaf of exactly so many bytes."""
    leaf = decode_leaf(data)
    short = leaf_bytes(leaf, "")
    return leaf_bytes(leaf, "x" * (size - len(short)))


def leaf_bytes(leaf: Leaf, pad: str) -> bytes:
    return encode_leaf(replace(leaf, body={"pad": "@"})).replace(b'"@"', b'"' + pad.encode() + b'"')


@attack("W7")
async def test_a_leaf_that_is_one_byte_too_long(wire: Wire) -> None:
    assert len(padded(wire.leaves[STORED], MAX_LEAF)) == MAX_LEAF
    for size in (MAX_LEAF + 1, 2 * MAX_LEAF):
        forged = padded(wire.leaves[STORED], size)
        assert await code(wire.line.append(1, STORED, [forged])) == "leaf_invalid"
    assert await wire.stands()
    longest = padded(wire.leaves[STORED], MAX_LEAF)
    assert await wire.line.append(1, STORED, [longest]) == STORED + 1


@attack("W8")
async def test_a_batch_beyond_the_limits(wire: Wire) -> None:
    many = [wire.leaves[STORED]] * (MAX_BATCH_LEAVES + 1)
    large = [bytes(MAX_LEAF)] * (MAX_BATCH_BYTES // MAX_LEAF + 1)
    for batch in (many, large):
        assert await code(wire.line.append(1, STORED, batch)) == "batch_too_large"
    assert await wire.stands()


# --- heads --------------------------------------------------------------------------------------


@attack("W9")
async def test_a_fork_at_the_size_that_was_cosigned(wire: Wire) -> None:
    fork = wire.note(STORED, LIE)
    for _ in range(3):
        assert await code(wire.witness(STORED, STORED, fork)) == "witness_inconsistent"
    assert await wire.stands()
    assert await wire.centre.evidence() == ["fork"]
    bundle = await wire.centre.export(wire.folder / "b.zip")
    assert judge(bundle, wire.kept).verdict is Verdict.DIVERGED


@attack("W10")
async def test_a_head_whose_root_is_not_that_of_the_leaves(wire: Wire) -> None:
    await wire.line.append(1, STORED, wire.leaves[STORED:])
    lie = wire.note(SIZE, LIE)
    assert await code(wire.witness(STORED, SIZE, lie)) == "witness_inconsistent"
    assert await wire.stands(SIZE)
    assert await wire.centre.evidence() == ["root"]
    await wire.witness(STORED, SIZE)
    bundle = await wire.centre.export(wire.folder / "b.zip")
    assert judge(bundle, wire.kept).verdict is Verdict.DIVERGED, "signed, so it is a second tree"


@attack("W11")
@pytest.mark.parametrize("forge", ["wrong", "empty", "short", "long"])
async def test_a_consistency_proof_that_does_not_hold(wire: Wire, forge: str) -> None:
    await wire.line.append(1, STORED, wire.leaves[STORED:])
    good = consistency_proof(STORED, SIZE, wire.tree.node)
    proof = {
        "wrong": [LIE, *good[1:]],
        "empty": [],
        "short": good[:-1],
        "long": [*good, LIE],
    }[forge]
    call = wire.line.witness(1, STORED, proof, wire.note(SIZE))
    assert await code(call) == "witness_inconsistent"
    assert await wire.stands(SIZE)
    assert await wire.centre.evidence() == ["proof"]


@attack("W12")
async def test_a_head_that_a_stranger_signed(wire: Wire) -> None:
    await wire.line.append(1, STORED, wire.leaves[STORED:])
    stranger = signing_key(seed=b"s" * 32)
    assert await code(wire.witness(STORED, SIZE, wire.note(SIZE, key=stranger))) == "witness_denied"
    assert (await wire.centre.evidence(), await wire.stands(SIZE)) == ([], True)


@attack("W13")
async def test_another_agents_head_is_handed_in(wire: Wire) -> None:
    other = SigningKey(ORIGIN.replace("edge-1", "edge-2"), key_of("edge-2"))
    own = SigningKey("example.test/_operators/coordinator/e1", key_of("operators"))
    for key in (other, own):
        call = wire.witness(STORED, STORED, wire.note(STORED, key=key))
        assert await code(call) == "witness_denied"
    # Signed by the agent itself, under its own name: the text alone says whose log it is.
    for origin in (other.name, own.name):
        text = Checkpoint(origin, STORED, wire.tree.root(STORED)).text()
        call = wire.witness(STORED, STORED, sign(text, [signing_key()]))
        assert await code(call) == "witness_denied"
    assert (await wire.centre.evidence(), await wire.stands()) == ([], True)


@attack("W14")
async def test_an_old_head_is_replayed_to_the_witness(wire: Wire) -> None:
    await wire.line.append(1, STORED, wire.leaves[STORED:])
    await wire.witness(STORED, SIZE)
    for old in (0, 3, STORED):
        assert await code(wire.witness(old, STORED)) == "witness_stale"
    assert await code(wire.line.witness(1, SIZE, [], wire.note(STORED))) == "witness_invalid"
    assert await wire.stands(SIZE, SIZE)


@attack("W15")
async def test_a_head_over_leaves_that_were_never_sent(wire: Wire) -> None:
    assert await code(wire.witness(STORED, SIZE)) == "witness_missing_leaves"
    assert await wire.stands()


@attack("W16")
async def test_the_same_head_is_handed_in_again_and_again(wire: Wire) -> None:
    def grown() -> Awaitable[int]:
        return wire.centre.store.read(lambda tx: tx.cosigned.state().size)

    before = await grown()
    lines = {await wire.witness(STORED, STORED) for _ in range(5)}
    assert len(lines) == 1
    assert await grown() == before


@attack("W17")
async def test_an_epoch_goes_on_under_another_key(wire: Wire) -> None:
    """Whoever enrolled anew under the agent's name has another key; the log keeps its own."""
    thief = signing_key(seed=b"t" * 32)
    line = wire.centre.line(audit_key=VerifyKey(ORIGIN, thief.verify_key.public))
    await line.append(1, STORED, wire.leaves[STORED:])
    proof = consistency_proof(STORED, SIZE, wire.tree.node)
    assert await code(line.witness(1, STORED, proof, wire.note(SIZE, key=thief))) == (
        "witness_denied"
    )
    assert await wire.stands(SIZE)
