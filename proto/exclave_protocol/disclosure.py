"""Commitments to private fields that can be opened one at a time (RFC 9901 disclosures).

A leaf carries only `digest`; whoever holds `encoded` can show name and value, and a salt of
256 bits keeps everybody else from guessing them.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from dataclasses import dataclass
from hashlib import sha256

from .canonical import CanonicalError, JsonValue, decode, encode
from .errors import DisclosureError as DisclosureError

SALT_SIZE = 32
MAX_ENCODED = 8 * 1024 * 1024
"""Characters of one encoded disclosure."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_ALPHABET = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Disclosure:
    """One opened commitment."""

    name: str
    value: JsonValue
    salt: bytes
    encoded: str
    """Base64url of the JSON array [salt, name, value]: the text that is hashed."""
    digest: str
    """Base64url SHA-256 of `encoded`: what the leaf's `sd` holds."""


def decoy(chance: bytes) -> str:
    """A digest of nothing (RFC 9901 section 4.2.5): beside others it hides how many there are.
    `chance`: SALT_SIZE unpredictable bytes."""
    return b64url(sha256(chance).digest())


def b64url(data: bytes) -> str:
    """Base64url without padding."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64url(text: str) -> bytes:
    """The inverse of `b64url`; one spelling per value. Raises: DisclosureError."""
    if _ALPHABET.fullmatch(text) is None:
        raise DisclosureError("disclosure: not unpadded base64url")
    try:
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (Base64Error, ValueError):
        raise DisclosureError("disclosure: not unpadded base64url") from None
    if b64url(data) != text:
        raise DisclosureError("disclosure: base64url with stray bits")
    return data


def digest(encoded: str) -> str:
    """The commitment to an encoded disclosure. Raises: DisclosureError when it is not ASCII."""
    try:
        return b64url(sha256(encoded.encode("ascii")).digest())
    except UnicodeEncodeError:
        raise DisclosureError("disclosure: not ASCII") from None


def make(name: str, value: JsonValue, salt: bytes) -> Disclosure:
    """Commit to one field. `salt`: 32 unpredictable bytes, fresh for every field.

    Raises: DisclosureError when name or salt break the format, or the value is outside the
    canonical JSON subset or too long.
    """
    if _NAME.fullmatch(name) is None:
        raise DisclosureError("name: not a letter and up to 63 letters, digits, '_' or '-'")
    if len(salt) != SALT_SIZE:
        raise DisclosureError(f"salt: {len(salt)} bytes where {SALT_SIZE} are expected")
    try:
        encoded = b64url(encode([b64url(salt), name, value]))
    except CanonicalError as error:
        raise DisclosureError(f"{name}: {error}") from None
    if len(encoded) > MAX_ENCODED:
        raise DisclosureError(f"{name}: longer than {MAX_ENCODED} characters when encoded")
    return Disclosure(name, value, salt, encoded, digest(encoded))


def parse(encoded: str) -> Disclosure:
    """Read an encoded disclosure. Raises: DisclosureError, whatever the text."""
    if len(encoded) > MAX_ENCODED:
        raise DisclosureError(f"disclosure: longer than {MAX_ENCODED} characters")
    try:
        value = decode(unb64url(encoded), limit=MAX_ENCODED)
    except CanonicalError as error:
        raise DisclosureError(f"disclosure: {error}") from None
    if type(value) is not list or len(value) != 3:
        raise DisclosureError("disclosure: not an array of salt, name and value")
    salt, name, content = value
    if type(salt) is not str or type(name) is not str or _NAME.fullmatch(name) is None:
        raise DisclosureError("disclosure: salt or name malformed")
    raw = unb64url(salt)
    if len(raw) != SALT_SIZE:
        raise DisclosureError(f"salt: {len(raw)} bytes where {SALT_SIZE} are expected")
    return Disclosure(name, content, raw, encoded, digest(encoded))
