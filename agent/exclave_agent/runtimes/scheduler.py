"""Continuous batching: decides which tokens of which sequences the engine decodes next.

Knows nothing of llama.cpp: an `Engine` decodes, samples and forgets. Requests are submitted
and cancelled from any thread; one thread runs the loop and owns the engine.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from exclave_agent.runtimes import frames
from exclave_agent.runtimes.text import StopFilter


class Refused(Exception):
    """A request that is not served, in the words of `exclave_agent.errors`."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after

    def frame(self, request: int) -> frames.Failed:
        """What the agent is told."""
        return frames.Failed(request, self.code, self.message, self.param, self.retry_after)


class Sampler(Protocol):
    """Chooses one sequence's tokens; belongs to the engine that made it."""

    def sample(self, context: Any, index: int, logits: Any) -> int:
        """The next token, `NO_TOKEN` when none is allowed; only its engine calls this."""
        ...

    def close(self) -> None:
        """Free it. Idempotent."""
        ...


class Running:
    """One request on its way through prefill and decode."""

    __slots__ = (
        "admitted", "id", "last", "max_tokens", "position", "prompt", "sampler", "slot",
        "text", "used",
    )  # fmt: skip

    def __init__(
        self,
        request: int,
        prompt: Sequence[int],
        max_tokens: int,
        sampler: Sampler,
        text: StopFilter,
    ) -> None:
        self.id = request
        self.prompt = prompt
        self.max_tokens = max_tokens
        self.sampler = sampler
        self.text = text
        self.slot = -1
        self.position = 0
        """Tokens of it that the engine has decoded."""
        self.last = -1
        """The token sampled last, to be decoded next; -1 while in prefill."""
        self.used = 0
        """Tokens of the answer so far."""
        self.admitted = 0.0


class Work:
    """The tokens of one slot in one step; the last one's logits are wanted when `sample`."""

    __slots__ = ("position", "sample", "sequence", "slot", "tokens")

    def __init__(
        self, sequence: Running, tokens: Sequence[int], position: int, sample: bool
    ) -> None:
        self.sequence = sequence
        self.slot = sequence.slot
        self.tokens = tokens
        self.position = position
        self.sample = sample


class Engine(Protocol):
    """A model that decodes several sequences at once."""

    slots: int
    """Sequences it holds."""
    step_tokens: int
    """Most tokens of one step."""

    def decode(self, plan: Sequence[Work]) -> list[int]:
        """Run the model over the plan and sample; one token for each item with `sample`, in order.

        The plan is ordered by slot. `NO_TOKEN` for a sequence whose constraint leaves none.
        """
        ...

    def forget(self, slot: int) -> None:
        """Free what the slot holds."""
        ...

    def move(self, slot: int, to: int) -> None:
        """Give what `slot` holds to the free slot `to`."""
        ...

    moving_pays: bool
    """Whether a move costs less than the few steps that a gap between slots slows down."""

    def is_end(self, token: int) -> bool:
        """Whether the model means "end of answer" by it."""
        ...

    def piece(self, token: int) -> bytes:
        """The token's bytes; empty for control tokens."""
        ...

    def embed(self, texts: Sequence[Sequence[int]]) -> list[bytes]:
        """One unit vector a text (float32, little-endian); see `embed_tokens`, `embed_texts`."""
        ...

    embed_texts: int
    embed_tokens: int
    """Most texts and tokens of one `embed`."""


GAP_STEPS = 3
"""Steps that a gap between slots may last before it is closed: a caller who sends the next
request at once fills it sooner, for nothing."""

NO_TOKEN = -1
"""What `Engine.decode` gives for a sequence whose constraint allows no token at all."""


class EmbedJob:
    """Texts to embed, some of them perhaps done."""

    __slots__ = ("id", "texts", "vectors")

    def __init__(self, request: int, texts: Sequence[Sequence[int]]) -> None:
        self.id = request
        self.texts = texts
        self.vectors: list[bytes] = []


