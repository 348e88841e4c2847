"""A real coordinator in this process, on port 0, with real TLS and certificates.

`running_coordinator(folder)` is the way in: it inits a home, serves it, and hands out operator
channels and really enrolled agents. The clock is the machine's, plus what a test adds.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exclave_protocol.wire import CLIENT_OPTIONS, require_tls13

require_tls13()

import grpc  # noqa: E402 (after the TLS setting, which gRPC reads once)

from exclave_coordinator.config import Settings  # noqa: E402
from exclave_coordinator.coordinator import Running, running  # noqa: E402
from exclave_coordinator.home import Home, create  # noqa: E402
from exclave_coordinator.ports import AgentKey, Tx  # noqa: E402
from exclave_coordinator.system import SystemIds, SystemRng  # noqa: E402
from exclave_policy.pack import Pack, encode  # noqa: E402
from exclave_protocol import tufmeta  # noqa: E402
from exclave_protocol.checkpoint import Checkpoint, log_origin, sign_checkpoint  # noqa: E402
from exclave_protocol.leaf import NO_PREV, Leaf, LeafType, encode_leaf  # noqa: E402
from exclave_protocol.pb import (  # noqa: E402
    admin_pb2,
    admin_pb2_grpc,
    artifact_pb2_grpc,
    audit_pb2_grpc,
    enrollment_pb2,
    enrollment_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
)
from exclave_protocol.release import (  # noqa: E402
    ArtifactRef,
    ReleaseManifest,
    digest_of,
    policy_path,
    release_path,
)
from exclave_protocol.tree import MemoryTree, consistency_proof, leaf_hash  # noqa: E402
from exclave_testing.policies import allow, document  # noqa: E402
from exclave_testing.terms import term_key  # noqa: E402

DOMAIN = "example.org"
TIMEOUT = 10.0
"""Seconds that any call of a test may take."""


class ShiftedClock:
    """The machine's clock, moved by `offset` seconds; waiting is real."""

    def __init__(self) -> None:
        self.offset = 0

    def now_ns(self) -> int:
        return time.time_ns() + self.offset * 10**9

    def now(self) -> int:
        return int(time.time()) + self.offset

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def eventually(what: str, holds: Callable[[], bool], seconds: float = TIMEOUT) -> None:
    """Poll until `holds`, at most `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        await asyncio.sleep(0.01)


def new_key() -> ec.EllipticCurvePrivateKey:
    """An identity key."""
    return ec.generate_private_key(ec.SECP256R1())


def csr(key: Any) -> bytes:
    """A PKCS#10 request, DER."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    digest = None if isinstance(key, Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, digest).public_bytes(serialization.Encoding.DER)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS#8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def chain_pem(chain: Sequence[bytes]) -> bytes:
    """DER certificates as PEM."""
    return b"".join(
        x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
        for der in chain
    )


@dataclass
class Member:
    """An enrolled agent: its keys, certificate and stubs."""

    tenant: str
    name: str
    key: ec.EllipticCurvePrivateKey
    audit_key: Ed25519PrivateKey
    token: admin_pb2.CreateTokenResponse
    answer: enrollment_pb2.EnrollResponse
    channel: Any
    fleet: Any = field(init=False)
    audit: Any = field(init=False)
    artifact: Any = field(init=False)
    identity: Any = field(init=False)

    def __post_init__(self) -> None:
        self.fleet = fleet_pb2_grpc.FleetStub(self.channel)
        self.audit = audit_pb2_grpc.AuditStub(self.channel)
        self.artifact = artifact_pb2_grpc.ArtifactStub(self.channel)
        self.identity = enrollment_pb2_grpc.IdentityStub(self.channel)

    @property
    def agent(self) -> AgentKey:
        """Its key in the coordinator's registry."""
        return AgentKey(self.tenant, self.name)

    def log(self, epoch: int = 1) -> AgentLog:
        """A fresh log of this agent."""
        return AgentLog(log_origin(DOMAIN, self.tenant, self.name, epoch), epoch, self.audit_key)

    async def session(self, version: str = "1.0", boot_id: str = "b" * 32) -> Any:
        """An open session, hello sent and welcome read."""
        call = self.fleet.Session()
        hello = fleet_pb2.Hello(version=version, boot_id=boot_id, runtimes=["llama", "onnx"])
        await call.write(fleet_pb2.AgentMessage(hello=hello))
        welcome = await asyncio.wait_for(call.read(), TIMEOUT)
        assert welcome.WhichOneof("kind") == "welcome"
        return call


