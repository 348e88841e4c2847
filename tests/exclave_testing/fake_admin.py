"""An Admin service in this process, with real sockets, mTLS and TUF checks, and no storage.

The operators' tool is tested against it; it keeps everything in memory and answers at once.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from exclave_protocol import tufmeta
from exclave_protocol.errors import MetadataError, SignaturesMissing
from exclave_protocol.identity import SpiffeId, role_uri
from exclave_protocol.pb import admin_pb2 as pb
from exclave_protocol.pb import fleet_pb2
from exclave_protocol.pb.admin_pb2_grpc import AdminServicer, add_AdminServicer_to_server
from exclave_protocol.wire import SERVER_OPTIONS, require_tls13

DOMAIN = "example.test"


class Authority:
    """A CA of ECDSA P-256 certificates."""

    def __init__(self, name: str = "test ca") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = (
            self._builder(subject, subject, self.key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self.key, SHA256())
        )

    @property
    def pem(self) -> bytes:
        """The CA certificate."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def der(self) -> bytes:
        """The CA certificate."""
        return self.certificate.public_bytes(Encoding.DER)

    def issue(
        self,
        public: ec.EllipticCurvePublicKey,
        names: list[x509.GeneralName],
        *,
        expired: bool = False,
    ) -> x509.Certificate:
        """A leaf certificate, good for a day, or until a minute ago."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "leaf")])
        return (
            self._builder(subject, self.certificate.subject, public, expired=expired)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self.key, SHA256())
        )

    def operator(
        self, public: ec.EllipticCurvePublicKey, name: str, role: str, *, expired: bool = False
    ) -> x509.Certificate:
        """An operator's certificate."""
        uris = (str(SpiffeId.operator(DOMAIN, name)), role_uri(DOMAIN, role))
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
        return self.issue(public, names, expired=expired)

    @staticmethod
    def _builder(
        subject: x509.Name,
        issuer: x509.Name,
        public: ec.EllipticCurvePublicKey,
        *,
        expired: bool = False,
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        end = now - timedelta(minutes=1) if expired else now + timedelta(days=1)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(end)
        )


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Unencrypted PKCS#8."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@dataclass
class FakeTenant:
    """One tenant's state."""

    name: str
    snapshot_key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    timestamp_key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    roots: list[bytes] = field(default_factory=list)
    targets: bytes = b""
    online: tuple[bytes, bytes] = (b"", b"")
    """Snapshot and timestamp."""
    artifacts: dict[str, bytes] = field(default_factory=dict)

    @property
    def targets_version(self) -> int:
        """Of the published targets; 0: none."""
        return tufmeta.load_targets(self.targets).signed.version if self.targets else 0

    def message(self) -> pb.Tenant:
        """As Admin answers it."""
        return pb.Tenant(
            name=self.name,
            trust_domain=DOMAIN,
            snapshot_public_key=self.snapshot_key.public_key().public_bytes_raw(),
            timestamp_public_key=self.timestamp_key.public_key().public_bytes_raw(),
            root_version=len(self.roots),
            targets_version=self.targets_version,
            root_pin=bytes.fromhex(tufmeta.root_pin(self.roots[0])) if self.roots else b"",
            created=1_700_000_000,
        )