class Scheduler:
    """Admission, batching and the loop. `emit` is called from the loop's thread only."""

    def __init__(
        self,
        engine: Engine,
        emit: Callable[[frames.ToAgent], None],
        *,
        max_queue: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._emit = emit
        self._max_queue = max_queue
        self._monotonic = monotonic
        self._changed = threading.Condition()
        self._waiting: deque[Running] = deque()
        self._embeds: deque[EmbedJob] = deque()
        self._cancelled: set[int] = set()
        self._stopping = False
        self._slots: list[Running | None] = [None] * engine.slots
        self._order: list[Running] = []
        """The sequences that hold slots, oldest first."""
        self._gap_age = 0
        self._typical = 1.0
        """Seconds that a request holds its slot, smoothed: for `retry_after`."""
        self.steps = 0

    # --- from any thread -----------------------------------------------------------------

    def submit(self, sequence: Running) -> None:
        """Queue a sequence. Raises: Refused("overloaded") when the queue is full."""
        with self._changed:
            # What is cancelled frees its slot within a step: it holds nobody back.
            free = len(self._slots) - len(self._order) + len(self._cancelled)
            if len(self._waiting) >= self._max_queue + free:
                turns = 1 + len(self._waiting) // len(self._slots)
                raise Refused(
                    "overloaded",
                    f"{len(self._waiting)} requests wait for this model already",
                    retry_after=round(min(60.0, max(1.0, turns * self._typical)), 1),
                )
            self._waiting.append(sequence)
            self._changed.notify()

    def submit_embed(self, job: EmbedJob) -> None:
        """Queue texts. Raises: Refused("overloaded") when the queue is full."""
        with self._changed:
            if len(self._embeds) >= max(1, self._max_queue):
                raise Refused(
                    "overloaded",
                    f"{len(self._embeds)} requests wait for this model already",
                    retry_after=1.0,
                )
            self._embeds.append(job)
            self._changed.notify()

    def cancel(self, request: int) -> None:
        """Forget a request within one step; its slot goes to the next in line."""
        with self._changed:
            for waiting in [one for one in self._waiting if one.id == request]:
                self._waiting.remove(waiting)
                waiting.sampler.close()
                return
            self._cancelled.add(request)
            self._changed.notify()

    def stop(self) -> None:
        """Let `run` return after the current step."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    @property
    def active(self) -> int:
        """Requests held, waiting ones included."""
        with self._changed:
            return len(self._order) + len(self._waiting) + len(self._embeds)

    # --- the loop ------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until `stop`."""
        while self._take():
            if self._order:
                self._step()
            if self._embeds:
                self._embed()

    def _take(self) -> bool:
        """Wait for work, apply cancellations, fill free slots; False when stopping."""
        with self._changed:
            while not (
                self._stopping or self._order or self._waiting or self._embeds or self._cancelled
            ):
                self._changed.wait()
            if self._stopping:
                return False
            if self._cancelled:
                self._forget_cancelled()
            while self._waiting and len(self._order) < len(self._slots):
                self._admit(self._waiting.popleft())
        return True

    def _admit(self, sequence: Running) -> None:
        # The lowest free slot: the engine decodes neighbours together, gaps apart.
        sequence.slot = self._slots.index(None)
        self._slots[sequence.slot] = sequence
        self._order.append(sequence)
        sequence.admitted = self._monotonic()

    def _close_gap(self) -> None:
        """Move the sequence in the highest slot into a gap that nobody has filled for a while."""
        free = self._slots.index(None) if None in self._slots else len(self._slots)
        highest = max(self._order, key=lambda one: one.slot)
        if free > highest.slot:
            self._gap_age = 0
            return
        self._gap_age += 1
        if self._gap_age > GAP_STEPS:
            self._engine.move(highest.slot, free)
            self._slots[highest.slot], self._slots[free] = None, highest
            highest.slot = free

    def _forget_cancelled(self) -> None:
        gone, self._cancelled = self._cancelled, set()
        for sequence in [one for one in self._order if one.id in gone]:
            self._release(sequence)
        for job in [one for one in self._embeds if one.id in gone]:
            self._embeds.remove(job)

    def _release(self, sequence: Running) -> None:
        self._order.remove(sequence)
        self._slots[sequence.slot] = None
        self._engine.forget(sequence.slot)
        sequence.sampler.close()

    def _plan(self) -> list[Work]:
        """Every decoding sequence's token, and prompts oldest first as far as the step has room."""
        room = self._engine.step_tokens - sum(1 for one in self._order if one.last >= 0)
        chunks: dict[int, int] = {}
        for sequence in self._order:
            if sequence.last < 0 and room > 0:
                size = min(room, len(sequence.prompt) - sequence.position)
                chunks[sequence.slot] = size
                room -= size
        plan = []
        for sequence in filter(None, self._slots):
            at = sequence.position
            if sequence.last >= 0:
                plan.append(Work(sequence, (sequence.last,), at, True))
            elif size := chunks.get(sequence.slot, 0):
                done = at + size == len(sequence.prompt)
                plan.append(Work(sequence, sequence.prompt[at : at + size], at, done))
        return plan

    def _step(self) -> None:
        if self._engine.moving_pays:
            self._close_gap()
        plan = self._plan()
        tokens = iter(self._engine.decode(plan))
        self.steps += 1
        texts: list[frames.Text] = []
        ended: list[frames.Ended] = []
        for work in plan:
            sequence = work.sequence
            sequence.position += len(work.tokens)
            if not work.sample:
                continue
            token = next(tokens)
            if token == NO_TOKEN:
                self._release(sequence)
                self._emit(
                    Refused(
                        "output_invalid",
                        "json_schema: no token can continue an answer that matches it",
                        param="response_format",
                    ).frame(sequence.id)
                )
                continue
            text, reason = self._advance(sequence, token)
            if text:
                texts.append(frames.Text(sequence.id, text))
            if reason:
                self._release(sequence)
                held = self._monotonic() - sequence.admitted
                self._typical += 0.2 * (held - self._typical)
                ended.append(frames.Ended(sequence.id, reason, len(sequence.prompt), sequence.used))
        if texts or ended:
            self._emit(frames.Step(texts, ended))

    def _advance(self, sequence: Running, token: int) -> tuple[str, str]:
        """Take one sampled token: its text, and why the sequence ends ("" when it does not)."""
        filter_ = sequence.text
        if self._engine.is_end(token):
            return filter_.finish(), "stop"
        sequence.used += 1
        sequence.last = token
        text = filter_.feed(self._engine.piece(token))
        if filter_.stopped:
            return text, "stop"
        if sequence.used >= sequence.max_tokens:
            return text + filter_.finish(), "length"
        return text, ""

    def _embed(self) -> None:
        """One engine call for the job at the head of the queue; jobs take turns."""
        job = self._embeds[0]
        todo = job.texts[len(job.vectors) :]
        count, room = 0, self._engine.embed_tokens
        while count < min(len(todo), self._engine.embed_texts) and len(todo[count]) <= room:
            room -= len(todo[count])
            count += 1
        job.vectors += self._engine.embed(todo[:count])
        self.steps += 1
        done = len(job.vectors) == len(job.texts)
        if done:
            used = sum(len(text) for text in job.texts)
            self._emit(frames.EmbedResult(job.id, job.vectors, used))
        with self._changed:
            self._embeds.popleft()
            if not done:
                self._embeds.append(job)