class AgentLog:
    """An honest agent's log, built leaf by leaf."""

    def __init__(self, origin: str, epoch: int, key: Ed25519PrivateKey) -> None:
        self.origin = origin
        self.epoch = epoch
        self.identity = key
        self.key = term_key(origin, key)
        self.leaves: list[bytes] = []
        self.tree = MemoryTree()

    def add(self, count: int = 1, *, start_ns: int = 1_900_000_000 * 10**9, note: str = "") -> None:
        """Append leaves: GENESIS first, then heartbeats."""
        for _ in range(count):
            seq = len(self.leaves)
            leaf = Leaf(
                self.origin,
                self.epoch,
                seq,
                leaf_hash(self.leaves[-1]) if seq else NO_PREV,
                LeafType.HEARTBEAT if seq else LeafType.GENESIS,
                start_ns + seq * 10**9,
                {"n": str(seq), "note": note},
            )
            self.leaves.append(encode_leaf(leaf))
            self.tree.append(leaf_hash(self.leaves[-1]))

    def append(self, kind: LeafType, body: Mapping[str, Any]) -> None:
        """One leaf more."""
        seq = len(self.leaves)
        prev = leaf_hash(self.leaves[-1]) if seq else NO_PREV
        at = 1_900_000_000 * 10**9 + seq * 10**9
        self.leaves.append(encode_leaf(Leaf(self.origin, self.epoch, seq, prev, kind, at, body)))
        self.tree.append(leaf_hash(self.leaves[-1]))

    def checkpoint(self, size: int | None = None, *, root: bytes | None = None) -> bytes:
        """A signed checkpoint; `root` to lie."""
        at = len(self.leaves) if size is None else size
        return sign_checkpoint(Checkpoint(self.origin, at, root or self.tree.root(at)), self.key)

    def proof(self, old: int, new: int) -> list[bytes]:
        """Consistency proof."""
        return consistency_proof(old, new, self.tree.node)


class Signers:
    """The people who sign a tenant's root and targets."""

    def __init__(self, names: Sequence[str] = ("ann", "bob", "cho"), threshold: int = 2) -> None:
        self.keys = {
            name: Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
            for name in names
        }
        self.threshold = threshold

    def root(self, tenant: admin_pb2.Tenant, by: Sequence[str], *, days: int = 365) -> bytes:
        """Root version 1, signed by some of them."""
        metadata = tufmeta.new_root(
            [self._public(key) for key in self.keys.values()],
            self.threshold,
            tufmeta.key_from_public(tenant.snapshot_public_key),
            tufmeta.key_from_public(tenant.timestamp_public_key),
            _in(days),
        )
        return self._signed(metadata, by)

    def next_root(
        self, current: bytes, tenant: admin_pb2.Tenant, by: Sequence[str], keys: Sequence[str]
    ) -> bytes:
        """The root after `current`, of which `keys` are the people."""
        metadata = tufmeta.next_root(
            tufmeta.load_root(current).signed,
            [self._public(self.keys[name]) for name in keys],
            self.threshold,
            tufmeta.key_from_public(tenant.snapshot_public_key),
            tufmeta.key_from_public(tenant.timestamp_public_key),
            _in(365),
        )
        return self._signed(metadata, by)

    def targets(
        self, version: int, blobs: Mapping[str, bytes], by: Sequence[str], *, days: int = 90
    ) -> bytes:
        """Targets metadata over files, signed by some of them."""
        files = [
            tufmeta.target_file(path, digest_of(data), len(data)) for path, data in blobs.items()
        ]
        return self._signed(tufmeta.new_targets(version, files, _in(days)), by)

    @staticmethod
    def _public(key: Ed25519PrivateKey) -> Any:
        return tufmeta.key_from_public(key.public_key().public_bytes_raw())

    def _signed(self, metadata: Any, by: Sequence[str]) -> bytes:
        for name in by:
            tufmeta.add_signature(metadata, tufmeta.signer_from_private(self.keys[name]))
        return tufmeta.to_bytes(metadata)


