"""OpenAI's API: models, chat completions, completions and embeddings, plain and streamed."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from exclave_agent.decide.bodies import float32
from exclave_agent.decide.calls import Answered, EmbedCall, GenerateCall
from exclave_agent.decide.pipeline import Pipeline
from exclave_agent.errors import UnknownModel
from exclave_agent.ports import Caller, Clock, Delta, Releases

from . import openai_requests as requests
from .errors import ClientGone, tell
from .exchange import Exchange, encode_json
from .parse import label

_EVENTS = b"text/event-stream; charset=utf-8"
_NO_CACHE = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))
DATA_CLASS = b"x-exclave-data-class"


@dataclass(frozen=True, slots=True)
class Shape:
    """How one endpoint words its answers."""

    id_prefix: str
    whole: str
    """`object` of a plain answer."""
    piece: str
    """`object` of a streamed part."""
    message: Callable[[str], dict[str, Any]]
    """The choice of a plain answer, without index, logprobs and finish_reason."""
    delta: Callable[[str], dict[str, Any]]
    """The same of a streamed part."""
    first: dict[str, Any] | None
    """What a stream's first part says before any text."""
    last: dict[str, Any]
    """What a stream's last part says beside its finish_reason."""


CHAT = Shape(
    "chatcmpl-",
    "chat.completion",
    "chat.completion.chunk",
    lambda text: {"message": {"role": "assistant", "content": text, "refusal": None}},
    lambda text: {"delta": {"content": text}},
    {"delta": {"role": "assistant", "content": "", "refusal": None}},
    {"delta": {}},
)
COMPLETION = Shape(
    "cmpl-",
    "text_completion",
    "text_completion",
    lambda text: {"text": text},
    lambda text: {"text": text},
    None,
    {"text": ""},
)


