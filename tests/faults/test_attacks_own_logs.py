"""What somebody does to the logs that the coordinator keeps of itself, operators' acts and what its
witness cosigned (docs/attacks.md, C)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from exclave_coordinator.audit.chain import OwnLog
from exclave_coordinator.audit.submit import Submitter
from exclave_coordinator.errors import StorageError
from exclave_coordinator.ports import Tx
from exclave_ctl.audits import check_chain, own_log
from exclave_ctl.errors import CtlError
from exclave_protocol.checkpoint import Checkpoint
from exclave_protocol.evidence import Report, Verdict, verify_bundle
from exclave_protocol.leaf import Leaf, LeafType, decode_leaf
from exclave_protocol.logcheck import Foreign
from exclave_protocol.note import VerifyKey, split_note
from exclave_protocol.pb import admin_pb2
from exclave_protocol.tree import Frontier
from exclave_testing.attacks import attack
from exclave_testing.bundles import unzip
from exclave_testing.centre import DOMAIN, PIN, Centre, judge
from exclave_testing.clock import SeededRng
from exclave_testing.homes import execute
from exclave_testing.tampering import retell
from exclave_testing.uploading import Pair
from exclave_testing.witnesses import FakeWitness, SilentTold

SIZES = (5, 9, 14, 21)
"""Each was cosigned, so it has a leaf in the witness's log, after its GENESIS."""


@pytest.fixture
async def pair(tmp_path: Path) -> Pair:
    made = Pair(tmp_path)
    for size in SIZES:
        await made.honest(size)
        made.clock.step(120)
    return made


def submitter(centre: Centre) -> Submitter:
    """Sends both own logs to outside witnesses."""
    logs = (centre.operators, centre.cosigned)
    rng, told = SeededRng(), SilentTold()
    return Submitter(centre.store, logs, seconds=60, clock=centre.clock, rng=rng, told=told)


async def submitted(centre: Centre, own: OwnLog, witness: FakeWitness) -> str:
    """The refusal's code; "": the head is cosigned."""
    sender = submitter(centre)
    await sender.submit(own, witness)
    return sender.standing[own.origin, witness.key.vkey].code


class Client:
    """What `exclave audit log` asks, answered as `AdminService.ReadOperatorLog` does."""

    def __init__(self, centre: Centre, own: OwnLog) -> None:
        self._centre = centre
        self._own = own

    async def shown(self) -> Sequence[Leaf]:
        """What the command prints. Raises: CtlError."""
        whole = await self._centre.store.read(self._read)
        client: Any = _Paged(whole)
        return check_chain(list(own_log(client, "", 0, 10**6)))

    def _read(self, tx: Tx) -> admin_pb2.ReadOperatorLogResponse:
        chain = self._own.table(tx)
        state = chain.state()
        leaves = [leaf.data for leaf in chain.leaves(0, state.size)]
        note = self._own.checkpoint(state)
        return admin_pb2.ReadOperatorLogResponse(leaves=leaves, size=state.size, checkpoint=note)


@dataclass
class _Paged:
    """`exclave_ctl.client.Client`, as far as it reads own logs."""

    whole: admin_pb2.ReadOperatorLogResponse

    def own_log(self, _: str, first: int, __: int) -> admin_pb2.ReadOperatorLogResponse:
        rest = self.whole.leaves[first:]
        return admin_pb2.ReadOperatorLogResponse(leaves=rest, size=self.whole.size)


async def exported(pair: Pair, *kept: bytes) -> Report:
    async with pair.centre() as centre:
        path = await centre.export(pair.folder / "b.zip")
        brought = [Foreign(f"kept {number}", note) for number, note in enumerate(kept, 1)]
        return verify_bundle(path, witness_vkey=PIN, checkpoints=brought)


def head_in(bundle: Path) -> bytes:
    """The operators' log's head of a bundle, as whoever has that bundle kept it."""
    return unzip(bundle)["operators/e1/checkpoint"]


def another_act(leaf: Leaf) -> Leaf:
    return replace(leaf, body={**leaf.body, "operator": f"spiffe://{DOMAIN}/operator/eve"})


