"""One process holds an agent's log: terms follow each other, copies are refused and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exclave_protocol.checkpoint import Checkpoint, sign_checkpoint
from exclave_protocol.epoch import link
from exclave_protocol.evidence import Verdict, verify_bundle
from exclave_protocol.leaf import Leaf, LeafType, encode_leaf
from exclave_protocol.note import TermKey
from exclave_protocol.pb import admin_pb2, audit_pb2
from exclave_protocol.term import commitment
from exclave_protocol.tree import leaf_hash
from exclave_testing.attacks import attack
from exclave_testing.coordinator import (
    TIMEOUT,
    AgentLog,
    Member,
    RunningCoordinator,
    refused,
)
from exclave_testing.terms import term_key


def nonce_of(term: int, seed: str = "") -> bytes:
    return sha256(f"nonce {term} {seed}".encode()).digest()


@dataclass
class Process:
    """What an agent's process shows of itself."""

    member: Member
    log: AgentLog
    number: int
    seed: str = ""
    key: TermKey = field(init=False)

    def __post_init__(self) -> None:
        self.key = term_key(self.log.origin, self.log.identity, self.number, self.seed)
        self.log.key = self.key

    async def begin(
        self, *nonces: bytes, old: int = 0, token: bytes = b"", log: AgentLog | None = None
    ) -> bytes:
        log = log or self.log
        log.key = self.key
        request = audit_pb2.BeginTermRequest(
            epoch=log.epoch,
            head=log.checkpoint(),
            old_size=old,
            consistency_proof=log.proof(old, len(log.leaves)),
            commitment=commitment(nonce_of(self.number, self.seed)),
            nonces=nonces,
            token=token,
        )
        answer = await self.member.audit.BeginTerm(request, timeout=TIMEOUT)
        return bytes(answer.token)

    async def upload(self, begin: int = 0, *, term: int | None = None) -> int:
        request = audit_pb2.AppendRequest(
            epoch=self.log.epoch,
            first_seq=begin,
            leaves=self.log.leaves[begin:],
            term=self.number if term is None else term,
        )
        return int((await self.member.audit.Append(request, timeout=TIMEOUT)).size)

    async def witness(self, old: int, new: int) -> bytes:
        request = audit_pb2.WitnessRequest(
            epoch=self.log.epoch,
            old_size=old,
            consistency_proof=self.log.proof(old, new),
            checkpoint=self.log.checkpoint(new),
        )
        return bytes((await self.member.audit.Witness(request, timeout=TIMEOUT)).cosignature)


@pytest.fixture
async def member(centre: RunningCoordinator) -> Member:
    await centre.tenant("acme")
    return await centre.enroll("acme", "north")


@pytest.fixture
def log(member: Member) -> AgentLog:
    made = member.log()
    made.add(4)
    return made


async def evidence(centre: RunningCoordinator, member: Member) -> Sequence[Any]:
    return await centre.up.parts.store.read(lambda tx: tx.logs.evidence(member.agent))


async def test_terms_follow_each_other(member: Member, log: AgentLog) -> None:
    await Process(member, log, 1).begin()
    for number in (2, 5):
        before = 1 if number == 2 else 2
        process = Process(member, log, number)
        token = await process.begin(nonce_of(before))
        assert token == await process.begin(nonce_of(before)), "asked again it says the same"
        log.add(1)
        assert await process.upload() == len(log.leaves)
        head = await member.audit.Head(audit_pb2.HeadRequest(epoch=1))
        assert (head.term, head.epoch_open) == (number, 1)


@attack("W35")
@pytest.mark.parametrize(
    ("number", "nonces"),
    [
        (3, []),
        (3, [nonce_of(1)]),
        (3, [nonce_of(7), bytes(32)]),
        (2, [nonce_of(2)]),
        (1, [nonce_of(2)]),
    ],
    ids=["without a nonce", "one that was told", "others", "the same term", "a former term"],
)
async def test_a_copy_is_refused_and_both_heads_are_kept(
    centre: RunningCoordinator, member: Member, log: AgentLog, number: int, nonces: list[bytes]
) -> None:
    await Process(member, log, 1).begin()
    held = Process(member, log, 2)
    await held.begin(nonce_of(1))
    head = log.checkpoint()
    copy = Process(member, log, number, seed="copy")
    call = copy.begin(*nonces)
    assert (await refused(call))[:2] == ("FAILED_PRECONDITION", "fenced")
    kept = await evidence(centre, member)
    assert {item.kind for item in kept} == {"term"}
    assert {item.data for item in kept} == {head, log.checkpoint()}
    log.key = held.key
    log.add(1)
    assert await held.upload() == 5


