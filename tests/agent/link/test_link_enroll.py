"""Enrollment, renewal and recovery over real TLS 1.3; and who is not believed."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest

from exclave_agent.errors import IdentityError, LinkError
from exclave_agent.identity import IdentityStore, Renewer, join
from exclave_agent.link.artifacts import GrpcArtifacts
from exclave_agent.link.channel import Channels, anonymous_channel, mutual_channel
from exclave_agent.link.enroll import GrpcJoin, GrpcRenew
from exclave_agent.system import SystemClock
from exclave_protocol.identity import JoinToken
from exclave_protocol.pb import artifact_pb2
from exclave_protocol.pb.artifact_pb2_grpc import ArtifactStub
from exclave_testing.clock import SeededRng
from exclave_testing.coordinator_fake import FakeCoordinator
from exclave_testing.desk import Ca, Desk
from exclave_testing.tuf_repo import AGENT


@pytest.fixture
async def coordinator() -> AsyncIterator[FakeCoordinator]:
    made = FakeCoordinator(Desk(time.time))
    await made.start()
    yield made
    await made.stop()


async def test_join_over_the_wire(tmp_path: Path, coordinator: FakeCoordinator) -> None:
    identity = await join(tmp_path, coordinator.desk.token, GrpcJoin())
    assert identity.agent == AGENT
    assert identity.session_endpoint == coordinator.desk.session_endpoint


@pytest.mark.parametrize("code", ["token_unknown", "token_spent", "token_expired", "banned"])
async def test_refusals_keep_their_codes(
    tmp_path: Path, coordinator: FakeCoordinator, code: str
) -> None:
    coordinator.abort = (grpc.StatusCode.PERMISSION_DENIED, code, "a reason")
    with pytest.raises(IdentityError) as caught:
        await join(tmp_path, coordinator.desk.token, GrpcJoin())
    assert caught.value.code == code
    assert "a reason" in caught.value.message


async def test_what_the_peer_says_is_bounded_and_printable(
    tmp_path: Path, coordinator: FakeCoordinator
) -> None:
    coordinator.abort = (grpc.StatusCode.UNAVAILABLE, "", "\x1b[2J" + "x" * 5000)
    with pytest.raises(LinkError) as caught:
        await join(tmp_path, coordinator.desk.token, GrpcJoin())
    assert len(caught.value.message) < 500
    assert caught.value.message.isprintable()


async def test_nobody_listens(tmp_path: Path, coordinator: FakeCoordinator) -> None:
    await coordinator.stop()
    with pytest.raises(LinkError) as caught:
        await join(tmp_path, coordinator.desk.token, GrpcJoin())
    assert caught.value.code == "unreachable"


async def test_another_coordinators_port(tmp_path: Path, coordinator: FakeCoordinator) -> None:
    elsewhere = coordinator.desk.new_token(ca_sha256=Ca(time.time).sha256)
    with pytest.raises(IdentityError) as caught:
        await join(tmp_path, elsewhere, GrpcJoin())
    assert caught.value.code == "ca_mismatch"
    assert coordinator.desk.calls == []


async def test_an_agents_certificate_does_not_make_a_coordinator(
    tmp_path: Path, coordinator: FakeCoordinator
) -> None:
    """Same CA, but no server name: the handshake fails before the token is sent."""
    identity = await join(tmp_path / "one", coordinator.desk.token, GrpcJoin())
    server = grpc.aio.server()
    pair = (identity.key_pem, identity.cert_pem + identity.ca_pem)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    await server.start()
    try:
        token = coordinator.desk.new_token(endpoint=f"127.0.0.1:{port}")
        with pytest.raises(LinkError):
            await join(tmp_path / "two", token, GrpcJoin())
    finally:
        await server.stop(None)
    assert coordinator.desk.calls == ["enroll"]


@pytest.fixture
def old_server(tmp_path: Path) -> Iterator[tuple[str, Ca]]:
    """A server that speaks TLS 1.2 at most, with a certificate of the right CA."""
    ca = Ca(time.time)
    key, chain = ca.server()
    (tmp_path / "k").write_bytes(key)
    (tmp_path / "c").write_bytes(chain)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(tmp_path / "c", tmp_path / "k")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            with plain:
                try:
                    context.wrap_socket(plain, server_side=True).close()
                except (ssl.SSLError, OSError):
                    continue

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"127.0.0.1:{listener.getsockname()[1]}", ca
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(10)


async def test_tls_1_2_is_refused_when_joining(
    old_server: tuple[str, Ca], coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    endpoint, ca = old_server
    token: JoinToken = coordinator.desk.new_token(endpoint=endpoint, ca_sha256=ca.sha256)
    with pytest.raises(LinkError) as caught:
        await join(tmp_path / "home", token, GrpcJoin())
    assert caught.value.code == "unreachable"
    with pytest.raises(LinkError, match="handshake"):
        await GrpcJoin().presented_chain(endpoint)


async def test_tls_1_2_is_refused_by_channels(old_server: tuple[str, Ca]) -> None:
    endpoint, ca = old_server
    async with anonymous_channel(endpoint, ca.der) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/x/Y")(b"", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_renewal_replaces_channels_without_cutting_downloads(
    tmp_path: Path, coordinator: FakeCoordinator
) -> None:
    await join(tmp_path, coordinator.desk.token, GrpcJoin())
    store = IdentityStore(tmp_path)
    channels = Channels(store)
    source = GrpcArtifacts(channels)
    coordinator.source.targets["d" * 64] = b"x" * 3000
    download = source.read("d" * 64, 0)
    first = await anext(download)
    renewer = Renewer(store, GrpcRenew(channels), clock=SystemClock(), rng=SeededRng())
    before = channels.bulk()
    identity = await renewer.renew_once()
    assert coordinator.desk.calls[-1] == "renew"
    assert channels.bulk() is not before
    assert first + b"".join([piece async for piece in download]) == b"x" * 3000
    assert await source.metadata("1.root.json") is None
    assert identity.cert_pem == store.current.cert_pem
    await channels.close()


async def test_recovery_over_the_wire(tmp_path: Path, coordinator: FakeCoordinator) -> None:
    await join(tmp_path, coordinator.desk.token, GrpcJoin())
    store = IdentityStore(tmp_path)
    channels = Channels(store)
    renewer = Renewer(store, GrpcRenew(channels), clock=SystemClock(), rng=SeededRng())
    renewer.renew_now()
    await renewer.renew_once()
    assert coordinator.desk.calls[-1] == "recover"
    coordinator.abort = (grpc.StatusCode.FAILED_PRECONDITION, "clock_skew", "400 s ahead")
    with pytest.raises(IdentityError, match="set this machine's clock"):
        await renewer.renew_once()
    await channels.close()


async def test_an_expired_certificate_is_refused_by_the_handshake(
    tmp_path: Path, coordinator: FakeCoordinator
) -> None:
    """What Renewer relies on: to a client this is only a broken link."""
    coordinator.desk.ttl = 1
    identity = await join(tmp_path, coordinator.desk.token, GrpcJoin())
    async with asyncio.timeout(10):
        while time.time() < identity.not_after + 0.1:
            await asyncio.sleep(0.05)
    async with mutual_channel(identity) as channel:
        call = ArtifactStub(channel).Metadata(artifact_pb2.MetadataRequest())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_channel_tries_again_soon_after_a_long_outage(
    tmp_path: Path, coordinator: FakeCoordinator
) -> None:
    """gRPC's own backoff must not outlast ours: the next attempts after the return succeed."""
    identity = await join(tmp_path, coordinator.desk.token, GrpcJoin())
    await coordinator.stop()

    async def ask(channel: grpc.aio.Channel) -> bool:
        call = ArtifactStub(channel).Metadata(artifact_pb2.MetadataRequest(name="x"))
        try:
            await call
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.NOT_FOUND  # it answered
        return True

    async with mutual_channel(identity) as channel:
        outage = time.monotonic() + 6  # enough for gRPC's default to reach several seconds
        while time.monotonic() < outage:
            assert not await ask(channel)
            await asyncio.sleep(0.05)
        await coordinator.start()
        returned = time.monotonic()
        while not await ask(channel):
            assert time.monotonic() - returned < 2.5
            await asyncio.sleep(0.05)
