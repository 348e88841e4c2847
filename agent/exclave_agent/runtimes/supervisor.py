"""Loads models in worker processes, shares the workers between releases, ends them in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from exclave_agent.errors import ModelLoadFailed
from exclave_agent.ports import Clock, ModelInfo, ModelSpec, Rng
from exclave_agent.runtimes.births import Birth, child
from exclave_agent.runtimes.models import LoadedModels, describe
from exclave_agent.runtimes.restart import Crash, KeptModel, Key, Timings

log = logging.getLogger(__name__)


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
        birth: Birth = child,
    ) -> None:
        """`birth` starts workers: as children of this process, unless told otherwise."""
        self._clock = clock
        self._rng = rng
        self._timings = timings or Timings()
        self._on_crash = on_crash
        self._birth = birth
        self._models: dict[Key, KeptModel] = {}
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
        held: dict[str, KeptModel] = {}
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
        models = LoadedModels(held, infos, self._seed, self._release)
        self._sets.append(models)
        return models

    def workers(self) -> Mapping[str, int]:
        """Process ids of the workers that are up and our children, by their model's digest."""
        return {
            model.spec.sha256: model.worker.pid
            for model in self._models.values()
            if model.worker is not None and model.worker.pid is not None
        }

    def _seed(self) -> int:
        return int.from_bytes(self._rng.token(4), "big")

    def _release(self, models: LoadedModels) -> None:
        """A set is closed: workers that no other set holds go."""
        self._sets.remove(models)
        for model in models.held.values():
            self._let_go(model)

    def _hold(self, spec: ModelSpec) -> KeptModel:
        key = (spec.runtime, spec.sha256, tuple(sorted(spec.parameters.items())))
        model = self._models.get(key)
        if model is None or model.over:
            model = KeptModel(
                key, spec, self._clock, self._rng, self._timings, self._crashed, self._birth
            )
            self._models[key] = model
            self._group.create_task(model.run(self._group), name=f"model {spec.name}")
        model.holders += 1
        return model

    def _let_go(self, model: KeptModel) -> None:
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
