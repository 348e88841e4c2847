"""What a coordinator answers that is not true: the agent takes none of it (docs/attacks.md, W)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import pytest

from exclave_agent.errors import AgentError
from exclave_agent.ports import AuditHead
from exclave_protocol import layout
from exclave_protocol.canonical import encode
from exclave_protocol.checkpoint import Checkpoint, CosignerKey, cosign, sign_checkpoint
from exclave_protocol.leaf import format_time
from exclave_protocol.note import SigningKey, add_signature, open_note, parse_lines, split_note
from exclave_protocol.report import Verdict
from exclave_protocol.tree import leaf_hash, root_of
from exclave_testing.attacks import attack
from exclave_testing.audit import ORIGIN, signing_key, witness_key
from exclave_testing.bundles import tamper
from exclave_testing.centre import Centre, judge
from exclave_testing.homes import KEY
from exclave_testing.meddling import Liar
from exclave_testing.uploading import Pair, Working

SIZE = 21
LIE = sha256(b"lie").digest()
YEARS = 10 * 366 * 86_400


@dataclass
class Lied:
    """An agent with `SIZE` leaves cosigned and three more, and what it is told."""

    pair: Pair
    centre: Centre
    agent: Working
    liar: Liar
    kept: bytes

    async def head(self, lie: Callable[[AuditHead], AuditHead]) -> str:
        """The code by which the agent ends a round that began with that head."""
        self.liar.on_head = lie
        return await self.agent.refused()

    async def cosignature(self, lie: Callable[[str], bytes]) -> str:
        """The code for a cosignature line that was made of the checkpoint's text."""
        self.liar.on_witness = lambda checkpoint, _: lie(split_note(checkpoint)[0])
        code = await self.agent.refused()
        keys = [KEY, witness_key().verify_key]
        assert len(open_note(await self.agent.kept(), keys).verified) == 3, "only what verifies"
        return code


@pytest.fixture
async def lied(tmp_path: Path) -> AsyncIterator[Lied]:
    pair = Pair(tmp_path)
    kept = await pair.honest(SIZE)
    async with pair.centre() as centre:
        liar = Liar(centre.line())
        async with pair.agent(liar) as agent:
            await agent.add(3)
            yield Lied(pair, centre, agent, liar, kept)


async def test_an_honest_coordinator_is_believed(lied: Lied) -> None:
    """Without this, nothing here would prove anything."""
    await lied.agent.once()
    assert await lied.agent.kept() != lied.kept
    assert await lied.agent.incidents() == []


# --- cosignatures -------------------------------------------------------------------------------


@attack("W18")
async def test_a_cosignature_by_another_key(lied: Lied) -> None:
    for stranger in (witness_key(seed=b"y" * 32), witness_key("example.test/witness2")):

        def lie(text: str, key: CosignerKey = stranger) -> bytes:
            return cosign(text, key, 1)

        assert await lied.cosignature(lie) == "cosignature_invalid"


@attack("W19")
async def test_a_cosignature_whose_time_was_changed(lied: Lied) -> None:
    def lie(text: str) -> bytes:
        (signature,) = parse_lines(cosign(text, witness_key(), 1_900_000_000))
        later = (1_900_000_001).to_bytes(8, "big")
        return replace(signature, data=later + signature.data[8:]).line()

    assert await lied.cosignature(lie) == "cosignature_invalid"


@attack("W20")
async def test_a_plain_signature_in_place_of_a_cosignature(lied: Lied) -> None:
    plain = SigningKey(witness_key().name, witness_key().private)

    def by_name(text: str) -> bytes:
        return plain.signature(text).line()

    def by_id(text: str) -> bytes:
        line = replace(plain.signature(text), key_id=witness_key().verify_key.id)
        return line.line()

    def as_cosignature(text: str) -> bytes:
        signed = plain.signature(text)
        data = bytes(8) + signed.data
        return replace(signed, key_id=witness_key().verify_key.id, data=data).line()

    for lie in (by_name, by_id, as_cosignature):
        assert await lied.cosignature(lie) == "cosignature_invalid"


@attack("W21")
async def test_a_cosignature_over_another_head(lied: Lied) -> None:
    def other(text: str) -> bytes:
        head = Checkpoint.parse(text)
        return cosign(replace(head, root=LIE).text(), witness_key(), 1_900_000_000)

    def old(_: str) -> bytes:
        return split_note(lied.kept)[1][-1].line()

    for lie in (other, old):
        assert await lied.cosignature(lie) == "cosignature_invalid"


@attack("W22")
@pytest.mark.parametrize("lines", [b"", b"\n", b"garbage\n", b"x" * 70_000], ids=len)
async def test_no_cosignature_at_all(lied: Lied, lines: bytes) -> None:
    assert await lied.cosignature(lambda _: lines) == "cosignature_invalid"


@attack("W23")
async def test_two_cosignatures_in_one_answer(lied: Lied) -> None:
    def lie(text: str) -> bytes:
        stranger = witness_key("example.test/other")
        return cosign(text, witness_key(), 1) + cosign(text, stranger, 1)

    assert await lied.cosignature(lie) == "cosignature_invalid"