class FakeAdmin(AdminServicer):
    """The service. Tests read and change its fields."""

    def __init__(self, ca: Authority) -> None:
        self.ca = ca
        self.tenants: dict[str, FakeTenant] = {}
        self.tokens: dict[str, bytes] = {}
        self.agents: dict[tuple[str, str], pb.Agent] = {}
        self.rollouts: list[pb.Rollout] = []
        self.bundle = b"PK\x03\x04 a bundle"
        self.leaves: list[bytes] = []
        self.cosigned: list[bytes] = []
        self.witnesses = pb.ListWitnessesResponse()
        self.agent_logs = pb.ListAgentLogsResponse()
        self.uploads: list[str] = []
        """Digests, as they arrived."""
        self.calls: list[str] = []
        self.fail_after_publish = False
        """Lose the reply of the next publication."""
        self.bundle_breaks = False
        self.applied_per_poll = 1
        self._lock = threading.Lock()

    # Every handler's name and argument order come from the generated base class.

    def CreateTenant(
        self, request: pb.CreateTenantRequest, context: Any
    ) -> pb.CreateTenantResponse:
        self._caller(context, "admin")
        if request.name in self.tenants:
            _refuse(context, grpc.StatusCode.ALREADY_EXISTS, "tenant exists")
        self.tenants[request.name] = FakeTenant(request.name)
        return pb.CreateTenantResponse(tenant=self.tenants[request.name].message())

    def GetTenant(self, request: pb.GetTenantRequest, context: Any) -> pb.Tenant:
        self._caller(context)
        return self._tenant(request.name, context).message()

    def ListTenants(self, request: pb.ListTenantsRequest, context: Any) -> pb.ListTenantsResponse:
        self._caller(context)
        return pb.ListTenantsResponse(tenants=[t.message() for t in self.tenants.values()])

    def CreateToken(self, request: pb.CreateTokenRequest, context: Any) -> pb.CreateTokenResponse:
        self._caller(context, "admin")
        self._tenant(request.tenant, context)
        token_id = f"{len(self.tokens):032x}"
        self.tokens[token_id] = hashlib.sha256(token_id.encode()).digest()
        return pb.CreateTokenResponse(
            token_id=token_id,
            secret=self.tokens[token_id],
            expires=1_700_000_000 + request.ttl,
            enroll_endpoint="localhost:7444",
            ca_certificate=self.ca.der,
        )

    def RevokeToken(self, request: pb.RevokeTokenRequest, context: Any) -> pb.RevokeTokenResponse:
        self._caller(context, "admin")
        if self.tokens.pop(request.token_id, None) is None:
            _refuse(context, grpc.StatusCode.NOT_FOUND, "no such token")
        return pb.RevokeTokenResponse()

    def ListAgents(self, request: pb.ListAgentsRequest, context: Any) -> pb.ListAgentsResponse:
        self._caller(context)
        wanted = [a for a in self.agents.values() if request.tenant in ("", a.tenant)]
        return pb.ListAgentsResponse(agents=wanted)

    def EvictAgent(self, request: pb.AgentRequest, context: Any) -> pb.Agent:
        return self._set_state(request, context, pb.Agent.EVICTED)

    def BanAgent(self, request: pb.AgentRequest, context: Any) -> pb.Agent:
        return self._set_state(request, context, pb.Agent.BANNED)

    def ReopenLog(self, request: pb.AgentRequest, context: Any) -> pb.ReopenLogResponse:
        self._caller(context, "admin")
        return pb.ReopenLogResponse(epoch=2)

    def IssueOperator(
        self, request: pb.IssueOperatorRequest, context: Any
    ) -> pb.IssueOperatorResponse:
        self._caller(context, "admin")
        public = x509.load_der_x509_csr(request.csr).public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        leaf = self.ca.operator(public, request.name, request.role)
        return pb.IssueOperatorResponse(
            certificate_chain=[leaf.public_bytes(Encoding.DER)], ca_bundle=[self.ca.der]
        )

    def UploadTarget(
        self, request_iterator: Iterator[pb.UploadTargetRequest], context: Any
    ) -> pb.UploadTargetResponse:
        self._caller(context, "release-manager")
        header = next(request_iterator).header
        data = b"".join(message.data for message in request_iterator)
        if len(data) != header.length or hashlib.sha256(data).hexdigest() != header.sha256:
            _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "target: hash or length differ")
        held = self._tenant(header.tenant, context).artifacts
        existed = header.sha256 in held
        held[header.sha256] = data
        self.uploads.append(header.sha256)
        return pb.UploadTargetResponse(existed=existed)

    def MissingTargets(
        self, request: pb.MissingTargetsRequest, context: Any
    ) -> pb.MissingTargetsResponse:
        self._caller(context, "release-manager")
        held = self._tenant(request.tenant, context).artifacts
        return pb.MissingTargetsResponse(sha256=[d for d in request.sha256 if d not in held])

    def PublishMetadata(
        self, request: pb.PublishMetadataRequest, context: Any
    ) -> pb.PublishMetadataResponse:
        self._caller(context, "release-manager")
        tenant = self._tenant(request.tenant, context)
        now = datetime.now(UTC)
        trusted = tenant.roots[-1] if tenant.roots else None
        try:
            root = tufmeta.verify_roots(trusted, list(request.roots))
            if request.targets:
                targets = tufmeta.verify_targets(
                    root.signed, request.targets, now=now, newer_than=tenant.targets_version
                )
                digests = [t.hashes["sha256"] for t in targets.signed.targets.values()]
                if lacking := [d for d in digests if d not in tenant.artifacts]:
                    _refuse(
                        context,
                        grpc.StatusCode.FAILED_PRECONDITION,
                        f"{len(lacking)} targets are not uploaded",
                    )
        except SignaturesMissing as error:
            _refuse(context, grpc.StatusCode.FAILED_PRECONDITION, error.message)
        except MetadataError as error:
            _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, error.message)
        tenant.roots += request.roots
        tenant.targets = request.targets or tenant.targets
        version = tenant.targets_version
        tenant.online = tufmeta.sign_snapshot_timestamp(
            targets_version=version,
            snapshot_version=version,
            timestamp_version=version,
            snapshot_signer=tufmeta.signer_from_private(tenant.snapshot_key),
            timestamp_signer=tufmeta.signer_from_private(tenant.timestamp_key),
            snapshot_expires=now + timedelta(days=1),
            timestamp_expires=now + timedelta(days=1),
        )
        if self.fail_after_publish:
            self.fail_after_publish = False
            _refuse(context, grpc.StatusCode.UNAVAILABLE, "the reply was lost")
        return pb.PublishMetadataResponse(
            root_version=len(tenant.roots), targets_version=version, snapshot_version=version
        )

    def GetMetadata(self, request: pb.GetMetadataRequest, context: Any) -> pb.GetMetadataResponse:
        self._caller(context)
        tenant = self._tenant(request.tenant, context)
        files = {f"{i}.root.json": data for i, data in enumerate(tenant.roots, start=1)}
        if tenant.roots:
            files["root.json"] = tenant.roots[-1]
        if tenant.targets:
            files["targets.json"] = tenant.targets
        if request.name not in files:
            _refuse(context, grpc.StatusCode.NOT_FOUND, "no such metadata")
        return pb.GetMetadataResponse(content=files[request.name])

    def StartRollout(self, request: pb.StartRolloutRequest, context: Any) -> pb.Rollout:
        self._caller(context, "release-manager")
        tenant = self._tenant(request.tenant, context)
        named = tufmeta.load_targets(tenant.targets).signed.targets if tenant.targets else {}
        if f"releases/{request.release_digest}.json" not in named:
            _refuse(context, grpc.StatusCode.NOT_FOUND, "release is not in the signed targets")
        rollout = pb.Rollout(
            tenant=request.tenant,
            rollout=f"r{len(self.rollouts) + 1}",
            release_digest=request.release_digest,
            generation=len(self.rollouts) + 1,
            started=1_700_000_000,
            agents=sum(agent.tenant == request.tenant for agent in self.agents.values()),
        )
        self.rollouts.append(rollout)
        return rollout

    def GetRollout(self, request: pb.GetRolloutRequest, context: Any) -> pb.Rollout:
        self._caller(context)
        mine = [r for r in self.rollouts if request.rollout in ("", r.rollout)]
        if not mine:
            _refuse(context, grpc.StatusCode.NOT_FOUND, "no such rollout")
        rollout = mine[-1]
        if rollout.applied + rollout.failed < rollout.agents:
            rollout.applied += self.applied_per_poll
        return rollout

    def ExportAudit(
        self, request: pb.ExportAuditRequest, context: Any
    ) -> Iterator[pb.ExportAuditChunk]:
        self._caller(context, "auditor")
        self._tenant(request.tenant, context)
        self.calls.append(f"export {getattr(request, 'from')}..{request.to}")
        half = len(self.bundle) // 2
        yield pb.ExportAuditChunk(data=self.bundle[:half])
        if self.bundle_breaks:
            _refuse(context, grpc.StatusCode.INTERNAL, "disk error")
        yield pb.ExportAuditChunk(data=self.bundle[half:])

    def ReadOperatorLog(
        self, request: pb.ReadOperatorLogRequest, context: Any
    ) -> pb.ReadOperatorLogResponse:
        self._caller(context)
        # Pages shorter than asked for: clients must go on until they have `size`.
        cosigned = request.log == pb.ReadOperatorLogRequest.COSIGNED
        leaves = self.cosigned if cosigned else self.leaves
        page = leaves[request.first_seq :][: min(request.limit, 2)]
        return pb.ReadOperatorLogResponse(leaves=page, size=len(leaves))

    def ListWitnesses(
        self, request: pb.ListWitnessesRequest, context: Any
    ) -> pb.ListWitnessesResponse:
        self._caller(context)
        return self.witnesses

    def ListAgentLogs(
        self, request: pb.ListAgentLogsRequest, context: Any
    ) -> pb.ListAgentLogsResponse:
        self._caller(context)
        return self.agent_logs

    # --- helpers ---

    def add_agent(self, tenant: str, name: str) -> pb.Agent:
        """An agent that has been seen."""
        observed = fleet_pb2.Observed(
            generation=1, phase=fleet_pb2.Phase.PHASE_APPLIED, release_digest="ab" * 32
        )
        agent = pb.Agent(
            tenant=tenant, name=name, state=pb.Agent.ACTIVE, connected=True, observed=observed
        )
        self.agents[tenant, name] = agent
        return agent

    def _set_state(self, request: pb.AgentRequest, context: Any, state: pb.Agent.State) -> pb.Agent:
        self._caller(context, "admin")
        agent = self.agents.get((request.tenant, request.agent))
        if agent is None:
            _refuse(context, grpc.StatusCode.NOT_FOUND, "no such agent")
        agent.state = state
        self.calls.append(f"{request.agent}: {request.reason}")
        return agent

    def _tenant(self, name: str, context: Any) -> FakeTenant:
        with self._lock:
            if name not in self.tenants:
                _refuse(context, grpc.StatusCode.NOT_FOUND, "no such tenant")
            return self.tenants[name]

    def _caller(self, context: Any, role: str = "") -> None:
        """Admins may do everything here; others only what their certificate's role says."""
        names = [
            n.decode() for n in context.auth_context().get("x509_subject_alternative_name", [])
        ]
        roles = {n.rpartition("/")[2] for n in names if "/role/" in n}
        if role and not roles & {role, "admin"}:
            _refuse(context, grpc.StatusCode.PERMISSION_DENIED, f"needs role {role}")


