"""Budgets and the cache inside the decision path: nobody gets around them, and all is recorded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from exclave_agent.decide.budget import Budgets
from exclave_agent.decide.cache import Cache
from exclave_agent.decide.calls import Answered
from exclave_agent.decide.pipeline import Pipeline
from exclave_agent.errors import BudgetExceeded, OutputInvalid, PolicyDenied, WorkerCrashed
from exclave_agent.ports import Caller, Delta, Finished, Message, Price, Tool, ToolCall
from exclave_testing.clock import FakeClock, SequentialIds
from exclave_testing.homes import Home, execute, state
from exclave_testing.routing import ANALYST, Desk, Gathered, chat, route_text
from exclave_testing.scripted import model
from exclave_testing.storage import FakeCompletionStore


def document(kind: str, **spec: Any) -> str:
    head = {"apiVersion": "exclave.dev/v1", "metadata": {"name": "test", "version": "1"}}
    return json.dumps(head | {"kind": kind, "spec": spec})


def cache_text(**more: Any) -> str:
    return document("Cache", models=["*"], data_classes=["", "public"], ttl_seconds=60, **more)


SEMANTIC = cache_text(
    semantic={"data_classes": ["public"], "threshold": "0.9", "embed_model": "small"}
)
BUDGET = document("Budget", tenant={"tokens": 100_000, "per": "day"})


class Kept(Desk):
    """A desk with a cache; `store` is what it keeps."""

    def __init__(self, *documents: str, **changes: Any) -> None:
        self.store = FakeCompletionStore()
        self.cache = Cache(self.store, FakeClock(), "acme")
        super().__init__(*documents, cache=self.cache, **changes)

    async def again(self, **changes: Any) -> Answered:
        """Ask once what is kept is kept."""
        return (await self.ask(chat(temperature=0.0, **changes)))[1]

    async def kept(self, count: int) -> None:
        """Wait until that many answers are kept."""
        async with asyncio.timeout(5):
            while len(self.store.rows) != count:
                await asyncio.sleep(0)


# --- the cache ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_a_hit_is_a_decision_of_its_own(stream: bool) -> None:
    desk = Kept(route_text("big"), cache_text(), BUDGET)
    async with desk.open():
        desk.models.script("big", "an", " answer", Finished("stop", 7, 2))
        first = await desk.again(decision="d1")
        await desk.kept(1)
        spent = desk.spent()
        texts, end = await desk.ask(
            chat(decision="d2", temperature=0.0, stream=stream, subject="patient-8")
        )
        assert "".join(texts) == "an answer"
        assert (first.cache, end.cache) == ("", "exact")
        assert (end.model, end.prompt_tokens, end.completion_tokens) == ("big", 7, 2)
        assert desk.models.asked == ["big"]
        intent, result = desk.intent(), desk.result()
        assert (intent.body["decision"], result.body["decision"]) == ("d2", "d2")
        assert (result.body["cache"], result.body["outcome"]) == ("exact", "answered")
        assert end.receipt.result_seq == result.seq
        last = desk.log.drafts[-1]
        assert (last.private["output"], last.subject) == ("an answer", "patient-8")
        assert (desk.spent(), desk.held()) == (spent, 0)
        assert desk.metrics.all[-1].cache == "exact"


async def test_a_hit_is_only_for_those_whom_the_policy_allows() -> None:
    desk = Kept(cache_text())
    async with desk.open():
        await desk.again(model="big")
        await desk.kept(1)
        with pytest.raises(PolicyDenied):
            await desk.again(model="big", decision="d2", caller=Caller("2", ("guest",)))
        assert (await desk.again(model="big", decision="d3")).cache == "exact"


async def test_tool_calls_come_back() -> None:
    made = ToolCall("call_1", "look", "{}")
    desk = Kept(cache_text())
    async with desk.open():
        desk.models.script("big", Delta("", tool_calls=(made,)), Finished("tool_calls", 7, 2))
        asked = {"model": "big", "tools": (Tool("look"),)}
        await desk.again(**asked)
        await desk.kept(1)
        again = await desk.again(**asked, decision="d2")
        assert (again.cache, again.finish, again.tool_calls) == ("exact", "tool_calls", (made,))


async def test_what_is_not_whole_valid_and_first_choice_is_not_kept() -> None:
    route = route_text("big", "small", otherwise={"answer": "sorry"})
    desk = Kept(route, cache_text())
    async with desk.open():
        desk.models.script("big", WorkerCrashed("x"))
        assert (await desk.again(decision="d1")).degraded == "fallback"
        desk.models.script("big", WorkerCrashed("x"))
        desk.models.script("small", WorkerCrashed("x"))
        assert (await desk.again(decision="d2")).degraded == "canned"
        desk.models.script("forbidden", "no json")
        desk.models.script("big", "no json", times=2)
        with pytest.raises(OutputInvalid):
            await desk.again(decision="d3", model="big", response_schema='{"type":"object"}')
        never = asyncio.Event()
        desk.models.script("big", "half", never)
        task = asyncio.create_task(desk.again(decision="d4", model="big"))
        async with asyncio.timeout(5):
            while not desk.models.open["big"]:
                await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert desk.store.rows == {}


async def test_a_similar_question_says_how_similar_it_was() -> None:
    desk = Kept(SEMANTIC)
    async with desk.open():
        ask = {"model": "big", "data_class": "public"}
        await desk.again(**ask, messages=(Message("user", "first"),))
        await desk.kept(1)
        end = await desk.again(**ask, decision="d2", messages=(Message("user", "second"),))
        assert end.cache == "semantic"
        assert desk.result().body["cache"] == "semantic"
        similarity = desk.result().body["similarity"]
        assert isinstance(similarity, str)
        assert 0.9 <= float(similarity) <= 1


async def test_a_caller_whose_budget_is_spent_gets_no_hit_either() -> None:
    budget = document("Budget", tenant={"tokens": 300, "per": "day"})
    desk = Kept(cache_text(), budget)
    async with desk.open():
        await desk.again(model="big", max_tokens=1)
        await desk.kept(1)
        with pytest.raises(BudgetExceeded):
            await desk.again(model="big", max_tokens=1, decision="d2")


# --- budgets on a real log ---------------------------------------------------------------------


@asynccontextmanager
async def pipeline_on(path: Path, desk: Desk) -> AsyncIterator[Pipeline]:
    """The desk's release over a real home."""
    async with Home(path) as home:
        budgets = Budgets(home.storage.ledger, home.clock)
        await budgets.load()
        pipeline = Pipeline(
            desk.releases, home.log, home.clock, SequentialIds(), Gathered(), budgets=budgets
        )
        async with pipeline:
            yield pipeline


