"""Record: write the two leaves of each decision, and lose neither when a caller goes away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, TypeVar

from exclave_agent.errors import StorageError, unforeseen
from exclave_agent.ports import (
    ActiveRelease,
    Appended,
    AuditLog,
    Clock,
    Decided,
    DecisionMetrics,
    LeafDraft,
)

from . import bodies
from .calls import Call
from .entry import Entry

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Recorder:
    """Owns every append in flight.

    MUST: a RESULT whose INTENT became durable is written whether or not the caller stays,
    unless storage refuses it. Leaving the `async with` waits for the appends in flight, even
    when the block was cancelled; a second cancellation gives them up (the storage's start-up
    then finds the dangling INTENT).
    """

    def __init__(self, log: AuditLog, clock: Clock, metrics: DecisionMetrics) -> None:
        self._log = log
        self._clock = clock
        self._metrics = metrics
        self._tasks = asyncio.TaskGroup()
        self._constants = bodies.Constants.none()
        self._live: set[str] = set()

    async def __aenter__(self) -> None:
        await self._tasks.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The group would cancel its tasks if it were told of the block's error.
        await self._tasks.__aexit__(None, None, None)

    def open(self, release: ActiveRelease, call: Call) -> Entry:
        """Begin the record of one decision; writes nothing yet."""
        if self._constants.release is not release:
            self._constants = bodies.Constants.of(release)
        return Entry(self, self._constants, call, self._clock.now_ns(), self._clock.monotonic())

    def elapsed(self, since: float) -> float:
        """Seconds since a `Clock.monotonic`."""
        return self._clock.monotonic() - since

    async def append(self, draft: LeafDraft) -> Appended:
        """Return once the leaf is durable. Raises: StorageError."""
        return await self._log.append(draft)

    def begins(self, decision: str) -> None:
        """Its INTENT is about to be written."""
        self._live.add(decision)

    def ends(self, decision: str) -> None:
        """Its RESULT is written, or never will be."""
        self._live.discard(decision)

    def live(self, decision: str) -> bool:
        """Whether it is between the two. May be asked from any thread: for a decision whose INTENT
        is on disk, False means that it has ended."""
        return decision in self._live

    @property
    def live_count(self) -> int:
        """How many are."""
        return len(self._live)

    def count(self, decided: Decided) -> None:
        """Count one decision that has ended."""
        self._metrics.decided(decided)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T | StorageError]:
        """Run `work` in the group. Its failure is its value: it never ends the group."""
        return self._tasks.create_task(_contained(work))


async def _contained(work: Coroutine[Any, Any, T]) -> T | StorageError:
    try:
        return await work
    except StorageError as error:
        return error
    except Exception as error:  # noqa: BLE001  # a bug in one record must not end the others
        _log.error("a record failed: %s", unforeseen(error))
        refused = StorageError("the record could not be made", code="record_failed")
        refused.__cause__ = error
        return refused
