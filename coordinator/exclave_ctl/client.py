"""The coordinator's Admin service as the commands call it: mTLS, deadlines, our errors."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

from exclave_ctl.errors import CtlError, rpc
from exclave_ctl.profile import Profile
from exclave_protocol.wire import CHUNK, CLIENT_OPTIONS, require_tls13

if TYPE_CHECKING:
    from exclave_protocol.pb import admin_pb2 as pb

R = TypeVar("R")

CALL_SECONDS = 30.0
"""Deadline of a call that answers at once."""
STREAM_SECONDS = 3600.0
"""Deadline of an upload or an export."""


class Client:
    """Typed calls. Every method raises CtlError when the coordinator refuses or is away."""

    def __init__(self, stub: object, profile: Profile) -> None:
        self._stub = stub
        self.profile = profile

    def _call(self, method: str, request: object, reply: type[R]) -> R:
        """One unary call. The generated stub is untyped: `reply` names what comes back."""
        with rpc():
            return cast("R", getattr(self._stub, method)(request, timeout=CALL_SECONDS))

    # --- tenants, tokens, agents, operators ---

    def create_tenant(self, name: str) -> pb.Tenant:
        """Make a tenant; the coordinator makes its online keys."""
        from exclave_protocol.pb import admin_pb2 as pb

        request = pb.CreateTenantRequest(name=name)
        return self._call("CreateTenant", request, pb.CreateTenantResponse).tenant

    def tenant(self, name: str) -> pb.Tenant:
        """One tenant."""
        from exclave_protocol.pb import admin_pb2 as pb

        return self._call("GetTenant", pb.GetTenantRequest(name=name), pb.Tenant)

    def tenants(self) -> list[pb.Tenant]:
        """All tenants."""
        from exclave_protocol.pb import admin_pb2 as pb

        reply = self._call("ListTenants", pb.ListTenantsRequest(), pb.ListTenantsResponse)
        return list(reply.tenants)

    def create_token(self, tenant: str, agent: str, ttl: int) -> pb.CreateTokenResponse:
        """A join token's parts; `ttl` in seconds."""
        from exclave_protocol.pb import admin_pb2 as pb

        request = pb.CreateTokenRequest(tenant=tenant, agent=agent, ttl=ttl)
        return self._call("CreateToken", request, pb.CreateTokenResponse)

    def revoke_token(self, token_id: str) -> None:
        """Make an unspent token worthless."""
        from exclave_protocol.pb import admin_pb2 as pb

        request = pb.RevokeTokenRequest(token_id=token_id)
        self._call("RevokeToken", request, pb.RevokeTokenResponse)

    def agents(self, tenant: str) -> list[pb.Agent]:
        """The tenant's agents; empty: everybody's."""
        from exclave_protocol.pb import admin_pb2 as pb

        request = pb.ListAgentsRequest(tenant=tenant)
        return list(self._call("ListAgents", request, pb.ListAgentsResponse).agents)

    def evict_agent(self, tenant: str, agent: str, reason: str) -> pb.Agent:
        """End the agent's stream; it may come back."""
        from exclave_protocol.pb import admin_pb2 as pb

        request = pb.AgentRequest(tenant=tenant, agent=agent, reason=reason)
        return self._call("EvictAgent", request, pb.Agent)

    def ban_agent(self, tenant: str, agent: str, reason: str) -> pb.Agent:
        """End the agent's stream for good."""
        from exclave_protocol.pb import admin_pb2 as pb

        request = pb.AgentRequest(tenant=tenant, agent=agent, reason=reason)
        return self._call("BanAgent", request, pb.Agent)

    def reopen_log(self, tenant: str, agent: str, reason: str) -> int:
        """Let the agent begin the next epoch of its log; returns which."""
        from exclave_protocol.pb import admin_pb2 as pb

        request = pb.AgentRequest(tenant=tenant, agent=agent, reason=reason)
        return int(self._call("ReopenLog", request, pb.ReopenLogResponse).epoch)

    def issue_operator(
        self, name: str, role: str, csr: bytes, ttl: int
    ) -> pb.IssueOperatorResponse:
        """Certificate for an operator's key; `ttl` in seconds, 0: the coordinator's default."""
        from exclave_protocol.pb import admin_pb2 as pb

        request = pb.IssueOperatorRequest(name=name, role=role, csr=csr, ttl=ttl)
        return self._call("IssueOperator", request, pb.IssueOperatorResponse)

    # --- releases and rollouts ---

    def missing_targets(self, tenant: str, digests: Iterable[str]) -> set[str]:
        """Which of these the coordinator does not hold yet."""
        from exclave_protocol.pb import admin_pb2 as pb

        request = pb.MissingTargetsRequest(tenant=tenant, sha256=list(digests))
        return set(self._call("MissingTargets", request, pb.MissingTargetsResponse).sha256)

    def upload(self, tenant: str, sha256: str, path: Path, progress: Callable[[int], None]) -> None:
        """Send one target's bytes; `progress` is told of each chunk's length.

        The coordinator refuses bytes of another digest; then the error says whether the
        file has changed since the release was built.
        """
        with path.open("rb") as file:
            sent = hashlib.sha256()
            try:
                with rpc():
                    self._upload_stub(_chunks(file, tenant, sha256, sent, progress))
            except CtlError as error:
                if error.code == "INVALID_ARGUMENT" and sent.hexdigest() != sha256:
                    raise CtlError(
                        f"{path} has changed since the release was built",
                        "build the release again, or put the file back",
                    ) from error
                raise

    def _upload_stub(self, messages: Iterator[pb.UploadTargetRequest]) -> None:
        cast("Any", self._stub).UploadTarget(messages, timeout=STREAM_SECONDS)

    def publish(
        self, tenant: str, roots: list[bytes], targets: bytes
    ) -> pb.PublishMetadataResponse:
        """Offer signed metadata; `targets` empty: none."""
        from exclave_protocol.pb import admin_pb2 as pb

        request = pb.PublishMetadataRequest(tenant=tenant, roots=roots, targets=targets)
        return self._call("PublishMetadata", request, pb.PublishMetadataResponse)

    def metadata(self, tenant: str, name: str) -> bytes | None:
        """One metadata file as agents read it; None: not published."""
        from exclave_protocol.pb import admin_pb2 as pb

        request = pb.GetMetadataRequest(tenant=tenant, name=name)
        try:
            return self._call("GetMetadata", request, pb.GetMetadataResponse).content
        except CtlError as error:
            if error.code == "NOT_FOUND":
                return None
            raise

    def start_rollout(self, tenant: str, digest: str) -> pb.Rollout:
        """Assign a published release to all the tenant's agents."""
        from exclave_protocol.pb import admin_pb2 as pb

        request = pb.StartRolloutRequest(tenant=tenant, release_digest=digest)
        return self._call("StartRollout", request, pb.Rollout)

    def rollout(self, tenant: str, rollout: str) -> pb.Rollout:
        """How far a rollout is; empty: the newest."""
        from exclave_protocol.pb import admin_pb2 as pb

        request = pb.GetRolloutRequest(tenant=tenant, rollout=rollout)
        return self._call("GetRollout", request, pb.Rollout)

    # --- audit ---

    def export_audit(
        self,
        tenant: str,
        first: int,
        last: int,
        *,
        models: Sequence[str] = (),
        workflows: Sequence[str] = (),
        commitments: Sequence[str] = (),
    ) -> Iterator[bytes]:
        """The bundle's bytes; times in seconds since the epoch, 0: open. The others: see
        admin.proto."""
        from exclave_protocol.pb import admin_pb2 as pb

        request = pb.ExportAuditRequest(
            tenant=tenant, to=last, models=models, workflows=workflows, commitments=commitments
        )
        setattr(request, "from", first)  # a Python keyword: the field has no other name
        with rpc():
            for chunk in cast("Any", self._stub).ExportAudit(request, timeout=STREAM_SECONDS):
                yield chunk.data

    def own_log(self, name: str, first_seq: int, limit: int) -> pb.ReadOperatorLogResponse:
        """Leaves of one of the coordinator's own logs: "operators" or "cosigned"."""
        from exclave_protocol.pb import admin_pb2 as pb

        request = pb.ReadOperatorLogRequest(first_seq=first_seq, limit=limit, log=name.upper())
        return self._call("ReadOperatorLog", request, pb.ReadOperatorLogResponse)

    def witnesses(self) -> pb.ListWitnessesResponse:
        """The coordinator's own logs and who cosigned them."""
        from exclave_protocol.pb import admin_pb2 as pb

        return self._call("ListWitnesses", pb.ListWitnessesRequest(), pb.ListWitnessesResponse)

    def agent_logs(self, tenant: str) -> pb.ListAgentLogsResponse:
        """How agents' logs stand at the coordinator; "": of all tenants."""
        from exclave_protocol.pb import admin_pb2 as pb

        request = pb.ListAgentLogsRequest(tenant=tenant)
        return self._call("ListAgentLogs", request, pb.ListAgentLogsResponse)


