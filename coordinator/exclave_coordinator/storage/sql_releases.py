"""TUF metadata files, releases and rollouts in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, and_, case, delete, func, insert, not_, select, update

from exclave_coordinator.ports import (
    PHASE_APPLIED,
    PHASE_FAILED,
    PHASE_REVERTED,
    Agent,
    Release,
    Rollout,
    Tenant,
)
from exclave_coordinator.storage.sql_agents import agent_of
from exclave_coordinator.storage.sql_tenants import version_columns
from exclave_coordinator.storage.tables import agents, releases, rollouts, tenants, tuf_files

_APPLIED = and_(
    agents.c.observed_generation == agents.c.desired_generation,
    agents.c.observed_phase == PHASE_APPLIED,
)
_FAILED = and_(
    agents.c.observed_generation == agents.c.desired_generation,
    agents.c.observed_phase.in_((PHASE_FAILED, PHASE_REVERTED)),
)


class SqlReleases:
    """`ports.Releases`."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def metadata(self, tenant: str, name: str) -> bytes | None:
        """One TUF file, or None."""
        statement = select(tuf_files.c.content).where(
            and_(tuf_files.c.tenant == tenant, tuf_files.c.name == name)
        )
        content: bytes | None = self._db.execute(statement).scalar()
        return content

    def put_metadata(
        self, tenant: str, files: Sequence[tuple[str, int, bytes]], versions: Tenant
    ) -> None:
        """Files (name, version, content) and the tenant's version numbers, together."""
        for name, version, content in files:
            place = and_(tuf_files.c.tenant == tenant, tuf_files.c.name == name)
            values = {"version": version, "content": content}
            if not self._db.execute(update(tuf_files).where(place).values(**values)).rowcount:
                self._db.execute(insert(tuf_files), {"tenant": tenant, "name": name, **values})
        self._db.execute(
            update(tenants).where(tenants.c.name == tenant).values(**version_columns(versions))
        )

    def prune_metadata(self, tenant: str, role: str, below: int) -> None:
        """Forget `<n>.<role>.json` files with n < below."""
        self._db.execute(
            delete(tuf_files).where(
                and_(
                    tuf_files.c.tenant == tenant,
                    tuf_files.c.name.like(f"%.{role}.json"),
                    tuf_files.c.version < below,
                )
            )
        )

    def replace_releases(self, tenant: str, items: Sequence[Release]) -> None:
        """The releases that the newest targets metadata names."""
        self._db.execute(delete(releases).where(releases.c.tenant == tenant))
        if items:
            self._db.execute(
                insert(releases),
                [
                    {
                        "tenant": tenant,
                        "digest": item.digest,
                        "version": item.version,
                        "targets_version": item.targets_version,
                    }
                    for item in items
                ],
            )

    def release(self, tenant: str, digest: str) -> Release | None:
        """One published release, or None."""
        row = self._db.execute(
            select(releases).where(and_(releases.c.tenant == tenant, releases.c.digest == digest))
        ).first()
        return None if row is None else Release(*row)

    def insert_rollout(self, rollout: Rollout) -> None:
        """The newest rollout of its tenant."""
        self._db.execute(
            insert(rollouts),
            {
                "id": rollout.id,
                "tenant": rollout.tenant,
                "release_digest": rollout.release_digest,
                "generation": rollout.generation,
                "started": rollout.started,
                "started_by": rollout.started_by,
                "frozen": False,
                "agents": rollout.agents,
                "applied": 0,
                "failed": 0,
            },
        )

    def rollout(self, tenant: str, rollout_id: str = "") -> Rollout | None:
        """With progress counted now; empty id: the newest."""
        row = self._row(tenant, rollout_id)
        if row is None:
            return None
        rollout = Rollout(
            row.id,
            row.tenant,
            row.release_digest,
            row.generation,
            row.started,
            row.started_by,
            row.agents,
            row.applied,
            row.failed,
        )
        if row.frozen:
            return rollout
        counted = self._db.execute(
            select(
                func.count(),
                func.coalesce(func.sum(case((_APPLIED, 1), else_=0)), 0),
                func.coalesce(func.sum(case((_FAILED, 1), else_=0)), 0),
            ).where(and_(agents.c.tenant == tenant, agents.c.desired_rollout == rollout.id))
        ).one()
        return replace(rollout, agents=counted[0], applied=counted[1], failed=counted[2])

    def pending(self, tenant: str, rollout_id: str, limit: int) -> Sequence[Agent]:
        """Agents assigned to the rollout that have not applied it, by name."""
        statement = (
            select(agents)
            .where(
                and_(
                    agents.c.tenant == tenant,
                    agents.c.desired_rollout == rollout_id,
                    not_(_APPLIED),
                )
            )
            .order_by(agents.c.name)
            .limit(limit)
        )
        return [agent_of(row) for row in self._db.execute(statement)]

    def freeze_rollout(self, tenant: str) -> None:
        """Keep the newest rollout's progress before another takes its agents."""
        newest = self.rollout(tenant)
        if newest is not None:
            self._db.execute(
                update(rollouts)
                .where(rollouts.c.id == newest.id)
                .values(
                    frozen=True,
                    agents=newest.agents,
                    applied=newest.applied,
                    failed=newest.failed,
                )
            )

    def _row(self, tenant: str, rollout_id: str) -> Row[Any] | None:
        statement = select(rollouts).where(rollouts.c.tenant == tenant)
        if rollout_id:
            statement = statement.where(rollouts.c.id == rollout_id)
        return self._db.execute(statement.order_by(rollouts.c.generation.desc()).limit(1)).first()
