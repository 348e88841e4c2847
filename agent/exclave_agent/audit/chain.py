"""Turns drafts into leaves: each knows its place, its predecessor and its commitments.

Pure: no clock, no disk. The one writer owns the chain; nothing else moves it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from exclave_agent.errors import StorageError
from exclave_agent.ports import LeafDraft, LedgerEntry, Rng
from exclave_protocol.canonical import JsonValue
from exclave_protocol.disclosure import SALT_SIZE, Disclosure, decoy
from exclave_protocol.disclosure import make as make_disclosure
from exclave_protocol.errors import ProtocolError
from exclave_protocol.leaf import NO_PREV, Leaf, LeafType, encode_leaf
from exclave_protocol.tree import Frontier, leaf_hash, node_hash

TILE_HEIGHT = 8
"""Levels of the tree between stored nodes: C2SP tlog-tiles' tile height."""


SD_BUCKET = 4
"""Commitments of a leaf are a multiple of this, decoys included: else their number would tell a
refusal from an answer, and whether tools or context were used."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A draft with its commitments made; only its place in the log is missing."""

    type: LeafType
    time_ns: int
    body: Mapping[str, JsonValue]
    sd: tuple[str, ...]
    disclosures: tuple[Disclosure, ...]
    subject: str
    ledger: tuple[LedgerEntry, ...] = ()
    """Amounts that become durable with the leaf; not part of it."""
    subject_of: int | None = None
    """As in the draft."""


@dataclass(frozen=True, slots=True)
class SealedNode:
    """A complete subtree's hash, stored so that proofs need no whole scan."""

    level: int
    index: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Sealed:
    """A leaf as it will be stored."""

    seq: int
    data: bytes
    hash: bytes
    nodes: tuple[SealedNode, ...]
    prepared: Prepared


def record_invalid(error: ProtocolError) -> StorageError:
    """A draft that has no valid leaf: the decision it belongs to is refused."""
    return StorageError(f"record cannot be written: {error.message}", code="record_invalid")


def prepare(draft: LeafDraft, *, time_ns: int, rng: Rng) -> Prepared:
    """Commit to the private values with fresh salts.

    Raises: StorageError (code "record_invalid") when type or values are outside the format.
    """
    try:
        kind = LeafType(draft.type)
    except ValueError:
        raise StorageError(
            "record cannot be written: unknown leaf type", code="record_invalid"
        ) from None
    if not draft.private:
        return Prepared(kind, time_ns, draft.body, (), (), draft.subject, draft.ledger)
    try:
        disclosures = tuple(
            make_disclosure(name, value, draft.salts.get(name) or rng.token(SALT_SIZE))
            for name, value in draft.private.items()
        )
    except ProtocolError as error:
        raise record_invalid(error) from error
    made = [disclosure.digest for disclosure in disclosures]
    made += [decoy(rng.token(SALT_SIZE)) for _ in range(-len(made) % SD_BUCKET)]
    sd = tuple(sorted(made))
    return Prepared(
        kind, time_ns, draft.body, sd, disclosures, draft.subject, draft.ledger, draft.subject_of
    )


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a chain stood, to go back to when a commit fails."""

    size: int
    peaks: tuple[bytes, ...]
    prev: bytes


class Chain:
    """The tail of one epoch's log."""

    def __init__(self, origin: str, epoch: int) -> None:
        self.origin = origin
        self.epoch = epoch
        self._frontier = Frontier()
        self._prev = NO_PREV
        self._open: dict[str, int] = {}

    @property
    def size(self) -> int:
        """Leaves sealed so far."""
        return self._frontier.size

    @property
    def prev(self) -> bytes:
        """Hash of the last leaf; zeros before the first."""
        return self._prev

    def root(self) -> bytes:
        """RFC 6962 root over all leaves sealed so far."""
        return self._frontier.root()

    def mark(self) -> Mark:
        """Remember this place."""
        return Mark(self._frontier.size, self._frontier.peaks, self._prev)

    def rewind(self, mark: Mark) -> None:
        """Forget everything sealed since `mark`."""
        self._frontier = Frontier.from_peaks(mark.size, mark.peaks)
        self._prev = mark.prev

    def resume(
        self, size: int, peaks: Sequence[bytes], prev: bytes, open_intents: Mapping[str, int]
    ) -> None:
        """Take up a log where a verified scan left it."""
        self.rewind(Mark(size, tuple(peaks), prev))
        self._open = dict(open_intents)

    def seal(self, prepared: Prepared) -> Sealed:
        """Give a record its place. Raises: StorageError "record_invalid"; the chain stays."""
        seq = self._frontier.size
        if (seq == 0) != (prepared.type is LeafType.GENESIS):
            raise StorageError(
                f"record cannot be written: {prepared.type} at seq {seq}; "
                "GENESIS opens a log, and only opens it",
                code="record_invalid",
            )
        leaf = Leaf(
            log=self.origin,
            epoch=self.epoch,
            seq=seq,
            prev=self._prev,
            type=prepared.type,
            time_ns=prepared.time_ns,
            body=prepared.body,
            sd=prepared.sd,
        )
        try:
            data = encode_leaf(leaf)
        except ProtocolError as error:
            raise record_invalid(error) from error
        digest = leaf_hash(data)
        nodes = self._completed(seq, digest) if seq & 0xFF == 0xFF else ()
        self._frontier.append(digest)
        self._prev = digest
        return Sealed(seq, data, digest, nodes, prepared)

    def _completed(self, seq: int, digest: bytes) -> tuple[SealedNode, ...]:
        """The subtrees of tile height that leaf `seq` completes."""
        peaks = self._frontier.peaks
        nodes: list[SealedNode] = []
        level = 0
        while (seq >> level) & 1:
            digest = node_hash(peaks[-1 - level], digest)
            level += 1
            if level % TILE_HEIGHT == 0:
                nodes.append(SealedNode(level, seq >> level, digest))
        return tuple(nodes)

    def settle(self, type_: LeafType, body: Mapping[str, JsonValue], seq: int) -> None:
        """Note a durable leaf: an INTENT waits for its RESULT until that is durable too."""
        if type_ is LeafType.INTENT:
            self._open[str(body.get("decision"))] = seq
        elif type_ is LeafType.RESULT:
            self._open.pop(str(body.get("decision")), None)

    @property
    def open_intents(self) -> dict[str, int]:
        """Decision id -> seq of each INTENT without a RESULT."""
        return dict(self._open)

    def quiet_before(self) -> int:
        """Every INTENT below this seq has its RESULT: a scan for dangling ones starts here."""
        return min(self._open.values(), default=self.size)