def other_root(leaf: Leaf) -> Leaf:
    return replace(leaf, body={**leaf.body, "root": "00" * 32})


async def test_untouched_own_logs_are_shown_cosigned_and_exported(pair: Pair) -> None:
    """Without this, nothing here would prove anything."""
    async with pair.centre() as centre:
        witness = FakeWitness((centre.operators.vkey, centre.cosigned.vkey))
        for own in (centre.operators, centre.cosigned):
            assert await submitted(centre, own, witness) == ""
            await Client(centre, own).shown()
        leaves = await Client(centre, centre.cosigned).shown()
        assert [leaf.body.get("size") for leaf in leaves] == [None, *map(str, SIZES)]
    assert (await exported(pair)).verdict is Verdict.WITNESSED


# --- the operators' log -------------------------------------------------------------------------


@attack("C24")
async def test_an_operators_act_is_edited(pair: Pair) -> None:
    sql = (
        "UPDATE operator_leaves SET data = CAST(replace(CAST(data AS TEXT), '/ann', '/eve') "
        "AS BLOB) WHERE seq = 2"
    )
    execute(pair.database, sql)
    assert (await exported(pair)).verdict is Verdict.INVALID
    async with pair.centre() as centre:
        with pytest.raises(CtlError, match="broken between records 2 and 3"):
            await Client(centre, centre.operators).shown()


@attack("C25")
async def test_an_operators_act_is_dropped(pair: Pair) -> None:
    execute(pair.database, "DELETE FROM operator_leaves WHERE seq = 2")
    async with pair.centre() as centre:
        with pytest.raises(Exception, match="3 where the checkpoint has 4"):
            await centre.export(pair.folder / "b.zip")
        with pytest.raises(CtlError, match="the log ends at record"):
            await Client(centre, centre.operators).shown()


@attack("C26")
async def test_the_operators_log_is_told_anew(pair: Pair) -> None:
    """Chain, state and all: the coordinator signs what its database says. An older bundle and an
    outside witness remember."""
    await exported(pair)
    kept = head_in(pair.folder / "b.zip")
    async with pair.centre() as centre:
        witness = FakeWitness((centre.operators.vkey,))
        assert await submitted(centre, centre.operators, witness) == ""
    retell(pair.database, "operator", 2, another_act)
    assert (await exported(pair)).verdict is Verdict.WITNESSED
    report = await exported(pair, kept)
    assert report.verdict is Verdict.DIVERGED
    async with pair.centre() as centre:
        await act(centre)
        assert await submitted(centre, centre.operators, witness) == "inconsistent"


async def act(centre: Centre) -> None:
    """One more leaf in the operators' log."""
    body = {"operator": "ann", "action": "Test"}
    await centre.store.write(lambda tx: centre.operators.add(tx, LeafType.OPERATOR, body))


@attack("C27")
async def test_the_operators_log_is_cut_off(pair: Pair) -> None:
    await exported(pair)
    kept = head_in(pair.folder / "b.zip")
    async with pair.centre() as centre:
        witness = FakeWitness((centre.operators.vkey,))
        assert await submitted(centre, centre.operators, witness) == ""
    retell(pair.database, "operator", 2, None)
    execute(pair.database, "DELETE FROM outside_cosignatures")
    async with pair.centre() as centre:
        assert await submitted(centre, centre.operators, witness) == "ahead"
        for _ in range(3):
            await act(centre)
        assert await submitted(centre, centre.operators, witness) == "inconsistent"
    assert (await exported(pair, kept)).verdict is Verdict.DIVERGED


# --- the witness's log --------------------------------------------------------------------------


@attack("C28")
async def test_a_leaf_of_the_witnesss_log_is_deleted(pair: Pair) -> None:
    execute(pair.database, "DELETE FROM cosigned_leaves WHERE seq = 2")
    async with pair.centre() as centre:
        with pytest.raises(CtlError, match="the log ends at record"):
            await Client(centre, centre.cosigned).shown()


