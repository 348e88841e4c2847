"""Answers that are kept to be given again, as the core sees their store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class KeptCompletion:
    """What the index knows of one kept answer: nothing that tells what was asked or answered."""

    key: bytes
    """Of the whole request, by `CompletionStore.tag`; 32 bytes."""
    scope: bytes
    """Of the request without its last question; b"": it cannot answer similar questions."""
    size: int
    """Bytes that count against the cache's bound."""
    expires_ns: int
    """Nanoseconds since the Unix epoch."""


class CompletionStore(Protocol):
    """Keeps answers sealed under their subject's key: destroying the key erases them.

    Every method but `tag` raises StorageError.
    """

    def tag(self, digest: bytes) -> bytes:
        """A keyed hash, so that whoever reads the file cannot try out prompts; 32 bytes."""
        ...

    async def index(self) -> Sequence[KeptCompletion]:
        """Everything kept, the oldest first."""
        ...

    async def get(self, key: bytes) -> bytes | None:
        """A kept value; None: there is none, or its subject was erased."""
        ...

    async def put(
        self,
        kept: KeptCompletion,
        subject: str,
        value: bytes,
        vector: bytes = b"",
        *,
        drop: Sequence[bytes] = (),
    ) -> None:
        """Keep a value (in place of one of the same key) and drop others, in one transaction.
        `vector`: of its last question; raw data like the value."""
        ...

    async def similar(
        self, scope: bytes, limit: int, judge: Callable[[Iterator[tuple[bytes, bytes]]], T]
    ) -> T:
        """What `judge` says of the newest `limit` (key, vector) of a scope; it runs off the event
        loop. Vectors of erased subjects are left out."""
        ...

    async def drop(self, keys: Sequence[bytes]) -> None:
        """Forget these; unknown keys are no error."""
        ...

    async def sweep(self, now_ns: int) -> Sequence[bytes]:
        """Drop what has expired or belongs to an erased subject; the keys dropped."""
        ...
