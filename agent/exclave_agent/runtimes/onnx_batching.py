"""Which waiting requests an ONNX model runs together, and when: dynamic batching without threads.

A batch closes when it is full or when its oldest request has waited its time, whichever comes
first. Only requests of one shape share a batch; each shape gathers for itself, so that no shape
holds another back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Batchable(Protocol):
    """A request as the batches see it."""

    @property
    def id(self) -> int:
        """Of the request."""
        ...

    @property
    def rows(self) -> int:
        """Rows that it brings."""
        ...

    @property
    def shape(self) -> object:
        """Hashable; what must be equal for two requests to be run together."""
        ...

    @property
    def arrived(self) -> float:
        """Seconds on the caller's clock; never before that of the request pushed last."""
        ...


Job = TypeVar("Job", bound=Batchable)


class _Group(Generic[Job]):
    """Those of one shape, oldest first."""

    __slots__ = ("jobs", "rows")

    def __init__(self) -> None:
        self.jobs: deque[Job] = deque()
        self.rows = 0

    def remove(self, job: Job) -> None:
        self.jobs.remove(job)
        self.rows -= _weight(job)


@dataclass(frozen=True, slots=True)
class Batch(Generic[Job]):
    """Requests to run together."""

    jobs: list[Job]

    @property
    def rows(self) -> int:
        """Of all of them."""
        return sum(job.rows for job in self.jobs)


class Batches(Generic[Job]):
    """The requests that wait. Not thread-safe; whoever calls brings the time."""

    def __init__(self, max_batch: int, max_wait: float) -> None:
        """`max_batch` rows are run together at most, a request of more alone; 1 or less: every
        request alone. `max_wait`: seconds."""
        self._max_batch = max(1, max_batch)
        self._max_wait = max_wait
        self._groups: dict[object, _Group[Job]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Job]:
        for group in self._groups.values():
            yield from group.jobs

    def push(self, job: Job) -> bool:
        """Let it wait; whether a batch is full by it."""
        group = self._groups.get(job.shape)
        if group is None:
            group = self._groups[job.shape] = _Group()
        group.jobs.append(job)
        group.rows += _weight(job)
        self._count += 1
        return group.rows >= self._max_batch

    def remove(self, request: int) -> bool:
        """Forget a request; whether it waited."""
        for group in self._groups.values():
            for job in group.jobs:
                if job.id == request:
                    group.remove(job)
                    self._count -= 1
                    if not group.jobs:
                        del self._groups[job.shape]
                    return True
        return False

    def alone(self) -> None:
        """From now on every request is run alone."""
        self._max_batch = 1

    def due(self) -> float | None:
        """The time at which the next batch closes, unless it fills before; now or in the past:
        it is closed. None: nothing waits."""
        best = None
        for group in self._groups.values():
            closes = group.jobs[0].arrived
            if group.rows < self._max_batch:
                closes += self._max_wait
            best = closes if best is None else min(best, closes)
        return best

    def take(self, now: float) -> Batch[Job] | None:
        """The closed batch whose oldest request came first; None: none is closed."""
        oldest: Job | None = None
        for group in self._groups.values():
            first = group.jobs[0]
            closed = group.rows >= self._max_batch or now >= first.arrived + self._max_wait
            if closed and (oldest is None or first.arrived < oldest.arrived):
                oldest = first
        return None if oldest is None else self._close(self._groups[oldest.shape])

    def _close(self, group: _Group[Job]) -> Batch[Job]:
        jobs: list[Job] = []
        rows = 0
        while group.jobs and (not jobs or rows + _weight(group.jobs[0]) <= self._max_batch):
            job = group.jobs.popleft()
            jobs.append(job)
            rows += _weight(job)
        group.rows -= rows
        self._count -= len(jobs)
        if not group.jobs:
            del self._groups[jobs[0].shape]
        return Batch(jobs)


def _weight(job: Batchable) -> int:
    """A request of no rows takes the place of one: nothing may wait for more than a batch."""
    return max(1, job.rows)
