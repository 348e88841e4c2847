"""How a machine becomes an agent and stays one: tokens, certificates, renewal, recovery."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field

from exclave_coordinator.errors import (
    Denied,
    Exists,
    Invalid,
    NotFound,
    Precondition,
    Unauthenticated,
)
from exclave_coordinator.fleet.certificates import (
    Authority,
    Request,
    parse_request,
    recovery_message,
    verify_proof,
)
from exclave_coordinator.fleet.registry import Registry, refuse_state
from exclave_coordinator.ports import (
    ACTIVE,
    BANNED,
    Agent,
    AgentKey,
    Clock,
    Ids,
    Issued,
    Rng,
    Store,
    Token,
    Tx,
)
from exclave_protocol.errors import IdentityFormatError
from exclave_protocol.identity import TOKEN_SECRET_BYTES, check_name

RECOVERY_WINDOW = 300
"""Seconds by which a recovering agent's clock may differ from ours."""
DEFAULT_TOKEN_TTL = 86_400
MAX_TOKEN_TTL = 30 * 86_400


@dataclass(frozen=True, slots=True)
class Enrolled:
    """An agent and its new certificate."""

    key: AgentKey
    issued: Issued


@dataclass(frozen=True, slots=True)
class NewToken:
    """A join token, its secret shown this once."""

    token: Token
    secret: bytes = field(repr=False)


class Enrollment:
    """Issues agents' certificates. Every refusal has its own code."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        authority: Authority,
        *,
        agent_ttl: int,
        clock: Clock,
        rng: Rng,
        ids: Ids,
    ) -> None:
        """`agent_ttl`: seconds an agent's certificate holds."""
        self._store = store
        self._registry = registry
        self._authority = authority
        self._ttl = agent_ttl
        self._clock = clock
        self._rng = rng
        self._ids = ids

    def draft_token(self, tenant: str, agent: str, ttl: int) -> NewToken:
        """A token to be stored by `store_token`; `ttl` 0: 24 h. Raises: Invalid."""
        if ttl > MAX_TOKEN_TTL:
            raise Invalid(f"ttl: {ttl} s where at most {MAX_TOKEN_TTL} are allowed")
        if agent:
            name(agent, "agent")
        secret = self._rng.token(TOKEN_SECRET_BYTES)
        now = self._clock.now()
        token = Token(
            id=self._ids.new(),
            tenant=tenant,
            secret_hash=hashlib.sha256(secret).digest(),
            agent=agent,
            created=now,
            expires=now + (ttl or DEFAULT_TOKEN_TTL),
        )
        return NewToken(token, secret)

    async def enroll(
        self, tenant: str, token_id: str, secret: bytes, csr: bytes, agent: str, audit_key: bytes
    ) -> Enrolled:
        """Trade a token and a CSR for a certificate; idempotent per (token, public key).

        Raises: Unauthenticated (token_unknown), Denied (token_expired, token_spent,
        token_revoked, token_agent, wrong_tenant, banned), Exists (name taken), Invalid.
        """
        request = parse_request(csr)
        if len(audit_key) != 32:
            raise Invalid(f"audit_public_key: {len(audit_key)} bytes where 32 are expected")
        if agent:
            name(agent, "agent")
        now, fallback = self._clock.now(), f"agent-{self._ids.new()[:12]}"

        def job(tx: Tx) -> Agent:
            token = _presented(tx, token_id, secret, tenant)
            wanted = _wanted(token, agent) or fallback
            if token.spent_key:
                return _again(tx, token, request, agent)
            _usable(token, now)
            member = self._bind(tx, AgentKey(tenant, wanted), request, audit_key, now)
            tx.tenants.spend_token(token.id, request.key_hash, wanted, now)
            return member

        stored = await self._store.write(job, after=self._learn)
        return Enrolled(stored.key, self._issue(request, stored.key))

    async def recover(
        self, tenant: str, agent: str, csr: bytes, timestamp: int, proof: bytes
    ) -> Enrolled:
        """A certificate for an agent whose own has expired, by proof of its bound key.

        Raises: NotFound, Precondition (clock_skew), Unauthenticated (bad_proof), Denied
        (evicted, banned), Invalid.
        """
        request = parse_request(csr)
        member = self._registry.get(AgentKey(tenant, agent))
        if member is None:
            raise NotFound("no agent of this name in this tenant: join with a token")
        # The proof comes first: only the key's holder learns more than the name's existence.
        message = recovery_message(tenant, agent, timestamp, csr)
        if not verify_proof(member.public_key, proof, message):
            raise Unauthenticated(
                "proof: not made by the key bound to this agent", code="bad_proof"
            )
        skew = timestamp - self._clock.now()
        if abs(skew) > RECOVERY_WINDOW:
            raise Precondition(
                f"timestamp: {abs(skew)} s {'ahead of' if skew > 0 else 'behind'} the "
                f"coordinator, at most {RECOVERY_WINDOW} allowed: set the clock",
                code="clock_skew",
            )
        refuse_state(member.state)
        return await self._rebind(member.key, request)

    async def renew(self, key: AgentKey, csr: bytes) -> Enrolled:
        """A certificate for the calling agent, for its key or for a new one.

        Raises: Denied (evicted, banned), Invalid.
        """
        return await self._rebind(key, parse_request(csr))

    async def _rebind(self, key: AgentKey, request: Request) -> Enrolled:
        member = self._registry.get(key)
        if member is not None and member.public_key != request.spki:
            # The certificate of the key before runs on until it expires.
            def job(tx: Tx) -> Agent:
                current = tx.agents.get(key)
                if current is None:
                    raise NotFound("no agent of this name in this tenant")
                refuse_state(current.state)
                tx.agents.set_keys(key, request.spki, current.public_key)
                return _reread(tx, key)

            await self._store.write(job, after=self._learn)
        return Enrolled(key, self._issue(request, key))

    def _bind(self, tx: Tx, key: AgentKey, request: Request, audit_key: bytes, now: int) -> Agent:
        tenant = tx.tenants.get(key.tenant)
        if tenant is None:
            raise NotFound("no tenant of this name")
        present = tx.agents.get(key)
        if present is not None and present.state == BANNED:
            refuse_state(present.state)
        if present is not None and present.state == ACTIVE and present.public_key != request.spki:
            raise Exists(
                "agent: the name belongs to an active agent; choose another or evict it first",
                code="name_taken",
            )
        tx.agents.upsert(
            Agent(key, ACTIVE, request.spki, b"", audit_key, now, desired=tenant.desired)
        )
        return _reread(tx, key)

    def _learn(self, agent: Agent) -> None:
        self._registry.load([agent])

    def _issue(self, request: Request, key: AgentKey) -> Issued:
        return self._authority.issue_agent(request, key.tenant, key.name, self._ttl)


