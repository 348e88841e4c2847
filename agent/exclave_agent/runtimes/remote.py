"""Remote models: asked over HTTPS, within what their signed endpoint document permits."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from exclave_agent.errors import (
    AgentError,
    DeadlineExceeded,
    IdentityError,
    ModelLoadFailed,
    Overloaded,
    RemoteFailed,
    Unavailable,
)
from exclave_agent.identity.secrets import Secrets
from exclave_agent.ports import (
    Clock,
    Delta,
    Embeddings,
    Finished,
    Generate,
    ModelInfo,
    ModelSpec,
    Price,
    Rng,
    Timing,
)
from exclave_agent.runtimes import remote_requests as requests
from exclave_agent.runtimes.remote_answers import WIRE_BYTES, Answer, EventLines, broken, vectors
from exclave_protocol.endpoint import MAX_ENDPOINT, Endpoint, EndpointPrice, micro
from exclave_protocol.errors import ReleaseError

if TYPE_CHECKING:
    from exclave_agent.runtimes.remote_http import Connection

LIBRARY: Final = "openai"
WIRE_BASE: Final = 1 << 20
"""Bytes of a streamed answer beside those of its tokens."""
VECTOR_BYTES: Final = 1 << 18
"""Bytes of one vector as JSON: 16,384 numbers of 16 characters."""
COUNT_SECONDS: Final = 5.0
"""How long a finished answer waits for its count of tokens."""
TAIL_SECONDS: Final = 0.1
"""How long a connection may take to be free for the next request."""

T = TypeVar("T")


class RemoteRuntime:
    """Opens endpoint documents as models. `close` MUST be awaited."""

    def __init__(
        self,
        keys: Secrets,
        *,
        clock: Clock,
        rng: Rng,
        proxy: str = "",
        authority: Path | None = None,
    ) -> None:
        """`proxy`: URL of an HTTP proxy for all of them; "": none, whatever the environment says.
        `authority`: PEM file of the only CA certificates to trust; None: the system's."""
        self._keys = keys
        self._clock = clock
        self._rng = rng
        self._proxy = proxy
        self._authority = authority
        self._models: list[RemoteModel] = []

    def open(self, spec: ModelSpec) -> RemoteModel:
        """Read the document; nothing is sent. A missing key does not stop a release: the model
        is degraded until the key is set.

        Raises: ModelLoadFailed (not a document, or the `openai` library is not installed).
        """
        if importlib.util.find_spec(LIBRARY) is None:
            raise ModelLoadFailed(
                f"model {spec.name}: the library {LIBRARY} is not installed: "
                "pip install 'exclave[agent,remote]'"
            )
        if spec.parameters:
            raise ModelLoadFailed(
                f"model {spec.name}: a remote model takes no parameters: its document has them"
            )
        try:
            with spec.path.open("rb") as file:
                endpoint = Endpoint.decode(file.read(MAX_ENDPOINT + 1))
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ModelLoadFailed(f"model {spec.name}: {reason}") from error
        except ReleaseError as error:
            raise ModelLoadFailed(f"model {spec.name}: {error.message}") from error
        model = RemoteModel(
            spec, endpoint, self._keys, self._clock, self._rng, self._proxy, self._authority
        )
        self._models = [one for one in self._models if not one.closed] + [model]
        return model

    async def close(self) -> None:
        """Close every model. Idempotent."""
        for model in self._models:
            await model.close()


