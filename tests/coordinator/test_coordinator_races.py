"""Two at once, and failures in the middle: exactly one wins, and nothing is half-recorded."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from exclave_coordinator.audit.export import Exporter
from exclave_coordinator.audit.oplog import Act
from exclave_coordinator.errors import SetupError, StorageError, StorageFull
from exclave_coordinator.fleet.registry import Registry
from exclave_coordinator.fleet.sessions import Sessions
from exclave_coordinator.ports import Agent, AgentKey, Observed, Tx
from exclave_coordinator.releases.publish import ONLINE_LIFE
from exclave_coordinator.system import SystemRng
from exclave_protocol.pb import admin_pb2, artifact_pb2, audit_pb2, fleet_pb2
from exclave_protocol.release import digest_of
from exclave_protocol.wire import CHUNK
from exclave_testing.clock import FakeClock
from exclave_testing.coordinator import (
    TIMEOUT,
    RunningCoordinator,
    Signers,
    new_key,
    refused,
    release_blobs,
    running_coordinator,
)


async def test_one_token_two_machines(centre: RunningCoordinator) -> None:
    await centre.tenant("acme")
    token = await centre.token("acme")
    results = await asyncio.gather(
        *(
            centre.enrollment.Enroll(centre.request("acme", token, new_key(), agent=f"a{n}"))
            for n in range(8)
        ),
        return_exceptions=True,
    )
    refusals = [r for r in results if isinstance(r, grpc.aio.AioRpcError)]
    assert len(refusals) == 7
    assert {dict(r.trailing_metadata() or ())["exclave-code"] for r in refusals} == {"token_spent"}
    listed = await centre.admin.ListAgents(admin_pb2.ListAgentsRequest(tenant="acme"))
    assert len(listed.agents) == 1


async def test_two_witness_requests_on_one_size(centre: RunningCoordinator) -> None:
    await centre.tenant("acme")
    member = await centre.enroll("acme", "north")
    log = member.log()
    log.add(8)
    await member.audit.Append(audit_pb2.AppendRequest(epoch=1, leaves=log.leaves))
    results = await asyncio.gather(
        *(
            member.audit.Witness(
                audit_pb2.WitnessRequest(epoch=1, old_size=0, checkpoint=log.checkpoint(size))
            )
            for size in (4, 5, 6, 7)
        ),
        return_exceptions=True,
    )
    won = [r for r in results if not isinstance(r, BaseException)]
    lost = [r for r in results if isinstance(r, grpc.aio.AioRpcError)]
    assert (len(won), len(lost)) == (1, 3)
    assert {r.code().name for r in lost} == {"ABORTED"}


async def test_two_publications_of_one_base(centre: RunningCoordinator) -> None:
    tenant = await centre.tenant("acme")
    people, blobs = Signers(), release_blobs("acme", 1)
    await centre.upload("acme", blobs)
    root = people.root(tenant, ("ann", "bob"))
    offers = [people.targets(v, blobs, ("ann", "bob")) for v in (1, 2, 3)]
    results = await asyncio.gather(
        *(centre.publish("acme", [root], targets) for targets in offers), return_exceptions=True
    )
    won = [r for r in results if not isinstance(r, BaseException)]
    assert len(won) >= 1
    shown = await centre.admin.GetTenant(admin_pb2.GetTenantRequest(name="acme"))
    assert shown.root_version == 1
    name = f"{shown.targets_version}.targets.json"
    stored = await centre.read(lambda tx: tx.releases.metadata("acme", name))
    assert stored == offers[shown.targets_version - 1]


async def test_a_ban_while_hello_is_awaited_leaves_no_session(centre: RunningCoordinator) -> None:
    await centre.tenant("acme")
    member = await centre.enroll("acme", "north")
    call = member.fleet.Session()
    # The stream is open on the server once a second one of the same channel has answered.
    await member.audit.Head(audit_pb2.HeadRequest(epoch=1), timeout=TIMEOUT)
    ban = admin_pb2.AgentRequest(tenant="acme", agent="north")
    await centre.admin.BanAgent(ban, timeout=TIMEOUT)
    await call.write(fleet_pb2.AgentMessage(hello=fleet_pb2.Hello(version="1", boot_id="b")))
    assert (await refused(call.read()))[:2] == ("PERMISSION_DENIED", "banned")
    assert not centre.up.parts.sessions.connected(member.agent)


async def test_a_ban_ends_a_download_under_way(centre: RunningCoordinator) -> None:
    await centre.tenant("acme")
    member = await centre.enroll("acme", "north")
    data = bytes(24 << 20)
    header = admin_pb2.TargetHeader(tenant="acme", sha256=digest_of(data), length=len(data))
    parts = [data[i : i + CHUNK] for i in range(0, len(data), CHUNK)]
    messages = [
        admin_pb2.UploadTargetRequest(header=header),
        *(admin_pb2.UploadTargetRequest(data=part) for part in parts),
    ]
    await centre.admin.UploadTarget(iter(messages), timeout=TIMEOUT)
    call = member.artifact.Read(artifact_pb2.ReadRequest(sha256=digest_of(data)))
    got = len((await asyncio.wait_for(call.read(), TIMEOUT)).data)
    ban = admin_pb2.AgentRequest(tenant="acme", agent="north")
    await centre.admin.BanAgent(ban, timeout=TIMEOUT)

    async def rest() -> None:
        nonlocal got
        while (piece := await call.read()) is not grpc.aio.EOF:
            got += len(piece.data)

    assert (await refused(rest()))[:2] == ("PERMISSION_DENIED", "banned")
    assert got < len(data)


async def test_one_tenants_lost_keys_do_not_stop_the_others(centre: RunningCoordinator) -> None:
    for name in ("acme", "zeta"):
        await centre.release(await centre.tenant(name))
    (centre.home.keys / "tenants" / "acme" / "timestamp.key").unlink()
    centre.clock.offset = ONLINE_LIFE // 2 + 1
    with pytest.raises(SetupError, match=r"timestamp\.key"):
        await centre.up.parts.publisher.refresh()
    versions = await centre.read(lambda tx: {t.name: t.timestamp_version for t in tx.tenants.all()})
    assert versions == {"acme": 1, "zeta": 2}


@pytest.mark.parametrize("harm", ["missing", "damaged", "exposed", "a folder"])
async def test_one_tenants_unusable_key_does_not_stop_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    async with running_coordinator(tmp_path / "home") as centre:
        for name in ("acme", "beta", "zeta"):
            await centre.release(await centre.tenant(name))
        home = centre.home
    home.restored_mark.write_text('{"created": 1, "manifest_sha256": ""}')  # all are due
    for name in ("acme", "beta"):
        key = home.keys / "tenants" / name / "timestamp.key"
        if harm == "exposed":
            key.chmod(0o644)
        elif harm == "damaged":
            key.write_bytes(b"nonsense")
        else:
            key.unlink()
        if harm == "a folder":
            key.mkdir(mode=0o700)
    async with running_coordinator(home.path) as centre:
        tenants = await centre.read(lambda tx: tx.tenants.all())
    assert {t.name: t.timestamp_expires > 0 for t in tenants} == {
        "acme": False,
        "beta": False,
        "zeta": True,
    }
    for name in ("acme", "beta"):
        assert f"{name}/timestamp.key" in caplog.text


async def test_a_release_under_another_name_is_refused(centre: RunningCoordinator) -> None:
    tenant = await centre.tenant("acme")
    people, blobs = Signers(), release_blobs("acme", 1)
    await centre.upload("acme", blobs)
    renamed = {
        path if path.startswith("policies/") else "releases/other.json": data
        for path, data in blobs.items()
    }
    offer = centre.publish(
        "acme",
        [people.root(tenant, ("ann", "bob"))],
        people.targets(1, renamed, ("ann", "bob")),
    )
    status, code, message = await refused(offer)
    assert (status, code) == ("INVALID_ARGUMENT", "release")
    assert "digest" in message


async def test_strangers_send_only_small_messages(centre: RunningCoordinator) -> None:
    await centre.tenant("acme")
    request = centre.request("acme", await centre.token("acme"), new_key())
    request.audit_public_key = bytes(1 << 20)
    assert (await refused(centre.enrollment.Enroll(request)))[0] == "RESOURCE_EXHAUSTED"


async def test_exports_leave_readers_to_the_agents(
    centre: RunningCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    await centre.tenant("acme")
    gate = threading.Event()
    write = Exporter._write

    def slowly(self: Exporter, *arguments: Any) -> Any:
        assert gate.wait(30)
        return write(self, *arguments)

    monkeypatch.setattr(Exporter, "_write", slowly)
    calls = [
        centre.admin.ExportAudit(admin_pb2.ExportAuditRequest(tenant="acme")) for _ in range(8)
    ]
    reads = [asyncio.create_task(call.read()) for call in calls]
    try:
        for _ in range(4):
            await centre.admin.GetTenant(admin_pb2.GetTenantRequest(name="acme"), timeout=TIMEOUT)
    finally:
        gate.set()
    assert all(piece.data.startswith(b"PK") for piece in await asyncio.gather(*reads))


async def test_an_export_to_a_full_disk_says_so(
    centre: RunningCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    await centre.tenant("acme")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Exporter, "_write", full)
    call = centre.admin.ExportAudit(admin_pb2.ExportAuditRequest(tenant="acme"))
    assert (await refused(call.read()))[:2] == ("RESOURCE_EXHAUSTED", "storage_full")


async def test_a_change_that_cannot_be_recorded_does_not_happen(
    centre: RunningCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    await centre.tenant("acme")
    await centre.enroll("acme", "north")

    def full(_tx: Tx, _act: Act, _outcome: str, _code: str = "") -> int:
        raise StorageFull("the disk is full")

    monkeypatch.setattr(centre.up.parts.operators, "append", full)
    ban = admin_pb2.AgentRequest(tenant="acme", agent="north")
    assert (await refused(centre.admin.BanAgent(ban)))[:2] == ("RESOURCE_EXHAUSTED", "storage_full")
    assert (await refused(centre.tenant("other")))[0] == "RESOURCE_EXHAUSTED"
    listed = await centre.admin.ListAgents(admin_pb2.ListAgentsRequest())
    assert [a.state for a in listed.agents] == [admin_pb2.Agent.State.ACTIVE]
    tenants = await centre.admin.ListTenants(admin_pb2.ListTenantsRequest())
    assert [t.name for t in tenants.tenants] == ["acme"]


class BrokenStore:
    """ports.Store that fails as often as told, then remembers what was written."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.batches = 0

    async def write(self, job: Callable[[Tx], Any], *, after: Any = None) -> Any:
        if self.failures:
            self.failures -= 1
            raise StorageError("no luck")
        self.batches += 1

    async def read(self, job: Callable[[Tx], Any]) -> Any:
        raise AssertionError("sessions never read")


class RunningClock(FakeClock):
    """A fake clock that also tells whole seconds."""

    def now(self) -> int:
        return self.now_ns() // 10**9


async def test_observations_survive_a_failing_store_and_gather_into_batches() -> None:
    clock, store, registry = RunningClock(), BrokenStore(failures=2), Registry()
    registry.load(
        [Agent(AgentKey("acme", f"a{n}"), "active", b"k", b"", bytes(32), 1) for n in range(50)]
    )
    sessions = Sessions(store, registry, limit=100, clock=clock, rng=SystemRng())
    task = asyncio.create_task(sessions.collect())
    for _ in range(3):
        for member in registry.of_tenant("acme"):
            sessions.observe(member, Observed(generation=1))
    for _ in range(2):
        await clock.until_sleepers(1)
        await clock.advance(0.05)
        await clock.until_sleepers(1)
        assert store.batches == 0
        await clock.advance(1.0)
    await clock.until_sleepers(1)
    await clock.advance(0.05)
    assert store.batches == 1
    await clock.advance(5)
    assert store.batches == 1  # nothing new: nothing written
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
