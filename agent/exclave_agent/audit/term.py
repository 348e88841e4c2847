"""Terms: the key with which this process signs the log is its own, and never on disk.

It is certified by the log's key, which does nothing else. With a boot or a rotation the key is
gone, so whoever takes the machine over cannot sign what was said in its name before. What is on
disk is what fencing needs: the nonce that shows the coordinator, once, who held the log last.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exclave_agent.errors import StorageError
from exclave_agent.ports import Rng, StateStore
from exclave_protocol.checkpoint import agent_log_key
from exclave_protocol.note import Signature, TermKey, VerifyKey, split_note
from exclave_protocol.term import NONCE_SIZE, TermCertificate, certify, commitment
from exclave_protocol.wire import MAX_NONCES

_NUMBER = re.compile(r"[1-9][0-9]{0,15}")
MAX_KNOWN: Final = 512
"""Terms of ours that are told from a copy's."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What outlives the process."""

    number: int = 0
    """Of the newest term."""
    nonces: tuple[bytes, ...] = ()
    """Of terms that the coordinator may hold for the last, the one that it confirmed first."""
    token: bytes = b""
    """What it gave for that one."""
    known: tuple[tuple[int, bytes], ...] = ()
    """Number and public key of every term that this home began, newest last."""


class Terms:
    """This home's terms in one epoch of its log. `begin` comes before anything is signed."""

    def __init__(
        self, state: StateStore, log_private: Ed25519PrivateKey, origin: str, epoch: int, rng: Rng
    ) -> None:
        self._state = state
        self._log_private = log_private
        self._rng = rng
        self._epoch = epoch
        self._place = f"audit.term.{epoch}"
        self._kept = Kept()
        self._key: TermKey | None = None
        self._nonce = b""
        self.log_key: VerifyKey = agent_log_key(origin, log_private.public_key().public_bytes_raw())
        """What verifies every checkpoint of the log, whatever its term."""

    @property
    def name(self) -> str:
        """The log's origin."""
        return self.log_key.name

    @property
    def key(self) -> TermKey:
        """Of the term that runs."""
        assert self._key is not None, "a term begins before anything is signed"
        return self._key

    @property
    def number(self) -> int:
        """Of the term that runs."""
        return self.key.certificate.term

    def signatures(self, text: str) -> list[Signature]:
        """See `note.Signer`."""
        return self.key.signatures(text)

    async def begin(self) -> TermCertificate:
        """A new key; the former one is gone. Raises: StorageFull, StorageError."""
        await self._load()
        private = Ed25519PrivateKey.from_private_bytes(self._rng.token(32))
        public = private.public_key().public_bytes_raw()
        number = self._kept.number + 1
        certificate = certify(self._log_private, self.name, number, public)
        known = (*self._kept.known, (number, public))[-MAX_KNOWN:]
        await self._keep(replace(self._kept, number=number, known=known))
        self._key = TermKey(self.log_key, certificate, private)
        self._nonce = self._rng.token(NONCE_SIZE)
        return certificate

    async def claim(self) -> tuple[bytes, tuple[bytes, ...], bytes]:
        """Commitment, nonces and token to tell the coordinator.

        MUST: the new nonce is on disk before it is committed to, or an answer that is lost would
        leave this home without what it must tell next. Raises: StorageFull, StorageError.
        """
        before = tuple(nonce for nonce in self._kept.nonces if nonce != self._nonce)
        if self._nonce not in self._kept.nonces:
            # The first is the one that was confirmed; of the others any may have been lost.
            nonces = (*before[:1], *before[1:][-(MAX_NONCES - 2) :], self._nonce)
            await self._keep(replace(self._kept, nonces=nonces))
        return commitment(self._nonce), before[:MAX_NONCES], self._kept.token

    async def confirmed(self, token: bytes) -> None:
        """The coordinator holds this term for the last. Raises: StorageFull, StorageError."""
        await self._keep(replace(self._kept, nonces=(self._nonce,), token=token))

    def made(self, certificate: TermCertificate) -> bool:
        """Whether this home began that term, as far as it remembers."""
        if self._kept.known and certificate.term < self._kept.known[0][0]:
            return True  # too old to tell: nothing is concluded from it
        return (certificate.term, certificate.public) in self._kept.known

    def key_of(self, note: bytes) -> VerifyKey:
        """What verifies a checkpoint of this log or of a later epoch of it; nothing is verified
        yet. Raises: NoteError."""
        origin = split_note(note)[0].partition("\n")[0]
        stem = self.name.removesuffix(str(self._epoch))
        later = origin.removeprefix(stem)
        if origin.startswith(stem) and _NUMBER.fullmatch(later) and int(later) > self._epoch:
            return replace(self.log_key, name=origin)
        return self.log_key

    async def _load(self) -> None:
        data = await self._state.get(self._place)
        if data is None:
            return
        try:
            self._kept = msgspec.json.decode(data, type=Kept)
        except msgspec.DecodeError as error:
            raise StorageError(
                "the log's terms in state.db are damaged: restore the home, or begin a new epoch "
                "(`exclave-agent audit recover`)",
                code="term_damaged",
            ) from error

    async def _keep(self, kept: Kept) -> None:
        await self._state.put(self._place, msgspec.json.encode(kept))
        self._kept = kept
