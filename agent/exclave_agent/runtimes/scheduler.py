"""Continuous batching: decides which tokens of which sequences the engine decodes next.

Knows nothing of llama.cpp: an `Engine` decodes, samples and forgets. Requests are submitted
and cancelled from any thread; one thread runs the loop and owns the engine.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from exclave_agent.runtimes import frames
from exclave_agent.runtimes.engine import NO_TOKEN, EmbedJob, Engine, Refused, Running, Work
from exclave_agent.runtimes.slots import Slots


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
        self._slots = Slots(engine)
        self._typical = 1.0
        """Seconds that a request holds its slot, smoothed: for `retry_after`."""
        self.steps = 0

    # --- from any thread -----------------------------------------------------------------

    def submit(self, sequence: Running) -> None:
        """Queue a sequence. Raises: Refused("overloaded") when the queue is full."""
        with self._changed:
            # What is cancelled frees its slot within a step: it holds nobody back.
            free = self._slots.free + len(self._cancelled)
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
            return len(self._slots.order) + len(self._waiting) + len(self._embeds)

    def _busy(self) -> bool:
        return bool(self._slots.order or self._waiting or self._embeds)

    # --- the loop ------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until `stop`."""
        while self._take():
            if self._slots.order:
                self._step()
            if self._embeds:
                self._embed()

    def _take(self) -> bool:
        """Wait for work, apply cancellations, fill free slots; False when stopping."""
        with self._changed:
            while not (self._stopping or self._cancelled or self._busy()):
                self._changed.wait()
            if self._stopping:
                return False
            if self._cancelled:
                self._forget_cancelled()
            while self._waiting and self._slots.free:
                sequence = self._waiting.popleft()
                sequence.admitted = self._monotonic()
                self._slots.put(sequence)
        return True

    def _forget_cancelled(self) -> None:
        gone, self._cancelled = self._cancelled, set()
        for sequence in [one for one in self._slots.order if one.id in gone]:
            self._slots.drop(sequence)
        for job in [one for one in self._embeds if one.id in gone]:
            self._embeds.remove(job)

    def _plan(self) -> list[Work]:
        """Every decoding sequence's token, and prompts oldest first as far as the step has room."""
        room = self._engine.step_tokens - sum(1 for one in self._slots.order if one.last >= 0)
        chunks: dict[int, int] = {}
        for sequence in self._slots.order:
            if sequence.last < 0 and room > 0:
                size = min(room, len(sequence.prompt) - sequence.position)
                chunks[sequence.slot] = size
                room -= size
        plan = []
        for sequence in self._slots:
            at = sequence.position
            if sequence.last >= 0:
                plan.append(Work(sequence, (sequence.last,), at, True))
            elif size := chunks.get(sequence.slot, 0):
                done = at + size == len(sequence.prompt)
                plan.append(Work(sequence, sequence.prompt[at : at + size], at, done))
        return plan

    def _step(self) -> None:
        if self._engine.moving_pays:
            self._slots.close_gap()
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
                self._slots.drop(sequence)
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
                self._slots.drop(sequence)
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
