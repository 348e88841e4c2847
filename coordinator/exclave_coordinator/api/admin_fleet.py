"""Admin's part for the fleet: tenants, tokens, agents, operators."""

from __future__ import annotations

import asyncio
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exclave_coordinator.api.convert import agent_message, tenant_message, text
from exclave_coordinator.api.parts import Parts
from exclave_coordinator.audit.epochs import reopen
from exclave_coordinator.errors import Exists, Invalid, NotFound
from exclave_coordinator.fleet import sessions
from exclave_coordinator.fleet.certificates import parse_request
from exclave_coordinator.fleet.enroll import name, require_tenant
from exclave_coordinator.fleet.sessions import Ended
from exclave_coordinator.ports import BANNED, EVICTED, Agent, AgentKey, Tenant, Tx
from exclave_protocol.errors import IdentityFormatError
from exclave_protocol.identity import check_role
from exclave_protocol.pb import admin_pb2 as pb

MAX_OPERATOR_TTL = 365 * 86_400
MAX_REASON = 500


class FleetCalls:
    """Who takes part."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def CreateTenant(
        self, request: pb.CreateTenantRequest, _context: Any
    ) -> pb.CreateTenantResponse:
        """See admin.proto. The keys come first: keys without a tenant harm nobody."""
        parts = self._parts
        tenant_name = name(request.name, "name")
        act = parts.recorder.act("CreateTenant", f"tenant/{tenant_name}")
        async with parts.recorder.attempt(act):
            seeds = await asyncio.to_thread(parts.keys.create, tenant_name)
            tenant = Tenant(
                tenant_name,
                parts.clock.now(),
                _public(seeds.snapshot),
                _public(seeds.timestamp),
            )

            def job(tx: Tx) -> None:
                if not tx.tenants.insert(tenant):
                    raise Exists("name: a tenant of this name exists")

            await parts.recorder.commit(act, job)
        return pb.CreateTenantResponse(tenant=tenant_message(tenant, parts.settings.trust_domain))

    async def GetTenant(self, request: pb.GetTenantRequest, _context: Any) -> pb.Tenant:
        """See admin.proto."""
        tenant = await self._parts.store.read(lambda tx: tx.tenants.get(request.name))
        if tenant is None:
            raise NotFound("no tenant of this name")
        return tenant_message(tenant, self._parts.settings.trust_domain)

    async def ListTenants(
        self, _request: pb.ListTenantsRequest, _context: Any
    ) -> pb.ListTenantsResponse:
        """See admin.proto."""
        tenants = await self._parts.store.read(lambda tx: tx.tenants.all())
        domain = self._parts.settings.trust_domain
        return pb.ListTenantsResponse(tenants=[tenant_message(t, domain) for t in tenants])

    async def CreateToken(
        self, request: pb.CreateTokenRequest, _context: Any
    ) -> pb.CreateTokenResponse:
        """See admin.proto."""
        parts = self._parts
        tenant = name(request.tenant, "tenant")
        new = parts.enrollment.draft_token(tenant, request.agent, request.ttl)
        act = parts.recorder.act(
            "CreateToken", f"tenant/{tenant}/token/{new.token.id}", {"agent": request.agent}
        )

        def job(tx: Tx) -> None:
            require_tenant(tx, tenant)
            tx.tenants.insert_token(new.token)

        async with parts.recorder.attempt(act):
            await parts.recorder.commit(act, job)
        return pb.CreateTokenResponse(
            token_id=new.token.id,
            secret=new.secret,
            expires=new.token.expires,
            enroll_endpoint=parts.endpoints.enroll,
            ca_certificate=parts.authority.der,
        )

    async def RevokeToken(
        self, request: pb.RevokeTokenRequest, _context: Any
    ) -> pb.RevokeTokenResponse:
        """See admin.proto."""
        token_id = text(request.token_id, 32, "token_id")
        act = self._parts.recorder.act("RevokeToken", f"token/{token_id}")

        def job(tx: Tx) -> None:
            if not tx.tenants.revoke_token(token_id):
                raise NotFound("token_id: no such token")

        async with self._parts.recorder.attempt(act):
            await self._parts.recorder.commit(act, job)
        return pb.RevokeTokenResponse()

    async def ListAgents(
        self, request: pb.ListAgentsRequest, _context: Any
    ) -> pb.ListAgentsResponse:
        """See admin.proto."""

        def job(tx: Tx) -> list[tuple[Agent, tuple[int, int]]]:
            if request.tenant:
                require_tenant(tx, request.tenant)
            sizes = tx.logs.sizes()
            return [(a, sizes.get(a.key, (0, 0))) for a in tx.agents.all(request.tenant)]

        listed = await self._parts.store.read(job)
        return pb.ListAgentsResponse(agents=[self._shown(agent, s) for agent, s in listed])

    async def EvictAgent(self, request: pb.AgentRequest, _context: Any) -> pb.Agent:
        """See admin.proto."""
        return await self._bar("EvictAgent", request, EVICTED, Ended(sessions.EVICTED, 60))

    async def BanAgent(self, request: pb.AgentRequest, _context: Any) -> pb.Agent:
        """See admin.proto."""
        return await self._bar("BanAgent", request, BANNED, Ended(sessions.BANNED))

    async def ReopenLog(self, request: pb.AgentRequest, _context: Any) -> pb.ReopenLogResponse:
        """See admin.proto."""
        parts = self._parts
        key = AgentKey(name(request.tenant, "tenant"), name(request.agent, "agent"))
        reason = text(request.reason, MAX_REASON, "reason")
        act = parts.recorder.act(
            "ReopenLog", f"tenant/{key.tenant}/agent/{key.name}", {"reason": reason}
        )
        async with parts.recorder.attempt(act):
            epoch = await parts.recorder.commit(act, lambda tx: reopen(tx, key, parts.clock.now()))
        return pb.ReopenLogResponse(epoch=epoch)

    async def IssueOperator(
        self, request: pb.IssueOperatorRequest, _context: Any
    ) -> pb.IssueOperatorResponse:
        """See admin.proto."""
        parts = self._parts
        operator = name(request.name, "name")
        act = parts.recorder.act(
            "IssueOperator", f"operator/{operator}", {"role": text(request.role, 63, "role")}
        )
        async with parts.recorder.attempt(act):
            if request.ttl > MAX_OPERATOR_TTL:
                raise Invalid(f"ttl: {request.ttl} s where at most {MAX_OPERATOR_TTL} are allowed")
            try:
                role = check_role(request.role)
            except IdentityFormatError as error:
                raise Invalid(error.message) from error
            wanted = parse_request(request.csr)
            ttl = request.ttl or parts.settings.operator_certificate_seconds
            issued = parts.authority.issue_operator(wanted, operator, role, ttl)
            now = parts.clock.now()
            await parts.recorder.commit(
                act,
                lambda tx: tx.operators.insert_certificate(
                    operator, role, issued.serial, issued.not_after, now
                ),
            )
        parts.metrics.certificates.labels("operator").inc()
        return pb.IssueOperatorResponse(
            certificate_chain=issued.chain, ca_bundle=[parts.authority.der]
        )

    async def _bar(
        self, action: str, request: pb.AgentRequest, state: str, ended: Ended
    ) -> pb.Agent:
        parts = self._parts
        key = AgentKey(name(request.tenant, "tenant"), name(request.agent, "agent"))
        reason = text(request.reason, MAX_REASON, "reason")
        target = f"tenant/{key.tenant}/agent/{key.name}"
        act = parts.recorder.act(action, target, {"reason": reason})

        def job(tx: Tx) -> tuple[Agent, tuple[int, int]]:
            current = tx.agents.get(key)
            if current is None:
                raise NotFound("no agent of this name in this tenant")
            # A ban is for good: an eviction does not soften it.
            if current.state != BANNED:
                tx.agents.set_state(key, state)
            changed = tx.agents.get(key)
            assert changed is not None, "read a moment ago in this transaction"
            return changed, tx.logs.sizes().get(key, (0, 0))

        def after(result: tuple[Agent, tuple[int, int]]) -> None:
            parts.registry.load([result[0]])
            parts.sessions.end(key, ended)

        async with parts.recorder.attempt(act):
            agent, sizes = await parts.recorder.commit(act, job, after=after)
        return self._shown(agent, sizes)

    def _shown(self, agent: Agent, sizes: tuple[int, int]) -> pb.Agent:
        connected = self._parts.sessions.connected(agent.key)
        return agent_message(agent, connected=connected, sizes=sizes)


def _public(seed: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
