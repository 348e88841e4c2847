"""Our own logs at outside witnesses: what is new is sent, whatever they do, and what comes back
is kept only where it verifies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from exclave_coordinator.audit.cosigned import CosignedLog
from exclave_coordinator.audit.oplog import OK, Act, OperatorLog
from exclave_coordinator.audit.submit import BACKOFF, Submitter
from exclave_coordinator.config import load, render
from exclave_coordinator.errors import StorageError, Unavailable
from exclave_coordinator.ports import Tx
from exclave_coordinator.storage import database
from exclave_coordinator.storage.database import Database
from exclave_coordinator.storage.files import load_ed25519
from exclave_coordinator.witness_ports import Cosignature
from exclave_protocol.checkpoint import (
    Checkpoint,
    cosign,
    cosigned_origin,
    operator_origin,
)
from exclave_protocol.note import SigningKey, VerifyKey, open_note, split_note
from exclave_protocol.pb import admin_pb2, audit_pb2
from exclave_testing.coordinator import (
    TIMEOUT,
    RunningCoordinator,
    ShiftedClock,
    eventually,
    new_home,
    running_coordinator,
)
from exclave_testing.witnesses import FakeWitness, OutsideTree, key_of

DOMAIN = "example.org"


class Highest:
    """Chance that always gives the upper end, and remembers it."""

    def token(self, size: int) -> bytes:
        return bytes(size)

    def uniform(self, low: float, high: float) -> float:
        assert low == 0.0  # full jitter
        return high


class Slept(Exception):
    """Enough was slept."""


class CountingClock(ShiftedClock):
    """Remembers pauses and takes none."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.pauses: list[float] = []
        self.most = most

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        if len(self.pauses) == self.most:
            raise Slept


@dataclass
class Heard:
    """`submit.Told` that remembers."""

    outcomes: list[str] = field(default_factory=list)
    lags: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)

    def outcome(self, witness: str, outcome: str) -> None:
        self.outcomes.append(outcome)

    def lag(self, log: str, witness: str, leaves: int, cosigned_at: int) -> None:
        self.lags[log, witness] = (leaves, cosigned_at)


class Rig:
    """Both own logs over a real database, and a witness that knows them."""

    def __init__(self, store: Database, clock: ShiftedClock) -> None:
        self.store = store
        self.heard = Heard()
        key = key_of("operators")
        self.operators = OperatorLog(SigningKey(operator_origin(DOMAIN), key), "t", clock=clock)
        self.cosigned = CosignedLog(
            SigningKey(cosigned_origin(DOMAIN), key), "witness vkey", "t", clock=clock
        )
        self.witness = FakeWitness((self.operators.vkey, self.cosigned.vkey))
        self.submitter = Submitter(
            store,
            (self.operators, self.cosigned),
            seconds=60,
            clock=clock,
            rng=Highest(),
            told=self.heard,
        )

    async def act(self, count: int = 1) -> None:
        """Leaves for the operators' log."""
        act = Act("spiffe://example.org/operator/ann", "admin", "Test", "")

        def job(tx: Tx) -> None:
            for _ in range(count):
                self.operators.append(tx, act, OK)

        await self.store.write(job)

    async def submit(self) -> bool:
        """The operators' log to the witness."""
        return await self.submitter.submit(self.operators, self.witness)

    async def kept(self) -> Cosignature | None:
        """What is stored of it."""
        origin, vkey = self.operators.origin, self.witness.key.vkey
        return await self.store.read(lambda tx: tx.witnessing.cosignature(origin, vkey))

    @property
    def code(self) -> str:
        """Of the last refusal."""
        return self.submitter.standing[self.operators.origin, self.witness.key.vkey].code


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    """An empty database."""
    database.create(tmp_path / "coordinator.db")
    made = Database(tmp_path / "coordinator.db")
    yield made
    made.close()


@pytest.fixture
def rig(store: Database) -> Rig:
    """Nothing recorded, nothing cosigned."""
    return Rig(store, ShiftedClock())


async def test_nothing_to_say_asks_nobody(rig: Rig) -> None:
    assert await rig.submit()
    assert rig.witness.asked == []


