"""Continuous batching as an operating system does it: classes, fair shares, pre-emption.

Knows nothing of llama.cpp: an `Engine` decodes, samples and forgets. Requests are submitted
and cancelled from any thread; one thread runs the loop and owns the engine.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from exclave_agent.runtimes import frames
from exclave_agent.runtimes.answers import Answers
from exclave_agent.runtimes.costs import Costs
from exclave_agent.runtimes.draft import Drafts
from exclave_agent.runtimes.engine import Engine, Refused, Running, Work
from exclave_agent.runtimes.fairness import (
    CACHED_WEIGHT,
    PROMPT_WEIGHT,
    Fairness,
    FairQueue,
)
from exclave_agent.runtimes.jobs import EmbedJob
from exclave_agent.runtimes.parking import Parking
from exclave_agent.runtimes.planning import Planner
from exclave_agent.runtimes.prefix import PrefixStore
from exclave_agent.runtimes.slots import Slots

SAFE_TOKENS = 16
"""Tokens of its answer that a batch sequence makes before it must yield, once it got a slot
because its class had gone without for too long."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an operator sets; see `parameters.LlamaParameters`."""

    max_queue: int = 64
    """Requests of each class that may wait."""
    prefix_bytes: int = 0
    prefix_seconds: float = 600.0
    park_bytes: int = 0
    draft_tokens: int = 0
    """0 for an engine whose slots cannot be cut."""
    batch_share: float = 0.1
    """The part of the work that batch requests get however many interactive ones there are."""


