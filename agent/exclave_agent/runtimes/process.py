"""One worker process as the agent sees it: its birth, its frames, its requests, its end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Callable
from typing import cast

from exclave_agent.errors import (
    AgentError,
    BadRequest,
    DeadlineExceeded,
    Overloaded,
    TooManyTokens,
    UnknownModel,
    WorkerCrashed,
)
from exclave_agent.ports import Delta, Finished
from exclave_agent.runtimes import believed, frames
from exclave_agent.runtimes.births import Birth, Body, child
from exclave_agent.runtimes.streams import TextStream, finished
from exclave_agent.runtimes.suspects import Suspects

MAX_IN_FLIGHT = 16_384
"""Requests of one worker, whatever its own queue says: bounds what is buffered towards it."""

QUIET = 2.0
"""Seconds that a request which must run alone waits for others that were given up to be gone."""
LOOK = 0.02
"""Seconds between two looks at that."""
LOOKS = 1 << 40
"""The first nonce of those looks; `watch.hung` counts its pings from 1."""

LAST_WORDS = 1.0
"""Seconds from a worker's closing its socket to its exit, before it is killed."""


class DiedHolding(WorkerCrashed):
    """The worker died with this request in flight; it may have been what killed it."""

    def __init__(self, worker: int, *, sure: bool = True) -> None:
        super().__init__("the model's worker died during this request", retry_after=1.0)
        self.worker = worker
        """Its serial."""
        self.sure = sure
        """See `Suspects.sure`."""


Answer = frames.InferResult | frames.EmbedResult | frames.RerankResult


