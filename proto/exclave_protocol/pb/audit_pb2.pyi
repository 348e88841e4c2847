from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class RecordedRequest(_message.Message):
    __slots__ = ("epoch",)
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    def __init__(self, epoch: _Optional[int] = ...) -> None: ...

class RecordedResponse(_message.Message):
    __slots__ = ("proof",)
    PROOF_FIELD_NUMBER: _ClassVar[int]
    proof: bytes
    def __init__(self, proof: _Optional[bytes] = ...) -> None: ...

class BeginTermRequest(_message.Message):
    __slots__ = ("epoch", "head", "old_size", "consistency_proof", "commitment", "nonces", "token")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    OLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_PROOF_FIELD_NUMBER: _ClassVar[int]
    COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    NONCES_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    head: bytes
    old_size: int
    consistency_proof: _containers.RepeatedScalarFieldContainer[bytes]
    commitment: bytes
    nonces: _containers.RepeatedScalarFieldContainer[bytes]
    token: bytes
    def __init__(self, epoch: _Optional[int] = ..., head: _Optional[bytes] = ..., old_size: _Optional[int] = ..., consistency_proof: _Optional[_Iterable[bytes]] = ..., commitment: _Optional[bytes] = ..., nonces: _Optional[_Iterable[bytes]] = ..., token: _Optional[bytes] = ...) -> None: ...

class BeginTermResponse(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: bytes
    def __init__(self, token: _Optional[bytes] = ...) -> None: ...

class HeadRequest(_message.Message):
    __slots__ = ("epoch",)
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    def __init__(self, epoch: _Optional[int] = ...) -> None: ...

class HeadResponse(_message.Message):
    __slots__ = ("size", "witnessed_size", "checkpoint", "term", "epoch_open")
    SIZE_FIELD_NUMBER: _ClassVar[int]
    WITNESSED_SIZE_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    EPOCH_OPEN_FIELD_NUMBER: _ClassVar[int]
    size: int
    witnessed_size: int
    checkpoint: bytes
    term: int
    epoch_open: int
    def __init__(self, size: _Optional[int] = ..., witnessed_size: _Optional[int] = ..., checkpoint: _Optional[bytes] = ..., term: _Optional[int] = ..., epoch_open: _Optional[int] = ...) -> None: ...

class AppendRequest(_message.Message):
    __slots__ = ("epoch", "first_seq", "leaves", "term")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQ_FIELD_NUMBER: _ClassVar[int]
    LEAVES_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    first_seq: int
    leaves: _containers.RepeatedScalarFieldContainer[bytes]
    term: int
    def __init__(self, epoch: _Optional[int] = ..., first_seq: _Optional[int] = ..., leaves: _Optional[_Iterable[bytes]] = ..., term: _Optional[int] = ...) -> None: ...

class AppendResponse(_message.Message):
    __slots__ = ("size",)
    SIZE_FIELD_NUMBER: _ClassVar[int]
    size: int
    def __init__(self, size: _Optional[int] = ...) -> None: ...

class WitnessRequest(_message.Message):
    __slots__ = ("epoch", "old_size", "consistency_proof", "checkpoint")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    OLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_PROOF_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    old_size: int
    consistency_proof: _containers.RepeatedScalarFieldContainer[bytes]
    checkpoint: bytes
    def __init__(self, epoch: _Optional[int] = ..., old_size: _Optional[int] = ..., consistency_proof: _Optional[_Iterable[bytes]] = ..., checkpoint: _Optional[bytes] = ...) -> None: ...

class WitnessResponse(_message.Message):
    __slots__ = ("cosignature",)
    COSIGNATURE_FIELD_NUMBER: _ClassVar[int]
    cosignature: bytes
    def __init__(self, cosignature: _Optional[bytes] = ...) -> None: ...
