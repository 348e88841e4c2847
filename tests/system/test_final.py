"""A decision is final when as many witnesses have cosigned its record as the policy wants: the
agent's part and the coordinator's, over real databases."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from exclave_agent.audit.final import Finals, Standing, standing
from exclave_agent.cli import audit
from exclave_agent.errors import BadRequest
from exclave_agent.ports import LeafDraft
from exclave_coordinator.audit.submit import Submitter
from exclave_policy.kinds.finality import Finality, FinalityClass
from exclave_protocol.checkpoint import Checkpoint
from exclave_protocol.note import SigningKey, add_signature, sign, split_note
from exclave_protocol.proof import Proof
from exclave_testing.centre import Centre, DirectLine
from exclave_testing.homes import intent
from exclave_testing.uploading import Pair, Working
from exclave_testing.witnesses import FakeWitness, SilentTold, key_of

NAMES = ("outside.example/w1", "outside.example/w2")


def finality(centre: Centre, witnesses: Sequence[FakeWitness], needed: int) -> Finality:
    classes = (FinalityClass("high", needed, frozenset({"health"})),)
    keys = tuple(one.key.vkey for one in witnesses)
    return Finality("f", "1", "", classes, centre.cosigned.vkey, keys)


@dataclass
class Scene:
    pair: Pair
    centre: Centre
    agent: Working
    outside: list[FakeWitness]
    line: DirectLine
    wanted: Finality

    def finals(self) -> Finals:
        storage = self.agent.home.storage
        return Finals(self.agent.home.log, storage.state, self.line, lambda: self.wanted)

    async def decide(self, decision: str, needed: int) -> None:
        first = await self.agent.home.log.append(intent(decision))
        stated = {"finality": {"class": "high", "witnesses": needed}} if needed else {}
        body = {"decision": decision, "intent": str(first.seq), "outcome": "answered"}
        await self.agent.home.log.append(LeafDraft("RESULT", {**body, **stated}))

    async def cosign(self, witness: FakeWitness) -> None:
        """The coordinator has its witness's log cosigned outside."""
        sender = Submitter(
            self.centre.store,
            (self.centre.cosigned,),
            seconds=1,
            clock=self.pair.clock,
            rng=self.agent.home.rng,
            told=SilentTold(),
        )
        assert await sender.submit(self.centre.cosigned, witness)

    async def standing(self, decision: str) -> Standing:
        return await self.agent.home.database.read(lambda reader: standing(reader, decision))


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    pair = Pair(tmp_path)
    async with pair.centre() as centre, pair.agent(centre.line()) as agent:
        now = pair.clock.now()
        outside = [FakeWitness((centre.cosigned.vkey,), name, now) for name in NAMES]
        wanted = finality(centre, outside, 2)
        yield Scene(pair, centre, agent, outside, centre.line(), wanted)


async def test_it_is_final_when_enough_have_cosigned(scene: Scene) -> None:
    for decision, needed in (("none", 0), ("one", 1), ("two", 2), ("three", 3)):
        await scene.decide(decision, needed)
    scene.wanted = finality(scene.centre, scene.outside, 3)
    finals = scene.finals()

    async def final() -> list[bool]:
        await finals.run()
        names = ("none", "one", "two", "three")
        return [(await scene.standing(name)).final for name in names]

    assert await final() == [True, False, False, False]
    await scene.agent.once()
    assert await final() == [True, True, False, False]
    await scene.cosign(scene.outside[0])
    assert await final() == [True, True, True, False]
    await scene.cosign(scene.outside[1])
    assert await final() == [True, True, True, True]
    assert finals.covered == {2: scene.agent.home.log.size, 3: scene.agent.home.log.size}
    await scene.decide("later", 2)
    assert not (await scene.standing("later")).final
    # Kept across starts, and found again without being asked for.
    assert (await scene.standing("three")).final
    again = scene.finals()
    await again.run()
    assert again.covered == finals.covered


async def test_who_is_not_named_does_not_count(scene: Scene) -> None:
    await scene.decide("two", 2)
    await scene.agent.once()
    stranger = FakeWitness(
        (scene.centre.cosigned.vkey,), "stranger.example/w", scene.pair.clock.now()
    )
    await scene.cosign(stranger)
    finals = scene.finals()
    await finals.run()
    assert not (await scene.standing("two")).final


