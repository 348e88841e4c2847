"""Whatever happens, wherever: one RESULT for an INTENT, no delta before it, nothing held for good.

Hypothesis makes up what models, log and caller do, and when; time does not matter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from exclave_agent.decide.budget import Reservation
from exclave_agent.errors import (
    AgentError,
    BadRequest,
    Overloaded,
    RemoteFailed,
    StorageError,
    StorageFull,
    WorkerCrashed,
)
from exclave_agent.ports import Delta, LeafDraft
from exclave_testing.routing import Desk, budget_text, chat, route_text
from exclave_testing.scripted import Step, model

FAILURES: tuple[type[AgentError], ...] = (WorkerCrashed, Overloaded, RemoteFailed, BadRequest)
STEPS = st.one_of(
    st.sampled_from(["a", '{"a":', "1}"]),
    st.sampled_from(["crash", "full", "remote", "bad", "bug", "hang"]).map(lambda kind: f"!{kind}"),
)
TARGETS = ("one", "two", "cloud")


@dataclass(frozen=True)
class Story:
    """What happens."""

    scripts: tuple[tuple[str, ...], ...]
    stream: bool
    schema: bool
    hedged: bool
    stands_in: str
    tokens: int
    """Of the budget."""
    leave_after: int | None
    """Turns of the loop until the caller goes away."""
    by: str
    durable_after: int
    """Turns of the loop until the log writes."""
    refuses: str
    """Type of the leaf that the log refuses."""
    referrals_fail: bool


STORIES = st.builds(
    Story,
    scripts=st.tuples(*(st.lists(STEPS, max_size=4).map(tuple) for _ in TARGETS)),
    stream=st.booleans(),
    schema=st.booleans(),
    hedged=st.booleans(),
    stands_in=st.sampled_from(["", "answer", "person"]),
    tokens=st.sampled_from([0, 400, 100_000]),
    leave_after=st.none() | st.integers(0, 60),
    by=st.sampled_from(["cancel", "close"]),
    durable_after=st.integers(0, 40),
    refuses=st.sampled_from(["", "", "INTENT", "RESULT"]),
    referrals_fail=st.booleans(),
)


def steps(script: Sequence[str]) -> list[Step]:
    made: dict[str, Step] = {
        "!crash": WorkerCrashed("x"),
        "!full": Overloaded("x"),
        "!remote": RemoteFailed("x"),
        "!bad": BadRequest("x"),
        "!bug": KeyError("x"),
        "!hang": asyncio.Event(),
    }
    return [made.get(step, step) for step in script]


def desk_for(story: Story) -> Desk:
    first: dict[str, Any] = {"model": "one"} | ({"hedge_after_ms": 1} if story.hedged else {})
    spec: dict[str, Any] = {"retry": {"attempts": 3}}
    if story.stands_in:
        spec["otherwise"] = {story.stands_in: "later"}
    models = (model("one"), model("two"), model("cloud", remote=True))
    texts = [route_text(first, "two", "cloud", **spec), budget_text(story.tokens)]
    desk = Desk(*texts, models=models)
    for name, script in zip(TARGETS, story.scripts, strict=True):
        desk.models.script(name, *steps(script))
    if story.referrals_fail:
        desk.referrals.failure = StorageFull("full")

    def refusal(draft: LeafDraft) -> StorageError | None:
        return StorageFull("full") if draft.type == story.refuses else None

    desk.log.fail_on = refusal
    return desk


class Ends:
    """Counts how often each reservation ended with an effect."""

    def __init__(self, desk: Desk) -> None:
        self.made: list[Reservation] = []
        self.ends = 0
        budgets = desk.budgets
        reserve, settle = budgets.reserve, budgets._settle

        def reserving(*given: Any) -> Reservation:
            self.made.append(reserve(*given))
            return self.made[-1]

        def settling(*given: Any) -> None:
            self.ends += 1
            settle(*given)

        budgets.reserve = reserving  # type: ignore[method-assign, assignment]  # counted
        budgets._settle = settling  # type: ignore[method-assign, assignment]  # counted


async def listen(desk: Desk, story: Story) -> None:
    """The caller: no delta may come before the INTENT, nor an end before the RESULT."""
    call = chat(
        stream=story.stream,
        response_schema='{"type":"object"}' if story.schema else None,
        timeout=0.02,
    )
    events = desk.pipeline.stream(call)
    seen = 0
    try:
        async for event in events:
            seen += 1
            assert len(desk.log.of_type("INTENT")) == 1
            if not isinstance(event, Delta):
                assert len(desk.log.of_type("RESULT")) == 1
            if story.by == "close" and story.leave_after is not None and seen > 1:
                return
    finally:
        await events.aclose()


async def live(story: Story) -> tuple[Desk, Ends]:
    desk = desk_for(story)
    ends = Ends(desk)
    async with desk.open():
        desk.log.gate.clear()
        task = asyncio.ensure_future(listen(desk, story))
        turns = max(story.durable_after, story.leave_after or 0) + 1
        for turn in range(turns):
            if turn == story.durable_after:
                desk.log.gate.set()
            if turn == story.leave_after and story.by == "cancel":
                task.cancel()
            await asyncio.sleep(0)
        desk.log.gate.set()
        with suppress(AgentError, KeyError, asyncio.CancelledError):
            await task
    return desk, ends


@settings(max_examples=300, deadline=None, derandomize=True)
@given(STORIES)
def test_whatever_happens_the_record_and_the_budget_are_right(story: Story) -> None:
    desk, ends = asyncio.run(live(story))
    intents, results = desk.log.of_type("INTENT"), desk.log.of_type("RESULT")
    assert len(intents) <= 1
    # A call that was cancelled before it began is no decision.
    begun = bool(intents) or bool(desk.metrics.all)
    refused = story.refuses in ("INTENT", "RESULT")
    assert len(results) == (1 if begun and not refused else len(results))
    assert len(results) <= 1
    if intents and story.refuses != "RESULT":
        assert len(results) == 1
        assert results[0].body["intent"] == str(intents[0].seq)
    assert len(desk.metrics.all) == begun
    # Every reservation ends once, and what is durable is what the accounts say.
    assert ends.ends == len(ends.made)
    assert desk.held() == 0
    counted = sum(view.tokens for view in desk.budgets.views())
    if story.refuses == "RESULT" and intents:
        assert desk.spent() >= counted  # the worst case stays spent
    else:
        assert desk.spent() == counted
    # Nothing is still running, leased, or lost to its breaker.
    assert desk.models.open.total() == 0
    assert desk.releases.held == 0
    assert all(view.state == "closed" for view in desk.pipeline.breakers())
