"""Between protobuf messages and the core's values, bounds checked on the way in."""

from __future__ import annotations

import re
from typing import Final

from exclave_coordinator.errors import Invalid
from exclave_coordinator.ports import (
    ACTIVE,
    BANNED,
    EVICTED,
    Agent,
    Counts,
    Observed,
    Tenant,
)
from exclave_protocol.pb import admin_pb2, fleet_pb2, telemetry_pb2

MAX_INT: Final = 2**63 - 1
"""The database's integers are signed."""

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
STATES: Final = {
    ACTIVE: admin_pb2.Agent.State.ACTIVE,
    EVICTED: admin_pb2.Agent.State.EVICTED,
    BANNED: admin_pb2.Agent.State.BANNED,
}


def text(value: str, limit: int, field: str) -> str:
    """Short printable text. Raises: Invalid."""
    if len(value) > limit:
        raise Invalid(f"{field}: {len(value)} characters where at most {limit} are allowed")
    return "".join(c if c.isprintable() else " " for c in value)


def number(value: int, field: str) -> int:
    """An unsigned integer that the database can hold. Raises: Invalid."""
    if not 0 <= value <= MAX_INT:
        raise Invalid(f"{field}: beyond 2**63-1")
    return value


def digest(value: str, field: str) -> str:
    """A SHA-256 as hex. Raises: Invalid."""
    if not _DIGEST.fullmatch(value):
        raise Invalid(f"{field}: must be 64 lower-case hex digits")
    return value


def observed_of(message: fleet_pb2.Observed) -> Observed:
    """What an agent says it runs. Raises: Invalid."""
    return Observed(
        generation=number(message.generation, "generation"),
        phase=_phase(message.phase),
        release_digest=(
            digest(message.release_digest, "release_digest") if message.release_digest else ""
        ),
        error_code=text(message.error_code, 64, "error_code"),
        error_message=text(message.error_message[:500], 500, "error_message"),
        audit_size=number(message.audit_size, "audit_size"),
        audit_epoch=number(message.audit_epoch, "audit_epoch"),
    )


def counts_of(message: telemetry_pb2.Counts) -> Counts:
    """An agent's counters. Raises: Invalid."""
    return Counts(
        answered=number(message.answered, "answered"),
        denied=number(message.denied, "denied"),
        failed=number(message.failed, "failed"),
        tokens_in=number(message.tokens_in, "tokens_in"),
        tokens_out=number(message.tokens_out, "tokens_out"),
        worker_crashes=number(message.worker_crashes, "worker_crashes"),
    )


def agent_message(agent: Agent, *, connected: bool, sizes: tuple[int, int]) -> admin_pb2.Agent:
    """An agent as operators see it; `sizes`: leaves stored and witnessed."""
    presence = agent.presence
    observed, counts = presence.observed, presence.counts
    return admin_pb2.Agent(
        tenant=agent.key.tenant,
        name=agent.key.name,
        state=STATES[agent.state],
        connected=connected,
        last_seen=presence.last_seen,
        desired_generation=agent.desired.generation,
        observed=fleet_pb2.Observed(
            generation=observed.generation,
            phase=fleet_pb2.Phase.Name(observed.phase),
            release_digest=observed.release_digest,
            error_code=observed.error_code,
            error_message=observed.error_message,
            audit_size=observed.audit_size,
            audit_epoch=observed.audit_epoch,
        ),
        counts=telemetry_pb2.Counts(
            answered=counts.answered,
            denied=counts.denied,
            failed=counts.failed,
            tokens_in=counts.tokens_in,
            tokens_out=counts.tokens_out,
            worker_crashes=counts.worker_crashes,
        ),
        version=presence.version,
        audit_size=sizes[0],
        witnessed_size=sizes[1],
    )


def tenant_message(tenant: Tenant, trust_domain: str) -> admin_pb2.Tenant:
    """A tenant as operators see it."""
    return admin_pb2.Tenant(
        name=tenant.name,
        trust_domain=trust_domain,
        snapshot_public_key=tenant.snapshot_key,
        timestamp_public_key=tenant.timestamp_key,
        root_version=tenant.root_version,
        targets_version=tenant.targets_version,
        root_pin=tenant.root_pin,
        created=tenant.created,
    )


def _phase(value: int) -> int:
    # Protobuf enums are open: a newer agent may send a number that we do not know.
    if value not in fleet_pb2.Phase.values():
        raise Invalid("phase: unknown to this coordinator")
    return int(value)
