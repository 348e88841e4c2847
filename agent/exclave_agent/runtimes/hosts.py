"""A host serves one loaded model inside a worker: what the worker's two threads talk to."""

from __future__ import annotations

from typing import Protocol

from exclave_agent.runtimes import frames
from exclave_agent.runtimes.cpus import physical_cores
from exclave_agent.runtimes.engine import Emit, LoadError, Refused, Request
from exclave_agent.runtimes.parameters import LlamaParameters, OnnxParameters, read_parameters
from exclave_agent.runtimes.scheduler import Scheduler


class Host(Protocol):
    """One model, loaded."""

    actions: list[str]
    context_tokens: int
    inputs: list[frames.SignatureFrame]
    outputs: list[frames.SignatureFrame]
    provider: str

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

        self._engine = LlamaEngine(load.path, parameters, parameters.threads or physical_cores())
        self._scheduler = Scheduler(self._engine, emit, max_queue=parameters.max_queue)
        self.actions = self._offered()
        self.context_tokens = self._engine.context_tokens
        self.inputs: list[frames.SignatureFrame] = []
        self.outputs: list[frames.SignatureFrame] = []
        self.provider = "cuda" if self._engine.gpu else "cpu"

    def _offered(self) -> list[str]:
        engine = self._engine
        offered = ["complete"] if engine.generates else []
        if engine.template is not None:
            offered.append("chat")
        if engine.embeds:
            offered.append("embed")
        return offered

    def submit(self, request: Request) -> None:
        """See `Host`."""
        if isinstance(request, frames.Generate) and self._engine.generates:
            self._scheduler.submit(self._engine.prepare(request))
        elif isinstance(request, frames.Embed) and self._engine.embeds:
            self._scheduler.submit_embed(self._engine.prepare_embed(request))
        else:
            raise Refused("model_not_found", "the model does not offer this action")

    def cancel(self, request: int) -> None:
        """See `Host`."""
        self._scheduler.cancel(request)

    def run(self) -> None:
        """See `Host`."""
        self._scheduler.run()

    def progress(self) -> tuple[int, int]:
        """See `Host`."""
        return self._scheduler.steps, self._scheduler.active