class RemoteModel:
    """One endpoint. Requests beyond its concurrency wait in a bounded room."""

    def __init__(
        self,
        spec: ModelSpec,
        endpoint: Endpoint,
        keys: Secrets,
        clock: Clock,
        rng: Rng,
        proxy: str,
        authority: Path | None,
    ) -> None:
        self._spec = spec
        self._endpoint = endpoint
        self._keys = keys
        self._clock = clock
        self._rng = rng
        self._proxy = proxy
        self._authority = authority
        self._room = asyncio.Semaphore(endpoint.max_concurrency)
        self._held = 0
        self._opening = asyncio.Lock()
        self._connection: Connection | None = None
        self.closed = False

    @property
    def info(self) -> ModelInfo:
        """As of now: `degraded` goes when the key is set."""
        endpoint = self._endpoint
        return ModelInfo(
            name=self._spec.name,
            runtime="remote",
            sha256=self._spec.sha256,
            actions=frozenset(endpoint.actions),
            context_tokens=endpoint.context_tokens,
            provider=endpoint.provider,
            degraded=self._keyless(),
            remote=True,
            data_classes=frozenset(endpoint.data_classes),
            price=None if endpoint.price is None else _price(endpoint.price),
            endpoint=endpoint.host,
            secret=endpoint.secret,
        )

    async def generate(self, request: Generate) -> AsyncGenerator[Delta | Finished, None]:
        """Stream an answer; closing the iterator ends the HTTP request.

        Raises: BadRequest (a parameter that the provider does not know), TooManyTokens,
        Overloaded, DeadlineExceeded, RemoteFailed.
        """
        if request.prompt is None:
            path, body = "/chat/completions", requests.chat(self._endpoint, request)
        else:
            path, body = "/completions", requests.complete(self._endpoint, request)
        limits = _Limits(self._endpoint, request.timeout)
        arrived = self._clock.monotonic()
        async with self._admitted(limits):
            begun = self._clock.monotonic()
            answer = Answer(
                request, requests.most_prompt_tokens(self._endpoint, request), self._call_id
            )
            first: float | None = None
            async with contextlib.aclosing(self._stream(path, body, answer, limits)) as deltas:
                async for delta in deltas:
                    first = first or self._clock.monotonic()
                    yield delta
            ended = self._clock.monotonic()
            if calls := answer.calls():
                yield Delta("", tool_calls=calls)
            yield answer.finished(
                Timing(
                    queued_us=_us(begun - arrived),
                    prefill_us=_us((first or ended) - begun),
                    decode_us=_us(ended - (first or ended)),
                )
            )

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        """Embed texts. Raises: Overloaded, RemoteFailed."""
        limits = _Limits(self._endpoint, None)
        async with self._admitted(limits):
            body = requests.embed(self._endpoint, texts)
            data = await limits.within(self._whole(body, len(texts) * VECTOR_BYTES + WIRE_BASE))
        found, usage = vectors(data, len(texts))
        most = requests.most_input_tokens(texts)
        return Embeddings(found, most if usage is None else usage.prompt)

    async def close(self) -> None:
        """End what is in flight and close the connections. Idempotent."""
        self.closed = True
        if self._connection is not None:
            await self._connection.close()

    async def _stream(
        self, path: str, body: requests.Body, answer: Answer, limits: _Limits
    ) -> AsyncGenerator[Delta, None]:
        """The answer's text, until it has its finish and its count."""
        from exclave_agent.runtimes.remote_http import pieces

        connection = await self._connected()
        response = await limits.within(connection.send(path, body))
        events = EventLines(WIRE_BASE + body_limit(body) * WIRE_BYTES)
        try:
            async with contextlib.aclosing(pieces(response)) as raw:
                while not answer.done and not answer.cut:
                    if (chunk := await _next(raw, answer, limits)) is None:
                        break
                    complete, pieces_before = answer.complete, answer.pieces
                    for event in events.feed(chunk):
                        if (delta := answer.take(event)) is not None:
                            yield delta
                    if answer.complete and not complete:
                        limits.count()
                    elif answer.pieces > pieces_before:
                        limits.progress()
                if answer.done:
                    await _drain(raw)
        finally:
            await response.aclose()

    async def _whole(self, body: requests.Body, most: int) -> bytes:
        """The answer to a request that is not streamed, of at most so many bytes."""
        from exclave_agent.runtimes.remote_http import pieces

        connection = await self._connected()
        response = await connection.send("/embeddings", body)
        data = bytearray()
        try:
            async with contextlib.aclosing(pieces(response)) as raw:
                async for chunk in raw:
                    data += chunk
                    if len(data) > most:
                        raise broken(f"is longer than {most} bytes")
        finally:
            await response.aclose()
        return bytes(data)

    @contextlib.asynccontextmanager
    async def _admitted(self, limits: _Limits) -> AsyncIterator[None]:
        """A place among those in flight. Raises: Overloaded, Unavailable."""
        if self.closed:
            raise Unavailable("the models of this release are closed", retry_after=1.0)
        endpoint = self._endpoint
        if self._held >= endpoint.max_concurrency + endpoint.max_waiting:
            raise Overloaded(
                f"{self._held} requests are with this remote model already", retry_after=1.0
            )
        self._held += 1
        try:
            await limits.within(self._room.acquire())
            try:
                # Its libraries' import, once, is no silence of the endpoint's.
                await limits.within(self._connected())
                limits.progress()
                yield
            finally:
                self._room.release()
        finally:
            self._held -= 1

    async def _connected(self) -> Connection:
        """Made once; its libraries take their time to be imported, in a thread."""
        if self._endpoint.secret:
            self._key()
        async with self._opening:
            if self._connection is None:
                made = await asyncio.to_thread(self._connect)
                if self.closed:
                    await made.close()
                    raise Unavailable("the models of this release are closed", retry_after=1.0)
                self._connection = made
        return self._connection

    def _connect(self) -> Connection:
        module = importlib.import_module("exclave_agent.runtimes.remote_http")
        made: Connection = module.Connection(
            self._endpoint, self._sent_key, proxy=self._proxy, authority=self._authority
        )
        return made

    async def _sent_key(self) -> str:
        return self._key() if self._endpoint.secret else "none"

    def _key(self) -> str:
        """Raises: RemoteFailed ("remote_unauthorized")."""
        name = self._endpoint.secret
        try:
            key = self._keys.get(name)
        except IdentityError as error:
            raise _unauthorized(f"the key {name} cannot be used: {error.message}") from error
        if key is None:
            raise _unauthorized(_missing(name))
        return key

    def _keyless(self) -> str:
        """Why it cannot answer; "": it has its key, or needs none."""
        name = self._endpoint.secret
        try:
            return _missing(name) if name and self._keys.get(name) is None else ""
        except IdentityError as error:
            return f"the key {name} cannot be used: {error.message}"

    def _call_id(self) -> str:
        return f"call_{self._rng.token(12).hex()}"