def _chunks(
    file: BinaryIO,
    tenant: str,
    sha256: str,
    sent: hashlib._Hash,
    progress: Callable[[int], None],
) -> Iterator[pb.UploadTargetRequest]:
    from exclave_protocol.pb import admin_pb2 as pb

    length = os.fstat(file.fileno()).st_size
    yield pb.UploadTargetRequest(
        header=pb.TargetHeader(tenant=tenant, sha256=sha256, length=length)
    )
    while data := file.read(CHUNK):
        sent.update(data)
        yield pb.UploadTargetRequest(data=data)
        progress(len(data))


@contextmanager
def connect(profile: Profile) -> Iterator[Client]:
    """A channel for the length of one command. Raises: CtlError."""
    require_tls13()
    # gRPC's C core writes handshake failures to stderr: we say them better.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    profile.check()
    import grpc

    from exclave_protocol.pb.admin_pb2_grpc import AdminStub

    # grpc's synchronous API and the generated stub carry no annotations.
    untyped: Any = grpc
    credentials = untyped.ssl_channel_credentials(
        root_certificates=profile.ca(),
        private_key=profile.key(),
        certificate_chain=profile.certificate(),
    )
    stub: Any = AdminStub
    options = list(CLIENT_OPTIONS)
    with untyped.secure_channel(profile.endpoint, credentials, options=options) as channel:
        yield Client(stub(channel), profile)
