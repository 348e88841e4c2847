"""What the audit room asks of storage: keep leaves and values, find them again, judge nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from exclave_agent.ports import Appended

from .chain import Prepared

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoredLeaf:
    """A leaf as it lies on disk, unverified."""

    seq: int
    hash: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A tree head that we signed; `cosigned` once the witness's line is attached."""

    size: int
    note: bytes
    """C2SP signed note."""
    cosigned: bool


@dataclass(frozen=True, slots=True)
class TreeHead:
    """The root over the first `size` leaves."""

    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class Erasing:
    """A subject whose key was destroyed, and whose values still lie there, sealed for ever."""

    number: int
    """Of the subject."""
    name: bytes
    """Random: tells this erasure from any other."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A legal hold: what it stands on must not end, whatever else says so."""

    name: str
    """Random; what it is lifted by."""
    reference: str
    """The case it belongs to, in the words of those who set it; on record openly."""
    since_ns: int
    subject: str | None = field(repr=False)
    """None: it stands on everything."""


class LogReader(Protocol):
    """One epoch of the log, read in one consistent snapshot; blocking, for a reader's thread.

    Every method raises StorageError when the file cannot be read.
    """

    @property
    def epoch(self) -> int:
        """Which."""
        ...

    def size(self) -> int:
        """Leaves stored."""
        ...

    def leaf(self, seq: int) -> StoredLeaf | None:
        """One leaf."""
        ...

    def leaves(self, first: int, limit: int, max_bytes: int) -> list[bytes]:
        """Exact bytes from `first` on: at most `limit` leaves and (beyond one) `max_bytes`."""
        ...

    def scan(self, first: int) -> Iterator[StoredLeaf]:
        """Every stored leaf from `first` on, in order of seq."""
        ...

    def by_decision(self, decision: str) -> list[int]:
        """The seqs that belong to a decision, in order."""
        ...

    def node(self, level: int, index: int) -> bytes:
        """A `tree.Node`: the hash of a complete subtree."""
        ...

    def checkpoint(self, *, cosigned: bool) -> StoredCheckpoint | None:
        """The newest checkpoint, or the newest cosigned one."""
        ...

    def quiet_before(self) -> int:
        """No INTENT below this seq lacks its RESULT."""
        ...

    def kept(self, key: str) -> bytes | None:
        """A small named value of the home's state."""
        ...

    def walk(self, name: str) -> bytes | None:
        """How far retention has come with a class of data, in its own words; None: nowhere."""
        ...

    def keeps(self, seq: int) -> bool:
        """Whether the leaf has values, and they were not destroyed."""
        ...

    def of_subject(self, number: int, first: int, limit: int) -> list[int]:
        """The seqs of [first, first + limit) whose values are that subject's."""
        ...

    def number_of(self, subject: str) -> int | None:
        """The number of a subject whose values are kept; None: nothing is kept of it."""
        ...

    def subject_of(self, seq: int) -> int | None:
        """The number of the subject whose values a leaf has; None: none are kept."""
        ...

    def held(self, seq: int) -> bool:
        """Whether a legal hold stands on the leaf's values."""
        ...

    def holds(self) -> str:
        """Tells one set of legal holds from another; "": there is none."""
        ...

    def private(self, seq: int) -> list[str]:
        """The leaf's disclosures (RFC 9901 text), decrypted. Raises: StorageError
        ("vault_damaged") when a row does not open under its key."""
        ...


class LeafStore(Protocol):
    """The writer's side; every method is durable when it returns.

    Raises: StorageFull, StorageError; on error nothing of the call is visible.
    """

    @property
    def origin(self) -> str:
        """Checkpoint origin of the log."""
        ...

    @property
    def epoch(self) -> int:
        """Epoch of the log."""
        ...

    @property
    def opened_size(self) -> int:
        """Leaves that were there when the log was opened."""
        ...

    @property
    def dangling(self) -> Mapping[str, int]:
        """Decision id -> seq of each INTENT that the former process left without RESULT."""
        ...

    async def append(self, prepared: Prepared) -> Appended:
        """The leaf and its sealed values, in one commit."""
        ...

    async def forget(
        self,
        prepared: Prepared,
        seqs: Sequence[int],
        name: str,
        walk: bytes,
        *,
        epoch: int | None = None,
    ) -> Appended | None:
        """Destroy the values of these leaves, append the leaf that says so, and remember how far
        class `name` has come, in one transaction. None: a legal hold stands on one of them.

        `epoch`: whose leaves; a former one's, too, are destroyed by a leaf of this one."""
        ...

    async def note_walk(self, name: str, walk: bytes, *, epoch: int | None = None) -> None:
        """Remember the last of these alone: there was nothing to destroy."""
        ...

    async def wipe(
        self, erasing: Erasing, seqs: Sequence[int], *, epoch: int | None = None
    ) -> None:
        """Overwrite the sealed values of these leaves, as far as they are the subject's."""
        ...

    async def append_once(self, evidence: bytes, prepared: Prepared) -> Appended | None:
        """Keep `evidence` and append its leaf in one transaction; None when that evidence
        is already kept."""
        ...

    async def save_checkpoint(self, checkpoint: StoredCheckpoint) -> None:
        """Keep a checkpoint; a cosigned one replaces the plain one of its size."""
        ...

    async def head(self) -> TreeHead:
        """Size and root as the writer holds them in memory: what we appended, whatever has
        been done to the file since."""
        ...

    async def note_quiet(self) -> None:
        """Keep the chain's `quiet_before` for the next boot's scan."""
        ...

    async def read(self, query: Callable[[LogReader], T], *, epoch: int | None = None) -> T:
        """Run `query` on a snapshot, off the event loop; `epoch`: a former one's."""
        ...


class Subjects(Protocol):
    """Subjects' keys and the legal holds on them; every method is durable when it returns.

    Raises: StorageFull, StorageError.
    """

    async def destroy_key(self, subject: str) -> Erasing | None:
        """From now on nothing opens that was sealed for the subject; what comes of it later has
        another key. None: nothing is kept of it. Raises: BadRequest ("on_hold")."""
        ...

    async def erasing(self) -> Sequence[Erasing]:
        """Erasures that are not buried yet, oldest subject first."""
        ...

    async def drop_answers(self, erasing: Erasing) -> int:
        """Delete the subject's kept answers; how many there were."""
        ...

    async def bury(self, erasing: Erasing) -> None:
        """Nothing of it lies there any more."""
        ...

    async def holds(self) -> Sequence[Hold]:
        """Those that stand, oldest first."""
        ...

    async def hold(self, hold: Hold) -> None:
        """Set one."""
        ...

    async def lift(self, name: str) -> None:
        """End one; none of that name is no error."""
        ...
