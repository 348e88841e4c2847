from exclave_protocol.pb import fleet_pb2 as _fleet_pb2
from exclave_protocol.pb import telemetry_pb2 as _telemetry_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CreateTenantRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class CreateTenantResponse(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: Tenant
    def __init__(self, tenant: _Optional[_Union[Tenant, _Mapping]] = ...) -> None: ...

class GetTenantRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class Tenant(_message.Message):
    __slots__ = ("name", "trust_domain", "snapshot_public_key", "timestamp_public_key", "root_version", "targets_version", "root_pin", "created")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    ROOT_VERSION_FIELD_NUMBER: _ClassVar[int]
    TARGETS_VERSION_FIELD_NUMBER: _ClassVar[int]
    ROOT_PIN_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    name: str
    trust_domain: str
    snapshot_public_key: bytes
    timestamp_public_key: bytes
    root_version: int
    targets_version: int
    root_pin: bytes
    created: int
    def __init__(self, name: _Optional[str] = ..., trust_domain: _Optional[str] = ..., snapshot_public_key: _Optional[bytes] = ..., timestamp_public_key: _Optional[bytes] = ..., root_version: _Optional[int] = ..., targets_version: _Optional[int] = ..., root_pin: _Optional[bytes] = ..., created: _Optional[int] = ...) -> None: ...

class ListTenantsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListTenantsResponse(_message.Message):
    __slots__ = ("tenants",)
    TENANTS_FIELD_NUMBER: _ClassVar[int]
    tenants: _containers.RepeatedCompositeFieldContainer[Tenant]
    def __init__(self, tenants: _Optional[_Iterable[_Union[Tenant, _Mapping]]] = ...) -> None: ...

class CreateTokenRequest(_message.Message):
    __slots__ = ("tenant", "ttl", "agent")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    ttl: int
    agent: str
    def __init__(self, tenant: _Optional[str] = ..., ttl: _Optional[int] = ..., agent: _Optional[str] = ...) -> None: ...

class CreateTokenResponse(_message.Message):
    __slots__ = ("token_id", "secret", "expires", "enroll_endpoint", "ca_certificate")
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    ENROLL_ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    CA_CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    token_id: str
    secret: bytes
    expires: int
    enroll_endpoint: str
    ca_certificate: bytes
    def __init__(self, token_id: _Optional[str] = ..., secret: _Optional[bytes] = ..., expires: _Optional[int] = ..., enroll_endpoint: _Optional[str] = ..., ca_certificate: _Optional[bytes] = ...) -> None: ...

class RevokeTokenRequest(_message.Message):
    __slots__ = ("token_id",)
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    token_id: str
    def __init__(self, token_id: _Optional[str] = ...) -> None: ...

class RevokeTokenResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListAgentsRequest(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    def __init__(self, tenant: _Optional[str] = ...) -> None: ...

class ListAgentsResponse(_message.Message):
    __slots__ = ("agents",)
    AGENTS_FIELD_NUMBER: _ClassVar[int]
    agents: _containers.RepeatedCompositeFieldContainer[Agent]
    def __init__(self, agents: _Optional[_Iterable[_Union[Agent, _Mapping]]] = ...) -> None: ...

class AgentRequest(_message.Message):
    __slots__ = ("tenant", "agent", "reason")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    agent: str
    reason: str
    def __init__(self, tenant: _Optional[str] = ..., agent: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ReopenLogResponse(_message.Message):
    __slots__ = ("epoch",)
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    def __init__(self, epoch: _Optional[int] = ...) -> None: ...

class Agent(_message.Message):
    __slots__ = ("tenant", "name", "state", "connected", "last_seen", "desired_generation", "observed", "counts", "version", "audit_size", "witnessed_size")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Agent.State]
        ACTIVE: _ClassVar[Agent.State]
        EVICTED: _ClassVar[Agent.State]
        BANNED: _ClassVar[Agent.State]
    STATE_UNSPECIFIED: Agent.State
    ACTIVE: Agent.State
    EVICTED: Agent.State
    BANNED: Agent.State
    TENANT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_FIELD_NUMBER: _ClassVar[int]
    DESIRED_GENERATION_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    AUDIT_SIZE_FIELD_NUMBER: _ClassVar[int]
    WITNESSED_SIZE_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    name: str
    state: Agent.State
    connected: bool
    last_seen: int
    desired_generation: int
    observed: _fleet_pb2.Observed
    counts: _telemetry_pb2.Counts
    version: str
    audit_size: int
    witnessed_size: int
    def __init__(self, tenant: _Optional[str] = ..., name: _Optional[str] = ..., state: _Optional[_Union[Agent.State, str]] = ..., connected: _Optional[bool] = ..., last_seen: _Optional[int] = ..., desired_generation: _Optional[int] = ..., observed: _Optional[_Union[_fleet_pb2.Observed, _Mapping]] = ..., counts: _Optional[_Union[_telemetry_pb2.Counts, _Mapping]] = ..., version: _Optional[str] = ..., audit_size: _Optional[int] = ..., witnessed_size: _Optional[int] = ...) -> None: ...

class IssueOperatorRequest(_message.Message):
    __slots__ = ("name", "role", "csr", "ttl")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CSR_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    name: str
    role: str
    csr: bytes
    ttl: int
    def __init__(self, name: _Optional[str] = ..., role: _Optional[str] = ..., csr: _Optional[bytes] = ..., ttl: _Optional[int] = ...) -> None: ...

class IssueOperatorResponse(_message.Message):
    __slots__ = ("certificate_chain", "ca_bundle")
    CERTIFICATE_CHAIN_FIELD_NUMBER: _ClassVar[int]
    CA_BUNDLE_FIELD_NUMBER: _ClassVar[int]
    certificate_chain: _containers.RepeatedScalarFieldContainer[bytes]
    ca_bundle: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, certificate_chain: _Optional[_Iterable[bytes]] = ..., ca_bundle: _Optional[_Iterable[bytes]] = ...) -> None: ...

class UploadTargetRequest(_message.Message):
    __slots__ = ("header", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: TargetHeader
    data: bytes
    def __init__(self, header: _Optional[_Union[TargetHeader, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class TargetHeader(_message.Message):
    __slots__ = ("tenant", "sha256", "length")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    sha256: str
    length: int
    def __init__(self, tenant: _Optional[str] = ..., sha256: _Optional[str] = ..., length: _Optional[int] = ...) -> None: ...

class UploadTargetResponse(_message.Message):
    __slots__ = ("existed",)
    EXISTED_FIELD_NUMBER: _ClassVar[int]
    existed: bool
    def __init__(self, existed: _Optional[bool] = ...) -> None: ...

class MissingTargetsRequest(_message.Message):
    __slots__ = ("tenant", "sha256")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    sha256: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, tenant: _Optional[str] = ..., sha256: _Optional[_Iterable[str]] = ...) -> None: ...

class MissingTargetsResponse(_message.Message):
    __slots__ = ("sha256",)
    SHA256_FIELD_NUMBER: _ClassVar[int]
    sha256: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, sha256: _Optional[_Iterable[str]] = ...) -> None: ...

class PublishMetadataRequest(_message.Message):
    __slots__ = ("tenant", "roots", "targets")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    ROOTS_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    roots: _containers.RepeatedScalarFieldContainer[bytes]
    targets: bytes
    def __init__(self, tenant: _Optional[str] = ..., roots: _Optional[_Iterable[bytes]] = ..., targets: _Optional[bytes] = ...) -> None: ...

class PublishMetadataResponse(_message.Message):
    __slots__ = ("root_version", "targets_version", "snapshot_version")
    ROOT_VERSION_FIELD_NUMBER: _ClassVar[int]
    TARGETS_VERSION_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_VERSION_FIELD_NUMBER: _ClassVar[int]
    root_version: int
    targets_version: int
    snapshot_version: int
    def __init__(self, root_version: _Optional[int] = ..., targets_version: _Optional[int] = ..., snapshot_version: _Optional[int] = ...) -> None: ...

class GetMetadataRequest(_message.Message):
    __slots__ = ("tenant", "name")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    name: str
    def __init__(self, tenant: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class GetMetadataResponse(_message.Message):
    __slots__ = ("content",)
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    content: bytes
    def __init__(self, content: _Optional[bytes] = ...) -> None: ...

class StartRolloutRequest(_message.Message):
    __slots__ = ("tenant", "release_digest")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    RELEASE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    release_digest: str
    def __init__(self, tenant: _Optional[str] = ..., release_digest: _Optional[str] = ...) -> None: ...

class GetRolloutRequest(_message.Message):
    __slots__ = ("tenant", "rollout")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    rollout: str
    def __init__(self, tenant: _Optional[str] = ..., rollout: _Optional[str] = ...) -> None: ...

class Rollout(_message.Message):
    __slots__ = ("tenant", "rollout", "release_digest", "generation", "started", "agents", "applied", "failed", "pending")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    RELEASE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    AGENTS_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    rollout: str
    release_digest: str
    generation: int
    started: int
    agents: int
    applied: int
    failed: int
    pending: _containers.RepeatedCompositeFieldContainer[Agent]
    def __init__(self, tenant: _Optional[str] = ..., rollout: _Optional[str] = ..., release_digest: _Optional[str] = ..., generation: _Optional[int] = ..., started: _Optional[int] = ..., agents: _Optional[int] = ..., applied: _Optional[int] = ..., failed: _Optional[int] = ..., pending: _Optional[_Iterable[_Union[Agent, _Mapping]]] = ...) -> None: ...

class ExportAuditRequest(_message.Message):
    __slots__ = ("tenant", "to", "models", "workflows", "commitments")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    WORKFLOWS_FIELD_NUMBER: _ClassVar[int]
    COMMITMENTS_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    to: int
    models: _containers.RepeatedScalarFieldContainer[str]
    workflows: _containers.RepeatedScalarFieldContainer[str]
    commitments: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, tenant: _Optional[str] = ..., to: _Optional[int] = ..., models: _Optional[_Iterable[str]] = ..., workflows: _Optional[_Iterable[str]] = ..., commitments: _Optional[_Iterable[str]] = ..., **kwargs) -> None: ...

class ExportAuditChunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class ReadOperatorLogRequest(_message.Message):
    __slots__ = ("first_seq", "limit", "log")
    class Log(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OPERATORS: _ClassVar[ReadOperatorLogRequest.Log]
        COSIGNED: _ClassVar[ReadOperatorLogRequest.Log]
    OPERATORS: ReadOperatorLogRequest.Log
    COSIGNED: ReadOperatorLogRequest.Log
    FIRST_SEQ_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    first_seq: int
    limit: int
    log: ReadOperatorLogRequest.Log
    def __init__(self, first_seq: _Optional[int] = ..., limit: _Optional[int] = ..., log: _Optional[_Union[ReadOperatorLogRequest.Log, str]] = ...) -> None: ...

class ReadOperatorLogResponse(_message.Message):
    __slots__ = ("leaves", "size", "checkpoint")
    LEAVES_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    leaves: _containers.RepeatedScalarFieldContainer[bytes]
    size: int
    checkpoint: bytes
    def __init__(self, leaves: _Optional[_Iterable[bytes]] = ..., size: _Optional[int] = ..., checkpoint: _Optional[bytes] = ...) -> None: ...

class ListAgentLogsRequest(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    def __init__(self, tenant: _Optional[str] = ...) -> None: ...

class ListAgentLogsResponse(_message.Message):
    __slots__ = ("logs", "left_out")
    LOGS_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    logs: _containers.RepeatedCompositeFieldContainer[AgentLog]
    left_out: int
    def __init__(self, logs: _Optional[_Iterable[_Union[AgentLog, _Mapping]]] = ..., left_out: _Optional[int] = ...) -> None: ...

class AgentLog(_message.Message):
    __slots__ = ("tenant", "agent", "state", "last_seen", "epoch", "size", "witnessed_size", "witnessed_at", "last_leaf", "contradictions")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    WITNESSED_SIZE_FIELD_NUMBER: _ClassVar[int]
    WITNESSED_AT_FIELD_NUMBER: _ClassVar[int]
    LAST_LEAF_FIELD_NUMBER: _ClassVar[int]
    CONTRADICTIONS_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    agent: str
    state: Agent.State
    last_seen: int
    epoch: int
    size: int
    witnessed_size: int
    witnessed_at: int
    last_leaf: int
    contradictions: int
    def __init__(self, tenant: _Optional[str] = ..., agent: _Optional[str] = ..., state: _Optional[_Union[Agent.State, str]] = ..., last_seen: _Optional[int] = ..., epoch: _Optional[int] = ..., size: _Optional[int] = ..., witnessed_size: _Optional[int] = ..., witnessed_at: _Optional[int] = ..., last_leaf: _Optional[int] = ..., contradictions: _Optional[int] = ...) -> None: ...

class ListWitnessesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListWitnessesResponse(_message.Message):
    __slots__ = ("own", "outside", "witness_vkey", "outside_left_out")
    OWN_FIELD_NUMBER: _ClassVar[int]
    OUTSIDE_FIELD_NUMBER: _ClassVar[int]
    WITNESS_VKEY_FIELD_NUMBER: _ClassVar[int]
    OUTSIDE_LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    own: _containers.RepeatedCompositeFieldContainer[OwnLog]
    outside: _containers.RepeatedCompositeFieldContainer[OutsideLog]
    witness_vkey: str
    outside_left_out: int
    def __init__(self, own: _Optional[_Iterable[_Union[OwnLog, _Mapping]]] = ..., outside: _Optional[_Iterable[_Union[OutsideLog, _Mapping]]] = ..., witness_vkey: _Optional[str] = ..., outside_left_out: _Optional[int] = ...) -> None: ...

class OwnLog(_message.Message):
    __slots__ = ("origin", "vkey", "size", "checkpoint", "cosignatures")
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    VKEY_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    COSIGNATURES_FIELD_NUMBER: _ClassVar[int]
    origin: str
    vkey: str
    size: int
    checkpoint: bytes
    cosignatures: _containers.RepeatedCompositeFieldContainer[OutsideCosignature]
    def __init__(self, origin: _Optional[str] = ..., vkey: _Optional[str] = ..., size: _Optional[int] = ..., checkpoint: _Optional[bytes] = ..., cosignatures: _Optional[_Iterable[_Union[OutsideCosignature, _Mapping]]] = ...) -> None: ...

class OutsideCosignature(_message.Message):
    __slots__ = ("witness_vkey", "size", "cosigned_at", "note", "configured", "error", "message")
    WITNESS_VKEY_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    COSIGNED_AT_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    CONFIGURED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    witness_vkey: str
    size: int
    cosigned_at: int
    note: bytes
    configured: bool
    error: str
    message: str
    def __init__(self, witness_vkey: _Optional[str] = ..., size: _Optional[int] = ..., cosigned_at: _Optional[int] = ..., note: _Optional[bytes] = ..., configured: _Optional[bool] = ..., error: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class OutsideLog(_message.Message):
    __slots__ = ("origin", "size", "cosigned_at", "note", "fork")
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    COSIGNED_AT_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    FORK_FIELD_NUMBER: _ClassVar[int]
    origin: str
    size: int
    cosigned_at: int
    note: bytes
    fork: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, origin: _Optional[str] = ..., size: _Optional[int] = ..., cosigned_at: _Optional[int] = ..., note: _Optional[bytes] = ..., fork: _Optional[_Iterable[bytes]] = ...) -> None: ...