async def answered(pipeline: Pipeline, decision: str, caller: Caller) -> bool:
    """Whether a call passes."""
    call = chat(model="big", decision=decision, caller=caller)
    try:
        return [isinstance(event, Answered) async for event in pipeline.stream(call)][-1]
    except BudgetExceeded:
        return False


async def test_of_a_hundred_on_a_real_log_one_passes_whatever_its_key(tmp_path: Path) -> None:
    price = Price("EUR", 1_000_000, 1_000_000)
    budget = document(
        "Budget",
        currency="EUR",
        tenant={"money": "0.0004", "per": "total"},  # one worst case, and not two
        teams=[{"name": "a", "roles": ["analyst"], "tokens": 10**9, "per": "day"}],
    )
    desk = Desk(budget, models=(model("big", price=price),))
    start = asyncio.Event()
    desk.models.script("big", start, "done", times=100)
    callers = [Caller(f"key-{i}", ANALYST.roles) for i in range(100)]
    async with pipeline_on(tmp_path, desk) as pipeline, asyncio.TaskGroup() as group:
        racers = [
            group.create_task(answered(pipeline, f"d{i}", caller))
            for i, caller in enumerate(callers)
        ]
        async with asyncio.timeout(20):
            while sum(racer.done() for racer in racers) < 99:
                await asyncio.sleep(0)
        start.set()
    assert sum(racer.result() for racer in racers) == 1
    rows = execute(state(tmp_path), "SELECT account, tokens, money FROM spent ORDER BY account")
    assert rows == [("tenant", 8, 8), ("tenant/team:a", 8, 8)]
    async with pipeline_on(tmp_path, desk) as pipeline:
        assert await answered(pipeline, "next", callers[0])
