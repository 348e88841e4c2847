"""Signed metadata is taken in only as an agent would; artifacts are whole or not there."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from exclave_coordinator.releases.publish import ONLINE_LIFE
from exclave_protocol import tufmeta
from exclave_protocol.pb import admin_pb2, artifact_pb2
from exclave_protocol.release import digest_of
from exclave_testing.coordinator import (
    TIMEOUT,
    RunningCoordinator,
    Signers,
    refused,
    release_blobs,
    running_coordinator,
)

TWO = ("ann", "bob")


async def _metadata(centre: RunningCoordinator, name: str) -> bytes:
    request = admin_pb2.GetMetadataRequest(tenant="acme", name=name)
    content: bytes = (await centre.admin.GetMetadata(request, timeout=TIMEOUT)).content
    return content


async def test_published_repository_is_whole_and_consistent(centre: RunningCoordinator) -> None:
    tenant = await centre.tenant("acme")
    digest = await centre.release(tenant)
    shown = await centre.admin.GetTenant(admin_pb2.GetTenantRequest(name="acme"))
    assert (shown.root_version, shown.targets_version) == (1, 1)
    root = await _metadata(centre, "1.root.json")
    assert shown.root_pin.hex() == tufmeta.root_pin(root)
    trusted = tufmeta.load_root(root).signed
    timestamp = tufmeta.load_timestamp(await _metadata(centre, "timestamp.json"))
    tufmeta.require_signatures(timestamp, trusted, "timestamp")
    snapshot_bytes = await _metadata(centre, "1.snapshot.json")
    timestamp.signed.snapshot_meta.verify_length_and_hashes(snapshot_bytes)
    snapshot = tufmeta.load_snapshot(snapshot_bytes)
    tufmeta.require_signatures(snapshot, trusted, "snapshot")
    assert snapshot.signed.meta["targets.json"].version == 1
    assert await _metadata(centre, "1.targets.json") == await _metadata(centre, "targets.json")
    assert (await refused(_metadata(centre, "2.root.json")))[0] == "NOT_FOUND"
    assert (await refused(_metadata(centre, "../ca.key")))[0] == "INVALID_ARGUMENT"
    assert (await centre.rollout("acme", digest)).generation == 1


async def test_under_signed_publication_says_what_is_missing(centre: RunningCoordinator) -> None:
    tenant = await centre.tenant("acme")
    people, blobs = Signers(), release_blobs("acme", 1)
    await centre.upload("acme", blobs)
    root, targets = people.root(tenant, TWO), people.targets(1, blobs, ["cho"])
    status, code, message = await refused(centre.publish("acme", [root], targets))
    assert (status, code) == ("FAILED_PRECONDITION", "under_signed")
    missing = tufmeta.missing_signatures(
        tufmeta.load_targets(targets), tufmeta.load_root(root).signed, "targets"
    )
    assert "1 of 2" in message
    assert all(keyid in message for keyid in missing.missing_keyids)
    assert len(missing.missing_keyids) == 2
    # Nothing was taken in, not even the root, which was well signed.
    assert (await refused(_metadata(centre, "root.json")))[0] == "NOT_FOUND"
    alone = people.root(tenant, ["ann"])
    good = people.targets(1, blobs, TWO)
    assert (await refused(centre.publish("acme", [alone], good)))[1] == "under_signed"
    leaf = (await centre.admin.ReadOperatorLog(admin_pb2.ReadOperatorLogRequest())).leaves[-1]
    assert b'"code":"under_signed"' in leaf


async def test_rolled_back_and_expired_targets(centre: RunningCoordinator) -> None:
    tenant = await centre.tenant("acme")
    await centre.release(tenant)
    people, blobs = Signers(), release_blobs("acme", 2, rule="second")
    await centre.upload("acme", blobs)
    await centre.publish("acme", [], people.targets(5, blobs, TWO))
    for version in (1, 4, 5):
        call = centre.publish("acme", [], people.targets(version, blobs, TWO))
        status, _, message = await refused(call)
        assert status == "INVALID_ARGUMENT"
        assert "rolled back" in message
    expired = people.targets(6, blobs, TWO, days=-1)
    status, _, message = await refused(centre.publish("acme", [], expired))
    assert (status, "expired" in message) == ("INVALID_ARGUMENT", True)
    shown = await centre.admin.GetTenant(admin_pb2.GetTenantRequest(name="acme"))
    assert shown.targets_version == 5


async def test_root_must_name_our_online_keys(centre: RunningCoordinator) -> None:
    tenant = await centre.tenant("acme")
    other = await centre.tenant("other")
    people = Signers()
    call = centre.publish("acme", [people.root(other, TWO)], b"")
    assert (await refused(call))[:2] == ("FAILED_PRECONDITION", "root_keys")
    call = centre.publish("acme", [people.root(tenant, TWO, days=-1)], b"")
    assert (await refused(call))[0] == "INVALID_ARGUMENT"
    assert (await refused(centre.publish("acme", [], b"{}")))[1] == "no_metadata"
    assert (await refused(centre.publish("acme", [], b"")))[0] == "INVALID_ARGUMENT"
    assert (await refused(centre.publish("nobody", [b"x"], b"")))[0] == "NOT_FOUND"


async def test_root_rotation_needs_both_thresholds(centre: RunningCoordinator) -> None:
    tenant = await centre.tenant("acme")
    await centre.release(tenant)
    people = Signers(("ann", "bob", "cho", "dee"))
    first = await _metadata(centre, "root.json")
    keys = ("bob", "cho", "dee")
    alone = people.next_root(first, tenant, ["cho", "dee"], keys)
    assert (await refused(centre.publish("acme", [alone], b"")))[1] == "under_signed"
    both = people.next_root(first, tenant, ["ann", "bob", "cho"], keys)
    # The published targets are signed by ann and bob: only bob is left in the new root.
    assert (await refused(centre.publish("acme", [both], b"")))[1] == "under_signed"
    blobs = release_blobs("acme", 2)
    await centre.upload("acme", blobs)
    done = await centre.publish("acme", [both], people.targets(2, blobs, ["bob", "cho"]))
    assert (done.root_version, done.targets_version, done.snapshot_version) == (2, 2, 2)
    assert await _metadata(centre, "2.root.json") == both
    pinned = await centre.admin.GetTenant(admin_pb2.GetTenantRequest(name="acme"))
    assert pinned.root_pin.hex() == tufmeta.root_pin(first)


async def test_targets_must_be_uploaded_and_hang_together(centre: RunningCoordinator) -> None:
    tenant = await centre.tenant("acme")
    people, blobs = Signers(), release_blobs("acme", 1)
    root = people.root(tenant, TWO)

    async def offer(files: dict[str, bytes]) -> tuple[str, str, str]:
        return await refused(centre.publish("acme", [root], people.targets(1, files, TWO)))

    assert (await offer(blobs))[:2] == ("FAILED_PRECONDITION", "targets_missing")
    (manifest_path, manifest), (policy_path, policy) = blobs.items()
    await centre.upload("acme", blobs)
    assert (await offer({manifest_path: manifest}))[:2] == ("INVALID_ARGUMENT", "release")
    foreign = release_blobs("other", 1)
    await centre.upload("acme", foreign)
    assert (await offer(foreign))[1] == "release"
    swapped = {manifest_path: manifest, policy_path: manifest}
    assert (await offer(swapped))[1] == "release"
    garbage = {manifest_path: b"not a manifest", policy_path: policy}
    await centre.upload("acme", garbage)
    assert (await offer(garbage))[1] == "release"
    broken = release_blobs("acme", 1, rule="")
    await centre.upload("acme", broken)
    status, code, message = await offer(broken)
    assert (status, code) == ("INVALID_ARGUMENT", "policy")
    assert "policy.yaml" in message
    await centre.publish("acme", [root], people.targets(1, blobs, TWO))
    unknown = centre.rollout("acme", digest_of(foreign[next(iter(foreign))]))
    assert (await refused(unknown))[0] == "NOT_FOUND"


async def test_online_metadata_is_resigned_at_half_life(centre: RunningCoordinator) -> None:
    tenant = await centre.tenant("acme")
    await centre.release(tenant)
    publisher = centre.up.parts.publisher
    assert await publisher.refresh() == 0
    centre.clock.offset = ONLINE_LIFE // 2 + 1
    assert await publisher.refresh() == 1
    assert await publisher.refresh() == 0
    for _ in range(6):
        centre.clock.offset += ONLINE_LIFE // 2 + 1
        assert await publisher.refresh() == 1
    timestamp = tufmeta.load_timestamp(await _metadata(centre, "timestamp.json")).signed
    assert (timestamp.version, timestamp.snapshot_meta.version) == (8, 8)
    assert timestamp.expires.timestamp() > centre.clock.now() + ONLINE_LIFE - 60
    assert (await refused(_metadata(centre, "4.snapshot.json")))[0] == "NOT_FOUND"
    assert await _metadata(centre, "5.snapshot.json")


def _parts(data: bytes, size: int, **header: Any) -> list[admin_pb2.UploadTargetRequest]:
    fields = {"tenant": "acme", "sha256": digest_of(data), "length": len(data), **header}
    first = admin_pb2.UploadTargetRequest(header=admin_pb2.TargetHeader(**fields))
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    return [first, *(admin_pb2.UploadTargetRequest(data=piece) for piece in pieces)]


async def _upload(
    centre: RunningCoordinator, messages: Sequence[admin_pb2.UploadTargetRequest]
) -> Any:
    return await centre.admin.UploadTarget(iter(messages), timeout=TIMEOUT)


async def test_upload_and_ranged_read(centre: RunningCoordinator) -> None:
    await centre.tenant("acme")
    member = await centre.enroll("acme", "north")
    data = bytes(range(256)) * 20_000  # 5 MB: several chunks and several writes
    digest = digest_of(data)
    ask = admin_pb2.MissingTargetsRequest(tenant="acme", sha256=[digest, "0" * 64])
    assert (await centre.admin.MissingTargets(ask)).sha256 == [digest, "0" * 64]
    assert not (await _upload(centre, _parts(data, 1 << 20))).existed
    assert (await _upload(centre, _parts(data, 1 << 20))).existed
    assert (await centre.admin.MissingTargets(ask)).sha256 == ["0" * 64]
    for offset, limit in ((0, 0), (3_000_001, 0), (100, 10), (len(data), 0)):
        got = b""
        async for chunk in member.artifact.Read(
            artifact_pb2.ReadRequest(sha256=digest, offset=offset, limit=limit), timeout=TIMEOUT
        ):
            assert (chunk.offset, chunk.total) == (offset + len(got), len(data))
            assert len(chunk.data) <= 1 << 20
            got += chunk.data
        assert got == data[offset : offset + limit if limit else None]
    beyond = artifact_pb2.ReadRequest(sha256=digest, offset=len(data) + 1)
    assert (await refused(member.artifact.Read(beyond).read()))[0] == "OUT_OF_RANGE"
    for bad in ("", "../../ca/ca.key", digest.upper()):
        call = member.artifact.Read(artifact_pb2.ReadRequest(sha256=bad)).read()
        assert (await refused(call))[0] == "INVALID_ARGUMENT"


async def test_wrong_uploads_leave_nothing(centre: RunningCoordinator) -> None:
    await centre.tenant("acme")
    data = b"model" * 1000
    other = digest_of(b"other")
    for messages, status in (
        (_parts(data, 4096, sha256=other), "INVALID_ARGUMENT"),
        (_parts(data, 4096, length=len(data) - 1), "INVALID_ARGUMENT"),
        (_parts(data, 4096, length=len(data) + 1), "INVALID_ARGUMENT"),
        (_parts(data, 4096, tenant="nobody"), "NOT_FOUND"),
        (_parts(data, 4096, tenant="../x"), "INVALID_ARGUMENT"),
        (_parts(data, 4096, sha256="../x"), "INVALID_ARGUMENT"),
        (_parts(bytes(2 << 20), 2 << 20), "INVALID_ARGUMENT"),
        ([], "INVALID_ARGUMENT"),
    ):
        assert (await refused(_upload(centre, messages)))[0] == status
    left = [p for p in centre.home.artifacts.rglob("*") if p.is_file()]
    assert left == []


async def test_a_broken_off_upload_leaves_nothing(centre: RunningCoordinator) -> None:
    await centre.tenant("acme")
    call = centre.admin.UploadTarget()
    for message in _parts(bytes(6 << 20), 1 << 20)[:-1]:
        await call.write(message)
    call.cancel()
    await asyncio.sleep(0)
    async with asyncio.timeout(TIMEOUT):
        while [p for p in centre.home.artifacts.rglob("*") if p.is_file()]:
            await asyncio.sleep(0.02)
    assert not (await _upload(centre, _parts(bytes(6 << 20), 1 << 20))).existed


async def test_what_a_crash_left_of_an_upload_goes_at_the_next_start(tmp_path: Path) -> None:
    async with running_coordinator(tmp_path / "home") as centre:
        await centre.release(await centre.tenant("acme"))
        folder = centre.home.artifacts / "acme" / "sha256"
        kept = sorted(folder.iterdir())
    # As the store names the file that it writes before the rename.
    (folder / f"{'0' * 64}#1").write_bytes(bytes(1000))
    async with running_coordinator(tmp_path / "home"):
        assert sorted(folder.iterdir()) == kept


async def test_restart_keeps_the_repository(tmp_path: Path) -> None:
    async with running_coordinator(tmp_path / "home") as centre:
        tenant = await centre.tenant("acme")
        digest = await centre.release(tenant)
        timestamp = await _metadata(centre, "timestamp.json")
    async with running_coordinator(tmp_path / "home") as centre:
        assert await _metadata(centre, "timestamp.json") == timestamp
        assert (await centre.rollout("acme", digest)).generation == 1


@pytest.mark.parametrize("name", ["root.json.exe", "x.root.json", "1.timestamp.json", "", "a/b"])
async def test_metadata_names(centre: RunningCoordinator, name: str) -> None:
    await centre.tenant("acme")
    assert (await refused(_metadata(centre, name)))[0] == "INVALID_ARGUMENT"
