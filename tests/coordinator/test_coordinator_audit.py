"""Leaves come up whole and in order; the witness signs nothing that contradicts them."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any

import pytest

from exclave_protocol import layout
from exclave_protocol.checkpoint import verify_cosignature
from exclave_protocol.evidence import verify_bundle
from exclave_protocol.note import VerifyKey, open_note, split_note
from exclave_protocol.pb import admin_pb2, audit_pb2
from exclave_protocol.standalone import verifier
from exclave_testing.coordinator import (
    TIMEOUT,
    AgentLog,
    Member,
    RunningCoordinator,
    refused,
    running_coordinator,
)


async def _append(member: Member, log: AgentLog, begin: int, end: int | None = None) -> int:
    answer = await member.audit.Append(
        audit_pb2.AppendRequest(epoch=log.epoch, first_seq=begin, leaves=log.leaves[begin:end]),
        timeout=TIMEOUT,
    )
    return int(answer.size)


def _witness(log: AgentLog, old: int, new: int, **change: Any) -> audit_pb2.WitnessRequest:
    fields: dict[str, Any] = {
        "epoch": log.epoch,
        "old_size": old,
        "consistency_proof": log.proof(old, new),
        "checkpoint": log.checkpoint(new),
    }
    return audit_pb2.WitnessRequest(**{**fields, **change})


@pytest.fixture
async def member(centre: RunningCoordinator) -> Member:
    """An agent of acme."""
    await centre.tenant("acme")
    return await centre.enroll("acme", "north")


async def test_append_is_idempotent_and_resumes(member: Member) -> None:
    log = member.log()
    log.add(10)
    assert await _append(member, log, 0, 4) == 4
    assert await _append(member, log, 0, 4) == 4
    assert await _append(member, log, 2) == 10
    assert await _append(member, log, 10) == 10
    head = await member.audit.Head(audit_pb2.HeadRequest(epoch=1))
    assert (head.size, head.witnessed_size) == (10, 0)


async def test_append_gap(member: Member) -> None:
    log = member.log()
    log.add(5)
    await _append(member, log, 0, 3)
    assert (await refused(_append(member, log, 4)))[:2] == ("OUT_OF_RANGE", "gap")


async def test_append_conflict_is_kept_as_evidence(
    centre: RunningCoordinator, member: Member
) -> None:
    log, fork = member.log(), member.log()
    log.add(5)
    fork.add(3)
    fork.add(2, note="another story")
    await _append(member, log, 0)
    for _ in range(2):
        assert (await refused(_append(member, fork, 2)))[:2] == ("ALREADY_EXISTS", "conflict")
    kept = await centre.read(lambda tx: tx.logs.evidence(member.agent))
    assert [(e.kind, e.seq, e.data) for e in kept] == [("leaf", 3, fork.leaves[3])]
    assert await _append(member, log, 0) == 5


@pytest.mark.parametrize("fault", ["origin", "seq", "prev", "inner", "bytes", "genesis", "long"])
async def test_append_refuses_leaves_that_do_not_belong(member: Member, fault: str) -> None:
    log = member.log()
    log.add(4)
    await _append(member, log, 0, 1)
    leaves, first = log.leaves[1:], 1
    if fault == "origin":
        other = AgentLog("example.org/acme/south/e1", 1, member.audit_key)
        other.add(4)
        leaves = other.leaves[1:]
    elif fault == "seq":
        leaves = log.leaves[2:]
    elif fault == "prev":
        other = member.log()
        other.add(4, note="x")
        leaves = other.leaves[1:]
    elif fault == "inner":
        leaves = [log.leaves[1], log.leaves[3]]
    elif fault == "bytes":
        leaves = [log.leaves[1].replace(b'"v":1', b'"v": 1')]
    elif fault == "genesis":
        leaves = [log.leaves[1].replace(b"HEARTBEAT", b"GENESIS")]
    elif fault == "long":
        leaves = [bytes(65_536)]
    request = audit_pb2.AppendRequest(epoch=1, first_seq=first, leaves=leaves)
    assert (await refused(member.audit.Append(request)))[0] == "INVALID_ARGUMENT"
    assert (await member.audit.Head(audit_pb2.HeadRequest(epoch=1))).size == 1


async def test_append_batch_limits(member: Member) -> None:
    for leaves in ([b"x"] * 1025, [bytes(65_000)] * 33):
        request = audit_pb2.AppendRequest(epoch=1, first_seq=0, leaves=leaves)
        assert (await refused(member.audit.Append(request)))[0] == "RESOURCE_EXHAUSTED"
    assert (await refused(member.audit.Append(audit_pb2.AppendRequest())))[0] == "INVALID_ARGUMENT"


async def test_witness_cosigns_growth_and_remembers(
    centre: RunningCoordinator, member: Member
) -> None:
    log = member.log()
    log.add(20)
    await _append(member, log, 0)
    key = VerifyKey.parse(member.answer.witness_vkey)
    old = 0
    for size in (1, 7, 8, 8, 20):
        answer = await member.audit.Witness(_witness(log, old, size), timeout=TIMEOUT)
        at = verify_cosignature(split_note(log.checkpoint(size))[0], answer.cosignature, key)
        assert abs(at - centre.clock.now()) < 10
        old = size
    head = await member.audit.Head(audit_pb2.HeadRequest(epoch=1))
    assert (head.size, head.witnessed_size) == (20, 20)
    opened = open_note(head.checkpoint, [key, log.key.verify_key])
    assert opened.text == split_note(log.checkpoint(20))[0]
    assert len(opened.verified) == 3
    # The line in the head is the very one that was given.
    assert answer.cosignature in head.checkpoint


async def test_stale_witness_request_names_the_size(member: Member) -> None:
    log = member.log()
    log.add(6)
    await _append(member, log, 0)
    await member.audit.Witness(_witness(log, 0, 4))
    for old in (0, 3, 5):
        call = member.audit.Witness(_witness(log, old, 6))
        assert (await refused(call))[:2] == ("ABORTED", "stale")
        assert dict(await call.trailing_metadata())["witness-size-bin"] == b"4"
    await member.audit.Witness(_witness(log, 4, 6))


async def test_witness_needs_the_leaves_first(member: Member) -> None:
    log = member.log()
    log.add(6)
    assert (await refused(member.audit.Witness(_witness(log, 0, 6))))[:2] == (
        "FAILED_PRECONDITION",
        "leaves_missing",
    )
    await _append(member, log, 0, 5)
    assert (await refused(member.audit.Witness(_witness(log, 0, 6))))[1] == "leaves_missing"


async def test_a_lying_root_is_evidence_and_not_signed(
    centre: RunningCoordinator, member: Member
) -> None:
    log = member.log()
    log.add(6)
    await _append(member, log, 0)
    await member.audit.Witness(_witness(log, 0, 4))
    lie = log.checkpoint(6, root=hashlib.sha256(b"lie").digest())
    assert (await refused(member.audit.Witness(_witness(log, 4, 6, checkpoint=lie))))[0] == (
        "DATA_LOSS"
    )
    fork = log.checkpoint(4, root=hashlib.sha256(b"fork").digest())
    call = member.audit.Witness(_witness(log, 4, 4, checkpoint=fork))
    assert (await refused(call))[:2] == ("DATA_LOSS", "inconsistent")
    wrong = [hashlib.sha256(b"x").digest()] * len(log.proof(4, 6))
    call = member.audit.Witness(_witness(log, 4, 6, consistency_proof=wrong))
    assert (await refused(call))[0] == "DATA_LOSS"
    kept = await centre.read(lambda tx: tx.logs.evidence(member.agent))
    assert [(e.kind, e.seq) for e in kept] == [("root", 6), ("fork", 4), ("proof", 6)]
    assert [e.data for e in kept][:2] == [lie, fork]
    samples = {
        s.labels["kind"]: s.value
        for m in centre.up.parts.metrics.registry.collect()
        for s in m.samples
        if s.name == "exclave_coordinator_contradictions_total"
    }
    assert samples == {"root": 1.0, "fork": 1.0, "proof": 1.0}
    assert (await member.audit.Head(audit_pb2.HeadRequest(epoch=1))).witnessed_size == 4
    await member.audit.Witness(_witness(log, 4, 6))


async def test_witness_refuses_what_is_not_this_agents(
    centre: RunningCoordinator, member: Member
) -> None:
    log = member.log()
    log.add(3)
    await _append(member, log, 0)
    other = await centre.enroll("acme", "south")
    theirs = other.log()
    theirs.add(3)
    forged = AgentLog(log.origin, 1, other.audit_key)
    forged.add(3)
    for change, status, code in (
        ({"checkpoint": theirs.checkpoint()}, "PERMISSION_DENIED", "origin"),
        ({"checkpoint": forged.checkpoint()}, "PERMISSION_DENIED", "signature"),
        ({"checkpoint": b"no note"}, "INVALID_ARGUMENT", "note"),
        ({"consistency_proof": [b"short"]}, "INVALID_ARGUMENT", "invalid"),
        ({"consistency_proof": [bytes(32)] * 64}, "INVALID_ARGUMENT", "invalid"),
    ):
        call = member.audit.Witness(_witness(log, 0, 3, **change))
        assert (await refused(call))[:2] == (status, code)


async def _export(centre: RunningCoordinator, **fields: Any) -> bytes:
    call = (await centre.operator("auditor", "eve")).ExportAudit(
        admin_pb2.ExportAuditRequest(**{"tenant": "acme", **fields}), timeout=TIMEOUT
    )
    out = io.BytesIO()
    async for chunk in call:
        assert len(chunk.data) <= 1 << 20
        out.write(chunk.data)
    return out.getvalue()


async def test_the_exported_bundle_verifies_as_witnessed(
    centre: RunningCoordinator, member: Member, tmp_path: Path
) -> None:
    log = member.log()
    log.add(12)
    await _append(member, log, 0)
    await member.audit.Witness(_witness(log, 0, 12))
    for fields in ({}, {"from": 1_900_000_003, "to": 1_900_000_009}):
        data = await _export(centre, **fields)
        path = tmp_path / "bundle.zip"
        path.write_bytes(data)
        report = verify_bundle(path)
        assert report.verdict.name == "WITNESSED", report
        with zipfile.ZipFile(path) as bundle:
            assert bundle.read(layout.VERIFIER) == verifier()
            assert b"<h1>Audit of acme</h1>" in bundle.read(layout.PAGE)
        answer = await centre.admin.ReadOperatorLog(admin_pb2.ReadOperatorLogRequest())
        assert hashlib.sha256(data).hexdigest().encode() in answer.leaves[-1]
    damaged = bytearray(data)
    with zipfile.ZipFile(path) as bundle:
        records = next(i for i in bundle.infolist() if i.filename.endswith(".jsonl"))
    damaged[records.header_offset + 100] ^= 1
    path.write_bytes(damaged)
    assert verify_bundle(path).verdict.name == "INVALID"


async def test_a_bundle_names_agents_that_sent_no_record(
    centre: RunningCoordinator, member: Member, tmp_path: Path
) -> None:
    log = member.log()
    log.add(12)
    await _append(member, log, 0)
    await member.audit.Witness(_witness(log, 0, 12))
    await centre.tenant("other")
    await centre.enroll("other", "elsewhere")
    silent = await centre.enroll("acme", "silent")
    path = tmp_path / "bundle.zip"
    path.write_bytes(await _export(centre))
    report = verify_bundle(path)
    assert report.verdict.name == "WITNESSED", report
    assert "never connected and have no log: silent" in report.to_text()
    assert "elsewhere" not in report.to_text()
    await silent.session()
    await centre.up.parts.sessions.flush()
    path.write_bytes(await _export(centre))
    report = verify_bundle(path)
    assert report.verdict.name == "INCOMPLETE", report
    assert "agent silent: has been connected, but no log of it is here" in report.to_text()


async def test_export_refuses_unknown_tenants_and_impossible_times(
    centre: RunningCoordinator, member: Member
) -> None:
    assert (await refused(_export(centre, tenant="none")))[0] == "NOT_FOUND"
    for times in ({"from": -1}, {"from": 5, "to": 5}, {"from": 2**62}):
        assert (await refused(_export(centre, **times)))[0] == "INVALID_ARGUMENT"
    assert member.tenant == "acme"


async def test_restart_keeps_logs_witness_and_identities(tmp_path: Path) -> None:
    async with running_coordinator(tmp_path / "home") as centre:
        await centre.tenant("acme")
        member = await centre.enroll("acme", "north")
        banned = await centre.enroll("acme", "gone")
        await centre.admin.BanAgent(admin_pb2.AgentRequest(tenant="acme", agent="gone"))
        log = member.log()
        log.add(9)
        await _append(member, log, 0, 6)
        await member.audit.Witness(_witness(log, 0, 5))
        before = await member.audit.Head(audit_pb2.HeadRequest(epoch=1))
    async with running_coordinator(tmp_path / "home") as centre:
        same = centre.member("acme", member.key, member.audit_key, member.token, member.answer)
        after = await same.audit.Head(audit_pb2.HeadRequest(epoch=1), timeout=TIMEOUT)
        assert after == before
        await _append(same, log, 6)
        await same.audit.Witness(_witness(log, 5, 9))
        gone = centre.member("acme", banned.key, banned.audit_key, banned.token, banned.answer)
        assert (await refused(gone.audit.Head(audit_pb2.HeadRequest(epoch=1))))[1] == "banned"


async def test_the_fleets_logs_are_listed_with_what_is_odd(
    centre: RunningCoordinator, member: Member
) -> None:
    await centre.enroll("acme", "south")
    await centre.tenant("other")
    await centre.enroll("other", "north")
    log = member.log()
    log.add(5)
    await _append(member, log, 0)
    await member.audit.Witness(_witness(log, 0, 3))
    lie = _witness(log, 3, 5, checkpoint=log.checkpoint(5, root=bytes(32)))
    assert (await refused(member.audit.Witness(lie)))[0] == "DATA_LOSS"

    async def listed(tenant: str) -> list[Any]:
        request = admin_pb2.ListAgentLogsRequest(tenant=tenant)
        return list((await centre.admin.ListAgentLogs(request, timeout=TIMEOUT)).logs)

    north, south = await listed("acme")
    assert (north.agent, north.epoch, north.size, north.witnessed_size) == ("north", 1, 5, 3)
    assert north.witnessed_at > 0 and north.last_leaf == 1_900_000_004
    assert north.contradictions == 1
    assert (south.agent, south.epoch, south.size) == ("south", 0, 0)
    assert [(each.tenant, each.agent) for each in await listed("")] == [
        ("acme", "north"),
        ("acme", "south"),
        ("other", "north"),
    ]
    assert (await refused(listed("nobody")))[0] == "NOT_FOUND"
