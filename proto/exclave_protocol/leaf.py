"""The audit record: one canonical JSON object per leaf, chained to the one before it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache

from .canonical import CanonicalError, JsonValue, decode, encode
from .errors import LeafError as LeafError

MAX_LEAF = 65_535
"""Bytes of one leaf: what C2SP tlog-tiles entry bundles can carry (16-bit length)."""
MAX_SEQ = 2**63 - 1
NO_PREV = bytes(32)
"""`prev` of seq 0."""

_MAX_SECONDS = 253_402_300_800  # 10000-01-01T00:00:00Z: RFC 3339 has four-digit years
_ORIGIN = re.compile(r"[!-*,-~]{1,255}")  # printable ASCII without space and "+" (key names)
_INTEGER = re.compile(r"0|[1-9][0-9]{0,18}")
_HEX32 = re.compile(r"[0-9a-f]{64}")
# Base64url of 32 bytes without padding: the last character carries four bits.
_DIGEST = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]")
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d{9})Z", re.ASCII)
_FIELDS = frozenset({"v", "log", "epoch", "seq", "prev", "type", "time", "body"})


class LeafType(StrEnum):
    """What a record says happened."""

    GENESIS = "GENESIS"
    """Seq 0 of every epoch: who writes, with which key."""
    EPOCH = "EPOCH"
    """The epoch is closed; another log continues it."""
    BOOT = "BOOT"
    INTENT = "INTENT"
    """A decision is about to be computed."""
    RESULT = "RESULT"
    """What became of it; a denial is a RESULT without an INTENT."""
    OVERRIDE = "OVERRIDE"
    APPROVAL = "APPROVAL"
    POLICY_CHANGE = "POLICY_CHANGE"
    MODEL_CHANGE = "MODEL_CHANGE"
    HEARTBEAT = "HEARTBEAT"
    GAP = "GAP"
    """Known loss: what is missing and why."""
    RECOVERY = "RECOVERY"
    KEY_ROTATE = "KEY_ROTATE"
    ERASURE = "ERASURE"
    """A subject's vault key was destroyed; commitments stay, values are gone."""
    DISCLOSURE = "DISCLOSURE"
    EXPORT = "EXPORT"
    INCIDENT = "INCIDENT"
    OPERATOR = "OPERATOR"
    """One operator's action at the centre (operators' log only)."""
    COSIGNED = "COSIGNED"
    """A checkpoint that the witness cosigned (the witness's log only)."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One record. Order is `seq`; `time_ns` is what the machine's clock said."""

    log: str
    """Checkpoint origin of the log, `<domain>/<tenant>/<agent>/e<epoch>`."""
    epoch: int
    seq: int
    """Position in the log, from 0."""
    prev: bytes
    """RFC 6962 leaf hash of the leaf before; 32 zero bytes at seq 0."""
    type: LeafType
    time_ns: int
    """Nanoseconds since the Unix epoch."""
    body: Mapping[str, JsonValue]
    """Public metadata: names, digests, counts; never a value of the tenant's."""
    sd: tuple[str, ...] = ()
    """RFC 9901 digests of the private fields, base64url SHA-256, sorted, without repeats."""


def format_time(time_ns: int) -> str:
    """RFC 3339 in UTC with nine fractional digits. Raises: LeafError beyond years 1970-9999."""
    seconds, nanos = divmod(time_ns, 1_000_000_000)
    if not 0 <= seconds < _MAX_SECONDS:
        raise LeafError("time: outside the years 1970 to 9999")
    return f"{_second(seconds)}.{nanos:09d}Z"


@lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    """Thousands of leaves share a second, and strftime is the dearest part of encoding one."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def parse_time(text: str) -> int:
    """The inverse of `format_time`; accepts only its output. Raises: LeafError."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise LeafError("time: not RFC 3339 in UTC with nine fractional digits")
    try:
        moment = datetime.fromisoformat(match[1] + "+00:00")
    except ValueError:
        raise LeafError("time: no such date or time of day") from None
    seconds = int(moment.timestamp())
    if seconds < 0:
        raise LeafError("time: outside the years 1970 to 9999")
    return seconds * 1_000_000_000 + int(match[2])


def _check_sd(digests: tuple[str, ...] | list[JsonValue]) -> tuple[str, ...]:
    last = ""
    for digest in digests:
        if type(digest) is not str or _DIGEST.fullmatch(digest) is None:
            raise LeafError("sd: entry is not an unpadded base64url SHA-256 digest")
        if digest <= last:
            raise LeafError("sd: digests are not sorted, or repeat")
        last = digest
    return tuple(digests)  # type: ignore[arg-type]  # every entry was just seen to be a str


