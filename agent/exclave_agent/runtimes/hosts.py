"""A host serves one loaded model inside a worker: what the worker's two threads talk to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from exclave_agent.runtimes import frames
from exclave_agent.runtimes.cpus import physical_cores
from exclave_agent.runtimes.engine import Emit, LoadError, Refused, Request
from exclave_agent.runtimes.intake import Intake, slow
from exclave_agent.runtimes.parameters import LlamaParameters, OnnxParameters, read_parameters
from exclave_agent.runtimes.scheduler import Limits, Scheduler

if TYPE_CHECKING:
    from exclave_agent.runtimes.llama import LlamaEngine

NO_GPU = "the release asks for a GPU and this machine or build has none"
DEFAULT_STORE = 256 << 20
"""Most bytes of a store of states whose size the manifest does not give."""


class Host(Protocol):
    """One model, loaded."""

    actions: list[str]
    context_tokens: int
    inputs: list[frames.SignatureFrame]
    outputs: list[frames.SignatureFrame]
    provider: str
    ram_bytes: int
    """What it took of main memory, and what it may yet take by its parameters."""
    vram_bytes: int
    degraded: str
    """Why it runs worse than its parameters ask for; "": it does not."""

    def submit(self, request: Request) -> None:
        """Take a request; called by the reader's thread. Raises: Refused."""
        ...

    def cancel(self, request: int) -> None:
        """Forget a request; called by the reader's thread."""
        ...

    def run(self) -> None:
        """Serve until the process ends; called by the main thread."""
        ...

    def progress(self) -> tuple[int, int]:
        """(engine steps so far, requests held)."""
        ...

    def stats(self) -> frames.StatsFrame:
        """Counters since the start, and what is held now; called by the reader's thread."""
        ...


def open_host(load: frames.Load, emit: Emit) -> Host:
    """Load the model. The engine is imported here, after the environment is set.

    Raises: LoadError, ValueError (a parameter).
    """
    if load.runtime == "llama":
        return LlamaHost(load, emit)
    if load.runtime == "onnx":
        from exclave_agent.runtimes.onnx import OnnxHost

        parameters = read_parameters(OnnxParameters, load.parameters)
        return OnnxHost(load.path, parameters, parameters.threads or physical_cores(), emit)
    raise LoadError(f"runtime: {load.runtime!r} is neither llama nor onnx")


class LlamaHost:
    """A GGUF model behind the scheduler."""

    def __init__(self, load: frames.Load, emit: Emit) -> None:
        """Raises: LoadError, ValueError."""
        parameters = read_parameters(LlamaParameters, load.parameters)
        from exclave_agent.runtimes.llama import LlamaEngine

        threads = parameters.threads or physical_cores()
        self._engine = engine = LlamaEngine(load.path, parameters, threads, load.adapters)
        limits = Limits(
            max_queue=parameters.max_queue,
            prefix_bytes=_budget(parameters.prefix_mib, engine) if engine.reuses else 0,
            prefix_seconds=parameters.prefix_seconds,
            park_bytes=_budget(parameters.park_mib, engine),
            # A guess that was wrong is cut off.
            draft_tokens=parameters.draft_tokens if engine.cuts else 0,
            batch_share=parameters.batch_share / 100,
        )
        self._scheduler = Scheduler(engine, emit, limits)
        self._intake = Intake(engine.prepare, self._scheduler.submit, emit, limits.max_queue)
        self.actions = self._offered()
        self.context_tokens = self._engine.context_tokens
        self.inputs: list[frames.SignatureFrame] = []
        self.outputs: list[frames.SignatureFrame] = []
        self.provider = "cuda" if engine.gpu else "cpu"
        self.ram_bytes = engine.ram_bytes + limits.prefix_bytes + limits.park_bytes
        self.vram_bytes = engine.vram_bytes
        self.degraded = NO_GPU if parameters.expect_gpu and not engine.gpu else ""

    def _offered(self) -> list[str]:
        engine = self._engine
        offered = ["complete"] if engine.generates else []
        if engine.template is not None:
            offered.append("chat")
        if engine.embeds:
            # A model that ranks gives scores, no vectors; by vectors any other can compare.
            offered += ["rerank"] if engine.ranks else ["embed", "rerank"]
        return offered

    def submit(self, request: Request) -> None:
        """See `Host`."""
        if isinstance(request, frames.Generate) and self._engine.generates:
            if slow(request):
                self._intake.put(request)
            else:
                self._scheduler.submit(self._engine.prepare(request))
        elif isinstance(request, frames.Embed) and self._engine.embeds:
            self._scheduler.submit_embed(self._engine.prepare_embed(request))
        elif isinstance(request, frames.Rerank) and self._engine.embeds:
            self._scheduler.submit_embed(self._engine.prepare_rerank(request))
        else:
            raise Refused("model_not_found", "the model does not offer this action")

    def cancel(self, request: int) -> None:
        """See `Host`."""
        self._intake.cancel(request)
        self._scheduler.cancel(request)

    def run(self) -> None:
        """See `Host`."""
        self._scheduler.run()

    def progress(self) -> tuple[int, int]:
        """See `Host`."""
        return self._scheduler.steps, self._scheduler.active

    def stats(self) -> frames.StatsFrame:
        """See `Host`."""
        stats = self._scheduler.stats()
        return msgspec.structs.replace(stats, waiting=stats.waiting + len(self._intake))


def _budget(mib: int, engine: LlamaEngine) -> int:
    """Bytes of a store of states: as given, or by default as much as the slots themselves."""
    return mib << 20 if mib >= 0 else min(DEFAULT_STORE, engine.cache_bytes)