async def test_the_refusal_brings_the_other_head(member: Member, log: AgentLog) -> None:
    await Process(member, log, 1).begin()
    head = log.checkpoint()
    copy = Process(member, log, 2, seed="copy")
    request = audit_pb2.BeginTermRequest(
        epoch=1, head=log.checkpoint(), consistency_proof=[], commitment=bytes(32)
    )
    call = member.audit.BeginTerm(request)
    await refused(call)
    assert dict(await call.trailing_metadata())["exclave-evidence-bin"] == head
    assert copy.number == 2


@attack("W36")
async def test_who_does_not_hold_the_log_writes_nothing(
    centre: RunningCoordinator, member: Member, log: AgentLog
) -> None:
    first = Process(member, log, 1)
    await first.begin()
    await first.upload()
    second = Process(member, log, 2)
    await second.begin(nonce_of(1))
    log.add(1)
    for term in (0, 1, 3):
        assert (await refused(second.upload(4, term=term)))[:2] == ("FAILED_PRECONDITION", "fenced")
    log.key = first.key
    assert (await refused(first.witness(0, 4)))[:2] == ("FAILED_PRECONDITION", "fenced")
    assert {item.kind for item in await evidence(centre, member)} == {"term"}
    log.key = second.key
    assert await second.upload(4) == 5
    await second.witness(0, 5)


@attack("W37")
async def test_a_head_that_is_another_history_is_kept(
    centre: RunningCoordinator, member: Member, log: AgentLog
) -> None:
    first = Process(member, log, 1)
    await first.begin()
    await first.upload()
    await first.witness(0, 4)
    fork = member.log()
    fork.add(5, note="another")
    second = Process(member, fork, 2)
    assert (await refused(second.begin(nonce_of(1), old=4)))[0] == "DATA_LOSS"
    (kept,) = await evidence(centre, member)
    assert kept.data == fork.checkpoint()
    assert (await refused(second.begin(nonce_of(1), old=3)))[0] == "ABORTED"


async def test_a_head_over_other_leaves_than_were_uploaded(member: Member, log: AgentLog) -> None:
    first = Process(member, log, 1)
    await first.begin()
    await first.upload()
    fork = member.log()
    fork.add(3, note="put back")
    assert (await refused(Process(member, fork, 2).begin(nonce_of(1))))[0] == "DATA_LOSS"


async def test_what_cannot_be_a_claim(member: Member, log: AgentLog) -> None:
    good = {"epoch": 1, "head": Process(member, log, 1).log.checkpoint(), "commitment": bytes(32)}
    stranger = term_key(log.origin, Ed25519PrivateKey.generate(), 1)
    head = Checkpoint(log.origin, 4, log.tree.root())
    for change, status in (
        ({"commitment": b"short"}, "INVALID_ARGUMENT"),
        ({"nonces": [bytes(32)] * 17}, "INVALID_ARGUMENT"),
        ({"nonces": [bytes(31)]}, "INVALID_ARGUMENT"),
        ({"token": bytes(999)}, "INVALID_ARGUMENT"),
        ({"consistency_proof": [bytes(32)] * 64}, "INVALID_ARGUMENT"),
        ({"epoch": 2**63}, "INVALID_ARGUMENT"),
        ({"epoch": 0}, "PERMISSION_DENIED"),
        ({"epoch": 2}, "PERMISSION_DENIED"),
        ({"head": b"no note"}, "PERMISSION_DENIED"),
        ({"head": sign_checkpoint(head, stranger)}, "PERMISSION_DENIED"),
    ):
        request = audit_pb2.BeginTermRequest(**{**good, **change})
        found = (await refused(member.audit.BeginTerm(request)))[0]
        assert found == status, change
    await member.audit.BeginTerm(audit_pb2.BeginTermRequest(**good))