async def test_what_is_new_is_cosigned_with_the_right_proof(rig: Rig) -> None:
    size = 0
    for count in (1, 1, 5, 1, 30):
        await rig.act(count)
        assert await rig.submit()
        size = size + count + (size == 0)  # GENESIS
        kept = await rig.kept()
        assert kept is not None
        assert (kept.size, kept.cosigned_at) == (size, rig.witness.now)
        keys = [VerifyKey.parse(rig.operators.vkey), rig.witness.key]
        opened = open_note(kept.note, keys)
        assert len(opened.verified) == 2
        assert Checkpoint.parse(opened.text).size == size
        assert rig.heard.lags[rig.operators.origin, rig.witness.name] == (0, rig.witness.now)
    assert rig.heard.outcomes == ["cosigned"] * 5
    asked = len(rig.witness.asked)
    assert await rig.submit()
    assert len(rig.witness.asked) == asked


async def test_a_lost_answer_is_made_up_by_the_size_of_the_409(rig: Rig) -> None:
    await rig.act(3)
    assert await rig.submit()
    await rig.act(4)
    rig.witness.lose_answers = True
    assert not await rig.submit()
    await rig.act(2)
    rig.witness.lose_answers = False
    assert await rig.submit()
    assert [request.old_size for request in rig.witness.asked] == [0, 4, 4, 8]
    kept = await rig.kept()
    assert kept is not None
    assert kept.size == 10


async def test_a_witness_that_forgot_is_led_on_from_where_it_is(rig: Rig) -> None:
    await rig.act(3)
    assert await rig.submit()
    earlier = dict(rig.witness.heads)
    await rig.act(4)
    assert await rig.submit()
    rig.witness.heads = earlier
    await rig.act()
    assert await rig.submit()
    rig.witness.heads = {}
    await rig.act()
    assert await rig.submit()
    assert [request.old_size for request in rig.witness.asked] == [0, 4, 8, 4, 9, 0]


