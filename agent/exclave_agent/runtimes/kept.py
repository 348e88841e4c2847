"""One model and its worker: started when somebody asks and there is room, ended for others,
started again when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from exclave_agent.errors import (
    AgentError,
    ModelLoadFailed,
    Overloaded,
    WorkerCrashed,
)
from exclave_agent.runtimes import believed, frames
from exclave_agent.runtimes.footprint import Footprint
from exclave_agent.runtimes.means import Means, never_room, no_room, too_large, too_late
from exclave_agent.runtimes.memory import Need, Resident
from exclave_agent.runtimes.memory_machine import NOTHING
from exclave_agent.runtimes.placement import Wanted
from exclave_agent.runtimes.process import MAX_IN_FLIGHT, Worker
from exclave_agent.runtimes.quarantine import Culprit
from exclave_agent.runtimes.restart import Crash, Deaths
from exclave_agent.runtimes.turns import Turns
from exclave_agent.runtimes.waiting import first_of
from exclave_agent.runtimes.watch import hung, load_outcome

log = logging.getLogger(__name__)


class KeptModel:
    """One model and the worker that serves it now, if any."""

    def __init__(self, wanted: Wanted, means: Means) -> None:
        self.key = wanted.key
        self.wanted = wanted
        self.spec = wanted.spec
        self.holders = 0
        self.warm_holders = 0
        """Of the holders, those that ask to keep it in memory."""
        self.worker: Worker | None = None
        self.over = False
        """No worker will come any more."""
        self.loaded: frames.Loaded | None = None
        """What the last load said."""
        self.footprint = Footprint(wanted, means.keeper)
        self.in_use = 0
        """Requests, those that still wait for a worker included."""
        self.answered = False
        """It has answered a request since its first load."""
        self.used_at = means.clock.monotonic()
        self.load_seconds = 0.0
        self._means = means
        self._clock = means.clock
        self._timings = means.timings
        self._turns = Turns()
        self._stopping = asyncio.Event()
        self._asked = asyncio.Event()
        self._asked.set()  # to prove that it loads
        self._evicted = asyncio.Event()
        self._serving = 0
        self._making_way = False
        self._first: asyncio.Future[frames.Loaded] = asyncio.get_running_loop().create_future()
        self._first.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._news: asyncio.Future[AgentError | None] = _fresh()
        self._deaths = Deaths(means.timings, means.rng)
        self._last: Worker | None = None
        """The worker that ended last."""
        self._next_start = 0.0
        self._restarting = False
        """The last worker died, and none has come after it yet."""

    # --- for requests --------------------------------------------------------------------

    async def ready(self, name: str) -> frames.Loaded:
        """Wait for the first load. Raises: ModelLoadFailed, naming the model as this set does."""
        try:
            return await asyncio.shield(self._first)
        except ModelLoadFailed as error:
            raise ModelLoadFailed(f"model {name}: {error.message}") from None

    @property
    def stopping(self) -> bool:
        """Whether its end has been asked for: a worker that dies now was not killed by anybody's
        request."""
        return self.over or self._stopping.is_set()

    @contextlib.asynccontextmanager
    async def lease(self, *, alone: bool, timeout: float | None) -> AsyncIterator[Worker]:
        """A worker that stays while this is held (unless it dies), alone or beside others.

        Waits for a load, others' evictions included; `timeout` seconds bound that, where given.
        Raises: Overloaded, WorkerCrashed, NoMemory, DeadlineExceeded.
        """
        if self.in_use >= MAX_IN_FLIGHT:
            raise Overloaded(f"{self.in_use} requests are with this model already", retry_after=1.0)
        self.in_use += 1
        try:
            async with contextlib.AsyncExitStack() as stack:
                try:
                    # Without a time of its own a request still waits behind no suspect forever.
                    async with asyncio.timeout(timeout or self._timings.load):
                        await stack.enter_async_context(self._turns.turn(alone=alone))
                        worker = await self._up()
                        while alone and not await worker.quiet():
                            worker = await self._up()
                except TimeoutError:
                    raise too_late(timeout) from None
                worker.suspects.alone = alone
                self._serving += 1
                try:
                    yield worker
                finally:
                    self._serving -= 1
        finally:
            self._used()

    def at_once(self) -> Worker | None:
        """The worker, for a request beside others, when nothing has to be waited for; None: only a
        lease gets it. `done` MUST follow. A lease costs more than a small request does."""
        worker = self.worker
        if worker is None or worker.gone.is_set() or self._making_way:
            return None
        if self.in_use >= MAX_IN_FLIGHT or not self._turns.at_once():
            return None
        self.in_use += 1
        self._serving += 1
        worker.suspects.alone = False
        return worker

    def done(self) -> None:
        """A request that got its worker `at_once` has ended."""
        self._serving -= 1
        self._turns.leave()
        self._used()

    def _used(self) -> None:
        self.in_use -= 1
        self.used_at = self._clock.monotonic()
        if self.in_use == 0 or self._making_way:
            self._means.keeper.changed()

    async def _up(self) -> Worker:
        """The worker, asking for one where there is none."""
        limit = self._timings.restart_wait if self._restarting else self._timings.load
        try:
            async with asyncio.timeout(limit):
                while True:
                    if self.worker is not None and self.worker.gone.is_set():
                        # It died a moment ago, and `run` was not yet told.
                        self.worker = None
                    if self.worker is None:
                        if self.over or self._deaths.looping:
                            raise self._held_back()
                        self._asked.set()
                    elif not self._making_way:
                        return self.worker
                    refusal = await asyncio.shield(self._news)
                    if refusal is not None:
                        raise refusal
        except TimeoutError:
            raise WorkerCrashed(
                "the model's worker is not up again in time", retry_after=5.0
            ) from None

    def _held_back(self) -> WorkerCrashed:
        wait = max(0.0, self._next_start - self._clock.monotonic())
        return WorkerCrashed(
            "the model's worker keeps dying and is being held back",
            code="worker_crash_loop",
            retry_after=max(1.0, round(wait, 1)),
        )

    def accuse(self, fingerprint: bytes, worker: int) -> None:
        """A request was with a worker at its death. Idempotent."""
        if self._means.quarantine.strike(fingerprint, worker):
            self._deaths.convict(fingerprint)
            self._means.caught(Culprit(self.spec.name, self.spec.sha256))

    def acquit(self, fingerprint: bytes) -> None:
        """A request that was accused has been answered."""
        self._means.quarantine.clear(fingerprint)
        self._deaths.acquit(fingerprint)

    def stop(self) -> None:
        """No more workers; the one there is shuts down."""
        self._stopping.set()

    # --- for the memory's keeper -----------------------------------------------------------

    @property
    def need(self) -> Need:
        """See `memory_keeper.Tenant`."""
        return self.footprint.need

    @property
    def private_bytes(self) -> int:
        """See `memory_keeper.Tenant`."""
        return self.footprint.private(loaded=self.worker is not None)

    @property
    def loading(self) -> bool:
        """See `memory_keeper.Tenant`."""
        return self.worker is None

    def resident(self) -> Resident:
        """See `memory_keeper.Tenant`."""
        return Resident(
            id(self),
            self.need,
            in_use=self.worker is None or (self._serving if self._making_way else self.in_use) > 0,
            warm=self.warm_holders > 0,
            idle_seconds=self.idle_seconds,
            reload_seconds=self.load_seconds,
        )

    @property
    def idle_seconds(self) -> float:
        """Since its last request ended."""
        return 0.0 if self.in_use else max(0.0, self._clock.monotonic() - self.used_at)

    def evict(self) -> None:
        """See `memory_keeper.Tenant`: the worker goes, and comes back when somebody asks."""
        self.worker = None
        self._making_way = False
        if not self.in_use:
            self._asked.clear()
        self._evicted.set()

    def make_way(self) -> None:
        """See `memory_keeper.Tenant`: newcomers wait, for its next worker."""
        self._making_way = True

    def stay(self) -> None:
        """See `memory_keeper.Tenant`."""
        if self._making_way:
            self._making_way = False
            self._tell(None)

    @property
    def state(self) -> str:
        """As `ports.Placement` names it."""
        if self.worker is not None:
            return "loaded"
        if self._deaths.looping:
            return "held back"
        return "loading" if self._asked.is_set() else "evicted"

    # --- the life --------------------------------------------------------------------------

    async def run(self, group: asyncio.TaskGroup) -> None:
        """Have a worker whenever one is asked for, until `stop`. Being cancelled kills it."""
        try:
            while not self._stopping.is_set():
                await first_of(self._asked.wait(), self._stopping.wait())
                if self._stopping.is_set() or not await self._enter():
                    continue
                born = self._clock.monotonic()
                try:
                    reason = await self._life(group)
                finally:
                    self._means.keeper.leave(self)
                if reason is not None:
                    await self._died(reason, self._clock.monotonic() - born)
        finally:
            self.over = True
            if not self._first.done():
                self._first.set_exception(ModelLoadFailed("the agent is stopping"))
            self._tell(self._held_back())

    async def _enter(self) -> bool:
        """Have the memory for it; False: there is none, and whoever waits has been told."""
        keeper = self._means.keeper
        least = self.wanted.least()
        if not least.fits(keeper.budget) and not self._first.done():
            self._give_up(too_large(least, keeper.budget))
            return False
        # An estimate may be too large; only what a load really took refuses a model.
        self.footprint.within_budget()
        until = self._clock.monotonic() + self._timings.load
        while True:
            if await keeper.enter_within(self, self._timings.room, self._stopping):
                return True
            # A model that loads is idle in a moment.
            if self._stopping.is_set() or not keeper.loading or self._clock.monotonic() >= until:
                break
        # A release that is to replace another must not wait for a moment in which nobody asks.
        first = not self._first.done() and not self._stopping.is_set()
        if first and await keeper.enter_within(
            self, self._timings.load, self._stopping, insist=True
        ):
            return True
        if not self._stopping.is_set():
            self._no_room()
        return False

    def _no_room(self) -> None:
        self._asked.clear()
        if not self._first.done():
            self._give_up(never_room(self.need, self._timings.load))
        else:
            self._tell(no_room(self._timings.room))

    def _give_up(self, why: str) -> None:
        """The first load fails, for good."""
        self._first.set_exception(ModelLoadFailed(why))
        self._stopping.set()

    async def _died(self, reason: str, lived: float) -> None:
        worker, self._last = self._last, None
        suspects = self._accused(worker)
        backoff = self._deaths.count(
            lived=lived,
            suspects=suspects,
            guilty=any(map(self._means.quarantine.guilty, suspects)),
            answered=self.answered,
        )
        self._restarting = True
        self._next_start = self._clock.monotonic() + backoff
        self._means.crashed(
            Crash(self.spec.name, self.spec.sha256, reason, self._deaths.in_a_row, backoff)
        )
        if self._deaths.looping:
            self._tell(self._held_back())
        self._asked.set()
        await self._pause(backoff)

    def _accused(self, worker: Worker | None) -> dict[bytes, str]:
        """Of a death the suspects and their callers, those whose caller has gone included."""
        suspects = {} if worker is None else worker.suspects.accused()
        if worker is not None:
            for one in suspects:
                self.accuse(one, worker.serial)
        return suspects

    async def _pause(self, seconds: float) -> None:
        """Sleep, or return at once when stopping."""
        if seconds <= 0:
            return
        await first_of(self._clock.sleep(seconds), self._stopping.wait())

    async def _life(self, group: asyncio.TaskGroup) -> str | None:
        """One worker from spawn to reaping. Returns how it crashed; None: no worker wanted."""
        spec, began = self.spec, self._clock.monotonic()
        self._evicted.clear()
        limit = self.footprint.limit()
        try:
            async with asyncio.timeout(self._timings.load):
                worker = await Worker.spawn(self.wanted.load(), self._means.birth, data_limit=limit)
        except OSError as error:
            why = error.strerror or type(error).__name__
            return self._not_loaded(f"its worker process cannot be started: {why}")
        stderr = group.create_task(worker.drain_stderr(), name=f"stderr of {spec.name}")
        try:
            loaded = await load_outcome(worker, self._timings.load, self._stopping)
            if isinstance(loaded, str):
                return self._not_loaded(loaded)
            self.load_seconds = self._clock.monotonic() - began
            self.loaded = loaded = believed.loaded(loaded, spec.runtime)
            self.footprint.measure(worker, loaded, first=not self._first.done())
            if not self._first.done():
                if not self.need.fits(self._means.keeper.budget):
                    return self._not_loaded(too_large(self.need, self._means.keeper.budget))
                self._first.set_result(loaded)
            self._serve(worker)
            await first_of(
                worker.gone.wait(),
                self._stopping.wait(),
                self._evicted.wait(),
                self._watch(worker),
            )
            self._retire()
            if self._stopping.is_set() or self._evicted.is_set():
                await worker.shut_down(self._timings.shutdown)
                return None
            return await worker.reap()
        finally:
            self._last = worker
            self._retire()
            worker.kill()
            await worker.reap()
            await stderr

    def _serve(self, worker: Worker) -> None:
        self.worker = worker
        self._restarting = False
        self.used_at = self._clock.monotonic()
        self._tell(None)
        self._means.keeper.settle()
        self._means.keeper.changed()

    def _tell(self, news: AgentError | None) -> None:
        """Wake whoever waits for a worker: to look again, or with why there is none."""
        told, self._news = self._news, _fresh()
        told.set_result(news)

    def _retire(self) -> None:
        self.worker = None
        self.footprint.held = NOTHING

    def _not_loaded(self, why: str) -> str | None:
        """A first load that fails is final; a later one counts as a crash."""
        if self._first.done():
            return why
        self._give_up(why)
        return None

    async def _watch(self, worker: Worker) -> None:
        """Returns when the worker hangs: it is then killed."""

        def look() -> None:
            self.footprint.look(worker)
            if self.footprint.outgrown():
                self._means.keeper.settle()

        await hung(worker, self._clock, self._timings, look)
        if not worker.gone.is_set():
            worker.suspects.hung_for = self._timings.hung
            log.warning("worker of model %s makes no progress: killing it", self.spec.name)


def _fresh() -> asyncio.Future[AgentError | None]:
    return asyncio.get_running_loop().create_future()
