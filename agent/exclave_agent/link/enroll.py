"""Enrollment over gRPC: join, recover, renew; and the one look at an unverified chain."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc

from exclave_agent.errors import LinkError
from exclave_agent.identity.certificates import from_pem
from exclave_agent.identity.transport import EnrollQuery, Issued, RecoverQuery
from exclave_agent.link.channel import Channels, anonymous_channel
from exclave_agent.link.status import identity_error
from exclave_protocol.pb import enrollment_pb2 as pb
from exclave_protocol.pb.enrollment_pb2_grpc import EnrollmentStub, IdentityStub

TIMEOUT: Final = 30.0
"""Seconds for one call."""
_MAX_CHAIN: Final = 8

Dial = Callable[[str, bytes], grpc.aio.Channel]


class GrpcJoin:
    """identity.transport.JoinTransport."""

    def __init__(self, *, dial: Dial = anonymous_channel) -> None:
        self._dial = dial

    async def presented_chain(self, endpoint: str) -> Sequence[bytes]:
        """Complete one TLS 1.3 handshake without verification and return what was presented."""
        with ThreadPoolExecutor(1, "exclave-join") as pool:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(pool, _unverified_chain, endpoint)

    async def enroll(self, endpoint: str, ca: bytes, query: EnrollQuery) -> Issued:
        """Enrollment.Enroll."""
        request = pb.EnrollRequest(
            tenant=query.tenant,
            token_id=query.token_id,
            token_secret=query.token_secret,
            csr=query.csr,
            agent=query.agent,
            audit_public_key=query.audit_public_key,
        )
        async with self._dial(endpoint, ca) as channel:
            try:
                return _issued(await EnrollmentStub(channel).Enroll(request, timeout=TIMEOUT))
            except grpc.aio.AioRpcError as error:
                raise identity_error(error, "Enroll") from error


class GrpcRenew:
    """identity.transport.RenewTransport."""

    def __init__(self, channels: Channels, *, dial: Dial = anonymous_channel) -> None:
        self._channels = channels
        self._dial = dial

    async def renew(self, csr: bytes) -> Issued:
        """Identity.Renew."""
        stub = IdentityStub(self._channels.session())
        try:
            return _issued(await stub.Renew(pb.RenewRequest(csr=csr), timeout=TIMEOUT))
        except grpc.aio.AioRpcError as error:
            raise identity_error(error, "Renew") from error

    async def recover(self, query: RecoverQuery) -> Issued:
        """Enrollment.Recover, on the port that asks for no certificate."""
        identity = self._channels.identity
        request = pb.RecoverRequest(
            tenant=query.tenant,
            agent=query.agent,
            csr=query.csr,
            timestamp=query.timestamp,
            proof=query.proof,
        )
        (ca, *_) = from_pem(identity.ca_pem, "ca.pem")
        async with self._dial(identity.enroll_endpoint, ca) as channel:
            try:
                return _issued(await EnrollmentStub(channel).Recover(request, timeout=TIMEOUT))
            except grpc.aio.AioRpcError as error:
                raise identity_error(error, "Recover") from error


def _issued(answer: pb.EnrollResponse) -> Issued:
    return Issued(
        spiffe_id=answer.spiffe_id,
        chain=tuple(answer.certificate_chain[:_MAX_CHAIN]),
        ca_bundle=tuple(answer.ca_bundle[:_MAX_CHAIN]),
        session_endpoint=answer.session_endpoint,
        witness_vkey=answer.witness_vkey,
        director_key=answer.director_public_key,
    )


def _unverified_chain(endpoint: str) -> list[bytes]:
    """The server's chain, DER. Nothing is sent to it; only a pinned digest makes it count.

    Raises: LinkError.
    """
    host, _, port = endpoint.rpartition(":")
    host = host.strip("[]")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, int(port)), timeout=TIMEOUT) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            chain = _chain_of(secure)
            # The server learns that we are done, not that we broke off.
            with contextlib.suppress(OSError):
                secure.unwrap()
    except OSError as error:
        raise LinkError(
            f"enrollment port {endpoint}: {type(error).__name__} during the TLS 1.3 handshake; "
            "check the address and that the coordinator serves",
            code="unreachable",
        ) from error
    if not chain:
        raise LinkError(f"enrollment port {endpoint} presents no certificate", code="link_error")
    return chain[:_MAX_CHAIN]


def _chain_of(secure: ssl.SSLSocket) -> list[bytes]:
    # Python 3.13 has the method in public; 3.11 and 3.12 have it on the object underneath.
    public: Any = getattr(secure, "get_unverified_chain", None)
    if public is not None:
        return list(public())
    inner: Any = secure._sslobj  # type: ignore[attr-defined]  # no stub: see above
    return [ssl.PEM_cert_to_DER_cert(item.public_bytes()) for item in inner.get_unverified_chain()]
