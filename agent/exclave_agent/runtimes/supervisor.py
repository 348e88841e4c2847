"""Loads models in worker processes, shares and restarts the workers, and ends them in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from array import array
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

from exclave_agent.errors import ModelLoadFailed, Unavailable, UnknownModel, WorkerCrashed
from exclave_agent.ports import (
    Clock,
    Delta,
    Embeddings,
    Finished,
    Generate,
    ModelInfo,
    ModelSpec,
    Rng,
    Tensor,
    TensorInfo,
)
from exclave_agent.runtimes import frames
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


class Supervisor:
    """The `ports.Runtimes`. Use as an async context manager: it owns every task and process.

    On leaving, requests in flight MUST have ended or been failed, and no worker is left.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        rng: Rng,
        timings: Timings | None = None,
        on_crash: Callable[[Crash], None] | None = None,
    ) -> None:
        self._clock = clock
        self._rng = rng
        self._timings = timings or Timings()
        self._on_crash = on_crash
        self._models: dict[Key, _Model] = {}
        self._sets: list[LoadedModels] = []
        self._group = asyncio.TaskGroup()
        self.crashes = 0
        """Deaths of workers since the start."""

    async def __aenter__(self) -> Supervisor:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timings.drain):
                    for models in list(self._sets):
                        await models.close()
        for model in self._models.values():
            model.stop()
        if error is None or isinstance(error, asyncio.CancelledError):
            await self._group.__aexit__(kind, error, trace)
            return
        # The group would wrap the caller's own error in an ExceptionGroup.
        await self._group.__aexit__(None, None, None)

    async def load(self, specs: Sequence[ModelSpec]) -> LoadedModels:
        """See `ports.Runtimes.load`."""
        held: dict[str, _Model] = {}
        infos: dict[str, ModelInfo] = {}
        try:
            for spec in specs:
                if spec.name in held:
                    raise ModelLoadFailed(f"model {spec.name}: named twice in one release")
                held[spec.name] = self._hold(spec)
            for spec in specs:
                infos[spec.name] = describe(spec, await held[spec.name].ready(spec.name))
        except BaseException:
            for model in held.values():
                self._let_go(model)
            raise
        models = LoadedModels(self, held, infos)
        self._sets.append(models)
        return models

    def workers(self) -> Mapping[str, int]:
        """Process ids of the workers that are up, by the digest of their model."""
        return {
            model.spec.sha256: model.worker.pid
            for model in self._models.values()
            if model.worker is not None
        }

    def seed(self) -> int:
        """A sampling seed for a caller who gave none."""
        return int.from_bytes(self._rng.token(4), "big")

    def release(self, models: LoadedModels, held: Mapping[str, _Model]) -> None:
        """A set is closed: workers that no other set holds go."""
        self._sets.remove(models)
        for model in held.values():
            self._let_go(model)

    def _hold(self, spec: ModelSpec) -> _Model:
        key = (spec.runtime, spec.sha256, tuple(sorted(spec.parameters.items())))
        model = self._models.get(key)
        if model is None or model.over:
            model = _Model(key, spec, self._clock, self._rng, self._timings, self._crashed)
            self._models[key] = model
            self._group.create_task(model.run(self._group), name=f"model {spec.name}")
        model.holders += 1
        return model

    def _let_go(self, model: _Model) -> None:
        model.holders -= 1
        if model.holders == 0:
            model.stop()
            if self._models.get(model.key) is model:
                del self._models[model.key]

    def _crashed(self, crash: Crash) -> None:
        self.crashes += 1
        log.warning(
            "worker of model %s %s (%d in a row), next start in %.1f s",
            crash.model,
            crash.reason,
            crash.in_a_row,
            crash.retry_in,
        )
        if self._on_crash is not None:
            self._on_crash(crash)