def _in(days: int) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


def release_blobs(tenant: str, version: int, *, rule: str = "analysts") -> dict[str, bytes]:
    """A release without models: its manifest (the first entry) and policy pack, by path."""
    pack = encode(Pack("test", "1", {"policy.yaml": json.dumps(document(allow(rule)))}))
    digest = digest_of(pack)
    manifest = ReleaseManifest(
        tenant=tenant,
        version=version,
        created="2026-11-22T00:00:00Z",
        minimum_version=0,
        offline_grace_seconds=3600,
        policy=ArtifactRef(policy_path(digest), digest, len(pack)),
        models=(),
    ).encode()
    return {release_path(digest_of(manifest)): manifest, policy_path(digest): pack}


class RunningCoordinator:
    """What a test does with a coordinator that serves."""

    def __init__(self, home: Home, up: Running, clock: ShiftedClock) -> None:
        self.home = home
        self.up = up
        self.clock = clock
        self.ca = home.ca_certificate.read_bytes()
        self._channels: list[Any] = []
        folder = home.operators / "admin"
        self.admin = self.operator_stub(
            (folder / "key.pem").read_bytes(), (folder / "cert.pem").read_bytes()
        )
        join = grpc.ssl_channel_credentials(self.ca)
        self.enrollment: Any = enrollment_pb2_grpc.EnrollmentStub(self._channel(up.enroll, join))

    def channel(self, key: bytes, certificate: bytes) -> Any:
        """A channel to the mTLS port with a client certificate (PEM both)."""
        return self._channel(
            self.up.session, grpc.ssl_channel_credentials(self.ca, key, certificate)
        )

    def operator_stub(self, key: bytes, certificate: bytes) -> Any:
        """Admin as the operator of that certificate."""
        return admin_pb2_grpc.AdminStub(self.channel(key, certificate))

    async def operator(self, role: str, name: str = "") -> Any:
        """Admin as a new operator of that role."""
        key = new_key()
        answer = await self.admin.IssueOperator(
            admin_pb2.IssueOperatorRequest(name=name or role, role=role, csr=csr(key)),
            timeout=TIMEOUT,
        )
        return self.operator_stub(key_pem(key), chain_pem(answer.certificate_chain))

    async def tenant(self, name: str) -> admin_pb2.Tenant:
        """A new tenant."""
        answer: admin_pb2.CreateTenantResponse = await self.admin.CreateTenant(
            admin_pb2.CreateTenantRequest(name=name), timeout=TIMEOUT
        )
        return answer.tenant

    async def token(
        self, tenant: str, *, agent: str = "", ttl: int = 0
    ) -> admin_pb2.CreateTokenResponse:
        """A join token."""
        answer: admin_pb2.CreateTokenResponse = await self.admin.CreateToken(
            admin_pb2.CreateTokenRequest(tenant=tenant, agent=agent, ttl=ttl), timeout=TIMEOUT
        )
        return answer

    def request(
        self, tenant: str, token: admin_pb2.CreateTokenResponse, key: Any, *, agent: str = ""
    ) -> enrollment_pb2.EnrollRequest:
        """An enrollment with that token and key."""
        return enrollment_pb2.EnrollRequest(
            tenant=tenant,
            token_id=token.token_id,
            token_secret=token.secret,
            csr=csr(key),
            agent=agent,
            audit_public_key=bytes(32),
        )

    async def enroll(self, tenant: str, agent: str = "") -> Member:
        """A really enrolled agent."""
        token, key, audit = await self.token(tenant), new_key(), Ed25519PrivateKey.generate()
        request = self.request(tenant, token, key, agent=agent)
        request.audit_public_key = audit.public_key().public_bytes_raw()
        answer = await self.enrollment.Enroll(request, timeout=TIMEOUT)
        return self.member(tenant, key, audit, token, answer)

    def member(self, tenant: str, key: Any, audit: Any, token: Any, answer: Any) -> Member:
        """The agent that an enrollment answered."""
        channel = self.channel(key_pem(key), chain_pem(answer.certificate_chain))
        name = answer.spiffe_id.rpartition("/")[2]
        return Member(tenant, name, key, audit, token, answer, channel)

    async def upload(self, tenant: str, blobs: Mapping[str, bytes]) -> None:
        """Send targets' bytes."""
        for data in blobs.values():
            header = admin_pb2.TargetHeader(tenant=tenant, sha256=digest_of(data), length=len(data))
            await self.admin.UploadTarget(
                iter([admin_pb2.UploadTargetRequest(header=header, data=data)]), timeout=TIMEOUT
            )

    async def publish(self, tenant: str, roots: Sequence[bytes], targets: bytes) -> Any:
        """Offer metadata."""
        return await self.admin.PublishMetadata(
            admin_pb2.PublishMetadataRequest(tenant=tenant, roots=roots, targets=targets),
            timeout=TIMEOUT,
        )

    async def release(self, tenant: admin_pb2.Tenant, version: int = 1) -> str:
        """Publish a first release; returns its digest."""
        people, blobs = Signers(), release_blobs(tenant.name, version)
        await self.upload(tenant.name, blobs)
        await self.publish(
            tenant.name,
            [people.root(tenant, ("ann", "bob"))] if version == 1 else [],
            people.targets(version, blobs, ("ann", "bob")),
        )
        return digest_of(next(iter(blobs.values())))

    async def rollout(self, tenant: str, digest: str) -> admin_pb2.Rollout:
        """Start one."""
        answer: admin_pb2.Rollout = await self.admin.StartRollout(
            admin_pb2.StartRolloutRequest(tenant=tenant, release_digest=digest), timeout=TIMEOUT
        )
        return answer

    async def read(self, job: Callable[[Tx], Any]) -> Any:
        """Look into the database."""
        return await self.up.parts.store.read(job)

    async def close(self) -> None:
        """Close every channel."""
        for channel in self._channels:
            await channel.close()

    def _channel(self, endpoint: str, credentials: Any) -> Any:
        # Its own connections: with the shared pool, a channel could ride on another's identity.
        options = [*CLIENT_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
        channel = grpc.aio.secure_channel(endpoint, credentials, options=options)
        self._channels.append(channel)
        return channel


def new_home(folder: Path, **settings: Any) -> Home:
    """A home whose ports are chosen when it serves."""
    usual: dict[str, Any] = {
        "trust_domain": DOMAIN,
        "listen": "127.0.0.1:0",
        "enroll_listen": "127.0.0.1:0",
        "metrics_listen": "127.0.0.1:0",
        "drain_seconds": 2,
    }
    anywhere = replace(Settings(), **{**usual, **settings})
    from exclave_coordinator.system import SystemClock

    return create(folder, anywhere, SystemClock(), SystemRng())


@asynccontextmanager
async def running_coordinator(
    folder: Path, *, clock: ShiftedClock | None = None, **settings: Any
) -> AsyncIterator[RunningCoordinator]:
    """A coordinator that serves in this process; an existing home is taken up again."""
    from exclave_coordinator.config import load

    home = Home(folder) if folder.exists() else new_home(folder, **settings)
    time_now = clock or ShiftedClock()
    async with running(
        home,
        load(home.settings_file),
        version="test",
        clock=time_now,
        rng=SystemRng(),
        ids=SystemIds(),
    ) as up:
        test = RunningCoordinator(home, up, time_now)
        try:
            yield test
        finally:
            await test.close()


async def refused(call: Any) -> tuple[str, str, str]:
    """(status, our code, message) of a call that must fail."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        trailing = dict(error.trailing_metadata() or ())
        code = trailing.get("exclave-code", "")
        return error.code().name, str(code), error.details() or ""
    raise AssertionError("the call was not refused")
