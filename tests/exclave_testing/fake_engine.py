"""An engine that computes nothing and remembers everything: who wrote each cell of its cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from exclave_agent.runtimes import frames
from exclave_agent.runtimes.costs import Measured
from exclave_agent.runtimes.engine import NO_TOKEN, Running, Work
from exclave_agent.runtimes.scheduler import Limits, Scheduler
from exclave_agent.runtimes.text import StopFilter

END = 0
TOKEN_BYTES = 100
"""Of a saved state."""


class Ticks:
    """A monotonic clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeSampler:
    """Counts how often it was freed."""

    def __init__(self) -> None:
        self.closed = 0
        self.logprob: frames.LogprobFrame | None = None

    def sample(self, context: object, index: int, logits: object) -> int:
        raise AssertionError("only engines sample")

    def close(self) -> None:
        self.closed += 1


@dataclass(frozen=True, slots=True)
class Cell:
    """One token in a slot's cache, and for whom it was computed."""

    token: int
    writer: int
    caller: str
    shareable: bool
    adapter: str


@dataclass(frozen=True, slots=True)
class FakeState:
    """A slot's cells, taken out."""

    cells: tuple[Cell, ...]

    @property
    def nbytes(self) -> int:
        return TOKEN_BYTES * len(self.cells)


class FakeEngine:
    """Answers every sequence with the letters a, b, c ... or what `next_token` says.

    It refuses what a real one would answer with nonsense, or with somebody else's words: a
    position that is not the end of what the slot holds, cells that are not the sequence's
    tokens, cells that it may not see, a step of two adapters. `between` runs before each step,
    in the loop's thread: there a test acts at a known moment.
    """

    def __init__(
        self,
        slots: int = 2,
        step_tokens: int = 16,
        *,
        clock: Ticks | None = None,
        measured: Measured | None = None,
    ) -> None:
        self.slots = slots
        self.step_tokens = step_tokens
        self.embed_texts = 2
        self.embed_tokens = 8
        self.moving_pays = True
        self.reuses = True
        self.clock = clock or Ticks()
        # A token costs a tenth of a step, a copied one a hundredth of a token.
        self.measured = measured or Measured(token=0.01, rows={1: 0.1, 64: 0.1}, copy=1e-6)
        self.refuses_states = False
        self.cells: list[list[Cell]] = [[] for _ in range(slots)]
        self.plans: list[list[tuple[int, int, int, int]]] = []
        self.forgotten: list[tuple[int, int]] = []
        self.moves: list[tuple[int, int]] = []
        self.copies: list[tuple[int, int, int]] = []
        self.saves: list[int] = []
        self.restores: list[int] = []
        self.embedded: list[int] = []
        self.between: Callable[[int], object] = lambda step: None
        self.next_token: Callable[[Running], int] = lambda running: ord("a") + running.used % 26
        self.continues: Callable[[Sequence[int]], int] | None = None
        """Tokens so far -> the next one; instead of `next_token`, and needed for drafts."""

    def decode(self, plan: Sequence[Work]) -> None:
        self.between(len(self.plans))
        assert plan, "an empty step"
        assert [work.slot for work in plan] == sorted({work.slot for work in plan})
        size = sum(len(work.tokens) for work in plan)
        assert size <= self.step_tokens
        assert len({work.sequence.adapter for work in plan}) == 1, "a step of two adapters"
        self.plans.append(
            [(work.sequence.id, work.slot, work.position, len(work.tokens)) for work in plan]
        )
        prompt = sum(len(work.tokens) for work in plan if len(work.tokens) > 1 + work.draft)
        self.clock.now += self.measured.rows[1] + self.measured.token * prompt
        for work in plan:
            self._decode(work)

    def _decode(self, work: Work) -> None:
        one, cells = work.sequence, self.cells[work.slot]
        assert work.slot == one.slot
        assert len(cells) == work.position, "a position that is not the end of the slot"
        assert [cell.token for cell in cells] == one.tokens[: work.position], "foreign tokens"
        for cell in cells:
            mine = cell.writer == one.id or (one.caller != "" and cell.caller == one.caller)
            assert mine or cell.shareable, "a caller starts behind what another one wrote"
            assert cell.adapter == one.adapter, "cells of another adapter"
        for at, token in enumerate(work.tokens, work.position):
            cells.append(Cell(token, one.id, one.caller, at < one.shareable, one.adapter))
        if not work.sample:
            return
        known = [cell.token for cell in cells]
        sampled = []
        for at in range(1 + work.draft):
            size = len(known) - work.draft + at
            token = self.continues(known[:size]) if self.continues else self.next_token(one)
            sampled.append(token)
            if at == work.draft or token != known[size] or token in (END, NO_TOKEN):
                break
        work.sampled = sampled

    def forget(self, slot: int, keep: int = 0) -> None:
        self.forgotten.append((slot, keep))
        del self.cells[slot][keep:]

    def move(self, slot: int, to: int) -> None:
        self.moves.append((slot, to))
        self.cells[to], self.cells[slot] = self.cells[slot], []

    def copy(self, slot: int, to: int, tokens: int) -> None:
        assert slot != to
        self.copies.append((slot, to, tokens))
        self.cells[to] = list(self.cells[slot])

    def save(self, slot: int) -> FakeState:
        self.saves.append(slot)
        return FakeState(tuple(self.cells[slot]))

    def restore(self, slot: int, state: object) -> bool:
        assert isinstance(state, FakeState)
        self.restores.append(slot)
        self.cells[slot] = [] if self.refuses_states else [replace(cell) for cell in state.cells]
        self.clock.now += self.measured.copy * state.nbytes
        return not self.refuses_states

    def state_bytes(self, tokens: int) -> int:
        return TOKEN_BYTES * tokens

    def is_end(self, token: int) -> bool:
        return token == END

    def piece(self, token: int) -> bytes:
        return bytes([token])

    def embed(self, texts: Sequence[Sequence[int]]) -> list[bytes]:
        self.embedded.append(len(texts))
        return [bytes([len(text)]) for text in texts]