async def test_a_witness_that_remembers_more_is_an_alarm(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """A restored backup, or a coordinator that forks its own history."""
    await rig.act(3)
    rig.witness.heads[rig.operators.origin] = (9, bytes(32))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert not await rig.submit()
    assert rig.code == "ahead"
    (record,) = caplog.records  # said once
    assert record.levelno == logging.ERROR
    assert "9 leaves where we have 4" in record.message
    await rig.act(9)
    assert not await rig.submit()
    assert rig.code == "inconsistent"
    assert await rig.kept() is None


async def test_answers_that_do_not_verify_are_not_kept(rig: Rig) -> None:
    await rig.act(3)
    state = await rig.store.read(lambda tx: tx.operators.state())
    text = split_note(rig.operators.checkpoint(state))[0]
    other = FakeWitness(name="witness.example/w2").cosigner
    mine = rig.witness.cosigner
    tree = OutsideTree(size=4)
    for answer in (
        b"",
        b"thanks\n",
        cosign(text, other, 5),
        cosign(split_note(tree.note())[0], mine, 5),
        cosign(text, mine, 0),
        cosign(text, mine, 2**40),
        cosign(text, mine, 5)[:-4] + b"AAA\n",
    ):
        rig.witness.heads.clear()
        rig.witness.answer = answer
        assert not await rig.submit()
        assert rig.code == "bad_answer", answer
    assert await rig.kept() is None
    # Lines by keys that we do not know are passed over.
    rig.witness.heads.clear()
    rig.witness.answer = cosign(text, other, 5) + cosign(text, mine, 7)
    assert await rig.submit()
    kept = await rig.kept()
    assert kept is not None
    assert kept.cosigned_at == 7
    assert other.name.encode() not in kept.note


async def test_a_database_that_fails_is_a_failure_like_another(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.act()

    async def broken(*_given: object) -> None:
        raise StorageError("the disk broke")

    with monkeypatch.context() as patch:
        patch.setattr(rig.store, "write", broken)
        assert not await rig.submit()
    assert rig.code == "storage_error"
    assert await rig.submit()


async def test_it_backs_off_and_comes_back(store: Database) -> None:
    clock = CountingClock(14)
    rig = Rig(store, clock)
    await rig.act()
    rig.witness.fault = Unavailable("down")
    with pytest.raises(Slept):
        await rig.submitter.run(rig.witness)
    low, high = BACKOFF
    assert clock.pauses == [min(high, low * 2**n) for n in range(14)]
    clock.pauses.clear()
    clock.most = 2
    rig.witness.fault = None
    with pytest.raises(Slept):
        await rig.submitter.run(rig.witness)
    assert clock.pauses == [60, 60]
    assert rig.heard.outcomes == ["unavailable"] * 14 + ["cosigned"]


# --- two coordinators ----------------------------------------------------------------------


@dataclass
class Pair:
    """The second's witness cosigns the first's own logs."""

    first: RunningCoordinator
    second: RunningCoordinator

    async def standing(self) -> dict[str, admin_pb2.OutsideCosignature]:
        """By origin of the first's logs."""
        request = admin_pb2.ListWitnessesRequest()
        answer = await self.first.admin.ListWitnesses(request, timeout=TIMEOUT)
        return {own.origin: own.cosignatures[0] for own in answer.own}


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """Over real HTTP."""
    home = new_home(tmp_path / "first", outside_witness_seconds=1)
    key = load_ed25519(home.key("operators"))
    origins = (operator_origin(DOMAIN), cosigned_origin(DOMAIN))
    vkeys = tuple(SigningKey(origin, key).vkey for origin in origins)
    async with running_coordinator(
        tmp_path / "second",
        trust_domain="other.example",
        witness_listen="127.0.0.1:0",
        witness_logs=vkeys,
    ) as second:
        entry = f"http://{second.up.witness} {second.up.parts.witness.vkey}"
        changed = replace(load(home.settings_file), outside_witnesses=(entry,))
        home.settings_file.write_text(render(changed))
        async with running_coordinator(tmp_path / "first") as first:
            yield Pair(first, second)


async def test_one_coordinator_cosigns_another_s_own_logs(pair: Pair) -> None:
    await pair.first.tenant("acme")
    member = await pair.first.enroll("acme", "north")
    log = member.log()
    log.add(5)
    await member.audit.Append(
        audit_pb2.AppendRequest(epoch=1, first_seq=0, leaves=log.leaves), timeout=TIMEOUT
    )
    for old, new in ((0, 2), (2, 5)):
        await member.audit.Witness(
            audit_pb2.WitnessRequest(
                epoch=1,
                old_size=old,
                consistency_proof=log.proof(old, new),
                checkpoint=log.checkpoint(new),
            ),
            timeout=TIMEOUT,
        )
    meta = cosigned_origin(DOMAIN)
    wanted = {operator_origin(DOMAIN): 3, meta: 3}  # GENESIS, and an act or a cosignature each
    async with asyncio.timeout(TIMEOUT):
        while True:
            standing = await pair.standing()
            if all(standing[origin].size >= size for origin, size in wanted.items()):
                break
            await asyncio.sleep(0.05)
    key = VerifyKey.parse(pair.second.up.parts.witness.vkey)
    vkeys = {own.origin: own.vkey for own in await _own(pair.first)}
    for origin, item in standing.items():
        opened = open_note(item.note, [key, VerifyKey.parse(vkeys[origin])])
        assert len(opened.verified) == 2
        assert Checkpoint.parse(opened.text).origin == origin
        assert (item.configured, item.error) == (True, "")
    theirs = await pair.second.admin.ListWitnesses(
        admin_pb2.ListWitnessesRequest(), timeout=TIMEOUT
    )
    assert [log.origin for log in theirs.outside] == sorted(wanted)
    registry = pair.first.up.parts.metrics.registry
    labels = {"log": meta, "witness": key.name}
    name = "exclave_coordinator_uncosigned_leaves"
    await eventually("lag", lambda: registry.get_sample_value(name, labels) == 0)


async def _own(centre: RunningCoordinator) -> list[admin_pb2.OwnLog]:
    answer = await centre.admin.ListWitnesses(admin_pb2.ListWitnessesRequest(), timeout=TIMEOUT)
    return list(answer.own)
