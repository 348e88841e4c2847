"""The models of one release, as the decision path uses them: requests in, frames to workers."""

from __future__ import annotations

import asyncio
import contextlib
from array import array
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence

from exclave_agent.errors import Unavailable, UnknownModel
from exclave_agent.ports import (
    Delta,
    Embeddings,
    Finished,
    Generate,
    ModelInfo,
    ModelSpec,
    Tensor,
    TensorInfo,
)
from exclave_agent.runtimes import frames
from exclave_agent.runtimes.restart import KeptModel


class LoadedModels:
    """The `ports.ModelSet` over workers."""

    def __init__(
        self,
        held: Mapping[str, KeptModel],
        infos: Mapping[str, ModelInfo],
        seed: Callable[[], int],
        release: Callable[[LoadedModels], None],
    ) -> None:
        """`seed` draws one for a caller who gave none; `release` is called once, when closed."""
        self.held = dict(held)
        self._seed = seed
        self._release = release
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
            frame = generate_frame(worker.next_id(), request, self._seed)
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
            self._release(self)

    def _find(self, name: str, action: str) -> KeptModel:
        if self._closing:
            raise Unavailable("the models of this release are closed", retry_after=1.0)
        info = self._infos.get(name)
        if info is None or action not in info.actions:
            raise UnknownModel(f"no such model for action {action}")
        return self.held[name]

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