def sampling(max_tokens: int) -> frames.SamplingFrame:
    """Greedy."""
    return frames.SamplingFrame(max_tokens, 0.0, 1.0, 0, 0.0, 0.0, 0.0, 1, [], None)


class Bench:
    """A scheduler and what came out of it; `run` stops when all requests have been answered."""

    def __init__(self, engine: FakeEngine, max_queue: int = 8, **limits: float) -> None:
        self.engine = engine
        self.frames: list[frames.ToAgent] = []
        self.texts: dict[int, str] = {}
        self.ended: dict[int, frames.Ended] = {}
        self.failed: dict[int, frames.Failed] = {}
        self.finals: list[int] = []
        """Requests in the order in which they ended, however they did."""
        self.samplers: dict[int, FakeSampler] = {}
        self.scheduler = Scheduler(
            engine,
            self.emit,
            Limits(max_queue=max_queue, **limits),  # type: ignore[arg-type]  # test shorthand
            monotonic=engine.clock,
        )

    def emit(self, frame: frames.ToAgent) -> None:
        self.frames.append(frame)
        if isinstance(frame, frames.Step):
            for text in frame.texts:
                assert text.id not in self.finals
                self.texts[text.id] = self.texts.get(text.id, "") + text.text
            self.ended |= {ended.id: ended for ended in frame.ended}
            self.finals += [ended.id for ended in frame.ended]
        elif isinstance(frame, frames.Failed):
            self.failed[frame.id] = frame
            self.finals.append(frame.id)

    def submit(
        self,
        request: int,
        prompt: int | Sequence[int] = 3,
        max_tokens: int = 4,
        stops: Sequence[str] = (),
        shareable: int = 0,
        *,
        caller: str = "",
        batch: bool = False,
        timeout: float | None = None,
        adapter: str = "",
    ) -> Running:
        """`prompt`: its tokens, or how many."""
        tokens = [9] * prompt if isinstance(prompt, int) else prompt
        self.samplers[request] = sampler = FakeSampler()
        frame = frames.Generate(
            request,
            [],
            "",
            sampling(max_tokens),
            caller=caller,
            priority="batch" if batch else "interactive",
            timeout_us=None if timeout is None else int(timeout * 1e6),
            adapter=adapter,
        )
        sequence = Running(frame, tokens, sampler, StopFilter(stops), shareable)
        self.scheduler.submit(sequence)
        return sequence

    def run(self, steps: int = 500) -> None:
        """Serve until nothing is left. Raises: AssertionError after so many turns."""
        turns = 0
        while self.scheduler.active:
            self.scheduler.turn()
            turns += 1
            assert turns < steps, "the scheduler does not come to an end"

    def at(self, step: int, act: Callable[[], object]) -> None:
        """Do it before a step."""
        former = self.engine.between

        def between(now: int) -> None:
            former(now)
            if now == step:
                act()

        self.engine.between = between

    def first_step(self, request: int) -> int:
        """The number of the first step that held the request."""
        return next(
            number
            for number, plan in enumerate(self.engine.plans)
            if request in [entry[0] for entry in plan]
        )

    def began(self, request: int) -> int:
        """The position at which its first work began: what it found computed."""
        return next(entry[2] for plan in self.engine.plans for entry in plan if entry[0] == request)
