"""Signed notes: text that keys put their signatures under (C2SP signed-note v1.0.0)."""

from __future__ import annotations

import re
import unicodedata
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from . import term
from .errors import NoteError as NoteError

ED25519 = 0x01
"""Signature type: Ed25519 over the text."""
COSIGNATURE = 0x04
"""Signature type: timestamped Ed25519 cosignature/v1 (C2SP tlog-cosignature)."""
TERM = 0xFF
"""Signature type: Ed25519 over the text by a key of one term, with its certificate (`term`)."""
MAX_NOTE = 65_536
"""Bytes of a whole note."""
MAX_SIGNATURES = 64
"""The specification asks for at least 16."""

_MAX_NAME = 255
_KEY_ID = re.compile(r"[0-9a-f]{8}")
_LINE = re.compile("\u2014 ([^ ]+) ([A-Za-z0-9+/=]+)")


def _check_name(name: str) -> str:
    if not 1 <= len(name) <= _MAX_NAME or any(
        c == "+" or c.isspace() or unicodedata.category(c).startswith("C") for c in name
    ):
        raise NoteError("key name: empty, too long, or holds '+', a space or a control character")
    return name


def unbase64(text: str, what: str) -> bytes:
    """Standard base64 of which there is one spelling per value."""
    try:
        data = b64decode(text, validate=True)
    except (Base64Error, ValueError):
        raise NoteError(f"{what}: not base64") from None
    if b64encode(data).decode() != text:
        raise NoteError(f"{what}: base64 with stray bits")
    return data


def key_id(name: str, kind: int, public: bytes) -> bytes:
    """The four bytes that tell keys of one name apart."""
    return sha256(name.encode() + b"\n" + _type(kind) + public).digest()[:4]


def _type(kind: int) -> bytes:
    """How a signature type is written before a public key."""
    return bytes([kind]) + (term.TYPE_ID if kind == TERM else b"")


def cosigned_message(text: str, timestamp: int) -> bytes:
    """What a cosignature/v1 signs: header, time in POSIX seconds, the whole note text."""
    return f"cosignature/v1\ntime {timestamp}\n{text}".encode()


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line."""

    name: str
    key_id: bytes
    data: bytes
    """After the key id: 64 bytes for type 0x01, 8 bytes of time and 64 for type 0x04, for a term's
    its certificate and 64."""
    timestamp: int | None = None
    """POSIX seconds, set once a cosignature/v1 was verified."""
    certificate: term.TermCertificate | None = None
    """Of the term, set once a term's signature was verified."""

    def line(self) -> bytes:
        """The line as it stands under the text, newline included."""
        return f"\u2014 {self.name} {b64encode(self.key_id + self.data).decode()}\n".encode()


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """A public key with the name that its signatures carry."""

    name: str
    public: bytes
    """Raw Ed25519 public key, 32 bytes."""
    kind: int = ED25519
    """Signature type: `ED25519`, `COSIGNATURE` or `TERM`."""

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.kind not in (ED25519, COSIGNATURE, TERM):
            raise NoteError(f"key {self.name}: signature type {self.kind:#04x} is not supported")
        if len(self.public) != 32:
            raise NoteError(f"key {self.name}: {len(self.public)} bytes where 32 are expected")

    @classmethod
    def parse(cls, vkey: str) -> VerifyKey:
        """Read `<name>+<8 hex digits>+<base64(type || public key)>`. Raises: NoteError.

        A type is one byte, or 0xff and a name.
        """
        parts = vkey.split("+", 2)
        if len(parts) != 3 or _KEY_ID.fullmatch(parts[1]) is None:
            raise NoteError("vkey: not <name>+<8 hex digits>+<base64>")
        material = unbase64(parts[2], "vkey")
        kind = material[0] if material else 0
        start = len(_type(kind))
        if len(material) != start + 32:
            raise NoteError(f"vkey: {len(material)} bytes of key where {start + 32} are expected")
        if material[:start] != _type(kind):
            raise NoteError("vkey: a signature type that is not known here")
        key = cls(parts[0], material[start:], kind)
        if key.id.hex() != parts[1]:
            raise NoteError("vkey: key id does not belong to name and key (mistyped?)")
        return key

    @property
    def id(self) -> bytes:
        """Key id, 4 bytes."""
        return key_id(self.name, self.kind, self.public)

    @property
    def vkey(self) -> str:
        """The textual form that `parse` reads."""
        material = b64encode(_type(self.kind) + self.public).decode()
        return f"{self.name}+{self.id.hex()}+{material}"

    def verify(self, text: str, signature: Signature) -> Signature:
        """The signature, with its time when it has one. Raises: NoteError unless it is valid."""
        data, timestamp, message = signature.data, None, text.encode()
        if self.kind == TERM:
            found = term.verify_signature(self.name, self.public, data, message)
            return Signature(signature.name, signature.key_id, data, certificate=found)
        if self.kind == COSIGNATURE:
            if len(data) != 72:
                raise NoteError(f"signature by {self.name}: {len(data)} bytes, not 72")
            timestamp = int.from_bytes(data[:8], "big")
            if timestamp >= 2**63:
                raise NoteError(f"signature by {self.name}: time beyond 2**63-1")
            message, data = cosigned_message(text, timestamp), data[8:]
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(data, message)
        except (InvalidSignature, ValueError):
            raise NoteError(f"signature by {self.name} does not verify") from None
        return Signature(signature.name, signature.key_id, signature.data, timestamp)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key that signs notes (type 0x01) under a name."""

    name: str
    private: Ed25519PrivateKey = field(repr=False)

    def __post_init__(self) -> None:
        _check_name(self.name)

    @property
    def verify_key(self) -> VerifyKey:
        """The public half."""
        return VerifyKey(self.name, self.private.public_key().public_bytes_raw())

    @property
    def vkey(self) -> str:
        """The public half as text."""
        return self.verify_key.vkey

    def signature(self, text: str) -> Signature:
        """Sign a note's text."""
        return Signature(self.name, self.verify_key.id, self.private.sign(text.encode()))

    def signatures(self, text: str) -> list[Signature]:
        """See `Signer.signatures`."""
        return [self.signature(text)]


