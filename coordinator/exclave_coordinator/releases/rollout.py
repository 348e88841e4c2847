"""Start rollouts: one transaction gives every active agent of a tenant its new generation."""

from __future__ import annotations

from exclave_coordinator.errors import NotFound
from exclave_coordinator.ports import Clock, Desired, Ids, Rollout, Tx


class Rollouts:
    """All agents of a tenant at once; stages come with a later release of this room."""

    def __init__(self, *, clock: Clock, ids: Ids) -> None:
        self._clock = clock
        self._ids = ids

    def start(self, tx: Tx, tenant: str, release_digest: str, operator: str) -> Rollout:
        """Assign a published release. The generation counts up per tenant, for ever.

        Raises: NotFound (tenant, or release not in its signed targets).
        """
        standing = tx.tenants.get(tenant)
        if standing is None:
            raise NotFound("no tenant of this name")
        if tx.releases.release(tenant, release_digest) is None:
            raise NotFound("release_digest: no such release in the tenant's signed targets")
        tx.releases.freeze_rollout(tenant)
        generation = standing.desired.generation + 1
        rollout_id = f"r{generation}-{self._ids.new()[:8]}"
        desired = Desired(generation, release_digest, rollout_id)
        tx.tenants.set_desired(tenant, desired)
        count = tx.agents.set_desired(tenant, desired)
        rollout = Rollout(
            rollout_id,
            tenant,
            release_digest,
            generation,
            self._clock.now(),
            operator,
            agents=count,
        )
        tx.releases.insert_rollout(rollout)
        return rollout
