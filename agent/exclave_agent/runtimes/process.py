"""One worker process as the agent sees it: its birth, its frames, its requests, its end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
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

MAX_IN_FLIGHT = 16_384
"""Requests of one worker, whatever its own queue says: bounds what is buffered towards it."""

STDERR_TAIL = 4096
"""Bytes kept of what a worker prints, for the message when its load fails."""

LAST_WORDS = 1.0
"""Seconds from a worker's closing its socket to its exit, before it is killed."""

KEEP_ENVIRONMENT = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
)
"""All that a worker inherits: keys and tokens of the agent's environment are not its business."""


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
        self._process: asyncio.subprocess.Process | None = None
        self._pidfd = -1
        self._streams: dict[int, TextStream] = {}
        self._answers: dict[int, asyncio.Future[Answer]] = {}
        self._ids = itertools.count(1)
        self._stderr = b""
        self._refused_load: str | None = None

    @classmethod
    async def spawn(cls, load: frames.Load) -> Worker:
        """Start the process and send it the load; `loaded` tells how that went."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-I",
                    "-m",
                    "exclave_agent.runtimes.worker",
                    f"--fd={theirs.fileno()}",
                    f"--parent={os.getpid()}",
                    pass_fds=(theirs.fileno(),),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.PIPE,
                    env=worker_environment(os.environ),
                    cwd="/",
                    # A Ctrl-C at the agent's terminal is the agent's to handle.
                    start_new_session=True,
                )
            loop = asyncio.get_running_loop()
            ours.setblocking(False)
            transport, worker = await loop.create_unix_connection(cls, sock=ours)
        except BaseException:
            ours.close()
            raise
        worker._process = process
        # A pid may be another's by the time it is signalled, and asyncio's own `kill` polls,
        # which takes the exit status away from whoever waits for it.
        with contextlib.suppress(ProcessLookupError):
            worker._pidfd = os.pidfd_open(process.pid)
        transport.write(frames.encode(load))
        return worker

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None
        return self._process.pid

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
        """Keep the tail of what the process prints, until it prints no more."""
        assert self._process is not None
        assert self._process.stderr is not None
        while chunk := await self._process.stderr.read(STDERR_TAIL):
            self._stderr = (self._stderr + chunk)[-STDERR_TAIL:]

    def kill(self) -> None:
        """SIGKILL; `gone` follows."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
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
        assert self._process is not None
        if self.gone.is_set():
            # It closed its end, so it is about to exit: its own status says more than ours.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS):
                    await self._process.wait()
        self.kill()
        await self.gone.wait()
        status = await self._process.wait()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        return describe_exit(status)

    def load_failure(self, ended: str) -> str:
        """Why the load did not succeed: its own words, or how it ended and its last line."""
        if self._refused_load is not None:
            return self._refused_load
        lines = self._stderr.decode("utf-8", "replace").strip().splitlines()
        last = f": {lines[-1][:300]}" if lines else ""
        return f"the worker {ended} while loading it{last}"


def worker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of the agent's environment that a worker gets."""
    return {name: environment[name] for name in KEEP_ENVIRONMENT if name in environment}


def describe_exit(status: int) -> str:
    """A return code of `subprocess` in words."""
    if status >= 0:
        return f"exited with status {status}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-status).name}"
    return f"was ended by signal {-status}"


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
