"""The agent's link and releases against the real coordinator: join, session, desired, applied.

One process, real TLS, real TUF and DSSE signatures; only models and audit log are fakes.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from exclave_agent.errors import IdentityError, LinkError
from exclave_agent.identity import Identity, IdentityStore, Renewer, join
from exclave_agent.identity.certificates import from_pem
from exclave_agent.link.artifacts import GrpcArtifacts
from exclave_agent.link.channel import Channels
from exclave_agent.link.enroll import GrpcJoin, GrpcRenew
from exclave_agent.link.session import Counts, Greeting, LinkState, Session
from exclave_agent.releases.report import Desired, Observed, Phase
from exclave_agent.releases.verify import Scope
from exclave_agent.releases.watch import ReleaseManager
from exclave_agent.slots import Latest
from exclave_agent.system import SystemClock, SystemRng
from exclave_protocol import tufmeta
from exclave_protocol.identity import JoinToken
from exclave_protocol.pb import admin_pb2
from exclave_protocol.release import digest_of
from exclave_testing.audit import FakeAuditLog
from exclave_testing.coordinator import (
    RunningCoordinator,
    Signers,
    eventually,
    release_blobs,
    running_coordinator,
)
from exclave_testing.runtimes import FakeRuntimes
from exclave_testing.storage import FakeStateStore


@pytest.fixture
async def centre(tmp_path: Path) -> AsyncIterator[RunningCoordinator]:
    async with running_coordinator(tmp_path / "coordinator") as up:
        yield up


class Tenant:
    """A tenant, the people who sign for it, and what they have signed."""

    def __init__(self, centre: RunningCoordinator, message: admin_pb2.Tenant) -> None:
        self.centre = centre
        self.message = message
        self.name = message.name
        self.people = Signers()
        self.root = self.people.root(message, ("ann", "bob"))
        self.version = 0

    @classmethod
    async def create(cls, centre: RunningCoordinator, name: str = "acme") -> Tenant:
        return cls(centre, await centre.tenant(name))

    async def publish(self) -> str:
        """A new release with a rule of its own name; returns its digest."""
        self.version += 1
        blobs = release_blobs(self.name, self.version, rule=f"rule-{self.version}")
        await self.centre.upload(self.name, blobs)
        roots = [self.root] if self.version == 1 else []
        targets = self.people.targets(self.version, blobs, ("ann", "bob"))
        await self.centre.publish(self.name, roots, targets)
        return digest_of(next(iter(blobs.values())))

    async def token(self, agent: str = "edge-1") -> JoinToken:
        """A join token, as `exclave token create` makes it."""
        answer = await self.centre.token(self.name, agent=agent)
        return JoinToken(
            tenant=self.name,
            token_id=answer.token_id,
            secret=answer.secret,
            endpoint=answer.enroll_endpoint,
            ca_sha256=hashlib.sha256(answer.ca_certificate).hexdigest(),
            root_pin=tufmeta.root_pin(self.root),
            agent=agent,
        )


@dataclass
class Agent:
    """Identity, link and releases of one agent, wired as the product wires them."""

    store: IdentityStore
    channels: Channels
    manager: ReleaseManager
    session: Session
    renewer: Renewer
    observed: Latest[Observed]
    counts: Latest[Counts]
    audit: FakeAuditLog = field(default_factory=FakeAuditLog)

    @property
    def identity(self) -> Identity:
        return self.store.current

    def phase(self) -> Phase | None:
        return self.observed.value.phase if self.observed.value is not None else None

    def rule(self) -> str:
        """The policy that answers now, by the name of its only rule."""
        with self.manager.releases.lease() as release:
            return release.policy.rules[0].id


@asynccontextmanager
async def agent(home: Path, state: FakeStateStore | None = None) -> AsyncIterator[Agent]:
    """A running agent over a home that has joined."""
    store, clock, rng = IdentityStore(home), SystemClock(), SystemRng()
    channels = Channels(store)
    desired, observed, counts = Latest[Desired](), Latest[Observed](), Latest[Counts]()
    audit = FakeAuditLog()
    manager = ReleaseManager(
        home,
        Scope.of(store.current),
        source=GrpcArtifacts(channels),
        runtimes=FakeRuntimes(),
        audit=audit,
        state=state or FakeStateStore(),
        clock=clock,
        rng=rng,
        desired=desired,
        observed=observed,
    )
    renewer = Renewer(store, GrpcRenew(channels), clock=clock, rng=rng)
    session = Session(
        channels,
        Greeting("0.1", "b" * 32, ("llama", "onnx")),
        desired=desired,
        observed=observed,
        counts=counts,
        clock=clock,
        rng=rng,
        on_expired=renewer.renew_now,
    )
    await manager.restore()
    tasks = [asyncio.create_task(work) for work in (manager.run(), session.run(), renewer.run())]
    try:
        yield Agent(store, channels, manager, session, renewer, observed, counts, audit)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await manager.close()
        await channels.close()


async def seen(centre: RunningCoordinator, tenant: str, name: str = "edge-1") -> Any:
    """The agent as operators see it."""
    answer = await centre.admin.ListAgents(admin_pb2.ListAgentsRequest(tenant=tenant), timeout=10)
    return next(a for a in answer.agents if a.name == name)


async def test_join_session_desired_applied(centre: RunningCoordinator, tmp_path: Path) -> None:
    tenant = await Tenant.create(centre)
    await join(tmp_path / "home", await tenant.token(), GrpcJoin())
    async with agent(tmp_path / "home") as it:
        await eventually("session", lambda: it.session.status().state is LinkState.CONNECTED)
        assert it.phase() is Phase.EMPTY
        rollout = await centre.rollout("acme", await tenant.publish())
        await eventually("applied", lambda: it.phase() is Phase.APPLIED)
        assert it.rule() == "rule-1"
        it.counts.put(Counts(answered=3, denied=1))

        # A policy push takes effect within seconds, and the coordinator learns of it.
        second = await tenant.publish()
        rollout = await centre.rollout("acme", second)
        await eventually("second release", lambda: it.rule() == "rule-2")

        async def progress() -> Any:
            request = admin_pb2.GetRolloutRequest(tenant="acme", rollout=rollout.rollout)
            return await centre.admin.GetRollout(request, timeout=10)

        async with asyncio.timeout(10):
            while (await progress()).applied != 1:
                await asyncio.sleep(0.02)
        state = await seen(centre, "acme")
        assert state.connected
        assert state.observed.release_digest == second
        assert state.counts.answered == 3


async def test_an_agent_that_joins_later_gets_what_its_tenant_runs(
    centre: RunningCoordinator, tmp_path: Path
) -> None:
    tenant = await Tenant.create(centre)
    await centre.rollout("acme", await tenant.publish())
    await join(tmp_path / "home", await tenant.token(), GrpcJoin())
    async with agent(tmp_path / "home") as it:
        await eventually("applied", lambda: it.phase() is Phase.APPLIED)


async def test_the_agent_outlives_the_centre(tmp_path: Path) -> None:
    state = FakeStateStore()
    async with running_coordinator(tmp_path / "coordinator") as centre:
        tenant = await Tenant.create(centre)
        await centre.rollout("acme", await tenant.publish())
        await join(tmp_path / "home", await tenant.token(), GrpcJoin())
        async with agent(tmp_path / "home", state) as it:
            await eventually("applied", lambda: it.phase() is Phase.APPLIED)
    # Both are gone; the agent alone comes back, and answers from disk.
    async with agent(tmp_path / "home", state) as it:
        assert it.rule() == "rule-1"
        await eventually("waiting", lambda: it.session.status().state is LinkState.WAITING)
        assert it.session.status().error
        assert it.rule() == "rule-1"


async def test_a_ban_ends_the_session_and_the_agent_serves_its_grace(
    centre: RunningCoordinator, tmp_path: Path
) -> None:
    tenant = await Tenant.create(centre)
    await centre.rollout("acme", await tenant.publish())
    await join(tmp_path / "home", await tenant.token(), GrpcJoin())
    async with agent(tmp_path / "home") as it:
        await eventually("applied", lambda: it.phase() is Phase.APPLIED)
        request = admin_pb2.AgentRequest(tenant="acme", agent="edge-1", reason="test")
        await centre.admin.BanAgent(request, timeout=10)
        await eventually("banned", lambda: it.session.status().state is LinkState.BANNED)
        assert it.rule() == "rule-1"
        with pytest.raises(LinkError) as caught:
            await GrpcArtifacts(it.channels).metadata("timestamp.json")
        assert caught.value.code == "banned"
        it.renewer.renew_now()
        await eventually("no renewal", lambda: it.renewer.last_error is not None)
        assert it.renewer.last_error is not None
        assert it.renewer.last_error.code == "banned"
    again = await tenant.token()
    with pytest.raises(IdentityError) as refused:
        await join(tmp_path / "other", again, GrpcJoin())
    assert refused.value.code == "banned"


async def test_an_evicted_agent_comes_back_with_a_new_token(
    centre: RunningCoordinator, tmp_path: Path
) -> None:
    tenant = await Tenant.create(centre)
    first = await join(tmp_path / "home", await tenant.token(), GrpcJoin())
    async with agent(tmp_path / "home") as it:
        await eventually("session", lambda: it.session.status().state is LinkState.CONNECTED)
        request = admin_pb2.AgentRequest(tenant="acme", agent="edge-1", reason="test")
        await centre.admin.EvictAgent(request, timeout=10)
        await eventually("evicted", lambda: it.session.status().state is LinkState.EVICTED)
    second = await join(tmp_path / "home", await tenant.token(), GrpcJoin(), again=True)
    assert second.spiffe == first.spiffe
    async with agent(tmp_path / "home") as it:
        await eventually("back", lambda: it.session.status().state is LinkState.CONNECTED)


async def test_renewal_and_recovery(centre: RunningCoordinator, tmp_path: Path) -> None:
    tenant = await Tenant.create(centre)
    await join(tmp_path / "home", await tenant.token(), GrpcJoin())
    async with agent(tmp_path / "home") as it:
        await eventually("session", lambda: it.session.status().state is LinkState.CONNECTED)
        before = it.identity
        await it.renewer.renew_once()
        assert it.identity.cert_pem != before.cert_pem
        await eventually("again", lambda: it.session.status().state is LinkState.CONNECTED)
        renewed = it.identity.cert_pem
        it.renewer.renew_now()
        await eventually("recovered", lambda: it.identity.cert_pem != renewed)


async def test_an_agent_whose_certificate_expired_while_connected_recovers(
    centre: RunningCoordinator, tmp_path: Path
) -> None:
    """The coordinator's clock says that a day has passed: it ends the stream as EXPIRED."""
    tenant = await Tenant.create(centre)
    await join(tmp_path / "home", await tenant.token(), GrpcJoin())
    async with agent(tmp_path / "home") as it:
        await eventually("session", lambda: it.session.status().state is LinkState.CONNECTED)
        before = it.identity.cert_pem
        for live in centre.up.parts.sessions._live.values():
            live.not_after = 0
        await eventually("recovered", lambda: it.identity.cert_pem != before)
        await eventually("again", lambda: it.session.status().state is LinkState.CONNECTED)