def name(value: str, what: str) -> str:
    """The name, if it may be one. Raises: Invalid."""
    try:
        return check_name(value, what)
    except IdentityFormatError as error:
        raise Invalid(error.message, code="name") from error


def require_tenant(tx: Tx, tenant: str) -> None:
    """Raises: NotFound."""
    if tx.tenants.get(tenant) is None:
        raise NotFound("no tenant of this name")


def _presented(tx: Tx, token_id: str, secret: bytes, tenant: str) -> Token:
    """The token, its secret proven. Unknown and wrong look the same from outside."""
    token = tx.tenants.token(token_id)
    known = token.secret_hash if token is not None else bytes(32)
    proven = hmac.compare_digest(hashlib.sha256(secret).digest(), known)
    if token is None or not proven:
        raise Unauthenticated("token: unknown, or its secret is wrong", code="token_unknown")
    if token.tenant != tenant:
        raise Denied("token: made for another tenant", code="wrong_tenant")
    return token


def _wanted(token: Token, agent: str) -> str:
    if token.agent and agent and agent != token.agent:
        raise Denied("token: made for another agent name", code="token_agent")
    return token.agent or agent


def _usable(token: Token, now: int) -> None:
    if token.revoked:
        raise Denied("token: revoked", code="token_revoked")
    if now >= token.expires:
        raise Denied("token: expired", code="token_expired")


def _again(tx: Tx, token: Token, request: Request, agent: str) -> Agent:
    """A repeated enrollment: only with the key that spent the token."""
    if not hmac.compare_digest(token.spent_key, request.key_hash):
        raise Denied("token: already used by another key", code="token_spent")
    if agent and agent != token.spent_agent:
        raise Denied("token: already used for another agent name", code="token_agent")
    member = _reread(tx, AgentKey(token.tenant, token.spent_agent))
    refuse_state(member.state)
    if member.public_key != request.spki:
        raise Denied("token: the agent has changed its key since", code="token_spent")
    return member


def _reread(tx: Tx, key: AgentKey) -> Agent:
    agent = tx.agents.get(key)
    assert agent is not None, "read back in the transaction that wrote it"
    return agent
