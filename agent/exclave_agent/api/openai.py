"""OpenAI's API: models, chat completions, completions, embeddings, rerank; plain and streamed."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from exclave_agent.decide.bodies import float32
from exclave_agent.decide.calls import Answered, EmbedCall, GenerateCall, RerankCall
from exclave_agent.decide.pipeline import Pipeline
from exclave_agent.errors import UnknownModel
from exclave_agent.ports import ActiveRelease, Clock, Delta, Releases

from . import headers
from . import openai_requests as requests
from .errors import ClientGone, tell
from .exchange import Exchange, encode_json
from .openai_answers import (
    ChatWording,
    Gathered,
    TextWording,
    Wording,
    fingerprint,
    served_by,
    served_headers,
    service_tier,
    usage,
)

_EVENTS = b"text/event-stream; charset=utf-8"
_NO_CACHE = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))
_OURS = "exclave"
"""Who owns what this agent serves by itself."""

Events = AsyncGenerator[Delta | Answered, None]


class OpenAI:
    """The handlers. Each raises errors of the tree before its response has begun."""

    def __init__(self, pipeline: Pipeline, releases: Releases, clock: Clock) -> None:
        self._pipeline = pipeline
        self._releases = releases
        self._clock = clock
        self._created = self._now()

    # --- what there is -----------------------------------------------------------------------

    async def models(self, exchange: Exchange) -> None:
        """GET /v1/models."""
        with self._releases.lease() as release:
            owners = _owners(release)
        data = [self._model(name, owner) for name, owner in owners.items()]
        await exchange.respond_json(200, {"object": "list", "data": data})

    async def model(self, exchange: Exchange) -> None:
        """GET /v1/models/{model}."""
        name = exchange.path_params["model"]
        with self._releases.lease() as release:
            owner = _owners(release).get(name)
        if owner is None:
            raise UnknownModel("the active release has no model of that name: see GET /v1/models")
        await exchange.respond_json(200, self._model(name, owner))

    def _model(self, name: str, owner: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": owner}

    # --- what is asked -----------------------------------------------------------------------

    async def chat(self, exchange: Exchange) -> None:
        """POST /v1/chat/completions."""
        call, options = requests.chat(*await self._begin(exchange))
        exchange.decided = True
        await exchange.while_connected(self._generate(exchange, ChatWording(call), call, options))

    async def completion(self, exchange: Exchange) -> None:
        """POST /v1/completions."""
        call, options = requests.completion(*await self._begin(exchange))
        exchange.decided = True
        await exchange.while_connected(self._generate(exchange, TextWording(call), call, options))

    async def embeddings(self, exchange: Exchange) -> None:
        """POST /v1/embeddings."""
        call, form = requests.embedding(*await self._begin(exchange))
        exchange.decided = True
        await exchange.while_connected(self._embed(exchange, call, form))

    async def rerank(self, exchange: Exchange) -> None:
        """POST /v1/rerank and /rerank."""
        call, options = requests.rerank(*await self._begin(exchange))
        exchange.decided = True
        await exchange.while_connected(self._rerank(exchange, call, options))

    async def _begin(self, exchange: Exchange) -> tuple[bytes, requests.Origin]:
        """What every parser needs. Raises: BadRequest naming a header, and what a body raises."""
        assert exchange.caller is not None, "the route requires a key"
        treatment = headers.read(exchange.headers)
        origin = requests.Origin(exchange.request_id, exchange.caller, treatment)
        return await exchange.body(), origin

    # --- what is answered --------------------------------------------------------------------

    async def _generate(
        self, exchange: Exchange, wording: Wording, call: GenerateCall, options: requests.Options
    ) -> None:
        async with aclosing(self._pipeline.stream(call)) as events:
            if call.stream:
                await self._stream(exchange, wording, call, options, events)
            else:
                await self._whole(exchange, wording, call, options, events)

    async def _whole(
        self,
        exchange: Exchange,
        wording: Wording,
        call: GenerateCall,
        options: requests.Options,
        events: Events,
    ) -> None:
        gathered = Gathered()
        async for event in events:
            if isinstance(event, Answered):
                end = event
                break
            gathered.add(event)
        gathered.add(gathered.rest(end))
        choice = {"index": 0, **wording.message(gathered.all()), "finish_reason": end.finish}
        await exchange.respond_json(
            200,
            {
                **self._head(wording.id_prefix, wording.whole, call, options),
                "system_fingerprint": fingerprint(end),
                "choices": [choice],
                "usage": usage(end),
            },
            served_headers(end),
        )

    async def _stream(
        self,
        exchange: Exchange,
        wording: Wording,
        call: GenerateCall,
        options: requests.Options,
        events: Events,
    ) -> None:
        """Server-sent events. The status is 200 once there is text; an error after that is an
        event of its own, and no finish and no [DONE] follow it."""
        head = self._head(wording.id_prefix, wording.piece, call, options)
        if options.include_usage:
            head["usage"] = None
        chunk = _chunks(head)
        event = await anext(events)  # may raise: the status is still ours to choose
        held = []
        if call.response_schema is not None:  # all of it comes at once, after it was recorded
            while isinstance(event, Delta):
                held.append(event)
                event = await anext(events)
        known = served_headers(event) if isinstance(event, Answered) else ()
        await exchange.begin(_EVENTS, (*_NO_CACHE, *known))
        if opening := wording.opening():
            await exchange.piece(chunk(opening))
        gathered = Gathered()

        async def tell_delta(delta: Delta) -> None:
            gathered.add(delta)
            await exchange.piece(chunk(wording.delta(delta)))

        try:
            for delta in held:
                await tell_delta(delta)
            while isinstance(event, Delta):
                await tell_delta(event)
                event = await anext(events)
        except ClientGone:
            raise
        except Exception as error:  # noqa: BLE001  # told in the stream, by the one table
            told = tell(error, exchange.request_id)
            await exchange.end(_event(told.openai()))
            return
        rest = gathered.rest(event)
        tail = chunk(wording.delta(rest)) if rest.logprobs or rest.tool_calls else b""
        tail += _ending(head, wording, event)
        if options.include_usage:
            tail += _event({**head, "choices": [], "usage": usage(event)})
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
        await exchange.respond_json(
            200,
            {
                "object": "list",
                "data": data,
                "model": call.model,
                "usage": _prompt_usage(answer.prompt_tokens),
            },
            headers.notice_headers(answer.notices),
        )

    async def _rerank(
        self, exchange: Exchange, call: RerankCall, options: requests.RerankOptions
    ) -> None:
        answer = await self._pipeline.rerank(call)
        # Of equal scores the earlier document is first: an answer can be repeated.
        best = sorted(range(len(answer.scores)), key=lambda index: -answer.scores[index])
        results = [
            {
                "index": index,
                "relevance_score": answer.scores[index],
                **({"document": {"text": call.documents[index]}} if options.documents else {}),
            }
            for index in best[: options.top_n]
        ]
        await exchange.respond_json(
            200,
            {
                "id": f"rerank-{call.decision}",
                "object": "list",
                "model": call.model,
                "results": results,
                "usage": _prompt_usage(answer.prompt_tokens),
            },
            headers.notice_headers(answer.notices),
        )

    def _head(
        self, id_prefix: str, kind: str, call: GenerateCall, options: requests.Options
    ) -> dict[str, Any]:
        """What every object of one answer begins with."""
        head: dict[str, Any] = {
            "id": id_prefix + call.decision,
            "object": kind,
            "created": self._now(),
            "model": call.model,
        }
        if options.tiered:
            head["service_tier"] = service_tier(call)
        return head

    def _now(self) -> int:
        return self._clock.now_ns() // 1_000_000_000


def _owners(release: ActiveRelease) -> dict[str, str]:
    """Everything that may be named as `model`, and whose it is: of a remote model the kind of
    its endpoint."""
    owners = {
        name: info.provider if info.remote and info.provider else _OURS
        for name, info in release.models.models().items()
    }
    return owners | dict.fromkeys(release.policy.routes, _OURS)


def _event(value: Any) -> bytes:
    return b"data: " + encode_json(value) + b"\n\n"


def _chunks(head: dict[str, Any]) -> Callable[[dict[str, Any]], bytes]:
    """A writer of one stream's events: what never changes is encoded once."""
    prefix = b"data: " + encode_json(head)[:-1] + b',"choices":['
    constant = {"index": 0, "logprobs": None}

    def chunk(choice: dict[str, Any]) -> bytes:
        return prefix + encode_json({**constant, **choice, "finish_reason": None}) + b"]}\n\n"

    return chunk


def _ending(head: dict[str, Any], wording: Wording, end: Answered) -> bytes:
    """The part with the finish_reason; who answered is known only now, so it stands here too."""
    choice = {"index": 0, "logprobs": None, **wording.closing(), "finish_reason": end.finish}
    ending = {**head, "system_fingerprint": fingerprint(end), "choices": [choice]}
    if told := served_by(end):
        ending["exclave"] = told
    return _event(ending)


def _prompt_usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": tokens, "total_tokens": tokens}
