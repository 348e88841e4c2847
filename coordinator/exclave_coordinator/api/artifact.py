"""Artifact: the calling agent's tenant's TUF repository, read-only (artifact.proto)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from exclave_coordinator.api.auth import calling_agent
from exclave_coordinator.api.convert import digest
from exclave_coordinator.errors import BeyondEnd, NotFound
from exclave_coordinator.fleet.registry import refuse_state
from exclave_coordinator.ports import Artifacts, Store
from exclave_coordinator.releases.publish import metadata_name
from exclave_protocol.pb import artifact_pb2 as pb
from exclave_protocol.pb.artifact_pb2_grpc import ArtifactServicer


class ArtifactService(ArtifactServicer):
    """The tenant comes from the certificate, never from the request."""

    def __init__(self, store: Store, artifacts: Artifacts) -> None:
        self._store = store
        self._artifacts = artifacts

    async def Metadata(self, request: pb.MetadataRequest, _context: Any) -> pb.MetadataResponse:
        """See artifact.proto."""
        tenant, name = calling_agent().member.key.tenant, metadata_name(request.name)
        content = await self._store.read(lambda tx: tx.releases.metadata(tenant, name))
        if content is None:
            raise NotFound("no metadata file of this name")
        return pb.MetadataResponse(content=content)

    async def Read(self, request: pb.ReadRequest, _context: Any) -> AsyncIterator[pb.ReadChunk]:
        """See artifact.proto. A ban ends a download under way, not only the next one."""
        member = calling_agent().member
        tenant, sha256 = member.key.tenant, digest(request.sha256, "sha256")
        total = await self._artifacts.length(tenant, sha256)
        if total is None:
            raise NotFound("no target with this sha256")
        begin = request.offset
        if begin > total:
            raise BeyondEnd(f"offset: {begin} where the target has {total} bytes")
        end = min(total, begin + request.limit) if request.limit else total
        if begin == end:
            yield pb.ReadChunk(offset=begin, total=total)
        async for piece in self._artifacts.read(tenant, sha256, begin, end):
            refuse_state(member.state)
            yield pb.ReadChunk(offset=begin, data=piece, total=total)
            begin += len(piece)