@attack("W38")
async def test_a_coordinator_put_back_from_a_backup_takes_its_own_token(
    centre: RunningCoordinator, member: Member, log: AgentLog
) -> None:
    """It forgot terms that it gave out; who shows their tokens is ahead of it, not a copy."""
    await Process(member, log, 1).begin()
    store = centre.up.parts.store

    def remember(tx: Any) -> Any:
        found = tx.logs.get(member.agent, 1)
        return found.id, tx.terms.get(found.id)

    log_id, old = await store.read(remember)
    token = await Process(member, log, 2).begin(nonce_of(1))
    stale = token
    token = await Process(member, log, 3).begin(nonce_of(2))
    await store.write(lambda tx: tx.terms.put(log_id, old))
    forged = bytes([token[0] ^ 1]) + token[1:]
    for wrong in (b"", forged, token[:-1] + bytes([token[-1] ^ 1])):
        call = Process(member, log, 4).begin(nonce_of(3), token=wrong)
        assert (await refused(call))[1] == "fenced"
    assert (await refused(Process(member, log, 4).begin(nonce_of(2), token=token)))[1] == "fenced"
    assert (await refused(Process(member, log, 3).begin(nonce_of(3), token=token)))[1] == "fenced"
    await Process(member, log, 4).begin(nonce_of(3), token=token)
    assert (await refused(Process(member, log, 5).begin(nonce_of(2), token=stale)))[1] == "fenced"


