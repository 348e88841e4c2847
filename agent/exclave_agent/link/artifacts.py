"""The coordinator's Artifact service as `ports.ArtifactSource`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import grpc

from exclave_agent.errors import LinkError
from exclave_agent.link.channel import Channels
from exclave_agent.link.status import link_error
from exclave_protocol.pb import artifact_pb2 as pb
from exclave_protocol.pb.artifact_pb2_grpc import ArtifactStub
from exclave_protocol.wire import CHUNK, MAX_METADATA

METADATA_TIMEOUT: Final = 30.0
"""Seconds for one metadata file."""


class GrpcArtifacts:
    """This agent's tenant's TUF repository."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels

    async def metadata(self, name: str) -> bytes | None:
        """One metadata file; None when the repository has none of that name."""
        stub = ArtifactStub(self._channels.bulk())
        try:
            answer = await stub.Metadata(pb.MetadataRequest(name=name), timeout=METADATA_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise link_error(error, "Metadata") from error
        if len(answer.content) > MAX_METADATA:
            raise LinkError(f"metadata {name} is longer than {MAX_METADATA} bytes")
        content: bytes = answer.content
        return content

    async def read(self, sha256: str, offset: int) -> AsyncIterator[bytes]:
        """The target's bytes from `offset`; each piece is where the last one ended."""
        stub = ArtifactStub(self._channels.bulk())
        call = stub.Read(pb.ReadRequest(sha256=sha256, offset=offset))
        at = offset
        try:
            async for chunk in call:
                if chunk.offset != at or len(chunk.data) > CHUNK:
                    raise LinkError("artifact chunk is out of place or too long")
                at += len(chunk.data)
                yield chunk.data
        except grpc.aio.AioRpcError as error:
            raise link_error(error, "Read") from error
        finally:
            call.cancel()