class Worker(asyncio.Protocol):
    """Make one with `Worker.spawn`. `gone` is set when nothing more comes from the process."""

    _serials = itertools.count(1)

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.serial = next(self._serials)
        """Of all workers of this process."""
        self.suspects = Suspects()
        """Whom its death may be blamed on."""
        self.loaded: asyncio.Future[frames.Loaded] = asyncio.get_running_loop().create_future()
        # Whoever waits may have given up by the time an answer or the end comes.
        self.loaded.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.pong = frames.Pong(0, 0, 0)
        """The newest answer to a ping."""
        self._splitter = frames.Splitter()
        self._transport: asyncio.Transport | None = None
        self._body: Body | None = None
        self._outgoing: list[bytearray] = []
        """Frames of this turn of the loop."""
        self._streams: dict[int, TextStream] = {}
        self._answers: dict[int, asyncio.Future[Answer]] = {}
        self._ids = itertools.count(1)
        self._looks: dict[int, asyncio.Future[int]] = {}
        """Pings of `quiet`, by nonce: `pong` is another's."""
        self._nonces = itertools.count(LOOKS)
        self._refused_load: str | None = None

    @classmethod
    async def spawn(
        cls, load: frames.Load, birth: Birth = child, *, data_limit: int | None = None
    ) -> Worker:
        """Have a process born and send it the load; `loaded` tells how that went. `data_limit`:
        see `Body.limit_data`.

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
        if data_limit is not None:
            worker.limit_data(data_limit)
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
        self.suspects.close()
        sure = self.suspects.sure
        for stream in self._streams.values():
            stream.end(DiedHolding(self.serial, sure=sure))
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(DiedHolding(self.serial, sure=sure))
        for look in self._looks.values():
            if not look.done():
                look.set_result(0)

    def _take(self, frame: frames.ToAgent) -> None:
        match frame:
            case frames.Step():
                self._step(frame)
            case frames.Failed():
                self._fail(frame)
            case frames.InferResult() | frames.EmbedResult() | frames.RerankResult():
                if (answer := self._answers.get(frame.id)) is not None and not answer.done():
                    answer.set_result(frame)
            case frames.Pong():
                if (look := self._looks.get(frame.nonce)) is None:
                    self.pong = frame
                elif not look.done():
                    look.set_result(frame.active)
            case frames.Loaded():
                if not self.loaded.done():
                    self.loaded.set_result(frame)
            case frames.LoadFailed():
                self._refused_load = believed.note(frame.message)

    def _step(self, frame: frames.Step) -> None:
        # Unknown ids are requests that were cancelled while this frame was on its way.
        for text in frame.texts:
            if (stream := self._streams.get(text.id)) is not None:
                stream.push(text.text)
        for extra in frame.extras:
            if (stream := self._streams.get(extra.id)) is not None:
                stream.add(extra)
        for ended in frame.ended:
            if (stream := self._streams.get(ended.id)) is not None:
                stream.end(finished(ended, stream.max_tokens))

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
        """Write a frame at the end of this turn of the loop, with all others of the turn: when a
        batch is answered its callers all ask again, and the worker wakes once for them.

        Raises: BadRequest when it is too large for one, WorkerCrashed (it has gone).
        """
        if self.gone.is_set():
            raise WorkerCrashed("the model's worker has died", retry_after=1.0)
        try:
            data = frames.encode(frame)
        except frames.FrameError as error:
            raise BadRequest(f"the request is too large for the model: {error}") from None
        self._outgoing.append(data)
        if len(self._outgoing) == 1:
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        assert self._transport is not None
        outgoing, self._outgoing = self._outgoing, []
        if not self._transport.is_closing():
            self._transport.write(outgoing[0] if len(outgoing) == 1 else b"".join(outgoing))

    async def stream(
        self, request: frames.Generate, call_id: Callable[[], str]
    ) -> AsyncGenerator[Delta | Finished, None]:
        """Send and follow a generation; leaving early cancels it. `call_id` names tool calls."""
        offered = {tool.name for tool in request.tools}
        stream = TextStream(call_id, request.sampling.max_tokens, offered)
        self._streams[request.id] = stream
        try:
            self.send(request)
            async for event in stream.events():
                yield event
        finally:
            del self._streams[request.id]
            if not stream.ended:
                self._cancel(request.id)

    async def ask(self, request: frames.Infer | frames.Embed | frames.Rerank) -> Answer:
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

    async def quiet(self) -> bool:
        """Wait until the process has let go of what was given up, for `QUIET` seconds at most, so
        that what runs next is alone indeed. Returns whether the process lives."""
        if self.suspects.lingering:
            with contextlib.suppress(TimeoutError, WorkerCrashed):
                async with asyncio.timeout(QUIET):
                    while await self._active():  # noqa: ASYNC110 - the process has to be asked
                        await asyncio.sleep(LOOK)
                    self.suspects.acquit()
        return not self.gone.is_set()

    async def _active(self) -> int:
        """Requests that the process holds now; 0 also when it has died. Raises: WorkerCrashed."""
        nonce = next(self._nonces)
        look: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._looks[nonce] = look
        try:
            self.send(frames.Ping(nonce))
            return await look
        finally:
            del self._looks[nonce]

    def _cancel(self, request: int) -> None:
        if not self.gone.is_set():
            self.send(frames.Cancel(request))

    # --- the end -------------------------------------------------------------------------

    def limit_data(self, size: int) -> None:
        """Bound its private memory, bytes; see `Body.limit_data`."""
        self.body.limit_data(size)

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
        last = believed.note(self.body.last_line())
        return f"the worker {ended} while loading it{': ' + last if last else ''}"


def refusal(frame: frames.Failed) -> AgentError:
    """The error of our tree that a worker's refusal stands for."""
    match frame.code:
        case "context_length_exceeded":
            return TooManyTokens(frame.message)
        case "deadline_exceeded":
            return DeadlineExceeded(frame.message)
        case "overloaded":
            return Overloaded(frame.message, retry_after=believed.wait(frame.retry_after))
        case "model_not_found":
            return UnknownModel(frame.message)
        case "invalid_value" | "output_invalid":
            return BadRequest(frame.message, param=frame.param, code=frame.code)
    # Whatever else it calls it stays here: codes go into the record, and up to the centre.
    return WorkerCrashed(frame.message, code="engine_failed")
