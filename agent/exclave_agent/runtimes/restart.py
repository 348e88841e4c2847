"""Keeps one model served whatever happens to its workers: starts them, and starts them again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from exclave_agent.errors import ModelLoadFailed, WorkerCrashed
from exclave_agent.ports import Clock, ModelSpec, Rng
from exclave_agent.runtimes import frames
from exclave_agent.runtimes.births import Birth
from exclave_agent.runtimes.process import Worker
from exclave_agent.runtimes.waiting import first_of

log = logging.getLogger(__name__)

Key = tuple[str, str, tuple[tuple[str, int | str | bool], ...]]
"""(runtime, digest, parameters): what makes two models one worker."""


@dataclass(frozen=True, slots=True)
class Crash:
    """One death of a worker after its first load, for metrics and the audit log."""

    model: str
    sha256: str
    reason: str
    """How the process ended, in words without data."""
    in_a_row: int
    """Deaths without a stable minute in between; from `LOOP` on it is a crash loop."""
    retry_in: float
    """Seconds until the next start."""


LOOP = 3
"""Crashes in a row that count as a crash loop: requests are then refused at once."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds. All waiting of the supervisor, in one place."""

    load: float = 300.0
    """For a model to load."""
    restart_wait: float = 15.0
    """A request waits this long for a worker that is being restarted."""
    first_backoff: float = 0.2
    longest_backoff: float = 30.0
    stable: float = 60.0
    """A worker that lived this long starts its backoff anew."""
    shutdown: float = 5.0
    """From `Shutdown` to SIGKILL."""
    drain: float = 30.0
    """Requests in flight get this long when the supervisor closes."""
    ping: float = 10.0
    hung: float = 120.0
    """Busy without one engine step for this long: the worker is killed."""