@pytest.mark.parametrize("fault", ["unknown", "spent", "expired", "revoked"])
async def test_tokens_that_do_not_work(
    centre: RunningCoordinator, tmp_path: Path, fault: str
) -> None:
    tenant = await Tenant.create(centre)
    token = await tenant.token()
    if fault == "unknown":
        token = JoinToken(
            **{f: getattr(token, f) for f in token.__dataclass_fields__} | {"secret": b"x" * 32}
        )
    elif fault == "spent":
        await join(tmp_path / "first", token, GrpcJoin())
    elif fault == "expired":
        centre.clock.offset = 90_000
    else:
        request = admin_pb2.RevokeTokenRequest(token_id=token.token_id)
        await centre.admin.RevokeToken(request, timeout=10)
    with pytest.raises(IdentityError) as caught:
        await join(tmp_path / "home", token, GrpcJoin())
    assert caught.value.code == f"token_{fault}"


async def test_an_agent_reads_only_its_own_tenants_repository(
    centre: RunningCoordinator, tmp_path: Path
) -> None:
    acme, globex = await Tenant.create(centre), await Tenant.create(centre, "globex")
    digest = await acme.publish()
    await join(tmp_path / "home", await globex.token(), GrpcJoin())
    channels = Channels(IdentityStore(tmp_path / "home"))
    source = GrpcArtifacts(channels)
    assert await source.metadata("timestamp.json") is None
    with pytest.raises(LinkError) as caught:
        await anext(aiter(source.read(digest, 0)))
    assert caught.value.code == "not_found"
    await channels.close()


async def test_the_join_pins_the_coordinators_own_ca(
    centre: RunningCoordinator, tmp_path: Path
) -> None:
    tenant = await Tenant.create(centre)
    identity = await join(tmp_path / "home", await tenant.token(), GrpcJoin())
    (ca,) = from_pem(identity.ca_pem, "ca.pem")
    assert hashlib.sha256(ca).hexdigest() == identity.ca_sha256