class OpenAI:
    """The handlers. Each raises errors of the tree before its response has begun."""

    def __init__(self, pipeline: Pipeline, releases: Releases, clock: Clock) -> None:
        self._pipeline = pipeline
        self._releases = releases
        self._clock = clock
        self._created = self._now()

    async def models(self, exchange: Exchange) -> None:
        """GET /v1/models."""
        with self._releases.lease() as release:
            names = list(release.models.models())
        data = [self._model(name) for name in names]
        await exchange.respond_json(200, {"object": "list", "data": data})

    async def model(self, exchange: Exchange) -> None:
        """GET /v1/models/{model}."""
        name = exchange.path_params["model"]
        with self._releases.lease() as release:
            known = name in release.models.models()
        if not known:
            raise UnknownModel("the active release has no model of that name: see GET /v1/models")
        await exchange.respond_json(200, self._model(name))

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": "exclave"}

    async def chat(self, exchange: Exchange) -> None:
        """POST /v1/chat/completions."""
        call, options = requests.chat(*await self._begin(exchange))
        exchange.decided = True
        await exchange.while_connected(self._generate(exchange, CHAT, call, options))

    async def completion(self, exchange: Exchange) -> None:
        """POST /v1/completions."""
        call, options = requests.completion(*await self._begin(exchange))
        exchange.decided = True
        await exchange.while_connected(self._generate(exchange, COMPLETION, call, options))

    async def embeddings(self, exchange: Exchange) -> None:
        """POST /v1/embeddings."""
        call, form = requests.embedding(*await self._begin(exchange))
        exchange.decided = True
        await exchange.while_connected(self._embed(exchange, call, form))

    async def _begin(self, exchange: Exchange) -> tuple[bytes, str, Caller, str]:
        """What every parser needs: body, decision id, caller, data class of the header."""
        assert exchange.caller is not None, "the route requires a key"
        data_class = label(
            exchange.headers.get(DATA_CLASS, b"").decode("latin-1"), DATA_CLASS.decode()
        )
        return await exchange.body(), exchange.request_id, exchange.caller, data_class

    async def _generate(
        self,
        exchange: Exchange,
        shape: Shape,
        call: GenerateCall,
        options: requests.StreamOptions,
    ) -> None:
        async with aclosing(self._pipeline.stream(call)) as events:
            if call.stream:
                await self._stream(exchange, shape, call, options, events)
            else:
                await self._whole(exchange, shape, call, events)

    async def _whole(
        self,
        exchange: Exchange,
        shape: Shape,
        call: GenerateCall,
        events: AsyncGenerator[Delta | Answered, None],
    ) -> None:
        text, end = "", None
        async for event in events:
            if isinstance(event, Delta):
                text += event.text
            else:
                end = event
        assert end is not None, "the pipeline ends with Answered or raises"
        choice = {"index": 0, **shape.message(text), "logprobs": None, "finish_reason": end.finish}
        await exchange.respond_json(
            200,
            {
                "id": shape.id_prefix + call.decision,
                "object": shape.whole,
                "created": self._now(),
                "model": call.model,
                "system_fingerprint": fingerprint(end),
                "choices": [choice],
                "usage": usage(end),
            },
        )

    async def _stream(
        self,
        exchange: Exchange,
        shape: Shape,
        call: GenerateCall,
        options: requests.StreamOptions,
        events: AsyncGenerator[Delta | Answered, None],
    ) -> None:
        """Server-sent events. The status is 200 once there is text; an error after that is an
        event of its own, and no finish and no [DONE] follow it."""
        head = {
            "id": shape.id_prefix + call.decision,
            "object": shape.piece,
            "created": self._now(),
            "model": call.model,
        }
        if options.include_usage:
            head["usage"] = None
        chunk = _chunks(head)
        event = await anext(events)  # may raise: the status is still ours to choose
        await exchange.begin(_EVENTS, _NO_CACHE)
        if shape.first is not None:
            await exchange.piece(chunk(shape.first, None))
        try:
            while isinstance(event, Delta):
                await exchange.piece(chunk(shape.delta(event.text), None))
                event = await anext(events)
        except ClientGone:
            raise
        except Exception as error:  # noqa: BLE001  # told in the stream, by the one table
            told = tell(error, exchange.request_id)
            await exchange.end(b"data: " + encode_json(told.openai()) + b"\n\n")
            return
        tail = chunk(shape.last, event.finish)
        if options.include_usage:
            tail += (
                b"data: " + encode_json({**head, "choices": [], "usage": usage(event)}) + b"\n\n"
            )
        await exchange.end(tail + b"data: [DONE]\n\n")

    async def _embed(self, exchange: Exchange, call: EmbedCall, form: str) -> None:
        answer = await self._pipeline.embed(call)
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": b64encode(float32(vector)).decode() if form == "base64" else vector,
            }
            for index, vector in enumerate(answer.vectors)
        ]
        tokens = answer.prompt_tokens
        await exchange.respond_json(
            200,
            {
                "object": "list",
                "data": data,
                "model": call.model,
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            },
        )

    def _now(self) -> int:
        return self._clock.now_ns() // 1_000_000_000


def _chunks(head: dict[str, Any]) -> Callable[[dict[str, Any], str | None], bytes]:
    """A writer of one stream's events: what never changes is encoded once."""
    prefix = b"data: " + encode_json(head)[:-1] + b',"choices":['
    constant = {"index": 0, "logprobs": None}

    def chunk(choice: dict[str, Any], finish: str | None) -> bytes:
        return prefix + encode_json({**constant, **choice, "finish_reason": finish}) + b"]}\n\n"

    return chunk


def usage(end: Answered) -> dict[str, int]:
    """OpenAI's token counts."""
    return {
        "prompt_tokens": end.prompt_tokens,
        "completion_tokens": end.completion_tokens,
        "total_tokens": end.prompt_tokens + end.completion_tokens,
    }


def fingerprint(end: Answered) -> str:
    """Which weights answered: the start of their digest, in OpenAI's form."""
    return f"fp_{end.model_digest[:16]}"
