"""Final: how much of the log as many witnesses have cosigned as the policy wants for a decision.

One witness is the coordinator's, whose cosignatures the uploader brings. The others cosign the
witness's log, in which each of those cosignatures is a leaf: a proof of that leaf, under a head
that they cosigned, is their word too.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from exclave_agent.errors import BadRequest, LinkError, StorageError
from exclave_agent.ports import AuditSink, StateStore
from exclave_policy.kinds.finality import Finality
from exclave_protocol.checkpoint import Checkpoint
from exclave_protocol.errors import EvidenceError, ProtocolError
from exclave_protocol.leaf import LeafType, decode_leaf
from exclave_protocol.note import VerifyKey, split_note
from exclave_protocol.proof import Proof
from exclave_protocol.recorded import check_recorded
from exclave_protocol.tree import root

from .append import Log
from .disclose import find
from .store import LogReader

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kept:
    """What was proven, for as long as the same keys count."""

    keys: str = ""
    """Tells one set of keys from another."""
    covered: dict[int, int] = field(default_factory=dict)
    """Number of witnesses -> leaves that at least so many have cosigned."""
    proof: bytes = b""
    """The newest proof file, as evidence."""


def place(epoch: int) -> str:
    """Where the state keeps it."""
    return f"audit.final.{epoch}"


def decode(data: bytes | None) -> Kept:
    """What is kept; what cannot be read counts for nothing, and is asked for again."""
    try:
        return Kept() if data is None else msgspec.json.decode(data, type=Kept)
    except msgspec.DecodeError:
        return Kept()


class Finals:
    """Run `run` as a chore."""

    def __init__(
        self,
        record: Log,
        state: StateStore,
        sink: AuditSink,
        policy: Callable[[], Finality | None],
    ) -> None:
        """`policy`: of the release that answers now."""
        self._store = record.store
        self._state = state
        self._sink = sink
        self._policy = policy
        self._kept: Kept | None = None

    @property
    def covered(self) -> dict[int, int]:
        """Leaves by the number of witnesses beyond the first that have cosigned them."""
        return {} if self._kept is None else dict(self._kept.covered)

    async def run(self) -> None:
        """Ask for a newer proof where a class of the policy needs one. Raises: StorageError."""
        finality = self._policy()
        if finality is None or finality.most < 2:
            return
        kept = await self._load(finality)
        newest = await self._store.read(lambda reader: reader.checkpoint(cosigned=True))
        if newest is None or kept.covered.get(finality.most, 0) >= newest.size:
            return
        try:
            data = await self._sink.recorded(self._store.epoch)
            if data:
                await self._take(data, finality, kept)
        except (LinkError, ProtocolError) as error:
            # Nothing is final by it; it is asked for again.
            log.warning("no proof of what outside witnesses cosigned: %s", error.message)

    async def _load(self, finality: Finality) -> Kept:
        if self._kept is None:
            self._kept = decode(await self._state.get(place(self._store.epoch)))
        keys = _print_of(finality)
        if self._kept.keys != keys:
            self._kept = Kept(keys)
        return self._kept

    async def _take(self, data: bytes, finality: Finality, kept: Kept) -> None:
        """Raises: ProtocolError (the proof does not hold), StorageError."""
        proof = Proof.parse(data)
        head, cosigned_at = _stated(proof, self._store.origin)
        ours = await self._store.head()
        if head.size > ours.size:
            raise EvidenceError("the leaf is of more records than this log has")
        held = await self._store.read(lambda reader: root(head.size, reader.node))
        if held != head.root:
            raise EvidenceError("the leaf is of another tree than this log's")
        check_recorded(data, head, cosigned_at, VerifyKey.parse(finality.log))
        count = 1 + _outside(proof.checkpoint, finality)
        covered = dict(kept.covered)
        for number in range(2, count + 1):
            covered[number] = max(covered.get(number, 0), head.size)
        if covered != kept.covered:
            made = Kept(kept.keys, covered, data)
            await self._state.put(place(self._store.epoch), msgspec.json.encode(made))
            self._kept = made


def _print_of(finality: Finality) -> str:
    names = "\n".join((finality.log, *sorted(finality.witnesses)))
    return hashlib.sha256(names.encode()).hexdigest()[:16]


def _stated(proof: Proof, origin: str) -> tuple[Checkpoint, int]:
    """The head and time that a COSIGNED leaf records. Raises: ProtocolError."""
    leaf = decode_leaf(proof.leaf)
    body = leaf.body
    try:
        if leaf.type is not LeafType.COSIGNED or body.get("origin") != origin:
            raise EvidenceError("the leaf records no cosignature over this log")
        root_of = bytes.fromhex(str(body.get("root")))
        head = Checkpoint(origin, int(str(body.get("size"))), root_of)
        return head, int(str(body.get("cosigned_at")))
    except ValueError as error:
        raise EvidenceError("the leaf's body is malformed") from error


def _outside(note: bytes, finality: Finality) -> int:
    """How many of the outside witnesses that count have cosigned. Raises: ProtocolError (one that
    counts did not sign what stands there)."""
    keys = {(key.name, key.id): key for key in map(VerifyKey.parse, finality.witnesses)}
    text, signatures = split_note(note)
    found = set()
    for signature in signatures:
        key = keys.get((signature.name, signature.key_id))
        if key is not None and key.verify(text, signature).timestamp is not None:
            found.add(key.public)
    return len(found)


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether a decision is final."""

    seq: int
    """Of its RESULT."""
    needed: int
    """Witnesses; 0: the policy asked for none, and the record is enough."""
    covered: int
    """Leaves that so many have cosigned."""

    @property
    def final(self) -> bool:
        """Whether enough of them have cosigned its RESULT."""
        return self.needed == 0 or self.covered > self.seq


def standing(reader: LogReader, decision: str) -> Standing:
    """Of a decision, by its id. Raises: BadRequest (unknown, or without a RESULT), StorageError."""
    for seq in reversed(find(reader, decision)):
        stored = reader.leaf(seq)
        if stored is None:
            raise StorageError("the log lacks a leaf", code="log_altered")
        leaf = decode_leaf(stored.data)
        if leaf.type is not LeafType.RESULT:
            continue
        stated = leaf.body.get("finality")
        needed = stated.get("witnesses") if isinstance(stated, dict) else 0
        count = needed if isinstance(needed, int) else 0
        if count > 1:
            covered = decode(reader.kept(place(reader.epoch))).covered.get(count, 0)
        else:
            newest = reader.checkpoint(cosigned=True)
            covered = newest.size if newest is not None else 0
        return Standing(seq, count, covered)
    raise BadRequest("the decision has no RESULT yet", param="decision")