@attack("W24")
async def test_a_cosignature_is_dated_years_ahead(lied: Lied) -> None:
    """A verifier says INCOMPLETE where the witness had seen more before the bundle was written:
    a coordinator that dates its cosignatures ahead could leave out what it likes for years."""
    old = await lied.centre.export(lied.pair.folder / "old.zip")
    lied.pair.clock.step(86_400)
    ahead = lied.pair.clock.now() + YEARS
    lied.liar.on_witness = lambda checkpoint, _: cosign(
        split_note(checkpoint)[0], witness_key(), ahead
    )
    try:
        await lied.agent.once()
    except AgentError:
        return  # refused, as it should be
    bundle = await lied.centre.export(lied.pair.folder / "b.zip")
    assert judge(bundle, await lied.agent.kept()).verdict is Verdict.WITNESSED
    # The former bundle again, which ends before that head.
    today = manifest_of(old, lied.pair.clock.now_ns())
    assert judge(today, await lied.agent.kept()).verdict is Verdict.INCOMPLETE


def manifest_of(bundle: Path, created_ns: int) -> Path:
    """The same bundle, said to be written now: no signature covers that."""

    def change(files: dict[str, bytes]) -> None:
        value = json.loads(files[layout.MANIFEST])
        value["created"] = format_time(created_ns)
        files[layout.MANIFEST] = encode(value)
        del files[layout.PAGE]  # it says when, too

    return tamper(bundle, bundle.with_name("today.zip"), change)


# --- heads --------------------------------------------------------------------------------------


@attack("W25")
async def test_a_head_that_is_ahead_of_ours(lied: Lied) -> None:
    assert await lied.head(lambda head: replace(head, size=99)) == "head_ahead"
    lied.liar.on_head = lambda head: head
    lied.liar.on_append = lambda size: size + 99
    assert await lied.agent.refused() == "head_ahead"


@attack("W26")
async def test_a_head_that_our_key_never_signed(lied: Lied) -> None:
    def lie(head: AuditHead) -> AuditHead:
        stranger = signing_key(seed=b"x" * 32)
        note = sign_checkpoint(Checkpoint(ORIGIN, SIZE, LIE), stranger)
        line = cosign(split_note(note)[0], witness_key(), 1)
        return replace(head, checkpoint=add_signature(note, line))

    assert await lied.head(lie) == "head_foreign"


@attack("W27")
async def test_a_head_that_the_witness_never_cosigned(lied: Lied) -> None:
    def bare(head: AuditHead) -> AuditHead:
        text, (ours, *_) = split_note(head.checkpoint)
        return replace(head, checkpoint=text.encode() + b"\n" + ours.line())

    def pasted(head: AuditHead) -> AuditHead:
        line = cosign(Checkpoint(ORIGIN, SIZE, LIE).text(), witness_key(), 1)
        return replace(head, checkpoint=add_signature(head.checkpoint, line))

    for lie in (bare, pasted):
        assert await lied.head(lie) == "head_foreign"


@attack("W28")
@pytest.mark.parametrize(("size", "witnessed"), [(SIZE, SIZE - 1), (SIZE - 1, SIZE), (SIZE, 22)])
async def test_sizes_that_contradict_the_head(lied: Lied, size: int, witnessed: int) -> None:
    code = await lied.head(lambda head: replace(head, size=size, witnessed_size=witnessed))
    assert code == "head_foreign"


@attack("W29")
async def test_a_head_of_another_tree_under_our_own_key(lied: Lied) -> None:
    """The coordinator has stolen the agent's key too."""

    def lie(head: AuditHead) -> AuditHead:
        note = sign_checkpoint(Checkpoint(ORIGIN, SIZE, LIE), signing_key())
        line = cosign(split_note(note)[0], witness_key(), 1)
        return replace(head, checkpoint=add_signature(note, line))

    assert await lied.head(lie) == "head_forked"


@attack("W30")
@pytest.mark.parametrize("lie", [b"", b"\n\n", b"\xff" * 100, b"x" * 100_000], ids=len)
async def test_a_head_that_is_no_note(lied: Lied, lie: bytes) -> None:
    assert await lied.head(lambda head: replace(head, checkpoint=lie)) == "head_foreign"


@attack("W31")
async def test_fewer_leaves_are_stored_than_were_sent(lied: Lied) -> None:
    lied.liar.on_append = lambda size: size - 1
    assert await lied.agent.refused() == "upload_short"
    assert await lied.agent.incidents() == [], "an outage, as far as anybody knows"


@attack("W32")
@pytest.mark.parametrize("size", [0, 7])
async def test_the_head_is_rolled_back(lied: Lied, size: int) -> None:
    """On record with the coordinator's words, and it gets the rest again."""
    older = AuditHead(0, 0, b"")
    if size:
        leaves = await lied.agent.leaves()
        root = root_at(leaves, size)
        note = sign_checkpoint(Checkpoint(ORIGIN, size, root), signing_key())
        line = cosign(split_note(note)[0], witness_key(), 1)
        older = AuditHead(size, size, add_signature(note, line))
    lied.liar.on_head = lambda _: older
    with pytest.raises(AgentError) as caught:
        await lied.agent.once()  # the real coordinator knows better about its size
    assert caught.value.code == "term_stale"
    assert await lied.agent.incidents() == ["head_rolled_back"]
    lied.liar.on_head = lambda head: head
    await lied.agent.once()
    assert await lied.centre.leaves() == await lied.agent.leaves()


def root_at(leaves: list[bytes], size: int) -> bytes:
    return root_of(list(map(leaf_hash, leaves[:size])))
