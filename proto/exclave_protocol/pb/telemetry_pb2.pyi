from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Counts(_message.Message):
    __slots__ = ("answered", "denied", "failed", "tokens_in", "tokens_out", "worker_crashes")
    ANSWERED_FIELD_NUMBER: _ClassVar[int]
    DENIED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    TOKENS_IN_FIELD_NUMBER: _ClassVar[int]
    TOKENS_OUT_FIELD_NUMBER: _ClassVar[int]
    WORKER_CRASHES_FIELD_NUMBER: _ClassVar[int]
    answered: int
    denied: int
    failed: int
    tokens_in: int
    tokens_out: int
    worker_crashes: int
    def __init__(self, answered: _Optional[int] = ..., denied: _Optional[int] = ..., failed: _Optional[int] = ..., tokens_in: _Optional[int] = ..., tokens_out: _Optional[int] = ..., worker_crashes: _Optional[int] = ...) -> None: ...
