from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class EnrollRequest(_message.Message):
    __slots__ = ("tenant", "token_id", "token_secret", "csr", "agent", "audit_public_key")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_SECRET_FIELD_NUMBER: _ClassVar[int]
    CSR_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    AUDIT_PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    token_id: str
    token_secret: bytes
    csr: bytes
    agent: str
    audit_public_key: bytes
    def __init__(self, tenant: _Optional[str] = ..., token_id: _Optional[str] = ..., token_secret: _Optional[bytes] = ..., csr: _Optional[bytes] = ..., agent: _Optional[str] = ..., audit_public_key: _Optional[bytes] = ...) -> None: ...

class EnrollResponse(_message.Message):
    __slots__ = ("spiffe_id", "certificate_chain", "ca_bundle", "not_after", "session_endpoint", "witness_vkey", "director_public_key")
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_CHAIN_FIELD_NUMBER: _ClassVar[int]
    CA_BUNDLE_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    SESSION_ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    WITNESS_VKEY_FIELD_NUMBER: _ClassVar[int]
    DIRECTOR_PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    spiffe_id: str
    certificate_chain: _containers.RepeatedScalarFieldContainer[bytes]
    ca_bundle: _containers.RepeatedScalarFieldContainer[bytes]
    not_after: int
    session_endpoint: str
    witness_vkey: str
    director_public_key: bytes
    def __init__(self, spiffe_id: _Optional[str] = ..., certificate_chain: _Optional[_Iterable[bytes]] = ..., ca_bundle: _Optional[_Iterable[bytes]] = ..., not_after: _Optional[int] = ..., session_endpoint: _Optional[str] = ..., witness_vkey: _Optional[str] = ..., director_public_key: _Optional[bytes] = ...) -> None: ...

class RecoverRequest(_message.Message):
    __slots__ = ("tenant", "agent", "csr", "timestamp", "proof")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    CSR_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    agent: str
    csr: bytes
    timestamp: int
    proof: bytes
    def __init__(self, tenant: _Optional[str] = ..., agent: _Optional[str] = ..., csr: _Optional[bytes] = ..., timestamp: _Optional[int] = ..., proof: _Optional[bytes] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("csr",)
    CSR_FIELD_NUMBER: _ClassVar[int]
    csr: bytes
    def __init__(self, csr: _Optional[bytes] = ...) -> None: ...