async def test_kept_heads_of_copies_are_bounded(
    centre: RunningCoordinator, member: Member, log: AgentLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exclave_coordinator.audit.terms.MAX_KEPT", 4)
    await Process(member, log, 1).begin()
    for seed in range(9):
        log.add(1)
        await refused(Process(member, log, 2, seed=f"copy {seed}").begin())
    assert len(await evidence(centre, member)) == 4


# --- epochs -------------------------------------------------------------------------------------


def next_epoch(
    member: Member, before: AgentLog, at: int, change: dict[str, str] | None = None
) -> AgentLog:
    """A second epoch that links the first."""
    made = member.log(before.epoch + 1)
    made.add(1)
    stated = link(Checkpoint(before.origin, at, before.tree.root(at)), b"") | (change or {})
    leaf = Leaf(
        made.origin,
        made.epoch,
        1,
        leaf_hash(made.leaves[0]),
        LeafType.EPOCH,
        1_900_000_001 * 10**9,
        {"previous": stated, "reason": "test"},
    )
    made.leaves.append(encode_leaf(leaf))
    made.tree.append(leaf_hash(made.leaves[-1]))
    made.add(3)
    return made


async def reopen(centre: RunningCoordinator) -> int:
    request = admin_pb2.AgentRequest(tenant="acme", agent="north", reason="disk lost")
    return int((await centre.admin.ReopenLog(request)).epoch)


@attack("W39")
async def test_an_epoch_begins_when_an_operator_opened_it(
    centre: RunningCoordinator, member: Member, log: AgentLog
) -> None:
    assert (
        await refused(centre.admin.ReopenLog(admin_pb2.AgentRequest(tenant="acme", agent="x")))
    )[0] == "NOT_FOUND"
    request = admin_pb2.AgentRequest(tenant="acme", agent="north", reason="r")
    assert (await refused(centre.admin.ReopenLog(request)))[1] == "no_epoch"
    first = Process(member, log, 1)
    await first.begin()
    await first.upload()
    await first.witness(0, 3)
    second = next_epoch(member, log, 3)
    process = Process(member, second, 1)
    assert (await refused(process.begin()))[1] == "epoch_not_open"
    assert (await refused(process.upload()))[1] == "epoch_not_open"
    assert await reopen(centre) == 2
    assert await reopen(centre) == 2
    assert (await member.audit.Head(audit_pb2.HeadRequest(epoch=1))).epoch_open == 2
    await process.begin()
    assert await process.upload() == 5
    await process.witness(0, 5)
    # The first has ended where it was cosigned last, for good.
    log.key = first.key
    for call in (first.upload(), first.witness(3, 4), first.begin(old=3)):
        assert (await refused(call))[1] == "fenced"
    third = next_epoch(member, second, 5)
    assert (await refused(Process(member, third, 1).begin()))[1] == "epoch_not_open"
    last = await centre.up.parts.store.read(
        lambda tx: list(tx.operators.leaves(0, tx.operators.state().size))[-1]
    )
    assert b"ReopenLog" in last.data


@attack("W40")
@pytest.mark.parametrize(
    "change",
    [{"size": "2"}, {"root": "0" * 64}, {"origin": "example.org/acme/south/e1"}],
    ids=["size", "root", "origin"],
)
async def test_an_epoch_links_the_last_cosigned_head(
    centre: RunningCoordinator, member: Member, log: AgentLog, change: dict[str, str]
) -> None:
    first = Process(member, log, 1)
    await first.begin()
    await first.upload()
    await first.witness(0, 3)
    await reopen(centre)
    process = Process(member, next_epoch(member, log, 3, change), 1)
    await process.begin()
    status, code, text = await refused(process.upload())
    assert (status, code) == ("INVALID_ARGUMENT", "leaf")
    assert f"another {next(iter(change))}" in text
    plain = member.log(2)
    plain.add(3)
    assert "not an EPOCH" in (await refused(Process(member, plain, 1).upload()))[2]


@attack("W41")
async def test_a_new_home_under_the_name_needs_a_new_epoch(
    centre: RunningCoordinator, member: Member, log: AgentLog
) -> None:
    await Process(member, log, 1).begin()
    request = admin_pb2.AgentRequest(tenant="acme", agent="north", reason="r")
    await centre.admin.EvictAgent(request)
    again = await centre.enroll("acme", "north")
    fresh = again.log()
    fresh.add(2)
    assert (await refused(Process(again, fresh, 1).begin()))[1] == "log_of_another_key"
    await reopen(centre)
    second = next_epoch(again, log, 0)
    second.identity = again.audit_key
    process = Process(again, second, 1)
    await process.begin()
    assert await process.upload() == 5


async def test_a_bundle_of_two_epochs_verifies(
    centre: RunningCoordinator, member: Member, log: AgentLog, tmp_path: Any
) -> None:
    first = Process(member, log, 1)
    await first.begin()
    await first.upload()
    await first.witness(0, 3)
    await reopen(centre)
    second = next_epoch(member, log, 3)
    process = Process(member, second, 1)
    await process.begin()
    await process.upload()
    await process.witness(0, 5)
    path = tmp_path / "bundle.zip"
    with path.open("wb") as file:
        async for chunk in centre.admin.ExportAudit(admin_pb2.ExportAuditRequest(tenant="acme")):
            file.write(chunk.data)
    report = verify_bundle(path, witness_vkey=member.answer.witness_vkey)
    assert report.verdict is Verdict.WITNESSED, report.to_text()
    assert "epoch 2 continues" in report.to_text()


async def test_a_bundle_about_one_model(
    centre: RunningCoordinator, member: Member, tmp_path: Any
) -> None:
    log = member.log()
    log.add(1)
    for number, model in enumerate(("big", "small", "big")):
        for kind in (LeafType.INTENT, LeafType.RESULT):
            body = {"decision": f"d{number}", "model": {"name": model}, "intent": "1"}
            log.append(kind, body)
    log.add(1)
    process = Process(member, log, 1)
    await process.begin()
    await process.upload()
    await process.witness(0, 8)
    request = admin_pb2.ExportAuditRequest(tenant="acme", models=["small"])
    path = tmp_path / "bundle.zip"
    with path.open("wb") as file:
        async for chunk in centre.admin.ExportAudit(request):
            file.write(chunk.data)
    report = verify_bundle(path, witness_vkey=member.answer.witness_vkey)
    assert report.verdict is Verdict.WITNESSED, report.to_text()
    assert "4 records of the range were not asked for" in report.to_text()
    last = await centre.up.parts.store.read(
        lambda tx: list(tx.operators.leaves(0, tx.operators.state().size))[-1]
    )
    assert b'"models":"small"' in last.data
    request = admin_pb2.ExportAuditRequest(tenant="acme", models=["x" * 256])
    call = centre.admin.ExportAudit(request)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
