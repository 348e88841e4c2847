"""Who may call what: identity from the certificate, rules from one table, default deny."""

from __future__ import annotations

from collections import OrderedDict
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from exclave_coordinator.errors import Denied, Unauthenticated
from exclave_coordinator.fleet.certificates import Peer, read_peer
from exclave_coordinator.fleet.registry import Member, Registry
from exclave_coordinator.ports import AgentKey, Clock

ADMIN: Final = "admin"
RELEASE: Final = "release-manager"
AUDITOR: Final = "auditor"

_ANY: Final = frozenset({ADMIN, RELEASE, AUDITOR})
_ADMIN: Final = frozenset({ADMIN})
# An admin can issue certificates of any role, so refusing an admin would be theatre.
_RELEASE: Final = frozenset({ADMIN, RELEASE})
_AUDIT: Final = frozenset({ADMIN, AUDITOR})

ROLES: Final[dict[str, frozenset[str]]] = {
    "CreateTenant": _ADMIN,
    "GetTenant": _ANY,
    "ListTenants": _ANY,
    "CreateToken": _ADMIN,
    "RevokeToken": _ADMIN,
    "ListAgents": _ANY,
    "EvictAgent": _ADMIN,
    "BanAgent": _ADMIN,
    "ReopenLog": _ADMIN,
    "IssueOperator": _ADMIN,
    "UploadTarget": _RELEASE,
    "MissingTargets": _RELEASE,
    "PublishMetadata": _RELEASE,
    "GetMetadata": _ANY,
    "StartRollout": _RELEASE,
    "GetRollout": _ANY,
    "ExportAudit": _AUDIT,
    "ReadOperatorLog": _ANY,
    "ListWitnesses": _ANY,
    "ListAgentLogs": _ANY,
}
"""Which roles may call which method of Admin. A method that is not here is nobody's."""

OPERATOR_SERVICES: Final = frozenset({"exclave.v1.Admin"})
AGENT_SERVICES: Final = frozenset(
    {"exclave.v1.Identity", "exclave.v1.Fleet", "exclave.v1.Artifact", "exclave.v1.Audit"}
)
JOIN_SERVICES: Final = frozenset({"exclave.v1.Enrollment"})
"""Callers have no certificate yet; served on the enrollment port only."""
OPEN_SERVICES: Final = frozenset(
    {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
)
"""Standard services: on the mTLS port for any certificate of ours."""

ANY_STATE: Final = frozenset({"/exclave.v1.Fleet/Session"})
"""Here a banned or evicted agent is told so in the stream before it is refused."""

_CACHED: Final = 20_000


@dataclass(frozen=True, slots=True)
class AgentCaller:
    """A calling agent, admitted (or, for a session, at least known)."""

    member: Member
    peer: Peer


@dataclass(frozen=True, slots=True)
class OperatorCaller:
    """A calling operator whose role allows the method."""

    id: str
    """SPIFFE ID."""
    name: str
    role: str


Caller = AgentCaller | OperatorCaller | None

_caller: ContextVar[Caller] = ContextVar("caller", default=None)


def set_caller(caller: Caller) -> None:
    """For the rest of this call's task."""
    _caller.set(caller)


def calling_agent() -> AgentCaller:
    """The agent that makes the current call."""
    caller = _caller.get()
    if not isinstance(caller, AgentCaller):
        raise Unauthenticated("certificate: not an agent's", code="not_an_agent")
    return caller


def calling_operator() -> OperatorCaller:
    """The operator who makes the current call."""
    caller = _caller.get()
    if not isinstance(caller, OperatorCaller):
        raise Unauthenticated("certificate: not an operator's", code="not_an_operator")
    return caller


class RoleDenied(Denied):
    """An operator whose role does not allow the method; recorded."""

    code = "role"

    def __init__(self, message: str, caller: OperatorCaller) -> None:
        super().__init__(message)
        self.caller = caller


class Gatekeeper:
    """Names the caller of a method, or refuses it."""

    def __init__(self, registry: Registry, trust_domain: str, clock: Clock) -> None:
        self._registry = registry
        self._domain = trust_domain
        self._clock = clock
        self._peers: OrderedDict[bytes, Peer] = OrderedDict()

    def identify(self, method: str, context: Any) -> Caller:
        """The caller of `/service/Method`.

        Raises: Unauthenticated (no_certificate, certificate_expired, not_ours), Denied.
        """
        service, _, name = method.removeprefix("/").rpartition("/")
        if service in JOIN_SERVICES or service in OPEN_SERVICES:
            return None
        peer = self._peer(context)
        if service in OPERATOR_SERVICES:
            return self._operator(peer, name)
        if service in AGENT_SERVICES:
            return self._agent(peer, method)
        raise Denied("this method is not open to anybody", code="method")

    def _operator(self, peer: Peer, method: str) -> OperatorCaller:
        if peer.id.kind != "operator":
            raise Denied("only operators may call this", code="not_an_operator")
        caller = OperatorCaller(str(peer.id), peer.id.name, peer.role)
        allowed = ROLES.get(method, frozenset())
        if peer.role not in allowed:
            wanted = " or ".join(sorted(allowed)) or "nobody"
            raise RoleDenied(f"role {peer.role} may not call {method}; {wanted} may", caller)
        return caller

    def _agent(self, peer: Peer, method: str) -> AgentCaller:
        if peer.id.kind != "agent":
            raise Denied("only agents may call this", code="not_an_agent")
        key = AgentKey(peer.id.tenant, peer.id.name)
        if method in ANY_STATE:
            member = self._registry.get(key)
            if member is None:
                raise Denied("the agent is unknown here: join again", code="not_an_agent")
            return AgentCaller(member, peer)
        return AgentCaller(self._registry.admit(key, peer.key), peer)

    def _peer(self, context: Any) -> Peer:
        pem = next(iter(context.auth_context().get("x509_pem_cert", ())), None)
        if pem is None:
            raise Unauthenticated("a client certificate is required", code="no_certificate")
        peer = self._peers.get(pem)
        if peer is None:
            peer = read_peer(pem, self._domain)
            self._peers[pem] = peer
            if len(self._peers) > _CACHED:
                self._peers.popitem(last=False)
        # TLS checked this when the connection began, which may be long ago.
        if peer.not_after <= self._clock.now():
            raise Unauthenticated(
                "certificate: expired: renew or recover", code="certificate_expired"
            )
        return peer
