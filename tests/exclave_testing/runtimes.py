"""A stand-in for the model workers: same port, same contract suite, no process and no model."""

from __future__ import annotations

import asyncio
import json
from array import array
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

from exclave_agent.errors import (
    BadRequest,
    ModelLoadFailed,
    Overloaded,
    TooManyTokens,
    Unavailable,
    UnknownModel,
    WorkerCrashed,
)
from exclave_agent.ports import (
    Clock,
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
from exclave_agent.runtimes.text import StopFilter

Reply = Callable[[Generate], Sequence[str]]
InferFunction = Callable[[Sequence[Tensor]], Sequence[Tensor]]

DEFAULT_INPUTS = (TensorInfo("x", "FP32", (-1, 4)),)
DEFAULT_OUTPUTS = (TensorInfo("y", "FP32", (-1, 4)), TensorInfo("total", "FP32", (-1, 1)))


def default_reply(request: Generate) -> Sequence[str]:
    """A fixed text, one word a token; `{"ok": true}` when a JSON Schema is asked for."""
    if request.sampling.json_schema is not None:
        return ("{", '"ok"', ": ", "true", "}")
    words = [
        "the",
        "quick",
        "brown",
        "fox",
        "jumps",
        "over",
        "the",
        "lazy",
        "dog",
        "and",
        "runs",
        "on",
    ]
    return tuple(f" {word}" if index else word for index, word in enumerate(words * 4))


def double_and_total(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """The default ONNX model: y = 2x, total = the sum of each row of x."""
    (x,) = inputs
    values = array("f", bytes(x.data))
    width = x.shape[1]
    rows = [values[at : at + width] for at in range(0, len(values), width)]
    return (
        Tensor("y", "FP32", x.shape, array("f", [2 * value for value in values]).tobytes()),
        Tensor("total", "FP32", (x.shape[0], 1), array("f", [sum(row) for row in rows]).tobytes()),
    )


class FakeRuntimes:
    """Loads anything but the names in `broken`.

    `latency` seconds pass before the first token (or the whole answer of infer and embed) and
    `token_latency` before each further one, on `clock` when given, so virtual time works.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        latency: float = 0.0,
        token_latency: float = 0.0,
        reply: Reply = default_reply,
        infer: InferFunction = double_and_total,
        inputs: tuple[TensorInfo, ...] = DEFAULT_INPUTS,
        outputs: tuple[TensorInfo, ...] = DEFAULT_OUTPUTS,
        broken: Iterable[str] = (),
    ) -> None:
        self.clock = clock
        self.latency = latency
        self.token_latency = token_latency
        self.reply = reply
        self.infer = infer
        self.inputs = inputs
        self.outputs = outputs
        self.broken = set(broken)
        self.loaded: list[FakeModelSet] = []

    async def load(self, specs: Sequence[ModelSpec]) -> FakeModelSet:
        """See `ports.Runtimes.load`."""
        for spec in specs:
            if spec.name in self.broken:
                raise ModelLoadFailed(f"model {spec.name}: the engine refused the file")
        models = FakeModelSet(self, specs)
        self.loaded.append(models)
        return models

    async def pause(self, seconds: float) -> None:
        """Let `seconds` pass on the fake's clock."""
        if self.clock is None:
            await asyncio.sleep(seconds)
        else:
            await self.clock.sleep(seconds)


class _FakeModel:
    """One model: its slots, its waiting room, and the requests it holds."""

    def __init__(self, spec: ModelSpec, info: ModelInfo) -> None:
        self.info = info
        self.parallel = int(spec.parameters.get("n_parallel", 8))
        self.waiting_room = int(spec.parameters.get("max_queue", 64))
        self.slots = asyncio.Semaphore(self.parallel)
        self.held = 0
        self.crashes = 0


class FakeModelSet:
    """See `ports.ModelSet`. `closed` and `requests` are there for tests to look at."""

    def __init__(self, runtimes: FakeRuntimes, specs: Sequence[ModelSpec]) -> None:
        self._runtimes = runtimes
        self._models = {spec.name: _FakeModel(spec, self._describe(spec)) for spec in specs}
        self._idle = asyncio.Event()
        self._idle.set()
        self._active = 0
        self.closed = False
        self.requests: list[Generate] = []

    def _describe(self, spec: ModelSpec) -> ModelInfo:
        if spec.runtime == "onnx":
            return ModelInfo(
                name=spec.name,
                runtime="onnx",
                sha256=spec.sha256,
                actions=frozenset({"infer"}),
                inputs=self._runtimes.inputs,
                outputs=self._runtimes.outputs,
                provider="cpu",
                network="none",
            )
        actions = {"chat", "complete"}
        if spec.parameters.get("embeddings"):
            actions |= {"embed", "rerank"}
        return ModelInfo(
            name=spec.name,
            runtime=spec.runtime,
            sha256=spec.sha256,
            actions=frozenset(actions),
            context_tokens=int(spec.parameters.get("n_ctx", 2048)),
            provider="cpu",
            network="none",
        )

    def crash(self, name: str) -> None:
        """Kill the model's pretended worker: what it holds fails, the next request works."""
        self._models[name].crashes += 1

    def models(self) -> Mapping[str, ModelInfo]:
        """See `ports.ModelSet.models`."""
        return {name: model.info for name, model in self._models.items()}

    async def generate(self, request: Generate) -> AsyncIterator[Delta | Finished]:
        """See `ports.ModelSet.generate`."""
        model = self._model(request.model, "complete" if request.prompt is not None else "chat")
        prompt_tokens = self._admit(request, model)
        self.requests.append(request)
        pieces = tuple(self._runtimes.reply(request))
        used, reason = 0, "stop"
        text = StopFilter(request.sampling.stop)
        async with _Held(self, model) as held:
            for index, piece in enumerate(pieces):
                if index == request.sampling.max_tokens:
                    reason = "length"
                    break
                await self._runtimes.pause(
                    self._runtimes.token_latency if index else self._runtimes.latency
                )
                held.check()
                used += 1
                if out := text.feed(piece.encode()):
                    yield Delta(out)
                if text.stopped:
                    break
            if rest := text.finish():
                yield Delta(rest)
            yield Finished(reason, prompt_tokens, used)

    def _admit(self, request: Generate, model: _FakeModel) -> int:
        """Refuse what the real scheduler refuses before prefill; returns the prompt's tokens."""
        schema = request.sampling.json_schema
        if schema is not None:
            try:
                valid = isinstance(json.loads(schema), dict)
            except ValueError:
                valid = False
            if not valid:
                raise BadRequest("json_schema: not a JSON Schema object", param="response_format")
        texts = [message.content for message in request.messages] or [request.prompt or ""]
        prompt_tokens = sum(len(text.split()) + 1 for text in texts)
        if prompt_tokens + request.sampling.max_tokens > model.info.context_tokens:
            raise TooManyTokens(
                f"prompt has {prompt_tokens} tokens and max_tokens is "
                f"{request.sampling.max_tokens}, together more than the context of "
                f"{model.info.context_tokens}"
            )
        return prompt_tokens

    async def infer(
        self, model: str, inputs: Sequence[Tensor], outputs: Sequence[str] = ()
    ) -> Sequence[Tensor]:
        """See `ports.ModelSet.infer`."""
        held_by = self._model(model, "infer")
        self._check_tensors(held_by.info, inputs, outputs)
        async with _Held(self, held_by) as held:
            await self._runtimes.pause(self._runtimes.latency)
            held.check()
            answer = {tensor.name: tensor for tensor in self._runtimes.infer(inputs)}
        return [answer[name] for name in outputs] if outputs else list(answer.values())

    def _check_tensors(
        self, info: ModelInfo, inputs: Sequence[Tensor], outputs: Sequence[str]
    ) -> None:
        given = {tensor.name: tensor for tensor in inputs}
        for expected in info.inputs:
            tensor = given.pop(expected.name, None)
            if tensor is None:
                raise BadRequest(f"inputs: {expected.name} is missing", param="inputs")
            if tensor.datatype != expected.datatype:
                raise BadRequest(
                    f"inputs.{tensor.name}: datatype {tensor.datatype}, not {expected.datatype}",
                    param=f"inputs.{tensor.name}",
                )
            fits = len(tensor.shape) == len(expected.shape) and all(
                want in (-1, size) for want, size in zip(expected.shape, tensor.shape, strict=True)
            )
            if not fits:
                raise BadRequest(
                    f"inputs.{tensor.name}: shape {list(tensor.shape)} does not fit "
                    f"{list(expected.shape)}",
                    param=f"inputs.{tensor.name}",
                )
        if given:
            raise BadRequest(f"inputs: unknown {sorted(given)[0]}", param="inputs")
        known = {tensor.name for tensor in info.outputs}
        for name in outputs:
            if name not in known:
                raise BadRequest("outputs: unknown name", param="outputs")

    async def embed(self, model: str, texts: Sequence[str]) -> Embeddings:
        """See `ports.ModelSet.embed`: four numbers made of each text's length."""
        held_by = self._model(model, "embed")
        async with _Held(self, held_by) as held:
            await self._runtimes.pause(self._runtimes.latency)
            held.check()
        vectors = tuple(tuple(1.0 / (len(text) + 1 + at) for at in range(4)) for text in texts)
        return Embeddings(vectors, sum(len(text.split()) + 1 for text in texts))

    async def rerank(self, model: str, query: str, documents: Sequence[str]) -> Scores:
        """See `ports.ModelSet.rerank`: how many of the query's words a document has."""
        held_by = self._model(model, "rerank")
        async with _Held(self, held_by) as held:
            await self._runtimes.pause(self._runtimes.latency)
            held.check()
        wanted = set(query.lower().split())
        scores = tuple(float(len(wanted & set(one.lower().split()))) for one in documents)
        return Scores(scores, sum(len(f"{query} {one}".split()) for one in documents))

    async def close(self) -> None:
        """See `ports.ModelSet.close`."""
        self.closed = True
        await self._idle.wait()

    def _model(self, name: str, action: str) -> _FakeModel:
        if self.closed:
            raise Unavailable("the models of this release are closed")
        model = self._models.get(name)
        if model is None or action not in model.info.actions:
            raise UnknownModel(f"no model {name} for {action}")
        return model


class _Held:
    """A request inside a model: admission, its slot, and whether the worker died meanwhile."""

    def __init__(self, models: FakeModelSet, model: _FakeModel) -> None:
        self._models = models
        self._model = model
        self._born = 0

    async def __aenter__(self) -> _Held:
        model = self._model
        if model.held >= model.parallel + model.waiting_room:
            raise Overloaded("the model's queue is full", retry_after=1.0)
        model.held += 1
        self._models._active += 1
        self._models._idle.clear()
        try:
            await model.slots.acquire()
        except BaseException:
            self._leave()
            raise
        self._born = model.crashes
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._model.slots.release()
        self._leave()

    def check(self) -> None:
        """Raises: WorkerCrashed when `crash` was called since the request began."""
        if self._model.crashes != self._born:
            raise WorkerCrashed("the model's worker died during this request", retry_after=1.0)

    def _leave(self) -> None:
        self._model.held -= 1
        self._models._active -= 1
        if self._models._active == 0:
            self._models._idle.set()
