"""Loads models in worker processes, shares the workers between releases, ends them in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType

from exclave_agent.errors import ModelLoadFailed
from exclave_agent.ports import Clock, MemoryPlan, ModelSpec, Rng
from exclave_agent.runtimes.attempts import Attempts
from exclave_agent.runtimes.births import Birth, child
from exclave_agent.runtimes.kept import KeptModel
from exclave_agent.runtimes.means import Means
from exclave_agent.runtimes.memory_keeper import Keeper, MemorySettings
from exclave_agent.runtimes.memory_machine import LinuxMachine, Machine
from exclave_agent.runtimes.memory_plan import memory_plan
from exclave_agent.runtimes.models import LoadedModels, Local, RemoteModel, RemoteRuntime, describe
from exclave_agent.runtimes.placement import Key, Wanted, arrange
from exclave_agent.runtimes.quarantine import Culprit, Quarantine
from exclave_agent.runtimes.restart import Crash, Timings

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
        on_quarantine: Callable[[Culprit], Awaitable[None]] | None = None,
        birth: Birth = child,
        memory: MemorySettings | None = None,
        machine: Machine | None = None,
        remote: RemoteRuntime | None = None,
    ) -> None:
        """`birth` starts workers: as children of this process, unless told otherwise.

        `on_quarantine` runs in a task of this supervisor's and MUST NOT raise.
        """
        self._timings = timings or Timings()
        self._rng = rng
        self._on_crash = on_crash
        self._on_quarantine = on_quarantine
        self._remote = remote
        self._keeper = Keeper(
            memory or MemorySettings(), machine or LinuxMachine(in_our_cgroup=birth is child)
        )
        quarantine = Quarantine(rng.token(32), clock)
        self._means = Means(
            clock,
            rng,
            self._timings,
            self._crashed,
            birth,
            self._keeper,
            quarantine,
            self._caught,
        )
        self._attempts = Attempts(quarantine, clock, self._call_id)
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
        """See `ports.Runtimes.load`. Every model is loaded once, to prove that it can be; those
        that do not fit together one after another, those to be kept warm last."""
        wanted, remote_specs = arrange(specs)
        held: list[tuple[Wanted, KeptModel]] = []
        local: dict[str, Local] = {}
        remote: dict[str, RemoteModel] = {}
        try:
            for spec in remote_specs:
                remote[spec.name] = self._open(spec)
            for warm in (False, True):
                now = [(one, self._hold(one)) for one in wanted if one.keep_warm is warm]
                held += now
                for one, model in now:
                    loaded = await model.ready(one.spec.name)
                    for served in one.names:
                        info = describe(served, loaded)
                        local[served.spec.name] = Local(served, model, info)
        except BaseException:
            for one, model in held:
                self._let_go(model, warm=one.keep_warm)
            for opened in remote.values():
                await opened.close()
            raise
        models = LoadedModels(
            {spec.name: local[spec.name] for spec in specs if spec.name in local},
            remote,
            self._attempts,
            self._seed,
            lambda closed: self._release(closed, held),
        )
        self._sets.append(models)
        return models

    def plan(self) -> MemoryPlan:
        """What the models may take of memory, and take."""
        return memory_plan(self._keeper, self._sets)

    def workers(self) -> Mapping[str, int]:
        """Process ids of the workers that are up and our children, by their model's digest."""
        return {
            model.spec.sha256: model.worker.pid
            for model in self._models.values()
            if model.worker is not None and model.worker.pid is not None
        }

    def _seed(self) -> int:
        return int.from_bytes(self._rng.token(4), "big")

    def _call_id(self) -> str:
        """The name of a tool call, as OpenAI's look."""
        return f"call_{self._rng.token(12).hex()}"

    def _open(self, spec: ModelSpec) -> RemoteModel:
        if self._remote is None:
            raise ModelLoadFailed(f"model {spec.name}: this agent has no remote runtime")
        return self._remote.open(spec)

    def _release(self, models: LoadedModels, held: Sequence[tuple[Wanted, KeptModel]]) -> None:
        """A set is closed: workers that no other set holds go."""
        self._sets.remove(models)
        for wanted, model in held:
            self._let_go(model, warm=wanted.keep_warm)

    def _hold(self, wanted: Wanted) -> KeptModel:
        model = self._models.get(wanted.key)
        if model is None or model.stopping:
            model = KeptModel(wanted, self._means)
            self._models[wanted.key] = model
            self._group.create_task(model.run(self._group), name=f"model {wanted.spec.name}")
        model.holders += 1
        model.warm_holders += wanted.keep_warm
        return model

    def _let_go(self, model: KeptModel, *, warm: bool) -> None:
        model.holders -= 1
        model.warm_holders -= warm
        if model.holders == 0:
            model.stop()
            if self._models.get(model.key) is model:
                del self._models[model.key]

    def _caught(self, culprit: Culprit) -> None:
        log.warning("a request killed the worker of model %s twice: quarantined", culprit.model)
        if self._on_quarantine is not None:
            self._group.create_task(_told(self._on_quarantine(culprit)), name="quarantine")

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


async def _told(telling: Awaitable[None]) -> None:
    """As a coroutine, which a task needs."""
    await telling
