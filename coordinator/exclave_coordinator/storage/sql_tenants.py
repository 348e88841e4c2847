"""Tenants and join tokens in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, insert, not_, select, update

from exclave_coordinator.ports import Desired, Tenant, Token
from exclave_coordinator.storage.tables import tenants, tokens


class SqlTenants:
    """`ports.Tenants`."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def get(self, name: str) -> Tenant | None:
        """One tenant, or None."""
        row = self._db.execute(select(tenants).where(tenants.c.name == name)).first()
        return None if row is None else _tenant(row)

    def all(self) -> Sequence[Tenant]:
        """By name."""
        return [_tenant(r) for r in self._db.execute(select(tenants).order_by(tenants.c.name))]

    def insert(self, tenant: Tenant) -> bool:
        """False: the name is taken."""
        if self.get(tenant.name) is not None:
            return False
        self._db.execute(insert(tenants), {"name": tenant.name, **tenant_columns(tenant)})
        return True

    def set_desired(self, name: str, desired: Desired) -> None:
        """What a new agent of the tenant is to run."""
        self._db.execute(
            update(tenants).where(tenants.c.name == name).values(**desired_columns(desired))
        )

    def token(self, token_id: str) -> Token | None:
        """One join token, or None."""
        row = self._db.execute(select(tokens).where(tokens.c.id == token_id)).first()
        if row is None:
            return None
        return Token(
            row.id,
            row.tenant,
            row.secret_hash,
            row.agent,
            row.created,
            row.expires,
            row.revoked,
            row.spent_key,
            row.spent_agent,
        )

    def insert_token(self, token: Token) -> None:
        """A new token; its id is fresh."""
        self._db.execute(
            insert(tokens),
            {
                "id": token.id,
                "tenant": token.tenant,
                "secret_hash": token.secret_hash,
                "agent": token.agent,
                "created": token.created,
                "expires": token.expires,
                "revoked": token.revoked,
                "spent_key": token.spent_key,
                "spent_agent": token.spent_agent,
                "spent_at": 0,
            },
        )

    def spend_token(self, token_id: str, key_hash: bytes, agent: str, at: int) -> None:
        """Bind the token to the key and agent that used it."""
        self._db.execute(
            update(tokens)
            .where(tokens.c.id == token_id)
            .values(spent_key=key_hash, spent_agent=agent, spent_at=at)
        )

    def revoke_token(self, token_id: str) -> bool:
        """False: no such token."""
        statement = update(tokens).where(tokens.c.id == token_id).values(revoked=True)
        return self._db.execute(statement).rowcount > 0

    def revoke_open_tokens(self) -> int:
        """All of them that nobody has spent; returns how many."""
        unspent = and_(tokens.c.spent_key == b"", not_(tokens.c.revoked))
        return self._db.execute(update(tokens).where(unspent).values(revoked=True)).rowcount


def desired_columns(desired: Desired) -> dict[str, Any]:
    """The three columns that tenants and agents share."""
    return {
        "desired_generation": desired.generation,
        "desired_release": desired.release_digest,
        "desired_rollout": desired.rollout,
    }


def tenant_columns(tenant: Tenant) -> dict[str, Any]:
    """Every column but the name."""
    return {
        "created": tenant.created,
        "snapshot_key": tenant.snapshot_key,
        "timestamp_key": tenant.timestamp_key,
        **version_columns(tenant),
        **desired_columns(tenant.desired),
    }


def version_columns(tenant: Tenant) -> dict[str, Any]:
    """Where the tenant's signed metadata stands."""
    return {
        "root_version": tenant.root_version,
        "targets_version": tenant.targets_version,
        "snapshot_version": tenant.snapshot_version,
        "timestamp_version": tenant.timestamp_version,
        "timestamp_expires": tenant.timestamp_expires,
        "root_pin": tenant.root_pin,
    }


def _tenant(row: Row[Any]) -> Tenant:
    return Tenant(
        row.name,
        row.created,
        row.snapshot_key,
        row.timestamp_key,
        row.root_version,
        row.targets_version,
        row.snapshot_version,
        row.timestamp_version,
        row.timestamp_expires,
        row.root_pin,
        Desired(row.desired_generation, row.desired_release, row.desired_rollout),
    )
