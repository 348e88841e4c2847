"""A coordinator that was restored goes on, ahead of what it forgot, and its auditors see it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from exclave_coordinator.backup.restore import restore
from exclave_coordinator.backup.resume import JUMP
from exclave_coordinator.backup.save import backup
from exclave_coordinator.errors import SetupError
from exclave_coordinator.home import Home
from exclave_coordinator.system import SystemClock, SystemRng
from exclave_protocol.checkpoint import verify_cosignature
from exclave_protocol.evidence import verify_bundle
from exclave_protocol.leaf import decode_leaf
from exclave_protocol.note import VerifyKey, split_note
from exclave_protocol.pb import admin_pb2, audit_pb2
from exclave_testing.coordinator import (
    TIMEOUT,
    AgentLog,
    Member,
    RunningCoordinator,
    new_key,
    refused,
    running_coordinator,
)


class Before:
    """What was known when the coordinator was lost."""

    def __init__(self, member: Member, log: AgentLog, token: Any, digest: str, home: Path) -> None:
        self.member = member
        self.log = log
        self.token = token
        self.digest = digest
        self.home = home
        """Restored from the backup, not served yet."""


async def _upload(member: Member, log: AgentLog, old: int, new: int) -> None:
    """Leaves up to `new`, cosigned; the cosignature verifies."""
    await member.audit.Append(
        audit_pb2.AppendRequest(epoch=1, first_seq=old, leaves=log.leaves[old:new]),
        timeout=TIMEOUT,
    )
    note = log.checkpoint(new)
    answer = await member.audit.Witness(
        audit_pb2.WitnessRequest(
            epoch=1, old_size=old, consistency_proof=log.proof(old, new), checkpoint=note
        ),
        timeout=TIMEOUT,
    )
    key = VerifyKey.parse(member.answer.witness_vkey)
    verify_cosignature(split_note(note)[0], answer.cosignature, key)


@pytest.fixture
async def before(tmp_path: Path) -> Before:
    """A coordinator that was backed up, worked on, and was lost."""
    clock, rng = SystemClock(), SystemRng()
    async with running_coordinator(tmp_path / "home") as centre:
        tenant = await centre.tenant("acme")
        digest = await centre.release(tenant)
        await centre.rollout("acme", digest)
        member, token = await centre.enroll("acme", "north"), await centre.token("acme")
        log = member.log()
        log.add(6)
        await _upload(member, log, 0, 3)
        saved = await asyncio.to_thread(
            backup, centre.home, tmp_path / "b.tar", version="1", clock=clock, rng=rng
        )
        await _upload(member, log, 3, 6)
        await centre.rollout("acme", digest)
        await centre.enrollment.Enroll(centre.request("acme", token, new_key()), timeout=TIMEOUT)
    restored = restore(saved.path, tmp_path / "again", clock=clock, rng=rng)
    return Before(member, log, token, digest, restored.home.path)


@pytest.fixture
async def after(before: Before) -> AsyncIterator[RunningCoordinator]:
    """It serves again."""
    async with running_coordinator(before.home) as centre:
        yield centre


def _same(before: Before, after: RunningCoordinator) -> Member:
    """The agent, dialling the coordinator where it is now."""
    old = before.member
    return after.member("acme", old.key, old.audit_key, old.token, old.answer)


async def _operators(centre: RunningCoordinator) -> list[Any]:
    answer = await centre.admin.ReadOperatorLog(admin_pb2.ReadOperatorLogRequest(), timeout=TIMEOUT)
    return [decode_leaf(leaf).body for leaf in answer.leaves]


async def test_agents_come_back_with_what_they_have(
    before: Before, after: RunningCoordinator
) -> None:
    call = await _same(before, after).session()
    call.cancel()


async def test_the_restore_is_on_the_operators_record(
    before: Before, after: RunningCoordinator, tmp_path: Path
) -> None:
    last = (await _operators(after))[-1]
    assert (last["operator"], last["action"]) == (
        "spiffe://example.org/coordinator",
        "RestoreBackup",
    )
    assert last["details"]["tokens_revoked"] == "1"
    assert len(last["details"]["manifest_sha256"]) == 64
    chunks = [
        chunk.data
        async for chunk in after.admin.ExportAudit(admin_pb2.ExportAuditRequest(tenant="acme"))
    ]
    bundle = tmp_path / "bundle.zip"
    bundle.write_bytes(b"".join(chunks))
    report = verify_bundle(bundle)
    assert report.verdict.name == "WITNESSED", report


async def test_the_witness_says_what_it_knows_and_goes_on_from_there(
    before: Before, after: RunningCoordinator
) -> None:
    member = _same(before, after)
    head = await member.audit.Head(audit_pb2.HeadRequest(epoch=1), timeout=TIMEOUT)
    assert (head.size, head.witnessed_size) == (3, 3)  # an agent that knows of 6 sees it
    await _upload(member, before.log, 3, 6)


async def test_tokens_that_may_have_been_spent_open_nothing(
    before: Before, after: RunningCoordinator
) -> None:
    request = after.request("acme", before.token, new_key())
    assert (await refused(after.enrollment.Enroll(request)))[1] == "token_revoked"
    await after.enroll("acme", "south")  # a new one does


async def test_metadata_and_generations_are_ahead_of_what_was_given_out(
    before: Before, after: RunningCoordinator
) -> None:
    answer = await after.admin.GetMetadata(
        admin_pb2.GetMetadataRequest(tenant="acme", name="timestamp.json"), timeout=TIMEOUT
    )
    assert json.loads(answer.content)["signed"]["version"] > JUMP
    rollout = await after.rollout("acme", before.digest)
    assert rollout.generation > JUMP


async def test_a_tenant_that_had_no_rollout_still_wants_nothing(tmp_path: Path) -> None:
    async with running_coordinator(tmp_path / "home") as centre:
        digest = await centre.release(await centre.tenant("acme"))
        home = centre.home
    home.restored_mark.write_text('{"created": 1, "manifest_sha256": ""}')
    async with running_coordinator(home.path) as centre:
        member = await centre.enroll("acme")
        call = await member.session()
        desired = (await asyncio.wait_for(call.read(), TIMEOUT)).desired
        assert (desired.generation, desired.assignment) == (0, b"")
        await centre.rollout("acme", digest)
        desired = (await asyncio.wait_for(call.read(), TIMEOUT)).desired
        assert (desired.generation, bool(desired.assignment)) == (JUMP + 1, True)
        call.cancel()


async def test_who_joins_again_is_not_given_the_release_of_the_backup(
    before: Before, after: RunningCoordinator
) -> None:
    new = await after.enroll("acme", "south")
    north = admin_pb2.AgentRequest(tenant="acme", agent="north")
    await after.admin.EvictAgent(north, timeout=TIMEOUT)
    for member in (new, await after.enroll("acme", "north")):
        call = await member.session()
        desired = (await asyncio.wait_for(call.read(), TIMEOUT)).desired
        assert (desired.generation, desired.assignment) == (0, b"")
        call.cancel()
    rollout = await after.rollout("acme", before.digest)
    assert rollout.generation > JUMP
    call = await new.session()
    desired = (await asyncio.wait_for(call.read(), TIMEOUT)).desired
    assert (desired.generation, bool(desired.assignment)) == (rollout.generation, True)
    call.cancel()


async def test_it_happens_once(before: Before) -> None:
    versions = []
    for _ in range(2):
        async with running_coordinator(before.home) as centre:
            assert not Home(before.home).restored_mark.exists()
            tenant = await centre.read(lambda tx: tx.tenants.get("acme"))
            versions.append((tenant.timestamp_version, tenant.desired.generation))
            acts = [body.get("action") for body in await _operators(centre)]
            assert acts.count("RestoreBackup") == 1
    assert versions[0] == versions[1]


async def test_a_marker_that_is_not_readable_is_named(before: Before) -> None:
    Home(before.home).restored_mark.write_text("{}")
    with pytest.raises(SetupError, match=r"restored\.json is not readable"):
        async with running_coordinator(before.home):
            raise AssertionError("it must not serve")
    assert Home(before.home).database.exists()