class _Limits:
    """The times of one request: the document's and the caller's, whichever ends first."""

    def __init__(self, endpoint: Endpoint, timeout: float | None) -> None:
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        total = endpoint.timeouts.total / 1000
        self._callers = timeout is not None and timeout < total
        self._end = now + (total if timeout is None else min(timeout, total))
        self._silence = endpoint.timeouts.first_token / 1000
        self._next = self._end

    def progress(self) -> None:
        """A piece came: the next one has its time."""
        self._next = self._loop.time() + self._silence

    def count(self) -> None:
        """The answer is complete: only its count may still come."""
        self._next = self._loop.time() + COUNT_SECONDS

    async def within(self, work: Awaitable[T]) -> T:
        """Raises: DeadlineExceeded (the caller's time), RemoteFailed ("remote_timeout")."""
        try:
            async with asyncio.timeout_at(min(self._next, self._end)):
                return await work
        except TimeoutError:
            if self._callers and self._loop.time() >= self._end:
                raise DeadlineExceeded("the request's time ran out") from None
            raise RemoteFailed(
                "the remote model did not answer in time", code="remote_timeout", retry_after=5.0
            ) from None


async def _next(raw: AsyncGenerator[bytes, None], answer: Answer, limits: _Limits) -> bytes | None:
    """More bytes; None: there are none, or nothing but the count was left to come and did not."""
    try:
        return await limits.within(anext(raw, None))
    except AgentError:
        if answer.complete:
            return None
        raise


async def _drain(raw: AsyncGenerator[bytes, None]) -> None:
    """Read the end of the body, so that the connection can be used again."""
    with contextlib.suppress(TimeoutError, RemoteFailed):
        async with asyncio.timeout(TAIL_SECONDS):
            async for _ in raw:
                pass


def body_limit(body: requests.Body) -> int:
    """The limit of tokens that a request was sent with."""
    limit = body.get("max_tokens", body.get("max_completion_tokens", 0))
    assert isinstance(limit, int)
    return limit


def _price(price: EndpointPrice) -> Price:
    cached = micro(price.cached_input) if price.cached_input else None
    return Price(price.currency, micro(price.input), micro(price.output), cached)


def _missing(name: str) -> str:
    return f"no key {name}: exclave-agent secret set {name}"


def _unauthorized(message: str) -> RemoteFailed:
    return RemoteFailed(message, code="remote_unauthorized")


def _us(seconds: float) -> int:
    return max(0, round(seconds * 1e6))
