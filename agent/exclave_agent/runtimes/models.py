"""The models of one release, as the decision path uses them: requests in, frames to workers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from exclave_agent.errors import Unavailable, UnknownModel
from exclave_agent.ports import (
    Delta,
    Embeddings,
    Finished,
    Generate,
    ModelInfo,
    ModelSpec,
    Scores,
    Tensor,
    TensorInfo,
)
from exclave_agent.runtimes import believed, frames
from exclave_agent.runtimes.attempts import Attempts
from exclave_agent.runtimes.kept import KeptModel
from exclave_agent.runtimes.placement import Served
from exclave_agent.runtimes.requests import generate_frame


class RemoteModel(Protocol):
    """A model that another machine serves."""

    @property
    def info(self) -> ModelInfo:
        """As it stands now: a key may be missing, and come."""
        ...

    def generate(self, request: Generate) -> AsyncGenerator[Delta | Finished, None]:
        """See `ports.ModelSet.generate`."""
        ...

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        """See `ports.ModelSet.embed`."""
        ...

    async def close(self) -> None:
        """Let go of its connections."""
        ...


class RemoteRuntime(Protocol):
    """Opens remote models."""

    def open(self, spec: ModelSpec) -> RemoteModel:
        """Raises: ModelLoadFailed."""
        ...

    async def close(self) -> None:
        """Let go of everything."""
        ...


@dataclass(frozen=True, slots=True)
class Local:
    """A name of the release and the worker that answers to it."""

    served: Served
    kept: KeptModel
    info: ModelInfo


class LoadedModels:
    """The `ports.ModelSet` over workers and remote endpoints."""

    def __init__(
        self,
        local: Mapping[str, Local],
        remote: Mapping[str, RemoteModel],
        attempts: Attempts,
        seed: Callable[[], int],
        release: Callable[[LoadedModels], None],
    ) -> None:
        """`seed` draws one for a caller who gave none; `release` is called once, when closed."""
        self.local = dict(local)
        self.remote = dict(remote)
        self._attempts = attempts
        self._seed = seed
        self._release = release
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False
        self._released = False

    def models(self) -> Mapping[str, ModelInfo]:
        """See `ports.ModelSet.models`."""
        infos = {name: one.info for name, one in self.local.items()}
        return infos | {name: one.info for name, one in self.remote.items()}

    async def generate(self, request: Generate) -> AsyncGenerator[Delta | Finished, None]:
        """See `ports.ModelSet.generate`."""
        model = self._find(request.model, "chat" if request.prompt is None else "complete")
        with self._request():
            async with contextlib.aclosing(self._events(model, request)) as events:
                async for event in events:
                    yield event

    def _events(
        self, model: Local | RemoteModel, request: Generate
    ) -> AsyncGenerator[Delta | Finished, None]:
        if not isinstance(model, Local):
            return model.generate(request)
        frame = generate_frame(0, request, self._seed, adapter=model.served.adapter)
        return self._attempts.stream(model.kept, frame, request.timeout)

    async def infer(
        self, model: str, inputs: Sequence[Tensor], outputs: Sequence[str] = ()
    ) -> Sequence[Tensor]:
        """See `ports.ModelSet.infer`."""
        found = self._local(model, "infer")
        with self._request():
            tensors = [
                frames.TensorFrame(one.name, one.datatype, list(one.shape), memoryview(one.data))
                for one in inputs
            ]
            answer = await self._attempts.ask(found.kept, frames.Infer(0, tensors, list(outputs)))
        return believed.tensors(answer)

    async def embed(self, model: str, texts: Sequence[str]) -> Embeddings:
        """See `ports.ModelSet.embed`."""
        found = self._find(model, "embed")
        with self._request():
            if not isinstance(found, Local):
                return await found.embed(texts)
            answer = await self._attempts.ask(found.kept, frames.Embed(0, list(texts)))
        return believed.embeddings(answer, texts)

    async def rerank(self, model: str, query: str, documents: Sequence[str]) -> Scores:
        """See `ports.ModelSet.rerank`."""
        found = self._local(model, "rerank")
        with self._request():
            answer = await self._attempts.ask(found.kept, frames.Rerank(0, query, list(documents)))
        return believed.scores(answer, query, documents)

    async def close(self) -> None:
        """See `ports.ModelSet.close`."""
        self._closing = True
        await self._idle.wait()
        if not self._released:
            self._released = True
            self._release(self)
            for model in self.remote.values():
                await model.close()

    def _find(self, name: str, action: str) -> Local | RemoteModel:
        if self._closing:
            raise Unavailable("the models of this release are closed", retry_after=1.0)
        model = self.local.get(name) or self.remote.get(name)
        if model is None or action not in model.info.actions:
            raise UnknownModel(f"no such model for action {action}")
        return model

    def _local(self, name: str, action: str) -> Local:
        model = self._find(name, action)
        if not isinstance(model, Local):
            raise UnknownModel(f"no remote model does {action}")
        return model

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


def describe(served: Served, loaded: frames.Loaded) -> ModelInfo:
    """What a worker says of itself, under the name that this release gives the model."""
    actions = frozenset(loaded.actions)
    return ModelInfo(
        name=served.spec.name,
        runtime=served.spec.runtime,
        sha256=served.spec.sha256,
        # Adapters change what is generated; vectors and scores are the base's to give.
        actions=actions & {"chat", "complete"} if served.adapter else actions,
        context_tokens=loaded.context_tokens,
        inputs=tuple(TensorInfo(one.name, one.datatype, tuple(one.shape)) for one in loaded.inputs),
        outputs=tuple(
            TensorInfo(one.name, one.datatype, tuple(one.shape)) for one in loaded.outputs
        ),
        provider=loaded.provider,
        network=loaded.network,
        degraded=loaded.degraded,
        base=served.base,
        price=served.price,
    )
