"""What a log claims to hold, and a witness's word that it never claimed otherwise.

Checkpoint: C2SP tlog-checkpoint, three lines; extension lines only where other people's logs are
read. Cosignature: C2SP tlog-cosignature, type 0x04 (Ed25519 with time).
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from . import note
from .errors import CheckpointError as CheckpointError
from .errors import NoteError
from .term import TermCertificate
from .tree import HASH_SIZE, MAX_SIZE

_ORIGIN = re.compile(r"[!-*,-~]{1,255}")  # printable ASCII without space and "+"
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")


def log_origin(domain: str, tenant: str, agent: str, epoch: int) -> str:
    """The name of an agent's log, which is also the name of the key that signs it."""
    return f"{domain}/{tenant}/{agent}/e{epoch}"


def operator_origin(domain: str, epoch: int = 1) -> str:
    """The name of the coordinator's log of operators' actions.

    "operators" takes the tenant's place with an underscore in front, which no tenant name has.
    """
    return f"{domain}/_operators/coordinator/e{epoch}"


def cosigned_origin(domain: str, epoch: int = 1) -> str:
    """The name of the coordinator's log of everything that its witness cosigned."""
    return f"{domain}/_witness/coordinator/e{epoch}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree head: the root over the first `size` leaves of the log `origin`."""

    origin: str
    size: int
    root: bytes
    """RFC 6962 root, 32 bytes."""

    def __post_init__(self) -> None:
        if _ORIGIN.fullmatch(self.origin) is None:
            raise CheckpointError("origin: not 1 to 255 printable ASCII without space and '+'")
        if not 0 <= self.size <= MAX_SIZE:
            raise CheckpointError("size: not within 0 and 2**63-1")
        if len(self.root) != HASH_SIZE:
            raise CheckpointError(f"root: {len(self.root)} bytes where {HASH_SIZE} are expected")

    def text(self) -> str:
        """The note text: origin, size, base64 root, each on its line."""
        return f"{self.origin}\n{self.size}\n{b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str, *, extensions: bool = False) -> Checkpoint:
        """Read a note's text. Raises: CheckpointError.

        Extension lines are refused, or with `extensions` passed over: they are the log's own.
        """
        lines = text.split("\n")
        if len(lines) < 4 or lines[-1] or (len(lines) > 4 and not extensions):
            raise CheckpointError("checkpoint: not exactly three lines")
        if not all(lines[3:-1]):
            raise CheckpointError("checkpoint: an extension line is empty")
        if _SIZE.fullmatch(lines[1]) is None:
            raise CheckpointError("size: not a decimal without leading zeroes")
        try:
            root = note.unbase64(lines[2], "root")
        except NoteError as error:
            raise CheckpointError(str(error)) from None
        return cls(lines[0], int(lines[1]), root)


def sign_checkpoint(checkpoint: Checkpoint, key: note.Signer) -> bytes:
    """The signed note. Raises: CheckpointError when the key's name is not the origin."""
    if key.name != checkpoint.origin:
        raise CheckpointError("checkpoint: the key's name is not the log's origin")
    return note.sign(checkpoint.text(), [key])


def agent_log_key(origin: str, public: bytes) -> note.VerifyKey:
    """The key of an agent's log, which certifies the keys of its terms. `public`: raw Ed25519."""
    return note.VerifyKey(origin, public, note.TERM)


@dataclass(frozen=True, slots=True)
class OpenedCheckpoint:
    """A verified checkpoint, and in which term it was signed."""

    checkpoint: Checkpoint
    certificate: TermCertificate | None
    """None: the log's key signs by itself."""


def open_checkpoint(data: bytes, key: note.VerifyKey) -> Checkpoint:
    """The checkpoint in a signed note, verified with its log's key.

    Raises: NoteError (malformed, not signed by the key), CheckpointError (text malformed, or
    the origin is not the key's name).
    """
    return open_signed(data, key).checkpoint


def open_signed(data: bytes, key: note.VerifyKey) -> OpenedCheckpoint:
    """As `open_checkpoint`, with the term's certificate."""
    opened = note.open_note(data, [key])
    checkpoint = Checkpoint.parse(opened.text)
    if checkpoint.origin != key.name:
        raise CheckpointError("origin: the checkpoint belongs to another log than the key")
    found = [s.certificate for s in opened.verified if s.certificate is not None]
    return OpenedCheckpoint(checkpoint, found[0] if found else None)


@dataclass(frozen=True, slots=True)
class CosignerKey:
    """A witness's private key (type 0x04); never the key of a log."""

    name: str
    private: Ed25519PrivateKey = field(repr=False)

    @property
    def verify_key(self) -> note.VerifyKey:
        """The public half. Raises: NoteError when the name cannot be a key's name."""
        public = self.private.public_key().public_bytes_raw()
        return note.VerifyKey(self.name, public, note.COSIGNATURE)

    @property
    def vkey(self) -> str:
        """The public half as text."""
        return self.verify_key.vkey


def cosign(text: str, key: CosignerKey, timestamp: int) -> bytes:
    """The cosignature line over a checkpoint's text, newline included.

    `timestamp`: POSIX seconds. Extension lines are signed as they stand. The caller MUST have
    verified consistency with everything it cosigned for this origin before, and MUST have that
    state on disk.
    Raises: CheckpointError when text or time break the format.
    """
    Checkpoint.parse(text, extensions=True)
    if not 0 <= timestamp < 2**63:
        raise CheckpointError("time: not within 0 and 2**63-1 seconds")
    signed = key.private.sign(note.cosigned_message(text, timestamp))
    data = timestamp.to_bytes(8, "big") + signed
    return note.Signature(key.name, key.verify_key.id, data).line()


def verify_cosignature(text: str, line: bytes, key: note.VerifyKey) -> int:
    """The time (POSIX seconds) at which the witness cosigned `text`.

    Raises: NoteError when the line is malformed, by another key, or does not verify.
    """
    if key.kind != note.COSIGNATURE:
        raise NoteError(f"key {key.name}: not a witness key (type 0x04)")
    signatures = note.parse_lines(line)
    if len(signatures) != 1 or (signatures[0].name, signatures[0].key_id) != (key.name, key.id):
        raise NoteError(f"cosignature: not one line by {key.name}")
    timestamp = key.verify(text, signatures[0]).timestamp
    assert timestamp is not None  # a type 0x04 key always yields one
    return timestamp
