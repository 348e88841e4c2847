"""The schema: every table of the coordinator's database, and its version."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

SCHEMA_VERSION = 3
"""Raised with every step in `migrations`; a database of a higher version is refused."""

metadata = MetaData()

schema_version = Table("schema_version", metadata, Column("version", Integer, nullable=False))

tenants = Table(
    "tenants",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("created", BigInteger, nullable=False),
    Column("snapshot_key", LargeBinary, nullable=False),
    Column("timestamp_key", LargeBinary, nullable=False),
    Column("root_version", Integer, nullable=False),
    Column("targets_version", Integer, nullable=False),
    Column("snapshot_version", Integer, nullable=False),
    Column("timestamp_version", Integer, nullable=False),
    Column("timestamp_expires", BigInteger, nullable=False),
    Column("root_pin", LargeBinary, nullable=False),
    Column("desired_generation", BigInteger, nullable=False),
    Column("desired_release", String(64), nullable=False),
    Column("desired_rollout", String(64), nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant", ForeignKey("tenants.name"), nullable=False),
    Column("secret_hash", LargeBinary, nullable=False),
    Column("agent", String(63), nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=False),
    Column("revoked", Boolean, nullable=False),
    Column("spent_key", LargeBinary, nullable=False),
    Column("spent_agent", String(63), nullable=False),
    Column("spent_at", BigInteger, nullable=False),
)

agents = Table(
    "agents",
    metadata,
    Column("tenant", ForeignKey("tenants.name"), primary_key=True),
    Column("name", String(63), primary_key=True),
    Column("state", String(8), nullable=False),
    Column("public_key", LargeBinary, nullable=False),
    Column("previous_key", LargeBinary, nullable=False),
    Column("audit_key", LargeBinary, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("desired_generation", BigInteger, nullable=False),
    Column("desired_release", String(64), nullable=False),
    Column("desired_rollout", String(64), nullable=False),
    Column("last_seen", BigInteger, nullable=False),
    Column("version", String(64), nullable=False),
    Column("boot_id", String(64), nullable=False),
    Column("runtimes", String(256), nullable=False),
    Column("observed_generation", BigInteger, nullable=False),
    Column("observed_phase", Integer, nullable=False),
    Column("observed_release", String(64), nullable=False),
    Column("observed_error_code", String(64), nullable=False),
    Column("observed_error_message", String(500), nullable=False),
    Column("observed_audit_size", BigInteger, nullable=False),
    Column("observed_audit_epoch", BigInteger, nullable=False),
    Column("count_answered", BigInteger, nullable=False),
    Column("count_denied", BigInteger, nullable=False),
    Column("count_failed", BigInteger, nullable=False),
    Column("count_tokens_in", BigInteger, nullable=False),
    Column("count_tokens_out", BigInteger, nullable=False),
    Column("count_worker_crashes", BigInteger, nullable=False),
    Index("agents_rollout", "tenant", "desired_rollout"),
)

tuf_files = Table(
    "tuf_files",
    metadata,
    Column("tenant", ForeignKey("tenants.name"), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("content", LargeBinary, nullable=False),
)

releases = Table(
    "releases",
    metadata,
    Column("tenant", ForeignKey("tenants.name"), primary_key=True),
    Column("digest", String(64), primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("targets_version", Integer, nullable=False),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", ForeignKey("tenants.name"), nullable=False),
    Column("release_digest", String(64), nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("started", BigInteger, nullable=False),
    Column("started_by", String(63), nullable=False),
    Column("frozen", Boolean, nullable=False),
    Column("agents", Integer, nullable=False),
    Column("applied", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Index("rollouts_generation", "tenant", "generation", unique=True),
)

logs = Table(
    "logs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("tenant", String(63), nullable=False),
    Column("agent", String(63), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("audit_key", LargeBinary, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("head", LargeBinary, nullable=False),
    Column("witnessed_size", BigInteger, nullable=False),
    Column("witnessed_at", BigInteger, nullable=False),
    Column("peaks", LargeBinary, nullable=False),
    Column("checkpoint", LargeBinary, nullable=False),
    ForeignKeyConstraint(["tenant", "agent"], ["agents.tenant", "agents.name"]),
    Index("logs_place", "tenant", "agent", "epoch", unique=True),
)

leaves = Table(
    "leaves",
    metadata,
    Column("log_id", ForeignKey("logs.id"), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary, nullable=False),
    Column("time_ns", BigInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

terms = Table(
    "terms",
    metadata,
    Column("log_id", ForeignKey("logs.id"), primary_key=True),
    Column("term", BigInteger, nullable=False),
    Column("public", LargeBinary, nullable=False),
    Column("commitment", LargeBinary, nullable=False),
    Column("note", LargeBinary, nullable=False),
    Column("begun", BigInteger, nullable=False),
)

epochs_opened = Table(
    "epochs_opened",
    metadata,
    Column("tenant", String(63), primary_key=True),
    Column("agent", String(63), primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    ForeignKeyConstraint(["tenant", "agent"], ["agents.tenant", "agents.name"]),
)

evidence = Table(
    "evidence",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("tenant", String(63), nullable=False),
    Column("agent", String(63), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("detail", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
    # The same contradiction sent again is the same evidence: a liar cannot fill the disk.
    Index("evidence_once", "tenant", "agent", "epoch", "kind", "digest", unique=True),
)

operator_leaves = Table(
    "operator_leaves",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary, nullable=False),
    Column("time_ns", BigInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

operator_state = Table(
    "operator_state",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("head", LargeBinary, nullable=False),
    Column("peaks", LargeBinary, nullable=False),
)

cosigned_leaves = Table(
    "cosigned_leaves",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary, nullable=False),
    Column("time_ns", BigInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

cosigned_state = Table(
    "cosigned_state",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("head", LargeBinary, nullable=False),
    Column("peaks", LargeBinary, nullable=False),
)

outside_logs = Table(
    "outside_logs",
    metadata,
    Column("origin", String(255), primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("root", LargeBinary, nullable=False),
    Column("checkpoint", LargeBinary, nullable=False),
    Column("cosigned_at", BigInteger, nullable=False),
    # Both notes of the first contradiction, NULL: none was seen. One proves it for ever.
    Column("fork_cosigned", LargeBinary, nullable=True),
    Column("fork_refused", LargeBinary, nullable=True),
)

outside_cosignatures = Table(
    "outside_cosignatures",
    metadata,
    Column("log", String(255), primary_key=True),
    Column("witness", String(320), primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("peaks", LargeBinary, nullable=False),
    Column("cosigned_at", BigInteger, nullable=False),
    Column("note", LargeBinary, nullable=False),
)

operator_certificates = Table(
    "operator_certificates",
    metadata,
    Column("serial", String(64), primary_key=True),
    Column("name", String(63), nullable=False),
    Column("role", String(32), nullable=False),
    Column("issued", BigInteger, nullable=False),
    Column("not_after", BigInteger, nullable=False),
)
