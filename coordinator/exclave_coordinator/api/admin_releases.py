"""Admin's part for releases: uploads, signed metadata, rollouts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from exclave_coordinator.api.convert import agent_message, digest, text
from exclave_coordinator.api.parts import Parts
from exclave_coordinator.errors import Invalid, NotFound
from exclave_coordinator.fleet.enroll import name, require_tenant
from exclave_coordinator.ports import Agent, Desired, Rollout, Tx
from exclave_coordinator.releases.publish import metadata_name
from exclave_protocol.pb import admin_pb2 as pb
from exclave_protocol.wire import CHUNK

MAX_ASKED: Final = 10_000
"""Most digests of one MissingTargets."""
MAX_TARGET: Final = 2**40
"""Most bytes of one target."""
MAX_PENDING: Final = 100


class ReleaseCalls:
    """What agents shall run."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def UploadTarget(
        self, request_iterator: AsyncIterator[pb.UploadTargetRequest], _context: Any
    ) -> pb.UploadTargetResponse:
        """See admin.proto."""
        parts = self._parts
        try:
            first = await anext(request_iterator)
        except StopAsyncIteration as error:
            raise Invalid("header: must come with the first message") from error
        header = first.header
        tenant, sha256 = name(header.tenant, "tenant"), digest(header.sha256, "sha256")
        if header.length > MAX_TARGET:
            raise Invalid(f"length: {header.length} bytes where at most {MAX_TARGET} are allowed")
        act = parts.recorder.act(
            "UploadTarget", f"tenant/{tenant}/target/{sha256}", {"length": str(header.length)}
        )
        async with parts.recorder.attempt(act):
            await parts.store.read(lambda tx: require_tenant(tx, tenant))
            if await parts.artifacts.length(tenant, sha256) == header.length:
                return pb.UploadTargetResponse(existed=True)
            chunks = _chunks(first, request_iterator)
            await parts.artifacts.put(tenant, sha256, header.length, chunks)
            await parts.recorder.commit(act, lambda _tx: None)
        return pb.UploadTargetResponse()

    async def MissingTargets(
        self, request: pb.MissingTargetsRequest, _context: Any
    ) -> pb.MissingTargetsResponse:
        """See admin.proto."""
        tenant = name(request.tenant, "tenant")
        await self._parts.store.read(lambda tx: require_tenant(tx, tenant))
        if len(request.sha256) > MAX_ASKED:
            raise Invalid(f"sha256: more than {MAX_ASKED} in one call")
        missing = [
            item
            for item in request.sha256
            if await self._parts.artifacts.length(tenant, digest(item, "sha256")) is None
        ]
        return pb.MissingTargetsResponse(sha256=missing)

    async def PublishMetadata(
        self, request: pb.PublishMetadataRequest, _context: Any
    ) -> pb.PublishMetadataResponse:
        """See admin.proto."""
        parts = self._parts
        tenant = name(request.tenant, "tenant")
        act = parts.recorder.act("PublishMetadata", f"tenant/{tenant}")
        async with parts.recorder.attempt(act):
            offer = await parts.publisher.check(tenant, list(request.roots), request.targets)
            act.details = {
                "root_version": str(offer.root.signed.version),
                "targets_version": str(offer.targets_version),
            }
            done = await parts.recorder.commit(act, lambda tx: parts.publisher.store(tx, offer))
        return pb.PublishMetadataResponse(
            root_version=done.root_version,
            targets_version=done.targets_version,
            snapshot_version=done.snapshot_version,
        )

    async def GetMetadata(
        self, request: pb.GetMetadataRequest, _context: Any
    ) -> pb.GetMetadataResponse:
        """See admin.proto."""
        tenant, file = name(request.tenant, "tenant"), metadata_name(request.name)

        def job(tx: Tx) -> bytes | None:
            require_tenant(tx, tenant)
            return tx.releases.metadata(tenant, file)

        content = await self._parts.store.read(job)
        if content is None:
            raise NotFound("no metadata file of this name")
        return pb.GetMetadataResponse(content=content)

    async def StartRollout(self, request: pb.StartRolloutRequest, _context: Any) -> pb.Rollout:
        """See admin.proto."""
        parts = self._parts
        tenant = name(request.tenant, "tenant")
        release = digest(request.release_digest, "release_digest")
        act = parts.recorder.act("StartRollout", f"tenant/{tenant}", {"release": release})

        def after(rollout: Rollout) -> None:
            desired = Desired(rollout.generation, rollout.release_digest, rollout.id)
            parts.sessions.assign(tenant, desired)

        async with parts.recorder.attempt(act):
            rollout = await parts.recorder.commit(
                act,
                lambda tx: parts.rollouts.start(tx, tenant, release, act.operator),
                after=after,
            )
        return _rollout(rollout)

    async def GetRollout(self, request: pb.GetRolloutRequest, _context: Any) -> pb.Rollout:
        """See admin.proto."""
        tenant = name(request.tenant, "tenant")
        wanted = text(request.rollout, 64, "rollout")

        def job(tx: Tx) -> tuple[Rollout, Sequence[Agent]]:
            require_tenant(tx, tenant)
            rollout = tx.releases.rollout(tenant, wanted)
            if rollout is None:
                raise NotFound("no such rollout in this tenant")
            return rollout, tx.releases.pending(tenant, rollout.id, MAX_PENDING)

        rollout, pending = await self._parts.store.read(job)
        message = _rollout(rollout)
        message.pending.extend(
            agent_message(a, connected=self._parts.sessions.connected(a.key), sizes=(0, 0))
            for a in pending
        )
        return message


async def _chunks(
    first: pb.UploadTargetRequest, rest: AsyncIterator[pb.UploadTargetRequest]
) -> AsyncIterator[bytes]:
    if first.data:
        yield _bounded(first.data)
    async for message in rest:
        if message.HasField("header"):
            raise Invalid("header: only the first message may carry one")
        if message.data:
            yield _bounded(message.data)


def _bounded(data: bytes) -> bytes:
    if len(data) > CHUNK:
        raise Invalid(f"data: {len(data)} bytes where a message may carry {CHUNK}")
    return data


def _rollout(rollout: Rollout) -> pb.Rollout:
    return pb.Rollout(
        tenant=rollout.tenant,
        rollout=rollout.id,
        release_digest=rollout.release_digest,
        generation=rollout.generation,
        started=rollout.started,
        agents=rollout.agents,
        applied=rollout.applied,
        failed=rollout.failed,
    )
