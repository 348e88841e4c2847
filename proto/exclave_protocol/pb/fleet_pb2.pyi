from exclave_protocol.pb import telemetry_pb2 as _telemetry_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Phase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PHASE_UNSPECIFIED: _ClassVar[Phase]
    PHASE_EMPTY: _ClassVar[Phase]
    PHASE_VERIFYING: _ClassVar[Phase]
    PHASE_FETCHING: _ClassVar[Phase]
    PHASE_ACTIVATING: _ClassVar[Phase]
    PHASE_APPLIED: _ClassVar[Phase]
    PHASE_FAILED: _ClassVar[Phase]
    PHASE_REVERTED: _ClassVar[Phase]
PHASE_UNSPECIFIED: Phase
PHASE_EMPTY: Phase
PHASE_VERIFYING: Phase
PHASE_FETCHING: Phase
PHASE_ACTIVATING: Phase
PHASE_APPLIED: Phase
PHASE_FAILED: Phase
PHASE_REVERTED: Phase

class AgentMessage(_message.Message):
    __slots__ = ("hello", "observed", "counts")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    observed: Observed
    counts: _telemetry_pb2.Counts
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., observed: _Optional[_Union[Observed, _Mapping]] = ..., counts: _Optional[_Union[_telemetry_pb2.Counts, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("version", "boot_id", "runtimes")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    RUNTIMES_FIELD_NUMBER: _ClassVar[int]
    version: str
    boot_id: str
    runtimes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, version: _Optional[str] = ..., boot_id: _Optional[str] = ..., runtimes: _Optional[_Iterable[str]] = ...) -> None: ...

class Observed(_message.Message):
    __slots__ = ("generation", "phase", "release_digest", "error_code", "error_message", "audit_size", "audit_epoch")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    RELEASE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    AUDIT_SIZE_FIELD_NUMBER: _ClassVar[int]
    AUDIT_EPOCH_FIELD_NUMBER: _ClassVar[int]
    generation: int
    phase: Phase
    release_digest: str
    error_code: str
    error_message: str
    audit_size: int
    audit_epoch: int
    def __init__(self, generation: _Optional[int] = ..., phase: _Optional[_Union[Phase, str]] = ..., release_digest: _Optional[str] = ..., error_code: _Optional[str] = ..., error_message: _Optional[str] = ..., audit_size: _Optional[int] = ..., audit_epoch: _Optional[int] = ...) -> None: ...

class CoordinatorMessage(_message.Message):
    __slots__ = ("welcome", "desired", "ended")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    DESIRED_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    desired: Desired
    ended: Ended
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., desired: _Optional[_Union[Desired, _Mapping]] = ..., ended: _Optional[_Union[Ended, _Mapping]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("time", "counts_interval")
    TIME_FIELD_NUMBER: _ClassVar[int]
    COUNTS_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    time: int
    counts_interval: int
    def __init__(self, time: _Optional[int] = ..., counts_interval: _Optional[int] = ...) -> None: ...

class Desired(_message.Message):
    __slots__ = ("generation", "assignment")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENT_FIELD_NUMBER: _ClassVar[int]
    generation: int
    assignment: bytes
    def __init__(self, generation: _Optional[int] = ..., assignment: _Optional[bytes] = ...) -> None: ...

class Ended(_message.Message):
    __slots__ = ("reason", "retry_after")
    class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REASON_UNSPECIFIED: _ClassVar[Ended.Reason]
        EVICTED: _ClassVar[Ended.Reason]
        BANNED: _ClassVar[Ended.Reason]
        EXPIRED: _ClassVar[Ended.Reason]
        DRAINING: _ClassVar[Ended.Reason]
        REPLACED: _ClassVar[Ended.Reason]
    REASON_UNSPECIFIED: Ended.Reason
    EVICTED: Ended.Reason
    BANNED: Ended.Reason
    EXPIRED: Ended.Reason
    DRAINING: Ended.Reason
    REPLACED: Ended.Reason
    REASON_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_FIELD_NUMBER: _ClassVar[int]
    reason: Ended.Reason
    retry_after: int
    def __init__(self, reason: _Optional[_Union[Ended.Reason, str]] = ..., retry_after: _Optional[int] = ...) -> None: ...
