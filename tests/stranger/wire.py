"""Section 1 of the page: canonical JSON, and the spellings of bytes, integers and times."""

import base64
import json
import re
from datetime import UTC, datetime, timedelta
from typing import NoReturn

MAX_INT = 2**53 - 1
MAX_U63 = 2**63 - 1
DEPTH = 32
SHORT = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}
TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)\.(\d{9})Z", re.ASCII)


class Refused(Exception):
    """These bytes are not of the format."""


def _string(text: str) -> str:
    out = []
    for char in text:
        code = ord(char)
        out.append(SHORT.get(code) or (f"\\u{code:04x}" if code < 0x20 else char))
    return '"' + "".join(out) + '"'


def _object(value: dict[object, object], depth: int) -> str:
    parts = []
    if any(not isinstance(key, str) or not key.isascii() for key in value):
        raise Refused("a key that is not ASCII")
    for key in sorted(value, key=str):
        parts.append(_string(str(key)) + ":" + _text(value[key], depth))
    return "{" + ",".join(parts) + "}"


def _text(value: object, depth: int) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        if abs(value) > MAX_INT:
            raise Refused("an integer out of bounds")
        return str(value)
    if isinstance(value, str):
        return _string(value)
    if depth >= DEPTH:
        raise Refused("nested too deep")
    if isinstance(value, list):
        return "[" + ",".join(_text(item, depth + 1) for item in value) + "]"
    if isinstance(value, dict):
        return _object(value, depth + 1)
    raise Refused("not a value of canonical JSON")


def canonical(value: object) -> bytes:
    """The only bytes of this value."""
    try:
        return _text(value, 0).encode()
    except UnicodeEncodeError:
        raise Refused("not a string of Unicode scalar values") from None


def _no_float(text: str) -> NoReturn:
    raise Refused(f"a float: {text[:20]}")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise Refused("a key repeats")
    return out


def loose(data: bytes) -> object:
    """JSON in any spelling, within the same limits."""
    try:
        value: object = json.loads(
            data.decode(),
            parse_float=_no_float,
            parse_constant=_no_float,
            object_pairs_hook=_unique,
        )
    except (ValueError, RecursionError) as error:
        raise Refused(f"not JSON: {error}") from None
    canonical(value)
    return value


def parse(data: bytes) -> object:
    """Decode, encode again, compare."""
    value = loose(data)
    if canonical(value) != data:
        raise Refused("not canonical")
    return value


def record(value: object, *names: str) -> dict[str, object]:
    """An object with exactly these fields."""
    if not isinstance(value, dict) or set(value) != set(names):
        raise Refused(f"not an object of {', '.join(names)}")
    return value


def text(value: object, pattern: str = r"(?s).*") -> str:
    """A string of this form."""
    if not isinstance(value, str) or re.fullmatch(pattern, value) is None:
        raise Refused(f"not a string of the form {pattern}")
    return value


def items(value: object, limit: int = 1 << 30) -> list[object]:
    """An array."""
    if not isinstance(value, list) or len(value) > limit:
        raise Refused("not an array, or too long")
    return value


def decimal(value: object) -> int:
    """A 64-bit integer in decimal, from 0 to 2^63-1."""
    number = int(text(value, r"0|[1-9][0-9]{0,18}"))
    if number > MAX_U63:
        raise Refused("beyond 2^63-1")
    return number


def unhex(value: object) -> bytes:
    """32 bytes in lower-case hex."""
    return bytes.fromhex(text(value, r"[0-9a-f]{64}"))


def unb64(value: object) -> bytes:
    """Standard base64 with padding, in its only spelling."""
    given = text(value)
    try:
        data = base64.b64decode(given.encode("ascii"), validate=True)
    except ValueError:
        raise Refused("not base64") from None
    if base64.b64encode(data).decode() != given:
        raise Refused("another spelling of base64")
    return data


def b64(data: bytes) -> str:
    """Standard base64 with padding."""
    return base64.b64encode(data).decode()


def b64url(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def unb64url(value: object) -> bytes:
    """Base64url without padding, in its only spelling."""
    given = text(value, r"[A-Za-z0-9_-]*")
    try:
        data = base64.urlsafe_b64decode(given + "=" * (-len(given) % 4))
    except ValueError:
        raise Refused("not base64url") from None
    if b64url(data) != given:
        raise Refused("another spelling of base64url")
    return data


def time_ns(value: object) -> int:
    """Nanoseconds since 1970 of a time in JSON."""
    match = TIME.fullmatch(text(value))
    if match is None:
        raise Refused("not a time")
    *parts, fraction = (int(part) for part in match.groups())
    try:
        moment = datetime(*parts[:6], tzinfo=UTC)  # type: ignore[arg-type, misc]
    except ValueError:
        raise Refused("no such time") from None
    if moment.year < 1970:
        raise Refused("before 1970")
    seconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
    return seconds * 10**9 + fraction


def time_text(nanoseconds: int) -> str:
    """The time in JSON."""
    seconds, fraction = divmod(nanoseconds, 10**9)
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z"
