"""One worker process as the agent sees it: its birth, its frames, its requests, its end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, AsyncIterator
from typing import cast

from exclave_agent.errors import (
    AgentError,
    BadRequest,
    Overloaded,
    TooManyTokens,
    UnknownModel,
    WorkerCrashed,
)
from exclave_agent.ports import Delta, Finished
from exclave_agent.runtimes import frames
from exclave_agent.runtimes.births import Birth, Body, child

MAX_IN_FLIGHT = 16_384
"""Requests of one worker, whatever its own queue says: bounds what is buffered towards it."""

LAST_WORDS = 1.0
"""Seconds from a worker's closing its socket to its exit, before it is killed."""


class TextStream:
    """A generation's events; text that piles up while nobody reads comes out in one piece."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._end: Finished | AgentError | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def ended(self) -> bool:
        """Whether the worker has nothing more to say."""
        return self._end is not None

    def push(self, text: str) -> None:
        """More text."""
        self._texts.append(text)
        self._wake()

    def end(self, end: Finished | AgentError) -> None:
        """The last event; the first call counts."""
        if self._end is None:
            self._end = end
            self._wake()

    async def events(self) -> AsyncIterator[Delta | Finished]:
        """Until `Finished`. Raises: what `end` was given."""
        while True:
            if self._texts:
                text = "".join(self._texts)
                self._texts.clear()
                yield Delta(text)
            elif isinstance(self._end, Finished):
                yield self._end
                return
            elif self._end is not None:
                raise self._end
            else:
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


Answer = frames.InferResult | frames.EmbedResult


class Worker(asyncio.Protocol):
    """Make one with `Worker.spawn`. `gone` is set when nothing more comes from the process."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.loaded: asyncio.Future[frames.Loaded] = asyncio.get_running_loop().create_future()
        # Whoever waits may have given up by the time an answer or the end comes.
        self.loaded.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.pong = frames.Pong(0, 0, 0)
        """The newest answer to a ping."""
        self._splitter = frames.Splitter()
        self._transport: asyncio.Transport | None = None
        self._body: Body | None = None
        self._streams: dict[int, TextStream] = {}
        self._answers: dict[int, asyncio.Future[Answer]] = {}
        self._ids = itertools.count(1)
        self._refused_load: str | None = None

    @classmethod
    async def spawn(cls, load: frames.Load, birth: Birth = child) -> Worker:
        """Have a process born and send it the load; `loaded` tells how that went.

        Raises: OSError, it cannot be started.
        """
        ours, body = await birth(load)
        try:
            ours.setblocking(False)
            loop = asyncio.get_running_loop()
            transport, worker = await loop.create_unix_connection(cls, sock=ours)
        except BaseException:
            ours.close()
            body.kill()
            raise
        worker._body = body
        transport.write(frames.encode(load))
        return worker

    @property
    def body(self) -> Body:
        """The process."""
        assert self._body is not None
        return self._body

    @property
    def pid(self) -> int | None:
        """The process id; None: the service manager's to know."""
        return self.body.pid

    # --- asyncio.Protocol ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        # uvloop's transports have the methods without being instances.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`. A frame that is none of ours ends the worker."""
        try:
            for body in self._splitter.feed(data):
                self._take(frames.decode_for_agent(body))
        except frames.FrameError as error:
            self._refused_load = f"the worker broke the protocol: {error}"
            self.kill()

    def connection_lost(self, _: Exception | None) -> None:
        """See `asyncio.Protocol`. What the worker held fails now."""
        self.gone.set()
        crash = WorkerCrashed("the model's worker died during this request", retry_after=1.0)
        for stream in self._streams.values():
            stream.end(crash)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(crash)

    def _take(self, frame: frames.ToAgent) -> None:
        match frame:
            case frames.Step():
                self._step(frame)
            case frames.Failed():
                self._fail(frame)
            case frames.InferResult() | frames.EmbedResult():
                if (answer := self._answers.get(frame.id)) is not None and not answer.done():
                    answer.set_result(frame)
            case frames.Pong():
                self.pong = frame
            case frames.Loaded():
                if not self.loaded.done():
                    self.loaded.set_result(frame)
            case frames.LoadFailed():
                self._refused_load = frame.message

    def _step(self, frame: frames.Step) -> None:
        # Unknown ids are requests that were cancelled while this frame was on its way.
        for text in frame.texts:
            if (stream := self._streams.get(text.id)) is not None:
                stream.push(text.text)
        for ended in frame.ended:
            if (stream := self._streams.get(ended.id)) is not None:
                stream.end(Finished(ended.reason, ended.prompt_tokens, ended.completion_tokens))

    def _fail(self, frame: frames.Failed) -> None:
        error = refusal(frame)
        if (stream := self._streams.get(frame.id)) is not None:
            stream.end(error)
        elif (answer := self._answers.get(frame.id)) is not None and not answer.done():
            answer.set_exception(error)

    # --- requests ------------------------------------------------------------------------

    def next_id(self) -> int:
        """An id for a request. Raises: Overloaded, WorkerCrashed (it has gone)."""
        if self.gone.is_set():
            raise WorkerCrashed("the model's worker has died", retry_after=1.0)
        held = len(self._streams) + len(self._answers)
        if held >= MAX_IN_FLIGHT:
            raise Overloaded(f"{held} requests are with this model already", retry_after=1.0)
        return next(self._ids)

    def send(self, frame: frames.ToWorker) -> None:
        """Write a frame. Raises: BadRequest when it is too large for one."""
        assert self._transport is not None
        try:
            self._transport.write(frames.encode(frame))
        except frames.FrameError as error:
            raise BadRequest(f"the request is too large for the model: {error}") from None

    async def stream(self, request: frames.Generate) -> AsyncGenerator[Delta | Finished, None]:
        """Send and follow a generation; leaving early cancels it."""
        stream = TextStream()
        self._streams[request.id] = stream
        try:
            self.send(request)
            async for event in stream.events():
                yield event
        finally:
            del self._streams[request.id]
            if not stream.ended:
                self._cancel(request.id)

    async def ask(self, request: frames.Infer | frames.Embed) -> Answer:
        """Send a request of one answer and wait; being cancelled cancels it."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._answers[request.id] = answer
        try:
            self.send(request)
            return await answer
        finally:
            del self._answers[request.id]
            if answer.cancelled():
                self._cancel(request.id)

    def _cancel(self, request: int) -> None:
        if not self.gone.is_set():
            self.send(frames.Cancel(request))

    # --- the end -------------------------------------------------------------------------

    async def drain_stderr(self) -> None:
        """Follow what the process prints, until it prints no more."""
        await self.body.drain()

    def kill(self) -> None:
        """End the process at once; `gone` follows."""
        if self._body is not None:
            self._body.kill()
        if self._transport is not None:
            self._transport.abort()

    async def shut_down(self, grace: float) -> None:
        """Ask it to exit; after `grace` seconds kill it. Returns when it is reaped."""
        if not self.gone.is_set():
            self.send(frames.Shutdown())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self.gone.wait()
        await self.reap()

    async def reap(self) -> str:
        """Make sure the process has ended; how it ended, in words."""
        if self.gone.is_set():
            # It closed its end, so it is about to exit: its own status says more than ours.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS):
                    await self.body.ended()
        self.kill()
        await self.gone.wait()
        return await self.body.ended()

    def load_failure(self, ended: str) -> str:
        """Why the load did not succeed: its own words, or how it ended and its last line."""
        if self._refused_load is not None:
            return self._refused_load
        last = self.body.last_line()
        return f"the worker {ended} while loading it{': ' + last if last else ''}"


def refusal(frame: frames.Failed) -> AgentError:
    """The error of our tree that a worker's refusal stands for."""
    match frame.code:
        case "context_length_exceeded":
            return TooManyTokens(frame.message)
        case "overloaded":
            return Overloaded(frame.message, retry_after=frame.retry_after)
        case "model_not_found":
            return UnknownModel(frame.message)
        case "invalid_value" | "output_invalid":
            return BadRequest(frame.message, param=frame.param, code=frame.code)
    # Whatever else it calls it stays here: codes go into the record, and up to the centre.
    return WorkerCrashed(frame.message, code="engine_failed")
