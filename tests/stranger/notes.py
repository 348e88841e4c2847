"""Section 4 of the page: vkeys, notes, checkpoints, terms and cosignatures."""

import re
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from stranger.wire import MAX_U63, Refused, b64, decimal, unb64

LOG, WITNESS, TERM = b"\x01", b"\x04", b"\xffexclave-term/v1"
ORIGIN = r"[!-*,-~]{1,255}"


@dataclass(frozen=True)
class Vkey:
    """A verifier key: a name, a type, and 32 bytes."""

    name: str
    kind: bytes
    public: bytes

    @property
    def key_id(self) -> bytes:
        """The first four bytes of the hash of it all."""
        return sha256(self.name.encode() + b"\n" + self.kind + self.public).digest()[:4]

    @property
    def line(self) -> str:
        """The key as it is written."""
        return f"{self.name}+{self.key_id.hex()}+{b64(self.kind + self.public)}"

    def holds(self, signature: bytes, message: bytes) -> bool:
        """Whether this key signed that."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


def parse_vkey(line: str) -> Vkey:
    """Read `<name>+<key id>+<b64>`."""
    parts = line.split("+", 2)
    if len(parts) != 3 or re.fullmatch(ORIGIN, parts[0]) is None:
        raise Refused("not a vkey")
    data = unb64(parts[2])
    key = Vkey(parts[0], data[:-32], data[-32:])
    if key.kind not in (LOG, WITNESS, TERM) or key.line != line:
        raise Refused("a vkey of another type, or with another key id")
    return key


@dataclass(frozen=True)
class Note:
    """A text and its signatures, by name and key id."""

    text: str
    signatures: dict[tuple[str, bytes], bytes]


def _signature(line: str) -> tuple[tuple[str, bytes], bytes]:
    match = re.fullmatch(r"— ([^\s+]+) ([A-Za-z0-9+/=]+)", line)
    if match is None:
        raise Refused("not a signature line")
    data = unb64(match[2])
    if len(data) < 5:
        raise Refused("a signature without bytes")
    return (match[1], data[:4]), data[4:]


def parse_note(data: bytes) -> Note:
    """C2SP signed-note, within the page's limits."""
    if len(data) > 65_536:
        raise Refused("a note that is too long")
    try:
        whole = data.decode()
    except UnicodeDecodeError:
        raise Refused("a note that is not UTF-8") from None
    if any(ord(char) < 0x20 and char != "\n" for char in whole):
        raise Refused("a control character in a note")
    text, blank, tail = whole.rpartition("\n\n")
    if not blank or not text or not tail.endswith("\n"):
        raise Refused("not a note")
    pairs = [_signature(line) for line in tail[:-1].split("\n")]
    if len(pairs) > 64 or len(dict(pairs)) != len(pairs):
        raise Refused("too many signatures, or two by one key")
    return Note(text + "\n", dict(pairs))


@dataclass(frozen=True)
class Checkpoint:
    """Origin, size and root, and the note that says them."""

    origin: str
    size: int
    root: bytes
    note: Note


def parse_checkpoint(data: bytes) -> Checkpoint:
    """A note of exactly three lines."""
    note = parse_note(data)
    lines = note.text.split("\n")
    if len(lines) != 4 or re.fullmatch(ORIGIN, lines[0]) is None:
        raise Refused("not a checkpoint of three lines")
    root = unb64(lines[2])
    if len(root) != 32:
        raise Refused("not a root")
    return Checkpoint(lines[0], decimal(lines[1]), root, note)


def certified(certificate: bytes, key: Vkey) -> tuple[int, Vkey]:
    """The term's number and key, if the log's key certified them."""
    if len(certificate) != 104:
        raise Refused("not a certificate")
    number = int.from_bytes(certificate[:8])
    term = Vkey(key.name, LOG, certificate[8:40])
    said = f"exclave-term/v1\n{key.name}\n{number}\n{b64(term.public)}\n"
    if not 1 <= number <= MAX_U63 or not key.holds(certificate[40:], said.encode()):
        raise Refused("a certificate that does not verify")
    return number, term


def signed(point: Checkpoint, key: Vkey) -> None:
    """Refuse what this log's key did not sign."""
    line = point.note.signatures.get((key.name, key.key_id))
    if line is None or point.origin != key.name:
        raise Refused("not signed by the log's key")
    if key.kind == TERM:
        _, term = certified(line[:104], key)
        second = point.note.signatures.get((key.name, term.key_id))
        if second is None or second != line[104:]:
            raise Refused("no second line, or another signature in it")
        key, line = term, second
    if key.kind != LOG or not key.holds(line, point.note.text.encode()):
        raise Refused("a signature of the log that does not verify")


def cosigned(point: Checkpoint, witness: Vkey) -> int | None:
    """When the witness cosigned it; None if it did not; refused if the line does not verify."""
    line = point.note.signatures.get((witness.name, witness.key_id))
    if line is None:
        return None
    moment = int.from_bytes(line[:8])
    said = f"cosignature/v1\ntime {moment}\n{point.note.text}"
    if len(line) != 72 or moment > MAX_U63 or not witness.holds(line[8:], said.encode()):
        raise Refused("a cosignature that does not verify")
    return moment
