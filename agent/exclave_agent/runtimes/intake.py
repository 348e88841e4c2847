"""Where requests with grammars are prepared: apart from the reader, which must go on reading."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from exclave_agent.runtimes import frames
from exclave_agent.runtimes.engine import Emit, Refused, Running


class Intake:
    """A thread that prepares requests one by one and hands them on.

    A grammar that is new may take seconds to try. On the reader's thread everybody's requests,
    cancellations and pings would wait for that. An exception that is no refusal ends the thread,
    and with it, by the worker's hook, the process.
    """

    def __init__(
        self,
        prepare: Callable[[frames.Generate], Running],
        submit: Callable[[Running, float], None],
        emit: Emit,
        limit: int,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`submit`: takes a sequence and when it arrived; raises Refused. `limit`: how many
        requests may wait here."""
        self._prepare = prepare
        self._submit = submit
        self._emit = emit
        self._limit = max(1, limit)
        self._monotonic = monotonic
        self._changed = threading.Condition()
        self._waiting: deque[tuple[float, frames.Generate]] = deque()
        self._current = -1
        """The request that is being prepared; -1: none, or it was cancelled meanwhile."""
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        """Requests that wait here."""
        return len(self._waiting)

    def put(self, request: frames.Generate) -> None:
        """Take a request. Raises: Refused("overloaded") when too many wait."""
        with self._changed:
            if len(self._waiting) >= self._limit:
                raise Refused(
                    "overloaded",
                    f"{len(self._waiting)} requests wait for their grammars already",
                    retry_after=1.0,
                )
            self._waiting.append((self._monotonic(), request))
            self._changed.notify()
            if self._thread is None:
                # Only now: most models are never asked for a grammar.
                self._thread = threading.Thread(target=self._run, name="intake", daemon=True)
                self._thread.start()

    def cancel(self, request: int) -> None:
        """Forget a request that waits or is being prepared; others are not ours."""
        with self._changed:
            if self._current == request:
                self._current = -1
            for entry in [one for one in self._waiting if one[1].id == request]:
                self._waiting.remove(entry)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                arrived, request = self._waiting.popleft()
                self._current = request.id
            try:
                self._take(arrived, request)
            except Refused as refusal:
                self._emit(refusal.frame(request.id))

    def _take(self, arrived: float, request: frames.Generate) -> None:
        limit = request.timeout_us
        if limit is not None and self._monotonic() - arrived >= limit / 1e6:
            raise Refused("deadline_exceeded", f"not begun within {limit / 1e6:g} s")
        sequence = self._prepare(request)
        # In one piece with the look: a cancellation comes before it, or finds it handed on.
        with self._changed:
            if self._current == request.id:
                self._submit(sequence, arrived)
                return
        sequence.sampler.close()


def slow(request: frames.Generate) -> bool:
    """Whether preparing it may take long: its answer is held to a grammar."""
    sampling = request.sampling
    constrained = sampling.grammar is not None or sampling.json_schema is not None
    return constrained or (bool(request.tools) and request.tool_choice != "none")