class KeptModel:
    """One model and the worker that serves it now, if any."""

    def __init__(
        self,
        key: Key,
        spec: ModelSpec,
        clock: Clock,
        rng: Rng,
        timings: Timings,
        crashed: Callable[[Crash], None],
        birth: Birth,
    ) -> None:
        self.key = key
        self.spec = spec
        self.holders = 0
        self.worker: Worker | None = None
        self.over = False
        """No worker will come any more."""
        self._clock = clock
        self._rng = rng
        self._timings = timings
        self._crashed = crashed
        self._birth = birth
        self._stopping = asyncio.Event()
        self._first: asyncio.Future[frames.Loaded] = asyncio.get_running_loop().create_future()
        self._first.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._up = asyncio.Event()
        self._in_a_row = 0
        self._next_start = 0.0

    # --- for requests --------------------------------------------------------------------

    async def ready(self, name: str) -> frames.Loaded:
        """Wait for the first load. Raises: ModelLoadFailed, naming the model as this set does."""
        try:
            return await asyncio.shield(self._first)
        except ModelLoadFailed as error:
            raise ModelLoadFailed(f"model {name}: {error.message}") from None

    async def up(self) -> Worker:
        """The worker, waiting a little for one that is being restarted. Raises: WorkerCrashed."""
        if self.worker is not None and not self.worker.gone.is_set():
            return self.worker
        # It may have died a moment ago, with `run` not yet told.
        self._retire()
        wait = max(0.0, self._next_start - self._clock.monotonic())
        if self.over or self._in_a_row >= LOOP:
            raise WorkerCrashed(
                "the model's worker keeps dying and is being held back",
                code="worker_crash_loop",
                retry_after=max(1.0, round(wait, 1)),
            )
        try:
            async with asyncio.timeout(self._timings.restart_wait):
                await self._up.wait()
        except TimeoutError:
            raise WorkerCrashed(
                "the model's worker died and is not up again", retry_after=5.0
            ) from None
        if self.worker is None:
            raise WorkerCrashed("the model's worker died again", retry_after=1.0)
        return self.worker

    def stop(self) -> None:
        """No more workers; the one there is shuts down."""
        self._stopping.set()

    # --- the life --------------------------------------------------------------------------

    async def run(self, group: asyncio.TaskGroup) -> None:
        """Keep a worker up until `stop`. Being cancelled kills it."""
        try:
            while not self._stopping.is_set():
                born = self._clock.monotonic()
                reason = await self._life(group)
                if reason is None:
                    break
                if self._clock.monotonic() - born >= self._timings.stable:
                    self._in_a_row = 0
                self._in_a_row += 1
                backoff = self._backoff()
                self._next_start = self._clock.monotonic() + backoff
                self._crashed(
                    Crash(self.spec.name, self.spec.sha256, reason, self._in_a_row, backoff)
                )
                await self._pause(backoff)
        finally:
            self.over = True
            self._up.set()
            if not self._first.done():
                self._first.set_exception(ModelLoadFailed("the agent is stopping"))

    def _backoff(self) -> float:
        """Nothing after a first crash, then doubling; the upper half of it is chance."""
        if self._in_a_row <= 1:
            return 0.0
        full = min(
            self._timings.longest_backoff,
            self._timings.first_backoff * 2 ** min(self._in_a_row, 20),
        )
        return self._rng.uniform(full / 2, full)

    async def _pause(self, seconds: float) -> None:
        """Sleep, or return at once when stopping."""
        if seconds <= 0:
            return
        await first_of(self._clock.sleep(seconds), self._stopping.wait())

    async def _life(self, group: asyncio.TaskGroup) -> str | None:
        """One worker from spawn to reaping. Returns how it crashed; None: no worker wanted."""
        spec = self.spec
        load = frames.Load(spec.runtime, str(spec.path.absolute()), dict(spec.parameters))
        try:
            worker = await Worker.spawn(load, self._birth)
        except OSError as error:
            return self._not_loaded(f"its worker process cannot be started: {error.strerror}")
        stderr = group.create_task(worker.drain_stderr(), name=f"stderr of {spec.name}")
        try:
            loaded = await self._loading(worker)
            if isinstance(loaded, str):
                return self._not_loaded(loaded)
            if not self._first.done():
                self._first.set_result(loaded)
            self.worker = worker
            self._up.set()
            await first_of(worker.gone.wait(), self._stopping.wait(), self._watch(worker))
            self._retire()
            if self._stopping.is_set():
                await worker.shut_down(self._timings.shutdown)
                return None
            return await worker.reap()
        finally:
            self._retire()
            worker.kill()
            await worker.reap()
            await stderr

    def _retire(self) -> None:
        self.worker = None
        self._up.clear()

    async def _loading(self, worker: Worker) -> frames.Loaded | str:
        """What the worker says of itself, or why the load failed."""
        try:
            async with asyncio.timeout(self._timings.load):
                await first_of(worker.gone.wait(), self._stopping.wait(), _settled(worker.loaded))
        except TimeoutError:
            return f"not loaded within {self._timings.load:g} s"
        if worker.loaded.done():
            return worker.loaded.result()
        ended = await worker.reap()
        return worker.load_failure(ended)

    def _not_loaded(self, why: str) -> str | None:
        """A first load that fails is final; a later one counts as a crash."""
        if self._first.done():
            return why
        self._first.set_exception(ModelLoadFailed(why))
        return None

    async def _watch(self, worker: Worker) -> None:
        """Returns when the worker is busy, or silent, for too long: the worker is then killed."""
        nonce = 0
        moved = self._clock.monotonic()
        last = worker.pong
        while True:
            nonce += 1
            worker.send(frames.Ping(nonce))
            await self._clock.sleep(self._timings.ping)
            pong = worker.pong
            answered = pong.nonce == nonce
            if answered and (pong.active == 0 or pong.steps != last.steps):
                moved = self._clock.monotonic()
            last = pong
            if self._clock.monotonic() - moved >= self._timings.hung:
                log.warning("worker of model %s makes no progress: killing it", self.spec.name)
                return


async def _settled(future: asyncio.Future[frames.Loaded]) -> None:
    """Wait for a future without cancelling it when the wait is cancelled."""
    await asyncio.shield(future)
