"""A passphrase around an archive: scrypt makes the key, AES-256-GCM seals it piece by piece.

    "EXCLAVE-SEALED-1\\n"   17 bytes
    log2(N), r, p          1 byte each: scrypt's cost
    salt                   16 random bytes
    pieces                 1 MiB of plaintext each, the last one shorter or as long, +16 bytes tag

Nonce of a piece: its number from 0 as 11 bytes big-endian, then 1 for the last piece and 0 for the
others. Associated data: everything before the pieces. So pieces that are changed, moved, left out
or cut off at the end do not open. The key is new for every archive, as its salt is.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from exclave_coordinator.backup.archive import Sink, Source
from exclave_coordinator.errors import SetupError

MAGIC: Final = b"EXCLAVE-SEALED-1\n"
COST: Final = bytes((17, 8, 1))
"""log2(N), r, p: 128 MiB of memory and about half a second for every guess."""
SALT: Final = 16
PIECE: Final = 1 << 20
TAG: Final = 16
LEAST: Final = 12
"""Characters of a passphrase."""


class Sealer:
    """A sink that seals what is written to it; MUST be closed, or the end does not open."""

    def __init__(self, sink: Sink, passphrase: bytes, salt: bytes) -> None:
        """`salt`: 16 unpredictable bytes, never used before."""
        self._sink = sink
        head = MAGIC + COST + salt
        self._cipher = _Cipher(passphrase, head)
        self._held = bytearray()
        sink.write(head)

    def write(self, data: bytes) -> int:
        """Take in bytes; whole pieces go out once more bytes have followed them."""
        self._held += data
        while len(self._held) > PIECE:
            self._sink.write(self._cipher.seal(bytes(self._held[:PIECE])))
            del self._held[:PIECE]
        return len(data)

    def close(self) -> None:
        """Seal the last piece."""
        self._sink.write(self._cipher.seal(bytes(self._held), last=True))
        self._held.clear()


class Opener:
    """The source of what was sealed. Raises from `read`: SetupError."""

    def __init__(self, source: Source, passphrase: bytes) -> None:
        """Reads the head. Raises: SetupError (not sealed, or sealed in another way)."""
        head = source.read(len(MAGIC) + len(COST) + SALT)
        if not head.startswith(MAGIC):
            raise SetupError("the backup is not sealed: leave out the passphrase")
        if len(head) != len(MAGIC) + len(COST) + SALT:
            raise SetupError("the backup is not whole: it ends in its head")
        if head[len(MAGIC) : -SALT] != COST:
            # Whoever wrote the file must not choose how much memory we spend on it.
            raise SetupError("the backup was sealed by a newer version: restore it with that one")
        self._source = source
        self._cipher = _Cipher(passphrase, head)
        self._next = source.read(PIECE + TAG)
        self._open = memoryview(b"")
        self._ended = False

    def read(self, size: int) -> bytes:
        """Up to `size` bytes of what was sealed; fewer only at its end."""
        parts = []
        while size > 0 and (self._open or not self._ended):
            if not self._open:
                self._open = memoryview(self._piece())
            parts.append(self._open[:size])
            self._open = self._open[size:]
            size -= len(parts[-1])
        return b"".join(parts)

    def finish(self) -> None:
        """Read on to the end, which is sealed too. Raises: SetupError."""
        while not self._ended:
            self._piece()

    def _piece(self) -> bytes:
        piece, self._next = self._next, self._source.read(PIECE + TAG)
        self._ended = not self._next
        return self._cipher.open(piece, last=self._ended)


class _Cipher:
    def __init__(self, passphrase: bytes, head: bytes) -> None:
        log_n, r, p = COST
        key = Scrypt(salt=head[-SALT:], length=32, n=1 << log_n, r=r, p=p).derive(passphrase)
        self._aead = AESGCM(key)
        self._head = head
        self._number = 0

    def seal(self, piece: bytes, *, last: bool = False) -> bytes:
        return self._aead.encrypt(self._nonce(last), piece, self._head)

    def open(self, piece: bytes, *, last: bool) -> bytes:
        number = self._number
        try:
            return self._aead.decrypt(self._nonce(last), piece, self._head)
        except InvalidTag as error:
            raise SetupError(
                f"the backup is damaged or not whole in its MiB {number + 1}"
                if number
                else "the passphrase is wrong, or the backup is damaged"
            ) from error

    def _nonce(self, last: bool) -> bytes:
        nonce = self._number.to_bytes(11, "big") + bytes((last,))
        self._number += 1
        return nonce


def is_sealed(beginning: bytes) -> bool:
    """Whether a file that begins so is a sealed one."""
    return beginning.startswith(MAGIC)


def passphrase_of(text: bytes) -> bytes:
    """The passphrase in a file's bytes: its one line. Raises: SetupError."""
    passphrase = text.removesuffix(b"\n").removesuffix(b"\r")
    if b"\n" in passphrase:
        raise SetupError("passphrase file: must be one line")
    if len(passphrase.decode("utf-8", "replace")) < LEAST:
        raise SetupError(f"passphrase file: at least {LEAST} characters, better a sentence")
    return passphrase
