"""Agents in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, insert, select, update

from exclave_coordinator.ports import (
    ACTIVE,
    Agent,
    AgentKey,
    Counts,
    Desired,
    Observed,
    Presence,
)
from exclave_coordinator.storage.sql_tenants import desired_columns
from exclave_coordinator.storage.tables import agents

_PRESENCE = (
    "last_seen",
    "version",
    "boot_id",
    "runtimes",
    "observed_generation",
    "observed_phase",
    "observed_release",
    "observed_error_code",
    "observed_error_message",
    "observed_audit_size",
    "observed_audit_epoch",
    "count_answered",
    "count_denied",
    "count_failed",
    "count_tokens_in",
    "count_tokens_out",
    "count_worker_crashes",
)
_SET_PRESENCE = (
    update(agents)
    .where(and_(agents.c.tenant == bindparam("k_tenant"), agents.c.name == bindparam("k_name")))
    .values({name: bindparam(name) for name in _PRESENCE})
)


class SqlAgents:
    """`ports.Agents`."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def get(self, key: AgentKey) -> Agent | None:
        """One agent, or None."""
        row = self._db.execute(select(agents).where(_is(key))).first()
        return None if row is None else agent_of(row)

    def all(self, tenant: str = "") -> Sequence[Agent]:
        """By tenant and name; an empty tenant means all."""
        statement = select(agents).order_by(agents.c.tenant, agents.c.name)
        if tenant:
            statement = statement.where(agents.c.tenant == tenant)
        return [agent_of(row) for row in self._db.execute(statement)]

    def upsert(self, agent: Agent) -> None:
        """Insert, or replace identity, state and desired (presence stays)."""
        values = {
            "state": agent.state,
            "public_key": agent.public_key,
            "previous_key": agent.previous_key,
            "audit_key": agent.audit_key,
            "created": agent.created,
            **desired_columns(agent.desired),
        }
        if self._db.execute(update(agents).where(_is(agent.key)).values(**values)).rowcount:
            return
        key = {"tenant": agent.key.tenant, "name": agent.key.name}
        self._db.execute(insert(agents), {**key, **values, **_presence_columns(agent.presence)})

    def set_state(self, key: AgentKey, state: str) -> None:
        """ACTIVE, EVICTED or BANNED."""
        self._db.execute(update(agents).where(_is(key)).values(state=state))

    def set_keys(self, key: AgentKey, public_key: bytes, previous_key: bytes) -> None:
        """Bind a renewed key and remember the one before."""
        self._db.execute(
            update(agents).where(_is(key)).values(public_key=public_key, previous_key=previous_key)
        )

    def set_presence(self, batch: Sequence[tuple[AgentKey, Presence]]) -> None:
        """Many at once: one statement."""
        if batch:
            self._db.execute(
                _SET_PRESENCE,
                [
                    {"k_tenant": key.tenant, "k_name": key.name, **_presence_columns(presence)}
                    for key, presence in batch
                ],
            )

    def set_desired(self, tenant: str, desired: Desired) -> int:
        """For every active agent of the tenant; returns how many."""
        statement = (
            update(agents)
            .where(and_(agents.c.tenant == tenant, agents.c.state == ACTIVE))
            .values(**desired_columns(desired))
        )
        return self._db.execute(statement).rowcount


def _is(key: AgentKey) -> Any:
    return and_(agents.c.tenant == key.tenant, agents.c.name == key.name)


def _presence_columns(presence: Presence) -> dict[str, Any]:
    observed, counts = presence.observed, presence.counts
    return {
        "last_seen": presence.last_seen,
        "version": presence.version,
        "boot_id": presence.boot_id,
        "runtimes": presence.runtimes,
        "observed_generation": observed.generation,
        "observed_phase": observed.phase,
        "observed_release": observed.release_digest,
        "observed_error_code": observed.error_code,
        "observed_error_message": observed.error_message,
        "observed_audit_size": observed.audit_size,
        "observed_audit_epoch": observed.audit_epoch,
        "count_answered": counts.answered,
        "count_denied": counts.denied,
        "count_failed": counts.failed,
        "count_tokens_in": counts.tokens_in,
        "count_tokens_out": counts.tokens_out,
        "count_worker_crashes": counts.worker_crashes,
    }


def agent_of(row: Row[Any]) -> Agent:
    """The value of one row."""
    return Agent(
        key=AgentKey(row.tenant, row.name),
        state=row.state,
        public_key=row.public_key,
        previous_key=row.previous_key,
        audit_key=row.audit_key,
        created=row.created,
        desired=Desired(row.desired_generation, row.desired_release, row.desired_rollout),
        presence=Presence(
            last_seen=row.last_seen,
            version=row.version,
            boot_id=row.boot_id,
            runtimes=row.runtimes,
            observed=Observed(
                row.observed_generation,
                row.observed_phase,
                row.observed_release,
                row.observed_error_code,
                row.observed_error_message,
                row.observed_audit_size,
                row.observed_audit_epoch,
            ),
            counts=Counts(
                row.count_answered,
                row.count_denied,
                row.count_failed,
                row.count_tokens_in,
                row.count_tokens_out,
                row.count_worker_crashes,
            ),
        ),
    )