def _refuse(context: Any, code: grpc.StatusCode, detail: str) -> NoReturn:
    context.abort(code, detail)
    raise AssertionError("abort raises")


class FakeCoordinator:
    """The service on a real port, and profiles to reach it."""

    def __init__(self, folder: Path) -> None:
        require_tls13()
        self.ca = Authority()
        self.admin = FakeAdmin(self.ca)
        self._folder = folder
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
            x509.UniformResourceIdentifier(str(SpiffeId.coordinator(DOMAIN))),
        ]
        leaf = self.ca.issue(key.public_key(), names).public_bytes(Encoding.PEM)
        untyped: Any = grpc  # grpc's synchronous API carries no annotations
        self._pool = ThreadPoolExecutor(4)
        self._server = untyped.server(self._pool, options=list(SERVER_OPTIONS))
        register: Any = add_AdminServicer_to_server
        register(self.admin, self._server)
        self.port: int = self._server.add_secure_port(
            "127.0.0.1:0",
            untyped.ssl_server_credentials(
                [(key_pem(key), leaf)],
                root_certificates=self.ca.pem,
                require_client_auth=True,
            ),
        )
        self._server.start()

    def profile(
        self,
        name: str = "root",
        role: str = "admin",
        *,
        ca: Authority | None = None,
        expired: bool = False,
    ) -> Path:
        """A profile folder as `exclave-coordinator init` writes it."""
        folder = self._folder / f"profile-{name}"
        folder.mkdir()
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (ca or self.ca).operator(key.public_key(), name, role, expired=expired)
        (folder / "key.pem").write_bytes(key_pem(key))
        (folder / "key.pem").chmod(0o600)
        (folder / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        (folder / "ca.pem").write_bytes((ca or self.ca).pem)
        value = {
            "endpoint": f"localhost:{self.port}",
            "name": name,
            "role": role,
            "trust_domain": DOMAIN,
        }
        (folder / "profile.json").write_text(json.dumps(value))
        return folder

    def stop(self) -> None:
        """Close the port and end the threads."""
        self._server.stop(grace=None).wait(5)
        self._pool.shutdown(wait=True)
