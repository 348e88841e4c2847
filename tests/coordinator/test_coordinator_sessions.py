"""The session stream: what is desired goes down, what is observed goes up, ends are told."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from exclave_coordinator.ports import Desired
from exclave_protocol.errors import ReleaseError
from exclave_protocol.pb import admin_pb2, fleet_pb2
from exclave_protocol.release import open_assignment
from exclave_testing.coordinator import (
    TIMEOUT,
    Member,
    RunningCoordinator,
    eventually,
    running_coordinator,
)


async def _read(call: Any) -> Any:
    return await asyncio.wait_for(call.read(), TIMEOUT)


async def _to_the_end(call: Any) -> None:
    while await _read(call) is not grpc.aio.EOF:
        continue


async def _ended(call: Any) -> tuple[str, str]:
    """(reason, status) of a stream that ends with an Ended."""
    while (message := await _read(call)) is not grpc.aio.EOF:
        if message.WhichOneof("kind") == "ended":
            reason = fleet_pb2.Ended.Reason.Name(message.ended.reason)
            return reason, (await call.code()).name
    raise AssertionError(f"ended without Ended: {await call.code()}")


def _observed(generation: int, digest: str, phase: str = "PHASE_APPLIED") -> Any:
    return fleet_pb2.AgentMessage(
        observed=fleet_pb2.Observed(
            generation=generation,
            phase=phase,
            release_digest=digest,
            audit_size=7,
            audit_epoch=1,
        )
    )


async def _agent(centre: RunningCoordinator, member: Member) -> admin_pb2.Agent:
    listed = await centre.admin.ListAgents(admin_pb2.ListAgentsRequest(tenant=member.tenant))
    found: admin_pb2.Agent = next(a for a in listed.agents if a.name == member.name)
    return found


async def test_rollout_reaches_the_agent_signed_and_its_word_is_recorded(
    centre: RunningCoordinator,
) -> None:
    tenant = await centre.tenant("acme")
    member = await centre.enroll("acme", "north")
    call = await member.session()
    first = await _read(call)
    assert (first.desired.generation, first.desired.assignment) == (0, b"")
    digest = await centre.release(tenant)
    rollout = await centre.rollout("acme", digest)
    assert (rollout.generation, rollout.agents, rollout.applied) == (1, 1, 0)
    desired = (await _read(call)).desired
    director = Ed25519PublicKey.from_public_bytes(member.answer.director_public_key)
    assignment = open_assignment(desired.assignment, [director])
    assert (assignment.tenant, assignment.agent) == ("acme", "north")
    assert (assignment.generation, assignment.release_digest) == (1, digest)
    assert assignment.rollout == rollout.rollout
    assert assignment.issued <= centre.clock.now() < assignment.expires
    stranger = Ed25519PublicKey.from_public_bytes(bytes(31) + b"\x01")
    with pytest.raises(ReleaseError):
        open_assignment(desired.assignment, [stranger])
    await call.write(_observed(1, digest))

    async def status() -> Any:
        return await centre.admin.GetRollout(admin_pb2.GetRolloutRequest(tenant="acme"))

    async with asyncio.timeout(TIMEOUT):
        while (await status()).applied != 1:
            await asyncio.sleep(0.01)
    assert not (await status()).pending
    shown = await _agent(centre, member)
    assert shown.connected
    assert shown.observed.release_digest == digest
    assert shown.desired_generation == 1
    assert shown.version == "1.0"
    call.cancel()


async def test_failed_agents_are_counted_and_listed(centre: RunningCoordinator) -> None:
    tenant = await centre.tenant("acme")
    north, _south = await centre.enroll("acme", "north"), await centre.enroll("acme", "south")
    digest = await centre.release(tenant)
    await centre.rollout("acme", digest)
    call = await north.session()
    message = _observed(1, "", "PHASE_FAILED")
    message.observed.error_code = "model_load_failed"
    await call.write(message)
    async with asyncio.timeout(TIMEOUT):
        while True:
            rollout = await centre.admin.GetRollout(admin_pb2.GetRolloutRequest(tenant="acme"))
            if rollout.failed:
                break
            await asyncio.sleep(0.01)
    assert (rollout.agents, rollout.applied, rollout.failed) == (2, 0, 1)
    assert [a.name for a in rollout.pending] == ["north", "south"]
    assert rollout.pending[0].observed.error_code == "model_load_failed"
    # The next rollout takes the agents; the former keeps its figures.
    second = await centre.rollout("acme", digest)
    assert second.generation == 2
    former = await centre.admin.GetRollout(
        admin_pb2.GetRolloutRequest(tenant="acme", rollout=rollout.rollout)
    )
    assert (former.agents, former.applied, former.failed) == (2, 0, 1)
    call.cancel()


async def test_desired_is_reconciled_on_connection_and_for_late_joiners(
    centre: RunningCoordinator,
) -> None:
    tenant = await centre.tenant("acme")
    digest = await centre.release(tenant)
    await centre.rollout("acme", digest)
    await centre.rollout("acme", digest)
    member = await centre.enroll("acme", "late")
    call = await member.session()
    assert (await _read(call)).desired.generation == 2
    call.cancel()


async def test_only_the_latest_desire_is_sent(centre: RunningCoordinator) -> None:
    await centre.tenant("acme")
    member = await centre.enroll("acme", "north")
    registered = centre.up.parts.registry.get(member.agent)
    assert registered is not None
    session = centre.up.parts.sessions.open(registered, 2**40)
    assert await session.next() == Desired()
    for generation in range(1, 50):
        centre.up.parts.sessions.assign("acme", Desired(generation, "a" * 64, "r"))
    assert await session.next() == Desired(49, "a" * 64, "r")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(session.next(), 0.02)
    centre.up.parts.sessions.leave(session)


async def test_a_second_stream_replaces_the_first(centre: RunningCoordinator) -> None:
    await centre.tenant("acme")
    member = await centre.enroll("acme", "north")
    first = await member.session()
    second = await member.session()
    assert await _ended(first) == ("REPLACED", "ABORTED")
    assert (await _read(second)).WhichOneof("kind") == "desired"
    assert centre.up.parts.sessions.connected(member.agent)
    second.cancel()
    await eventually("disconnected", lambda: not centre.up.parts.sessions.connected(member.agent))


async def test_banned_agent_is_told_in_its_live_stream_and_refused_later(
    centre: RunningCoordinator,
) -> None:
    await centre.tenant("acme")
    member = await centre.enroll("acme", "north")
    call = await member.session()
    await centre.admin.BanAgent(admin_pb2.AgentRequest(tenant="acme", agent="north"))
    assert await _ended(call) == ("BANNED", "PERMISSION_DENIED")
    again = member.fleet.Session()
    await again.write(fleet_pb2.AgentMessage(hello=fleet_pb2.Hello()))
    assert await _ended(again) == ("BANNED", "PERMISSION_DENIED")
    assert dict(await again.trailing_metadata())["exclave-code"] == "banned"


async def test_evicted_agent_is_told_when_to_come_back(centre: RunningCoordinator) -> None:
    await centre.tenant("acme")
    member = await centre.enroll("acme", "north")
    call = await member.session()
    await centre.admin.EvictAgent(admin_pb2.AgentRequest(tenant="acme", agent="north"))
    assert await _ended(call) == ("EVICTED", "PERMISSION_DENIED")


async def test_a_certificate_that_runs_out_ends_the_stream(centre: RunningCoordinator) -> None:
    await centre.tenant("acme")
    member = await centre.enroll("acme", "north")
    call = await member.session()
    centre.up.parts.sessions.end_expired()
    assert not call.done()
    centre.clock.offset = 86_401
    centre.up.parts.sessions.end_expired()
    assert await _ended(call) == ("EXPIRED", "UNAUTHENTICATED")


@pytest.mark.parametrize(
    "message",
    [
        _observed(1, "a" * 64),
        fleet_pb2.AgentMessage(),
        fleet_pb2.AgentMessage(hello=fleet_pb2.Hello(version="x" * 65)),
    ],
)
async def test_a_stream_must_begin_with_a_sound_hello(
    centre: RunningCoordinator, message: fleet_pb2.AgentMessage
) -> None:
    await centre.tenant("acme")
    member = await centre.enroll("acme", "north")
    call = member.fleet.Session()
    await call.write(message)
    assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert not centre.up.parts.sessions.connected(member.agent)


@pytest.mark.parametrize(
    "observed",
    [
        fleet_pb2.Observed(release_digest="zz"),
        fleet_pb2.Observed(generation=2**63),
        fleet_pb2.Observed(phase=99),  # type: ignore[arg-type]  # that is the point
    ],
)
async def test_nonsense_observations_end_the_stream(
    centre: RunningCoordinator, observed: fleet_pb2.Observed
) -> None:
    await centre.tenant("acme")
    member = await centre.enroll("acme", "north")
    call = await member.session()
    await call.write(fleet_pb2.AgentMessage(observed=observed))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _to_the_end(call)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_session_limit_says_when_to_come_back(tmp_path: Path) -> None:
    async with running_coordinator(tmp_path / "home", max_sessions=1) as centre:
        await centre.tenant("acme")
        north, south = await centre.enroll("acme", "north"), await centre.enroll("acme", "south")
        call = await north.session()
        other = south.fleet.Session()
        await other.write(fleet_pb2.AgentMessage(hello=fleet_pb2.Hello()))
        assert await _ended(other) == ("DRAINING", "RESOURCE_EXHAUSTED")
        assert int(dict(await other.trailing_metadata())["retry-after"]) > 0
        call.cancel()


async def test_stopping_tells_agents_to_come_back_and_keeps_what_they_said(
    tmp_path: Path,
) -> None:
    async with running_coordinator(tmp_path / "home") as centre:
        tenant = await centre.tenant("acme")
        member = await centre.enroll("acme", "north")
        digest = await centre.release(tenant)
        await centre.rollout("acme", digest)
        call = await member.session()
        assert (await _read(call)).desired.generation == 1
        await call.write(_observed(1, digest))
        counts = fleet_pb2.AgentMessage()
        counts.counts.answered = 3
        await call.write(counts)
        registered = centre.up.parts.registry.get(member.agent)
        assert registered is not None
        await eventually("counts arrived", lambda: registered.presence.counts.answered == 3)
        reading = asyncio.create_task(_ended(call))
        await asyncio.sleep(0)
        # Channels are closed by the fixture only after the block: the drain runs before.
        centre.close = _nothing  # type: ignore[method-assign]
    assert (await reading)[0] == "DRAINING"
    await RunningCoordinator.close(centre)
    async with running_coordinator(tmp_path / "home") as centre:
        rollout = await centre.admin.GetRollout(admin_pb2.GetRolloutRequest(tenant="acme"))
        assert (rollout.agents, rollout.applied) == (1, 1)
        shown = await _agent(centre, member)
        assert shown.counts.answered == 3
        assert not shown.connected
        assert shown.last_seen > 0


async def _nothing() -> None:
    return