async def test_other_keys_begin_anew(scene: Scene) -> None:
    """What counted under the keys of a former release does not count under other ones."""
    await scene.decide("two", 2)
    await scene.agent.once()
    await scene.cosign(scene.outside[0])
    finals = scene.finals()
    await finals.run()
    assert (await scene.standing("two")).final
    scene.wanted = finality(scene.centre, scene.outside[1:], 2)
    await finals.run()
    assert finals.covered == {}


def by_another_key(proof: Proof) -> Proof:
    text, signatures = split_note(proof.checkpoint)
    key = SigningKey(text.partition("\n")[0], key_of("thief"))
    return replace(proof, checkpoint=add_signature(sign(text, [key]), signatures[-1].line()))


def of_another_place(proof: Proof) -> Proof:
    return replace(proof, hashes=tuple(bytes(32) for _ in proof.hashes))


def garbled(proof: Proof) -> Proof:
    return replace(proof, leaf=proof.leaf[:-2])


def a_line_forged(proof: Proof) -> Proof:
    at = proof.checkpoint.rindex(b" ") + 12
    data = bytearray(proof.checkpoint)
    data[at] = data[at] ^ 1 if chr(data[at] ^ 1).isalnum() else ord("A")
    return replace(proof, checkpoint=bytes(data))


@pytest.mark.parametrize("change", [by_another_key, of_another_place, garbled, a_line_forged])
async def test_a_proof_that_does_not_hold_counts_for_nothing(scene: Scene, change: object) -> None:
    await scene.decide("two", 2)
    await scene.agent.once()
    await scene.cosign(scene.outside[0])
    honest = scene.line.recorded

    async def lies(epoch: int) -> bytes:
        assert callable(change)
        made = change(Proof.parse(await honest(epoch)))
        assert isinstance(made, Proof)
        return made.encode()

    scene.line.recorded = lies  # type: ignore[method-assign]  # the coordinator lies
    finals = scene.finals()
    await finals.run()
    assert finals.covered == {}
    scene.line.recorded = honest  # type: ignore[method-assign]  # and tells the truth
    await finals.run()
    assert (await scene.standing("two")).final


async def test_nothing_is_asked_where_one_witness_is_enough(scene: Scene) -> None:
    async def never(epoch: int) -> bytes:
        raise AssertionError("asked")

    scene.line.recorded = never  # type: ignore[method-assign]  # nobody asks
    scene.wanted = finality(scene.centre, scene.outside, 1)
    await scene.decide("one", 1)
    await scene.agent.once()
    await scene.finals().run()
    assert (await scene.standing("one")).final


async def test_what_has_no_result_is_not_final(scene: Scene) -> None:
    await scene.agent.home.log.append(intent("open"))
    with pytest.raises(BadRequest, match="no RESULT"):
        await scene.standing("open")
    with pytest.raises(BadRequest):
        await scene.standing("unknown")


async def test_the_command_says_so(scene: Scene) -> None:
    await scene.decide("two", 2)
    await scene.agent.once()
    words = ["final", "two", "--home", str(scene.pair.home)]
    asked = CliRunner().invoke(audit.command, words)
    assert (asked.exit_code, asked.output[:13]) == (3, "not final yet"), asked.output
    await scene.cosign(scene.outside[0])
    await scene.finals().run()
    asked = CliRunner().invoke(audit.command, [*words, "--json"])
    assert asked.exit_code == 0
    assert json.loads(asked.output)["final"] is True


async def test_a_cosignature_over_another_tree_counts_for_nothing(scene: Scene) -> None:
    """The coordinator cosigned a fork of this log, openly even; it makes nothing here final."""
    await scene.decide("two", 2)
    await scene.agent.once()
    centre, size, now = scene.centre, scene.agent.home.log.size, scene.pair.clock.now()
    fork = Checkpoint(scene.agent.home.log.store.origin, size, b"\x07" * 32)
    await centre.store.write(lambda tx: centre.cosigned.append(tx, fork, now))
    await scene.cosign(scene.outside[0])

    async def forked(epoch: int) -> bytes:
        proof = await centre.store.read(lambda tx: centre.cosigned.recorded(tx, fork, now))
        assert proof is not None
        return proof.encode()

    scene.line.recorded = forked  # type: ignore[method-assign]  # what it has of the other tree
    finals = scene.finals()
    await finals.run()
    assert finals.covered == {}