def encode_leaf(leaf: Leaf) -> bytes:
    """The exact bytes that are hashed, stored and sent.

    Raises: LeafError naming the field that breaks the format or the 65,535-byte limit.
    """
    if _ORIGIN.fullmatch(leaf.log) is None:
        raise LeafError("log: not 1 to 255 printable ASCII characters without space and '+'")
    if not 0 <= leaf.epoch <= MAX_SEQ or not 0 <= leaf.seq <= MAX_SEQ:
        raise LeafError("epoch, seq: not within 0 and 2**63-1")
    if len(leaf.prev) != 32 or (leaf.seq == 0 and leaf.prev != NO_PREV):
        raise LeafError("prev: not 32 bytes, or not zero at seq 0")
    value: dict[str, JsonValue] = {
        "v": 1,
        "log": leaf.log,
        "epoch": str(leaf.epoch),
        "seq": str(leaf.seq),
        "prev": leaf.prev.hex(),
        "type": LeafType(leaf.type).value,
        "time": format_time(leaf.time_ns),
        "body": dict(leaf.body),
    }
    if leaf.sd:
        value["sd"] = list(_check_sd(leaf.sd))
    try:
        data = encode(value)
    except CanonicalError as error:
        raise LeafError(f"body: {error}") from None
    if len(data) > MAX_LEAF:
        raise LeafError(f"leaf of {len(data)} bytes: the limit is {MAX_LEAF}; commit large values")
    return data


def _integer(value: JsonValue, field: str) -> int:
    if type(value) is not str or _INTEGER.fullmatch(value) is None or int(value) > MAX_SEQ:
        raise LeafError(f"{field}: not a decimal string within 0 and 2**63-1")
    return int(value)


def decode_leaf(data: bytes) -> Leaf:
    """The leaf of which `data` is the one encoding.

    Raises: LeafError; never anything else, whatever the bytes.
    """
    try:
        value = decode(data, limit=MAX_LEAF)
    except CanonicalError as error:
        raise LeafError(f"leaf: {error}") from None
    if type(value) is not dict or not (_FIELDS <= value.keys() <= _FIELDS | {"sd"}):
        raise LeafError("leaf: not an object with v, log, epoch, seq, prev, type, time, body [sd]")
    if value["v"] != 1 or type(value["v"]) is not int:
        raise LeafError("v: not 1; a newer verifier may know this version")
    log, prev, time, body = value["log"], value["prev"], value["time"], value["body"]
    if type(log) is not str or _ORIGIN.fullmatch(log) is None:
        raise LeafError("log: not 1 to 255 printable ASCII characters without space and '+'")
    if type(prev) is not str or _HEX32.fullmatch(prev) is None:
        raise LeafError("prev: not 64 lower-case hex digits")
    if type(time) is not str:
        raise LeafError("time: not a string")
    if type(body) is not dict:
        raise LeafError("body: not an object")
    sd = value.get("sd")
    if "sd" in value and (type(sd) is not list or not sd):
        raise LeafError("sd: not a non-empty array")
    try:
        kind = LeafType(value["type"])  # type: ignore[arg-type]  # any other type raises here
    except ValueError:
        raise LeafError("type: unknown leaf type") from None
    leaf = Leaf(
        log=log,
        epoch=_integer(value["epoch"], "epoch"),
        seq=_integer(value["seq"], "seq"),
        prev=bytes.fromhex(prev),
        type=kind,
        time_ns=parse_time(time),
        body=body,
        sd=_check_sd(sd) if type(sd) is list else (),
    )
    if leaf.seq == 0 and leaf.prev != NO_PREV:
        raise LeafError("prev: not zero at seq 0")
    return leaf


def check_follows(leaf: Leaf, *, log: str, epoch: int, seq: int, prev: bytes) -> None:
    """Refuse a leaf that is not the one at `seq` of `log`, after the leaf hashed in `prev`.

    Raises: LeafError naming what differs. Never compares clocks.
    """
    if leaf.log != log:
        raise LeafError("log: the leaf belongs to another log")
    if leaf.epoch != epoch:
        raise LeafError(f"epoch: {leaf.epoch} where {epoch} is expected")
    if leaf.seq != seq:
        raise LeafError(f"seq: {leaf.seq} where {seq} is expected")
    if leaf.prev != prev:
        raise LeafError(f"prev: seq {seq} does not continue the leaf before it")
    if (seq == 0) != (leaf.type is LeafType.GENESIS):
        raise LeafError(f"type: seq {seq} is {leaf.type}; GENESIS opens a log, and only opens it")