class _Model:
    """One model whatever happens to its workers: starts them, and starts them again."""

    def __init__(
        self,
        key: Key,
        spec: ModelSpec,
        clock: Clock,
        rng: Rng,
        timings: Timings,
        crashed: Callable[[Crash], None],
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
            worker = await Worker.spawn(load)
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


class LoadedModels:
    """The `ports.ModelSet` over workers."""

    def __init__(
        self, supervisor: Supervisor, held: Mapping[str, _Model], infos: Mapping[str, ModelInfo]
    ) -> None:
        self._supervisor = supervisor
        self._held = dict(held)
        self._infos = dict(infos)
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False
        self._released = False

    def models(self) -> Mapping[str, ModelInfo]:
        """See `ports.ModelSet.models`."""
        return dict(self._infos)

    async def generate(self, request: Generate) -> AsyncGenerator[Delta | Finished, None]:
        """See `ports.ModelSet.generate`."""
        model = self._find(request.model, "chat" if request.prompt is None else "complete")
        with self._request():
            worker = await model.up()
            frame = generate_frame(worker.next_id(), request, self._supervisor.seed)
            async with contextlib.aclosing(worker.stream(frame)) as events:
                async for event in events:
                    yield event

    async def infer(
        self, model: str, inputs: Sequence[Tensor], outputs: Sequence[str] = ()
    ) -> Sequence[Tensor]:
        """See `ports.ModelSet.infer`."""
        found = self._find(model, "infer")
        with self._request():
            worker = await found.up()
            tensors = [
                frames.TensorFrame(one.name, one.datatype, list(one.shape), memoryview(one.data))
                for one in inputs
            ]
            answer = await worker.ask(frames.Infer(worker.next_id(), tensors, list(outputs)))
        assert isinstance(answer, frames.InferResult)
        return [
            Tensor(one.name, one.datatype, tuple(one.shape), bytes(one.data))
            for one in answer.outputs
        ]

    async def embed(self, model: str, texts: Sequence[str]) -> Embeddings:
        """See `ports.ModelSet.embed`."""
        found = self._find(model, "embed")
        with self._request():
            worker = await found.up()
            answer = await worker.ask(frames.Embed(worker.next_id(), list(texts)))
        assert isinstance(answer, frames.EmbedResult)
        return Embeddings(
            tuple(tuple(array("f", vector)) for vector in answer.vectors), answer.prompt_tokens
        )

    async def close(self) -> None:
        """See `ports.ModelSet.close`."""
        self._closing = True
        await self._idle.wait()
        if not self._released:
            self._released = True
            self._supervisor.release(self, self._held)

    def _find(self, name: str, action: str) -> _Model:
        if self._closing:
            raise Unavailable("the models of this release are closed", retry_after=1.0)
        info = self._infos.get(name)
        if info is None or action not in info.actions:
            raise UnknownModel(f"no such model for action {action}")
        return self._held[name]

    @contextlib.contextmanager
    def _request(self) -> Iterator[None]:
        """Count a request in flight."""
        self._active += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._active -= 1
            if self._active == 0:
                self._idle.set()


def generate_frame(request_id: int, request: Generate, seed: Callable[[], int]) -> frames.Generate:
    """The frame of a request; a seed is drawn when the caller gave none."""
    chosen = request.sampling
    return frames.Generate(
        request_id,
        [frames.ChatMessage(one.role, one.content) for one in request.messages],
        request.prompt,
        frames.SamplingFrame(
            max_tokens=chosen.max_tokens,
            temperature=float(chosen.temperature),
            top_p=float(chosen.top_p),
            top_k=chosen.top_k,
            min_p=float(chosen.min_p),
            frequency_penalty=float(chosen.frequency_penalty),
            presence_penalty=float(chosen.presence_penalty),
            seed=seed() if chosen.seed is None else chosen.seed % (1 << 32),
            stop=list(chosen.stop),
            json_schema=chosen.json_schema,
        ),
    )


def describe(spec: ModelSpec, loaded: frames.Loaded) -> ModelInfo:
    """What a worker says of itself, under the name that this release gives the model."""
    return ModelInfo(
        name=spec.name,
        runtime=spec.runtime,
        sha256=spec.sha256,
        actions=frozenset(loaded.actions),
        context_tokens=loaded.context_tokens,
        inputs=tuple(TensorInfo(one.name, one.datatype, tuple(one.shape)) for one in loaded.inputs),
        outputs=tuple(
            TensorInfo(one.name, one.datatype, tuple(one.shape)) for one in loaded.outputs
        ),
        provider=loaded.provider,
        network=loaded.network,
    )
