"""Models that do what a test says, attempt by attempt: answer, fail, stall."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, TypeAlias

from exclave_agent.ports import (
    Delta,
    Embeddings,
    Finished,
    Generate,
    ModelInfo,
    Scores,
    Tensor,
)

Step: TypeAlias = str | Delta | Finished | BaseException | asyncio.Event
"""A word; more; the end; a failure; wait for it."""

ALL = frozenset({"chat", "complete", "embed", "rerank", "infer"})


def model(name: str, digest: str = "", **fields: Any) -> ModelInfo:
    """A model that serves everything, unless told otherwise."""
    digest = digest or format(sum(name.encode()) % 16, "x")
    known: dict[str, Any] = {"runtime": "llama", "actions": ALL, "context_tokens": 4096}
    return ModelInfo(name=name, sha256=digest * 64, **(known | fields))


class ScriptedModels:
    """A ModelSet. `scripts[name]` holds what its next requests meet; without one it says its own
    name. `asked`: every request in order; `open`: how many of a model's answers are unfinished."""

    def __init__(self, *infos: ModelInfo) -> None:
        self._infos = {info.name: info for info in infos}
        self.scripts: dict[str, deque[Sequence[Step]]] = {info.name: deque() for info in infos}
        self.asked: list[str] = []
        self.requests: list[Generate] = []
        self.open: Counter[str] = Counter()

    def script(self, name: str, *steps: Step, times: int = 1) -> None:
        """What the next `times` requests to a model meet, after those scripted before."""
        self.scripts[name].extend([steps] * times)

    def models(self) -> Mapping[str, ModelInfo]:
        """See `ports.ModelSet.models`."""
        return self._infos

    async def generate(self, request: Generate) -> AsyncIterator[Delta | Finished]:
        """See `ports.ModelSet.generate`."""
        name = request.model
        self.asked.append(name)
        self.requests.append(request)
        waiting = self.scripts[name]
        steps = waiting.popleft() if waiting else (name,)
        said = 0
        self.open[name] += 1
        try:
            for step in steps:
                await asyncio.sleep(0)
                if isinstance(step, BaseException):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, Finished):
                    yield step
                    return
                else:
                    said += 1
                    yield Delta(step) if isinstance(step, str) else step
            yield Finished("stop", 7, said)
        finally:
            self.open[name] -= 1

    async def _at_once(self, name: str) -> None:
        self.asked.append(name)
        waiting = self.scripts[name]
        for step in waiting.popleft() if waiting else ():
            await asyncio.sleep(0)
            if isinstance(step, BaseException):
                raise step
            if isinstance(step, asyncio.Event):
                await step.wait()

    async def infer(
        self, model: str, inputs: Sequence[Tensor], outputs: Sequence[str] = ()
    ) -> Sequence[Tensor]:
        """See `ports.ModelSet.infer`."""
        await self._at_once(model)
        return [Tensor("y", "UINT8", (1,), b"\x01")]

    async def embed(self, model: str, texts: Sequence[str]) -> Embeddings:
        """See `ports.ModelSet.embed`."""
        await self._at_once(model)
        return Embeddings(tuple((1.0,) for _ in texts), len(texts))

    async def rerank(self, model: str, query: str, documents: Sequence[str]) -> Scores:
        """See `ports.ModelSet.rerank`: by their length."""
        await self._at_once(model)
        return Scores(tuple(float(len(each)) for each in documents), len(documents))

    async def close(self) -> None:
        """See `ports.ModelSet.close`."""