@attack("C29")
async def test_the_last_leaf_of_the_witnesss_log_is_deleted(pair: Pair) -> None:
    execute(pair.database, "DELETE FROM cosigned_leaves WHERE seq = 4")
    async with pair.centre() as centre:
        with pytest.raises(CtlError):
            await Client(centre, centre.cosigned).shown()


@attack("C30")
async def test_a_leaf_of_the_witnesss_log_is_told_otherwise(pair: Pair) -> None:
    async with pair.centre() as centre:
        witness = FakeWitness((centre.cosigned.vkey,))
        assert await submitted(centre, centre.cosigned, witness) == ""
    retell(pair.database, "cosigned", 3, other_root)
    await pair.honest(SIZES[-1] + 2)
    async with pair.centre() as centre:
        assert await submitted(centre, centre.cosigned, witness) == "inconsistent"


@attack("C31")
async def test_a_leaf_is_deleted_that_an_outside_witness_has_not_seen(pair: Pair) -> None:
    async with pair.centre() as centre:
        witness = FakeWitness((centre.cosigned.vkey,))
        assert await submitted(centre, centre.cosigned, witness) == ""
    for more in (2, 4):
        await pair.honest(SIZES[-1] + more)
    execute(pair.database, "DELETE FROM cosigned_leaves WHERE seq = ?", [len(SIZES) + 1])
    async with pair.centre() as centre:
        assert await submitted(centre, centre.cosigned, witness) != ""


@attack("C32")
async def test_a_leaf_is_deleted_below_the_size_that_a_witness_names(pair: Pair) -> None:
    execute(pair.database, "DELETE FROM cosigned_leaves WHERE seq = 3")
    asked: list[int] = []

    class Watched:
        def __init__(self, chain: Any) -> None:
            self.state = chain.state
            self._chain = chain

        def hashes(self, begin: int, end: int) -> Sequence[bytes]:
            asked.append(begin)
            if len(asked) > 9:
                raise TimeoutError("the same question again and again")
            found: Sequence[bytes] = self._chain.hashes(begin, end)
            return found

    async with pair.centre() as centre:
        own = centre.cosigned
        table = own._table
        own._table = lambda tx: Watched(table(tx))  # type: ignore[assignment,return-value]
        with pytest.raises(StorageError, match="are missing"):
            await centre.store.read(lambda tx: own.head_after(tx, Frontier(), 4))


@attack("C33")
async def test_the_time_of_a_cosignature_is_changed(pair: Pair) -> None:
    """The coordinator signs what its database says, but its witness's log has no such leaf."""
    execute(pair.database, "UPDATE logs SET witnessed_at = witnessed_at + 1000000")
    async with pair.centre() as centre:
        bundle = await centre.export(pair.folder / "b.zip")
        said = await in_secret(centre, unzip(bundle)["logs/edge-1/e1/checkpoint"])
    assert judge(bundle).verdict is Verdict.UNANCHORED
    assert said, "given in secret"


async def in_secret(centre: Centre, note: bytes) -> bool:
    """Whether the witness's log does not say what this cosignature says."""
    text, signatures = split_note(note)
    head, key = Checkpoint.parse(text), VerifyKey.parse(PIN)
    (ours,) = [s for s in signatures if (s.name, s.key_id) == (key.name, key.id)]
    at = key.verify(text, ours).timestamp

    def recorded(tx: Tx) -> list[tuple[object, ...]]:
        chain = centre.cosigned.table(tx)
        bodies = [decode_leaf(leaf.data).body for leaf in chain.leaves(1, chain.state().size)]
        return [(b["origin"], b["size"], b["root"], b["cosigned_at"]) for b in bodies]

    wanted = (head.origin, str(head.size), head.root.hex(), str(at))
    return wanted not in await centre.store.read(recorded)


async def test_an_honest_cosignature_is_on_record(pair: Pair) -> None:
    async with pair.centre() as centre:
        bundle = await centre.export(pair.folder / "b.zip")
        assert not await in_secret(centre, unzip(bundle)["logs/edge-1/e1/checkpoint"])
