"""What hangs on the decision path: the completion cache, and spans that know no raw data."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from exclave_agent.decide.cache import Cache
from exclave_agent.errors import StorageFull, UnknownModel, WorkerCrashed
from exclave_agent.telemetry.tracing import ATTRIBUTES
from exclave_testing.clock import FakeClock
from exclave_testing.local_api import compile_policy
from exclave_testing.routing import ALLOW_ALL, Desk, budget_text, chat, route_text
from exclave_testing.storage import FakeCompletionStore

CACHE = """
apiVersion: exclave.dev/v1
kind: Cache
metadata: {name: kept, version: "1"}
spec: {models: ["*"], data_classes: [""], ttl_seconds: 3600}
"""


@pytest.fixture
def store() -> FakeCompletionStore:
    return FakeCompletionStore()


def desk(store: FakeCompletionStore, *documents: str, **more: Any) -> Desk:
    return Desk(CACHE, *documents, cache=Cache(store, FakeClock(), "acme"), **more)


async def kept(store: FakeCompletionStore) -> None:
    async with asyncio.timeout(5):
        while not store.rows:
            await asyncio.sleep(0)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_hit_is_a_decision_of_its_own(store: FakeCompletionStore, stream: bool) -> None:
    documents = route_text("big", "small"), budget_text(100_000)
    async with desk(store, *documents).open() as opened:
        call = chat(temperature=0.0, stream=stream)
        assert (await opened.ask(call))[1].cache == ""
        await kept(store)
        spent = opened.spent()
        texts, end = await opened.ask(chat(temperature=0.0, stream=stream, decision="d2"))
        assert (texts, end.cache, end.model) == (["big"], "exact", "big")
        assert opened.models.asked == ["big"]
        assert len(opened.log.of_type("INTENT")) == len(opened.log.of_type("RESULT")) == 2
        body = opened.result().body
        assert (body["decision"], body["cache"], body["attempts"]) == ("d2", "exact", [])
        assert opened.log.drafts[-1].private == {"output": "big"}
        assert (opened.spent(), opened.held()) == (spent, 0)
        assert opened.metrics.all[-1].cache == "exact"


async def test_a_hit_still_needs_its_record(store: FakeCompletionStore) -> None:
    async with desk(store, route_text("big")).open() as opened:
        await opened.ask(chat(temperature=0.0))
        await kept(store)
        opened.log.failure = StorageFull("full")
        with pytest.raises(StorageFull):
            await opened.ask(chat(temperature=0.0))


async def test_neither_a_fallback_nor_a_canned_answer_is_kept(store: FakeCompletionStore) -> None:
    routes = route_text("big", "small", otherwise={"answer": "later"})
    async with desk(store, routes).open() as opened:
        opened.models.script("big", WorkerCrashed("x"), times=2)
        assert await opened.text(temperature=0.0) == "small"
        opened.models.script("small", WorkerCrashed("x"))
        assert await opened.text(temperature=0.0) == "later"
    assert store.rows == {}


# --- spans ---------------------------------------------------------------------------------------


class SomeSpan:
    def __init__(self, name: str, depth: int) -> None:
        self.name = name
        self.depth = depth
        self.attributes: dict[str, object] = {}
        self.open = True

    def set(self, key: str, value: str | int | float | bool) -> None:
        assert self.open
        assert key in ATTRIBUTES
        self.attributes[key] = value


class SomeTracer:
    def __init__(self) -> None:
        self.spans: list[SomeSpan] = []
        self._depth = 0

    @contextmanager
    def span(self, name: str) -> Iterator[SomeSpan]:
        span = SomeSpan(name, self._depth)
        self.spans.append(span)
        self._depth += 1
        try:
            yield span
        finally:
            span.open = False
            self._depth -= 1


async def test_each_step_has_its_span_and_no_data_is_in_it() -> None:
    tracer = SomeTracer()
    async with Desk(route_text("big", "small"), tracer=tracer).open() as opened:
        await opened.ask(chat())
        assert [(span.name, span.depth) for span in tracer.spans] == [
            ("decide", 0),
            ("route", 1),
            ("infer", 1),
            ("record", 1),
        ]
        told = tracer.spans[0].attributes
        assert (told["exclave.model"], told["exclave.route"]) == ("big", "best")
        assert (told["exclave.outcome"], told["exclave.rule"]) == ("answered", "analysts")
        assert (told["exclave.tokens_in"], told["exclave.tokens_out"]) == (7, 1)
        assert tracer.spans[2].attributes["exclave.attempts"] == 1
        with pytest.raises(UnknownModel):
            await opened.ask(chat(model="zebra"))
        attributes = [value for span in tracer.spans for value in span.attributes.values()]
        assert "failed" in attributes
        assert not any("zebra" in str(value) for value in attributes)
        assert not any(span.open for span in tracer.spans)


async def test_a_new_policy_is_obeyed_by_the_next_call(store: FakeCompletionStore) -> None:
    async with desk(store, route_text("big", "small")).open() as opened:
        assert await opened.text() == "big"
        opened.activate(compile_policy(ALLOW_ALL, route_text("small", "big")))
        assert await opened.text() == "small"
