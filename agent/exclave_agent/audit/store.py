"""What the audit room asks of storage: keep leaves and values, find them again, judge nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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


class LogReader(Protocol):
    """One epoch of the log, read in one consistent snapshot; blocking, for a reader's thread.

    Every method raises StorageError when the file cannot be read.
    """

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

    def walk(self, name: str) -> bytes | None:
        """How far retention has come with a class of data, in its own words; None: nowhere."""
        ...

    def keeps(self, seq: int) -> bool:
        """Whether the leaf has values, and they were not destroyed."""
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
        self, prepared: Prepared, seqs: Sequence[int], name: str, walk: bytes
    ) -> Appended:
        """Destroy the values of these leaves, append the leaf that says so, and remember how far
        class `name` has come, in one transaction."""
        ...

    async def note_walk(self, name: str, walk: bytes) -> None:
        """Remember the last of these alone: there was nothing to destroy."""
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

    async def read(self, query: Callable[[LogReader], T]) -> T:
        """Run `query` on a snapshot, off the event loop."""
        ...
