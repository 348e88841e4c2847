"""Read request bodies strictly, and say what is wrong with them without repeating them."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from exclave_agent.errors import BadRequest

T = TypeVar("T")

_AT = re.compile(r"(?s)(.*) - at `(?:key` in `)?\$\.?(.*?)`")
_MISSING = re.compile(r"(?s)Object missing required field `(.*)`")
_UNKNOWN = re.compile(r"(?s)Object contains unknown field `(.*)`")
_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_LABEL = re.compile(r"[A-Za-z0-9_.:-]{0,64}")


def parse(decoder: msgspec.json.Decoder[T], body: bytes | memoryview) -> T:
    """The request in `body`.

    Raises: BadRequest naming the field. Values are never repeated, nor are names of fields
    that do not look like names.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _explain(str(error)) from None
    except UnicodeDecodeError:
        raise BadRequest("the body is not UTF-8", code="invalid_utf8") from None
    except RecursionError:
        raise BadRequest("the body is nested too deep", code="invalid_json") from None
    except msgspec.DecodeError:
        raise BadRequest(
            "the body is not JSON, or is cut short (RFC 8259; escapes must be whole characters)",
            code="invalid_json",
        ) from None


def _explain(text: str) -> BadRequest:
    """msgspec names types, bounds and places; only field names in it are the caller's."""
    found = _AT.fullmatch(text)
    text, place = (found[1], found[2]) if found else (text, "")
    if missing := _MISSING.fullmatch(text):
        param = _join(place, missing[1])
        return BadRequest(f"{param} is required", param=param, code="missing_parameter")
    if unknown := _UNKNOWN.fullmatch(text):
        if not _PLAIN.fullmatch(unknown[1]):
            where = f" in {place}" if place else ""
            return BadRequest(f"unknown parameter{where}", code="unknown_parameter")
        param = _join(place, unknown[1])
        return BadRequest(f"unknown parameter: {param}", param=param, code="unknown_parameter")
    param = place or "body"
    return BadRequest(
        f"{param}: {text[:1].lower()}{text[1:].replace('`', '')}",
        param=place or None,
        code="invalid_type" if ", got " in text else "invalid_value",
    )


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def label(value: str, param: str) -> str:
    """A caller's label that is recorded openly, such as a data class.

    Raises: BadRequest unless it is a short plain name, which holds no prose.
    """
    if not _LABEL.fullmatch(value):
        raise BadRequest(f"{param}: not 0 to 64 letters, digits or any of _.:-", param=param)
    return value
