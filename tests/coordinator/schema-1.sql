-- The database that the first release made, frozen: what migrations start from.
CREATE TABLE schema_version (
    version INTEGER NOT NULL
);
CREATE TABLE tenants (
    name VARCHAR(63) NOT NULL,
    created BIGINT NOT NULL,
    snapshot_key BLOB NOT NULL,
    timestamp_key BLOB NOT NULL,
    root_version INTEGER NOT NULL,
    targets_version INTEGER NOT NULL,
    snapshot_version INTEGER NOT NULL,
    timestamp_version INTEGER NOT NULL,
    timestamp_expires BIGINT NOT NULL,
    root_pin BLOB NOT NULL,
    desired_generation BIGINT NOT NULL,
    desired_release VARCHAR(64) NOT NULL,
    desired_rollout VARCHAR(64) NOT NULL,
    PRIMARY KEY (name)
);
CREATE TABLE evidence (
    id INTEGER NOT NULL,
    tenant VARCHAR(63) NOT NULL,
    agent VARCHAR(63) NOT NULL,
    epoch BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    kind VARCHAR(16) NOT NULL,
    digest BLOB NOT NULL,
    at BIGINT NOT NULL,
    detail TEXT NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (id)
);
CREATE UNIQUE INDEX evidence_once ON evidence (tenant, agent, epoch, kind, digest);
CREATE TABLE operator_leaves (
    seq BIGINT NOT NULL,
    hash BLOB NOT NULL,
    time_ns BIGINT NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (seq)
);
CREATE TABLE operator_state (
    id INTEGER NOT NULL,
    size BIGINT NOT NULL,
    head BLOB NOT NULL,
    peaks BLOB NOT NULL,
    PRIMARY KEY (id)
);
CREATE TABLE operator_certificates (
    serial VARCHAR(64) NOT NULL,
    name VARCHAR(63) NOT NULL,
    role VARCHAR(32) NOT NULL,
    issued BIGINT NOT NULL,
    not_after BIGINT NOT NULL,
    PRIMARY KEY (serial)
);
CREATE TABLE tokens (
    id VARCHAR(32) NOT NULL,
    tenant VARCHAR(63) NOT NULL,
    secret_hash BLOB NOT NULL,
    agent VARCHAR(63) NOT NULL,
    created BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    revoked BOOLEAN NOT NULL,
    spent_key BLOB NOT NULL,
    spent_agent VARCHAR(63) NOT NULL,
    spent_at BIGINT NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY(tenant) REFERENCES tenants (name)
);
CREATE TABLE agents (
    tenant VARCHAR(63) NOT NULL,
    name VARCHAR(63) NOT NULL,
    state VARCHAR(8) NOT NULL,
    public_key BLOB NOT NULL,
    previous_key BLOB NOT NULL,
    audit_key BLOB NOT NULL,
    created BIGINT NOT NULL,
    desired_generation BIGINT NOT NULL,
    desired_release VARCHAR(64) NOT NULL,
    desired_rollout VARCHAR(64) NOT NULL,
    last_seen BIGINT NOT NULL,
    version VARCHAR(64) NOT NULL,
    boot_id VARCHAR(64) NOT NULL,
    runtimes VARCHAR(256) NOT NULL,
    observed_generation BIGINT NOT NULL,
    observed_phase INTEGER NOT NULL,
    observed_release VARCHAR(64) NOT NULL,
    observed_error_code VARCHAR(64) NOT NULL,
    observed_error_message VARCHAR(500) NOT NULL,
    observed_audit_size BIGINT NOT NULL,
    observed_audit_epoch BIGINT NOT NULL,
    count_answered BIGINT NOT NULL,
    count_denied BIGINT NOT NULL,
    count_failed BIGINT NOT NULL,
    count_tokens_in BIGINT NOT NULL,
    count_tokens_out BIGINT NOT NULL,
    count_worker_crashes BIGINT NOT NULL,
    PRIMARY KEY (tenant, name),
    FOREIGN KEY(tenant) REFERENCES tenants (name)
);
CREATE INDEX agents_rollout ON agents (tenant, desired_rollout);
CREATE TABLE tuf_files (
    tenant VARCHAR(63) NOT NULL,
    name VARCHAR(64) NOT NULL,
    version INTEGER NOT NULL,
    content BLOB NOT NULL,
    PRIMARY KEY (tenant, name),
    FOREIGN KEY(tenant) REFERENCES tenants (name)
);
CREATE TABLE releases (
    tenant VARCHAR(63) NOT NULL,
    digest VARCHAR(64) NOT NULL,
    version BIGINT NOT NULL,
    targets_version INTEGER NOT NULL,
    PRIMARY KEY (tenant, digest),
    FOREIGN KEY(tenant) REFERENCES tenants (name)
);
CREATE TABLE rollouts (
    id VARCHAR(64) NOT NULL,
    tenant VARCHAR(63) NOT NULL,
    release_digest VARCHAR(64) NOT NULL,
    generation BIGINT NOT NULL,
    started BIGINT NOT NULL,
    started_by VARCHAR(63) NOT NULL,
    frozen BOOLEAN NOT NULL,
    agents INTEGER NOT NULL,
    applied INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY(tenant) REFERENCES tenants (name)
);
CREATE UNIQUE INDEX rollouts_generation ON rollouts (tenant, generation);
CREATE TABLE logs (
    id INTEGER NOT NULL,
    tenant VARCHAR(63) NOT NULL,
    agent VARCHAR(63) NOT NULL,
    epoch BIGINT NOT NULL,
    audit_key BLOB NOT NULL,
    size BIGINT NOT NULL,
    head BLOB NOT NULL,
    witnessed_size BIGINT NOT NULL,
    witnessed_at BIGINT NOT NULL,
    peaks BLOB NOT NULL,
    checkpoint BLOB NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY(tenant, agent) REFERENCES agents (tenant, name)
);
CREATE UNIQUE INDEX logs_place ON logs (tenant, agent, epoch);
CREATE TABLE leaves (
    log_id INTEGER NOT NULL,
    seq BIGINT NOT NULL,
    hash BLOB NOT NULL,
    time_ns BIGINT NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (log_id, seq),
    FOREIGN KEY(log_id) REFERENCES logs (id)
);