@dataclass(frozen=True, slots=True)
class TermKey:
    """The private key of one term of a log."""

    log_key: VerifyKey
    """The public half of the log's key (type `TERM`), named after the log's origin."""
    certificate: term.TermCertificate
    private: Ed25519PrivateKey = field(repr=False)

    @property
    def name(self) -> str:
        """The log's origin."""
        return self.log_key.name

    @property
    def verify_key(self) -> VerifyKey:
        """What verifies its signatures by their certificate: the log's key."""
        return self.log_key

    @property
    def vkey(self) -> str:
        """That as text."""
        return self.log_key.vkey

    @property
    def plain_key(self) -> VerifyKey:
        """The term's key as any verifier of signed notes takes it (type 0x01)."""
        return VerifyKey(self.name, self.certificate.public)

    def signatures(self, text: str) -> list[Signature]:
        """Sign a note's text: with the certificate, and plainly for verifiers of every make."""
        signed = self.private.sign(text.encode())
        return [
            Signature(self.name, self.log_key.id, self.certificate.encode() + signed),
            Signature(self.name, self.plain_key.id, signed),
        ]


class Signer(Protocol):
    """Whatever signs notes."""

    @property
    def name(self) -> str: ...
    def signatures(self, text: str) -> list[Signature]:
        """Its lines under the text."""
        ...


@dataclass(frozen=True, slots=True)
class Opened:
    """A note whose text at least one known key stands for."""

    text: str
    verified: tuple[Signature, ...]
    unverified: tuple[Signature, ...]
    """By keys that the caller did not name."""


def _check_text(text: str) -> None:
    if not text.endswith("\n") or text == "\n":
        raise NoteError("note: text is empty or does not end with a newline")
    if any(c < " " and c != "\n" for c in text):
        raise NoteError("note: control character in the text")


def sign(text: str, keys: Sequence[Signer]) -> bytes:
    """The signed note. Raises: NoteError when `text` cannot be a note's text."""
    _check_text(text)
    try:
        body = text.encode()
    except UnicodeEncodeError:
        raise NoteError("note: lone surrogate in the text") from None
    return body + b"\n" + b"".join(s.line() for key in keys for s in key.signatures(text))


def add_signature(note: bytes, line: bytes) -> bytes:
    """The note with one more signature line, which replaces one by the same key.

    Raises: NoteError when either does not parse. Nothing is verified.
    """
    text, signatures = split_note(note)
    (new,) = parse_lines(line)
    kept = [s for s in signatures if (s.name, s.key_id) != (new.name, new.key_id)]
    return text.encode() + b"\n" + b"".join(s.line() for s in [*kept, new])


def parse_lines(block: bytes) -> list[Signature]:
    """Signature lines as they stand, nothing verified. Raises: NoteError."""
    try:
        lines = block.decode().split("\n")
    except UnicodeDecodeError:
        raise NoteError("note: not UTF-8") from None
    if len(lines) < 2 or lines.pop() != "":
        raise NoteError("note: no signature line, or the last one has no newline")
    if len(lines) > MAX_SIGNATURES:
        raise NoteError(f"note: more than {MAX_SIGNATURES} signatures")
    signatures = []
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None:
            raise NoteError("note: malformed signature line")
        data = unbase64(match[2], "note: signature")
        if len(data) < 5:
            raise NoteError("note: signature without key id or data")
        signatures.append(Signature(_check_name(match[1]), data[:4], data[4:]))
    if len({(s.name, s.key_id) for s in signatures}) != len(signatures):
        raise NoteError("note: two signatures by one key")
    return signatures


def split_note(note: bytes) -> tuple[str, list[Signature]]:
    """Text and signature lines, nothing verified yet. Raises: NoteError."""
    if len(note) > MAX_NOTE:
        raise NoteError(f"note: {len(note)} bytes, the limit is {MAX_NOTE}")
    body, blank, block = note.rpartition(b"\n\n")
    if not blank:
        raise NoteError("note: no blank line before the signatures")
    try:
        text = body.decode() + "\n"
    except UnicodeDecodeError:
        raise NoteError("note: not UTF-8") from None
    _check_text(text)
    return text, parse_lines(block)


def open_note(note: bytes, keys: Iterable[VerifyKey]) -> Opened:
    """Verify a note with the keys the caller knows; a term that one of them certifies is known too.

    Raises: NoteError when the note is malformed, when a known key's signature fails, when a
    term's line stands without the plain one, or when no known key has signed; never anything
    else, whatever the bytes.
    """
    text, signatures = split_note(note)
    known = {(key.name, key.id): key for key in keys}
    verified, unverified = [], []
    # Lines with a certificate first: it names the key of a plain line that may stand before it.
    for signature in sorted(signatures, key=lambda s: len(s.data) != term.SIGNATURE_SIZE):
        key = known.get((signature.name, signature.key_id))
        if key is None:
            unverified.append(signature)
            continue
        found = key.verify(text, signature)
        verified.append(found)
        if found.certificate is not None:
            plain = VerifyKey(key.name, found.certificate.public)
            if not any((s.name, s.key_id) == (plain.name, plain.id) for s in signatures):
                raise NoteError("note: the line of the term's own key is missing")
            known[plain.name, plain.id] = plain
    if not verified:
        raise NoteError("note: not signed by any known key")
    return Opened(text, tuple(verified), tuple(unverified))