class Scheduler:
    """Admission, batching and the loop. `emit` is called from the loop's thread only."""

    def __init__(
        self,
        engine: Engine,
        emit: Callable[[frames.ToAgent], None],
        limits: Limits,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._emit = emit
        self._limits = limits
        self._monotonic = monotonic
        self._changed = threading.Condition()
        self._fairness = Fairness()
        self._waiting = FairQueue(self._fairness)
        self._embeds: deque[EmbedJob] = deque()
        self._cancelled: set[int] = set()
        self._deadlines: list[tuple[float, int, Running]] = []
        self._arrivals = itertools.count()
        self._stopping = False
        self._costs = Costs(engine.measured)
        self._store = PrefixStore(limits.prefix_bytes)
        self._parking = Parking(limits.park_bytes)
        self._slots = Slots(
            engine,
            self._costs,
            self._store,
            self._parking,
            prefix_seconds=limits.prefix_seconds,
            monotonic=monotonic,
        )
        drafts = Drafts(self._costs, limits.draft_tokens)
        self._planner = Planner(
            self._slots, self._costs, drafts, engine.step_tokens, limits.batch_share
        )
        self._answers = Answers(engine, self._fairness, monotonic)
        self._batch_waits = 0.0
        """Steps since a batch request last got a token, while there is one; times its share."""
        self._busy_seconds = 0.0
        self._batch_tokens = 0
        self._batch_sequences = 0
        self.steps = 0

    # --- from any thread -----------------------------------------------------------------

    def submit(self, sequence: Running, arrived: float | None = None) -> None:
        """Queue a sequence; `arrived`: when its request came, if not now.

        Raises: Refused("overloaded") when the queue is full.
        """
        now = self._monotonic() if arrived is None else arrived
        with self._changed:
            ahead = self._waiting.size(sequence.interactive)
            # What is cancelled frees its slot within a step: it holds nobody back.
            free = self._slots.free
            if self._cancelled:
                free += sum(one.id in self._cancelled for one in self._slots.order)
            if ahead >= self._limits.max_queue + free:
                raise self._overloaded(ahead, sequence.interactive)
            sequence.arrived = now
            if sequence.timeout is not None:
                sequence.deadline = now + sequence.timeout
                heapq.heappush(self._deadlines, (sequence.deadline, next(self._arrivals), sequence))
            self._fairness.enter(sequence.caller)
            self._waiting.push(sequence)
            self._changed.notify()

    def _overloaded(self, ahead: int, interactive: bool) -> Refused:
        """When to come again: the time that those ahead take, at the rate measured lately."""
        if not interactive:
            ahead += self._waiting.size(True)
        turns = 1 + ahead // len(self._slots)
        seconds = turns * self._answers.typical[interactive]
        return Refused(
            "overloaded",
            f"{ahead} requests wait for this model already",
            retry_after=round(min(60.0, max(1.0, seconds)), 1),
        )

    def submit_embed(self, job: EmbedJob) -> None:
        """Queue texts. Raises: Refused("overloaded") when the queue is full."""
        with self._changed:
            if len(self._embeds) >= max(1, self._limits.max_queue):
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
            self._cancelled.add(request)
            for waiting in [one for one in self._waiting if one.id == request]:
                self._forget_waiting(waiting)
                self._cancelled.discard(request)
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

    def stats(self) -> frames.StatsFrame:
        """Counters since the start, and what is held now."""
        with self._changed:
            waiting = len(self._waiting) + len(self._embeds)
        return frames.StatsFrame(
            waiting=waiting,
            batch_tokens=self._batch_tokens,
            batch_sequences=self._batch_sequences,
            busy_us=int(self._busy_seconds * 1e6),
            prefix_hits=self._slots.hits,
            prefix_tokens=self._slots.hit_tokens,
            prefix_bytes=self._store.bytes,
            preemptions=self._slots.preemptions,
            drafted=self._answers.drafted,
            accepted=self._answers.accepted,
        )

    def _busy(self) -> bool:
        return bool(self._slots.order or len(self._waiting) or self._embeds)

    # --- the loop ------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until `stop`."""
        while self.turn():
            pass

    def turn(self) -> bool:
        """Wait for work and do one step of it; False when stopping."""
        if not self._take():
            return False
        if self._slots.order:
            self._step()
        if self._embeds:
            self._embed()
        return True

    def _take(self) -> bool:
        """Wait for work, drop what is cancelled or late, fill slots; False when stopping."""
        failed: list[frames.Failed] = []
        with self._changed:
            while True:
                now = self._monotonic()
                idle = self._slots.expire(now)
                if self._stopping or self._cancelled or self._busy():
                    break
                self._changed.wait(idle)
            if self._stopping:
                return False
            if self._cancelled:
                self._forget_cancelled()
            if self._deadlines and self._deadlines[0][0] <= now:
                failed += self._forget_late(now)
            if len(self._waiting):
                failed += self._admit(now)
        for frame in failed:
            self._emit(frame)
        return True

    def _admit(self, now: float) -> list[frames.Failed]:
        """Fill slots from the queue; batch sequences yield theirs to interactive ones."""
        failed = []
        while len(self._waiting):
            due = self._batch_waits >= SAFE_TOKENS
            # One slot pays the debt: until its first token is there, no more go that way.
            owed = due and all(one.interactive for one in self._slots.order)
            if not self._slots.free:
                victim = self._victim(due)
                if victim is None:
                    break
                self._slots.preempt(victim)
                self._waiting.push(victim, first=True)
            sequence = self._waiting.pop(batch_first=owed)
            first = sequence.started < 0
            self._slots.put(sequence)
            if owed and not sequence.interactive:
                sequence.safe_until = sequence.used + SAFE_TOKENS
            if self._hopeless(sequence, now):
                failed.append(self._too_late(sequence))
                self._drop(sequence)
            elif first:
                computed = len(sequence.prompt) - sequence.cached
                self._fairness.charge(
                    sequence.caller, PROMPT_WEIGHT * computed + CACHED_WEIGHT * sequence.cached
                )
        return failed

    def _victim(self, due: bool) -> Running | None:
        """The batch sequence that loses least by yielding its slot to an interactive one; when
        batch work is `due`, the one that has come furthest is safe for a while."""
        if not self._waiting.size(True):
            return None
        batch = [one for one in self._slots.order if not one.interactive]
        if due and batch and all(one.used >= one.safe_until for one in batch):
            furthest = max(batch, key=lambda one: one.position)
            furthest.safe_until = furthest.used + SAFE_TOKENS
        yielding = [one for one in batch if one.used >= one.safe_until]
        return min(yielding, key=lambda one: one.position, default=None)

    def _hopeless(self, sequence: Running, now: float) -> bool:
        """Whether the rest of its prompt alone takes longer than it has, at the best speed this
        machine ever had. Who follows a leader may yet get it for nothing."""
        if sequence.deadline is None or sequence.leader is not None:
            return False
        rest = len(sequence.tokens) - sequence.position
        if self._costs.fastest_token is None:
            return False
        return rest * self._costs.fastest_token > sequence.deadline - now

    def _forget_cancelled(self) -> None:
        gone, self._cancelled = self._cancelled, set()
        for sequence in [one for one in self._slots.order if one.id in gone]:
            self._drop(sequence)
        for job in [one for one in self._embeds if one.id in gone]:
            self._embeds.remove(job)

    def _forget_late(self, now: float) -> list[frames.Failed]:
        failed = []
        while self._deadlines and self._deadlines[0][0] <= now:
            sequence = heapq.heappop(self._deadlines)[2]
            if sequence.ended:
                continue
            failed.append(self._too_late(sequence))
            if sequence.slot >= 0:
                self._drop(sequence)
            else:
                self._forget_waiting(sequence)
        return failed

    @staticmethod
    def _too_late(sequence: Running) -> frames.Failed:
        return Refused(
            "deadline_exceeded",
            f"the answer was not complete within {sequence.timeout or 0:g} s",
        ).frame(sequence.id)

    def _drop(self, sequence: Running) -> None:
        self._slots.drop(sequence)
        self._ended(sequence)

    def _forget_waiting(self, sequence: Running) -> None:
        self._waiting.remove(sequence)
        self._parking.take(sequence.id)
        sequence.sampler.close()
        self._ended(sequence)

    def _ended(self, sequence: Running) -> None:
        sequence.ended = True
        self._fairness.leave(sequence.caller)
        if len(self._deadlines) > 64 + 2 * (len(self._waiting) + len(self._slots)):
            self._deadlines = [one for one in self._deadlines if not one[2].ended]
            heapq.heapify(self._deadlines)

    def _step(self) -> None:
        slots = self._slots
        slots.serve_followers()
        if self._engine.moving_pays:
            slots.close_gap()
        plan = self._planner.plan()
        started = self._monotonic()
        self._engine.decode(plan)
        ended_at = self._monotonic()
        self.steps += 1
        self._count(plan, ended_at - started)
        texts, extras, ended, failed = self._answers.take(plan, ended_at)
        done = [work.sequence for work in plan if work.sequence.ended]
        if done:
            with self._changed:
                for sequence in done:
                    self._drop(sequence)
        if texts or ended or extras:
            self._emit(frames.Step(texts, ended, extras))
        for frame in failed:
            self._emit(frame)

    def _count(self, plan: list[Work], seconds: float) -> None:
        rows = prompt = 0
        for work in plan:
            size = len(work.tokens)
            if work.sample and size == 1 + work.draft:
                rows += size
            else:
                prompt += size
        self._busy_seconds += seconds
        self._batch_tokens += rows + prompt
        self._batch_sequences += len(plan)
        self._costs.saw_step(seconds, rows, prompt)
        if any(work.sample and not work.sequence.interactive for work in plan):
            self._batch_waits = 0.0
        elif self._waiting.size(False) or not all(one.interactive for one in self._slots.order):
            self._batch_waits += self._limits.batch_share
        else:
            self._batch_waits = 0.0

    def _embed(self) -> None:
        """One engine call for the job at the head of the queue; jobs take turns."""
        job = self._embeds[0]
        todo = job.texts[len(job.vectors) :]
        most = self._engine.embed_tokens
        if self._slots.order:
            # Answers wait meanwhile: no longer than for a chunk of a prompt, or for one text.
            most = max(len(todo[0]), min(most, self._engine.step_tokens))
        count, room = 0, most
        while count < min(len(todo), self._engine.embed_texts) and len(todo[count]) <= room:
            room -= len(todo[count])
            count += 1
        started = self._monotonic()
        job.vectors += self._engine.embed(todo[:count])
        self._busy_seconds += self._monotonic() - started
        self._batch_tokens += most - room
        self._batch_sequences += count
        self.steps += 1
        done = len(job.vectors) == len(job.texts)
        if done:
            self._emit(job.result())
        with self._changed:
            self._embeds.popleft()
            if not done:
                self._embeds.append(job)
