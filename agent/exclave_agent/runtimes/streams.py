"""A generation as its caller reads it: what a worker's steps bring, joined while nobody reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection

from exclave_agent.errors import AgentError, Overloaded
from exclave_agent.ports import Delta, Finished, Timing, TokenLogprob, ToolCall
from exclave_agent.runtimes import frames
from exclave_agent.runtimes.believed import logprob, unbelievable

TOKEN_BYTES = 1024
"""No token of any vocabulary that we know is longer."""
SPARE_BYTES = 1 << 16
"""Beside those of its tokens."""
MOST_UNREAD = 32 << 20
"""About the bytes of an answer that may wait for its reader."""
LOGPROB_BYTES = 150
"""What Python takes for one log probability and its token."""
MOST_PROMPT = 1 << 20
"""Tokens; no context is longer (`parameters.LlamaParameters`)."""


class TextStream:
    """A generation's events; text that piles up while nobody reads comes out in one piece."""

    def __init__(
        self, call_id: Callable[[], str], max_tokens: int, offered: Collection[str] = ()
    ) -> None:
        """`call_id` draws the id of a tool call: the worker gives none. `max_tokens` and the
        functions `offered` are what was asked for: a worker that gives more is not believed."""
        self.max_tokens = max_tokens
        self._call_id = call_id
        self._offered = offered
        self._left = max_tokens * TOKEN_BYTES + SPARE_BYTES
        """Bytes that the answer may still have."""
        self._unread = 0
        """About the bytes that wait to be read."""
        self._cut = False
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._calls: list[ToolCall] = []
        self._end: Finished | AgentError | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def ended(self) -> bool:
        """Whether the worker has nothing more to say."""
        return self._end is not None and not self._cut

    def push(self, text: str) -> None:
        """More text."""
        if self._takes(len(text), len(text)):
            self._texts.append(text)
            self._wake()

    def add(self, extra: frames.Extra) -> None:
        """What came beside the text of a step."""
        if any(one.name not in self._offered for one in extra.tool_calls):
            self._fail(unbelievable("calls a function that was not offered"))
        called = sum(len(one.arguments) for one in extra.tool_calls)
        measured = sum(
            LOGPROB_BYTES * (1 + len(one.top))
            + len(one.token)
            + sum(len(token) for token, _ in one.top)
            for one in extra.logprobs
        )
        if not self._takes(called, called + measured):
            return
        self._logprobs += (
            TokenLogprob(
                one.token,
                logprob(one.logprob),
                tuple((token, logprob(value)) for token, value in one.top),
            )
            for one in extra.logprobs
        )
        self._calls += (
            ToolCall(self._call_id(), one.name, one.arguments) for one in extra.tool_calls
        )
        self._wake()

    def _takes(self, said: int, held: int) -> bool:
        """Whether so many characters more are within what was asked for, and so many bytes
        within what can wait for a slow reader."""
        if self._end is not None:
            return False
        self._left -= said
        self._unread += held
        if self._left < 0:
            self._fail(unbelievable("is longer than its limit of tokens allows"))
        elif self._unread > MOST_UNREAD:
            self._fail(Overloaded("the answer is not read as fast as it is made"))
        return self._end is None

    def _fail(self, error: AgentError) -> None:
        """End it ourselves: the worker still has to be told."""
        if self._end is None:
            self._cut = True
            self._clear()
            self.end(error)

    def end(self, end: Finished | AgentError) -> None:
        """The last event; the first call counts."""
        if self._end is None:
            self._end = end
            self._wake()

    async def events(self) -> AsyncIterator[Delta | Finished]:
        """Until `Finished`. Raises: what `end` was given."""
        while True:
            if self._texts or self._logprobs or self._calls:
                yield self._joined()
            elif isinstance(self._end, Finished):
                yield self._end
                return
            elif self._end is not None:
                raise self._end
            else:
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter

    def _joined(self) -> Delta:
        delta = Delta("".join(self._texts), tuple(self._logprobs), tuple(self._calls))
        self._clear()
        return delta

    def _clear(self) -> None:
        self._texts.clear()
        self._logprobs.clear()
        self._calls.clear()
        self._unread = 0

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def finished(ended: frames.Ended, max_tokens: int) -> Finished:
    """The end of an answer as the worker told it, with counts that can be: they are paid for."""
    prompt = min(ended.prompt_tokens, MOST_PROMPT)
    return Finished(
        ended.reason,
        prompt,
        min(ended.completion_tokens, max_tokens),
        min(ended.cached_tokens, prompt),
        Timing(
            queued_us=ended.queued_us,
            prefill_us=ended.prefill_us,
            decode_us=ended.decode_us,
            preemptions=ended.preemptions,
            drafted=ended.drafted,
            accepted=ended.accepted,
        ),
    )
