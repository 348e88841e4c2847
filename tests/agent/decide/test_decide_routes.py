"""Routes: who is asked, in which order, and what is answered when nobody can."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from exclave_agent.decide.calls import Answered, EmbedCall, InferCall, RerankCall
from exclave_agent.errors import (
    AgentError,
    BadRequest,
    BudgetExceeded,
    DeadlineExceeded,
    NoMemory,
    NoTarget,
    OutputInvalid,
    Overloaded,
    PolicyDenied,
    Quarantined,
    RemoteFailed,
    StorageError,
    StorageFull,
    TooManyTokens,
    UnknownModel,
    WorkerCrashed,
)
from exclave_agent.ports import (
    Caller,
    Delta,
    Finished,
    Generate,
    Price,
    Tensor,
    TokenLogprob,
    Tool,
    ToolCall,
)
from exclave_testing.local_api import compile_policy
from exclave_testing.routing import ALLOW_ALL, ANALYST, Desk, budget_text, chat, route_text
from exclave_testing.scripted import ScriptedModels, model

CRASH = WorkerCrashed("the worker died")


async def until(condition: Callable[[], bool], deadline: float = 5.0) -> None:
    async with asyncio.timeout(deadline):
        while not condition():
            await asyncio.sleep(0)


# --- the order ----------------------------------------------------------------------------------


async def test_the_first_target_answers_under_the_routes_name() -> None:
    async with Desk(route_text("big", "small")).open() as desk:
        texts, end = await desk.ask(chat())
        assert (texts, end.model, end.degraded) == (["big"], "big", "")
        assert desk.models.asked == ["big"]
        assert desk.intent().body["route"] == "best"
        named = desk.intent().body["targets"]
        assert isinstance(named, list)
        assert [each["name"] for each in named if isinstance(each, dict)] == ["big", "small"]
        assert desk.intent().body["model"] == named[0]
        assert desk.result().body["model"] == named[0]
        assert desk.attempts() == [("big", "answered")]


@pytest.mark.parametrize(
    "error",
    [
        CRASH,
        Overloaded("full"),
        NoMemory("full"),
        RemoteFailed("no", code="remote_unreachable"),
        TooManyTokens("the prompt does not fit"),
    ],
)
async def test_a_target_that_fails_is_followed_by_the_next(error: AgentError) -> None:
    async with Desk(route_text("big", "small")).open() as desk:
        desk.models.script("big", error)
        texts, end = await desk.ask(chat(stream=True))
        # That a prompt is too long for one of them says nothing against it.
        degraded = "" if isinstance(error, TooManyTokens) else "fallback"
        assert (texts, end.model, end.degraded) == (["small"], "small", degraded)
        assert desk.attempts() == [("big", error.code), ("small", "answered")]
        assert desk.result().body["degraded"] == degraded
        assert len(desk.log.of_type("INTENT")) == len(desk.log.of_type("RESULT")) == 1


@pytest.mark.parametrize("error", [BadRequest("wrong"), Quarantined("it killed the worker twice")])
async def test_a_wrong_request_is_wrong_everywhere(error: AgentError) -> None:
    async with Desk(route_text("big", "small")).open() as desk:
        desk.models.script("big", error)
        with pytest.raises(type(error)):
            await desk.ask(chat())
        assert desk.models.asked == ["big"]
        assert desk.attempts() == [("big", error.code)]


async def test_nothing_else_is_asked_once_a_delta_has_left() -> None:
    async with Desk(route_text("big", "small")).open() as desk:
        desk.models.script("big", "half", CRASH)
        events = desk.pipeline.stream(chat(stream=True))
        assert await anext(events) == Delta("half")
        with pytest.raises(WorkerCrashed):
            await anext(events)
        assert desk.models.asked == ["big"]
        assert desk.log.drafts[-1].private == {"output": "half"}


async def test_a_held_answer_may_fall_back_in_mid_sentence() -> None:
    async with Desk(route_text("big", "small")).open() as desk:
        desk.models.script("big", "half", CRASH)
        assert await desk.text() == "small"
        assert desk.log.drafts[-1].private == {"output": "small", "discarded": ["half"]}


async def test_an_invalid_answer_falls_back_and_is_kept_for_the_record() -> None:
    schema = '{"type":"object"}'
    async with Desk(route_text("big", "small")).open() as desk:
        desk.models.script("small", "{", "}")
        texts, end = await desk.ask(chat(stream=True, response_schema=schema))
        assert (texts, end.degraded) == (["{}"], "fallback")
        assert desk.attempts() == [("big", "output_invalid"), ("small", "answered")]
        assert desk.log.drafts[-1].private == {"output": "{}", "discarded": ["big"]}
        with pytest.raises(OutputInvalid):
            await desk.ask(chat(response_schema=schema))
        assert desk.result().body["outcome"] == "invalid"
        assert desk.log.drafts[-1].private == {"output": "small", "discarded": ["big"]}


def sure(probability: float) -> Delta:
    return Delta("x", (TokenLogprob(b"x", math.log(probability)),))


async def test_an_answer_of_which_the_model_is_not_sure_falls_back() -> None:
    unsure = {"model": "big", "limits": {"min_confidence": "0.7"}}
    async with Desk(route_text(unsure, "small")).open() as desk:
        desk.models.script("big", sure(0.5), sure(0.9))  # the geometric mean is 0.67
        texts, end = await desk.ask(chat(stream=True))
        assert (texts, end.degraded) == (["small"], "fallback")
        assert desk.attempts() == [("big", "unsure"), ("small", "answered")]
        assert desk.models.requests[0].sampling.top_logprobs == 0
        desk.models.script("big", sure(0.6), sure(0.9))  # 0.73
        texts, end = await desk.ask(chat(stream=True))
        assert (texts, end.model, end.logprobs) == (["xx"], "big", ())
        desk.models.script("big", "nobody tells how sure")
        assert await desk.text() == "small"


async def test_logprobs_that_were_asked_for_come_with_a_confident_answer() -> None:
    unsure = {"model": "big", "limits": {"min_confidence": "0.7"}}
    async with Desk(route_text(unsure, "small")).open() as desk:
        desk.models.script("big", sure(0.8))
        _, end = await desk.ask(chat(top_logprobs=2))
        assert [each.token for each in end.logprobs] == [b"x"]
        assert desk.models.requests[0].sampling.top_logprobs == 2


# --- who may be asked ----------------------------------------------------------------------------


async def test_a_target_that_the_policy_denies_is_skipped_and_that_is_recorded() -> None:
    async with Desk(route_text("forbidden", "small")).open() as desk:
        _, end = await desk.ask(chat())
        assert (end.model, end.degraded) == ("small", "")  # by design: nothing is degraded
        assert desk.attempts() == [("forbidden", "denied"), ("small", "answered")]
        assert desk.models.asked == ["small"]


async def test_the_routes_own_name_must_be_allowed_too() -> None:
    only_models = ALLOW_ALL.replace('models: ["*"]', "models: [big, small]")
    async with Desk().open() as desk:
        desk.activate(compile_policy(only_models, route_text("big", "small")))
        with pytest.raises(PolicyDenied):
            await desk.ask(chat())
        assert desk.models.asked == []


async def test_the_smallest_of_the_caps_holds() -> None:
    capped = ALLOW_ALL.replace(
        'models: ["*"]', "models: [best, big]\n      limits: {max_tokens: 100}"
    ) + (
        "    - {id: small, effect: allow, subjects: {roles: [analyst]}, actions: [chat],"
        " models: [small], limits: {max_tokens: 10}}\n"
    )
    async with Desk().open() as desk:
        desk.activate(compile_policy(capped, route_text("small", "big")))
        await desk.ask(chat(max_tokens=50))
        assert desk.attempts() == [("small", "too_long"), ("big", "answered")]
        await desk.ask(chat(max_tokens=None))
        assert desk.models.requests[-1].model == "small"
        assert desk.models.requests[-1].sampling.max_tokens == 10
        with pytest.raises(TooManyTokens):
            await desk.ask(chat(max_tokens=101))


@pytest.mark.parametrize(
    ("data_class", "asked"), [("public", "cloud"), ("", "small"), ("secret", "small")]
)
async def test_data_goes_only_where_its_class_may(data_class: str, asked: str) -> None:
    cloud = model("cloud", remote=True, data_classes=frozenset({"public"}))
    async with Desk(route_text("cloud", "small"), models=(cloud, model("small"))).open() as desk:
        await desk.ask(chat(data_class=data_class))
        assert desk.models.asked == [asked]
        if asked == "small":
            assert desk.attempts()[0] == ("cloud", "data_class")


async def test_a_remote_model_by_its_own_name_is_not_a_way_around_that() -> None:
    cloud = model("cloud", remote=True, data_classes=frozenset({"public"}))
    async with Desk(models=(cloud,)).open() as desk:
        with pytest.raises(PolicyDenied) as denied:
            await desk.ask(chat(model="cloud", data_class="secret"))
        assert denied.value.rule == "endpoint"
        assert desk.models.asked == []
        assert desk.result().body["outcome"] == "denied"


async def test_conditions_choose_a_target() -> None:
    night = {"model": "big", "when": "request.data_class == 'public' && request.stream"}
    async with Desk(route_text(night, "small")).open() as desk:
        await desk.ask(chat(data_class="public", stream=True))
        await desk.ask(chat(data_class="public"))
        assert desk.models.asked == ["big", "small"]
        assert desk.attempts() == [("big", "condition"), ("small", "answered")]
        assert desk.result().body["degraded"] == ""


async def test_a_condition_without_an_answer_does_not_hold() -> None:
    failing = {"model": "big", "when": "request.prompt_bytes / request.message_count > 0"}
    async with Desk(route_text(failing, "small")).open() as desk:
        await desk.ask(chat(action="complete", messages=(), prompt="x"))
        assert desk.models.asked == ["small"]


@pytest.mark.parametrize(
    ("price", "asked"),
    [
        (Price("EUR", 100_000, 600_000), "cloud"),
        (Price("EUR", 100_000, 600_001), "small"),
        (Price("USD", 1, 1), "small"),
        (None, "small"),
    ],
)
async def test_a_target_that_is_too_dear_is_skipped(price: Price | None, asked: str) -> None:
    dear = {"model": "cloud", "limits": {"max_cost": "0.60", "currency": "EUR"}}
    cloud = model("cloud", price=price)
    async with Desk(route_text(dear, "small"), models=(cloud, model("small"))).open() as desk:
        await desk.ask(chat())
        assert desk.models.asked == [asked]


async def test_a_slow_target_is_skipped_until_its_window_is_over() -> None:
    slow = {"model": "big", "limits": {"max_latency_ms": 500}}
    breaker = {"min_requests": 2, "window_seconds": 60}
    async with Desk(route_text(slow, "small", breaker=breaker)).open() as desk:
        for _ in range(2):
            wait = asyncio.Event()
            desk.models.script("big", wait, "big")
            task = asyncio.ensure_future(desk.text())
            await until(lambda: desk.models.open["big"] == 1)
            await desk.clock.advance(1.0)
            wait.set()
            assert await task == "big"
        assert await desk.text() == "small"
        assert desk.attempts() == [("big", "slow"), ("small", "answered")]
        assert desk.result().body["degraded"] == "fallback"
        await desk.clock.advance(61.0)
        assert await desk.text() == "big"


async def test_an_answer_that_no_context_holds_is_the_callers_error() -> None:
    models = (model("big", context_tokens=100), model("small", context_tokens=10))
    async with Desk(route_text("big", "small"), models=models).open() as desk:
        with pytest.raises(TooManyTokens):
            await desk.ask(chat(max_tokens=101))
        assert desk.attempts() == [("big", "too_long"), ("small", "too_long")]
        assert desk.result().body["intent"] is None
        await desk.ask(chat(max_tokens=50))
        assert desk.models.asked == ["big"]


async def test_a_route_serves_its_actions_only() -> None:
    async with Desk(route_text("big", actions=["chat"])).open() as desk:
        with pytest.raises(UnknownModel, match="route"):
            await desk.ask(chat(action="complete", messages=(), prompt="x"))


# --- breakers -----------------------------------------------------------------------------------

TWO = {"min_requests": 2, "error_rate": "1", "open_seconds": 30}


async def test_an_open_target_is_skipped_and_probed_by_one() -> None:
    async with Desk(route_text("big", "small", breaker=TWO)).open() as desk:
        desk.models.script("big", CRASH, times=2)
        for _ in range(3):
            await desk.text()
        assert desk.models.asked == ["big", "small", "big", "small", "small"]
        assert desk.attempts() == [("big", "open"), ("small", "answered")]
        (big, small) = desk.pipeline.breakers()
        assert (big.route, big.target, big.state, big.reason) == ("best", "big", "open", "errors")
        assert big.opens_in == 30.0
        assert small.state == "closed"
        await desk.clock.advance(30.0)
        gate = asyncio.Event()
        desk.models.script("big", gate, "well")
        probe = asyncio.ensure_future(desk.text(decision="d2"))
        await until(lambda: desk.models.open["big"] == 1)
        assert await desk.text(decision="d3") == "small"
        gate.set()
        assert await probe == "well"
        assert await desk.text() == "big"


@pytest.mark.parametrize(
    "error",
    [
        BadRequest("wrong"),
        TooManyTokens("long"),
        Overloaded("full"),
        NoMemory("full"),
        RemoteFailed("no", code="remote_refused"),
    ],
)
async def test_errors_that_are_not_the_targets_open_nothing(error: AgentError) -> None:
    async with Desk(route_text("big", breaker=TWO)).open() as desk:
        desk.models.script("big", error, times=5)
        for _ in range(5):
            with pytest.raises(AgentError):
                await desk.ask(chat())
        assert await desk.text() == "big"


async def test_invalid_answers_open_a_breaker_and_cancelled_ones_do_not() -> None:
    breaker = {"min_requests": 2, "invalid_rate": "1", "error_rate": "1"}
    async with Desk(route_text("big", breaker=breaker)).open() as desk:
        for _ in range(3):
            events = desk.pipeline.stream(chat(stream=True))
            await anext(events)
            await events.aclose()
        assert desk.pipeline.breakers()[0].state == "closed"
        for _ in range(2):
            with pytest.raises(OutputInvalid):
                await desk.ask(chat(response_schema='{"type":"object"}'))
        assert desk.pipeline.breakers()[0].reason == "invalid"
        with pytest.raises(NoTarget):
            await desk.ask(chat())
        assert desk.result().body["reason"] == "no_target"


async def test_breakers_survive_releases_and_a_new_digest_starts_closed() -> None:
    text = route_text("big", "small", breaker=TWO)
    async with Desk(text).open() as desk:
        desk.models.script("big", CRASH, times=2)
        for _ in range(2):
            await desk.text()
        desk.activate(compile_policy(ALLOW_ALL, text))
        assert await desk.text() == "small"
        desk.models._infos["big"] = model("big", "9")
        desk.activate(compile_policy(ALLOW_ALL, text))
        assert await desk.text() == "big"
        desk.activate(compile_policy(ALLOW_ALL))
        with pytest.raises(UnknownModel):
            await desk.ask(chat())
        assert desk.pipeline.breakers() == []


# --- retries ------------------------------------------------------------------------------------


async def test_extra_attempts_are_paid_from_the_retry_budget() -> None:
    retry = {"ratio": "0", "burst": 2, "attempts": 2}
    async with Desk(route_text("big", "small", retry=retry, breaker=TWO)).open() as desk:
        desk.models.script("big", Overloaded("full", retry_after=3.0), times=4)
        assert [await desk.text() for _ in range(2)] == ["small", "small"]
        with pytest.raises(NoTarget) as refused:
            await desk.ask(chat())
        assert refused.value.retry_after == 3.0
        assert desk.attempts() == [("big", "overloaded")]


async def test_an_open_target_costs_no_retry() -> None:
    retry = {"ratio": "0", "burst": 2, "attempts": 2}
    async with Desk(route_text("big", "small", retry=retry, breaker=TWO)).open() as desk:
        desk.models.script("big", CRASH, times=2)
        assert [await desk.text() for _ in range(6)] == ["small"] * 6


async def test_no_more_attempts_than_the_route_allows() -> None:
    models = tuple(model(name) for name in "abc")
    async with Desk(route_text(*"abc", retry={"attempts": 2}), models=models).open() as desk:
        for name in "ab":
            desk.models.script(name, CRASH)
        with pytest.raises(NoTarget):
            await desk.ask(chat())
        assert desk.models.asked == ["a", "b"]


async def test_a_model_that_is_listed_twice_is_asked_again() -> None:
    async with Desk(route_text("big", "big")).open() as desk:
        desk.models.script("big", CRASH)
        assert await desk.text() == "big"
        assert desk.attempts() == [("big", "worker_crashed"), ("big", "answered")]


# --- when nobody can -----------------------------------------------------------------------------


async def test_a_canned_answer_is_a_recorded_decision() -> None:
    otherwise = {"answer": "Please call the desk."}
    async with Desk(route_text("big", otherwise=otherwise)).open() as desk:
        desk.models.script("big", CRASH)
        texts, end = await desk.ask(chat(stream=True))
        assert (texts, end.finish, end.degraded) == (["Please call the desk."], "stop", "canned")
        assert (end.model, end.model_digest, end.completion_tokens) == ("", "", 0)
        body = desk.result().body
        assert (body["outcome"], body["degraded"]) == ("answered", "canned")
        assert body["model"] == {"name": None}
        assert body["intent"] == str(desk.intent().seq)
        assert desk.log.drafts[-1].private == {"output": "Please call the desk."}
        assert desk.metrics.all[-1].degraded == "canned"


async def test_when_every_target_is_open_the_canned_answer_stands_in_and_nobody_is_asked() -> None:
    otherwise = {"answer": "later"}
    text = route_text("big", "small", breaker=TWO, otherwise=otherwise)
    async with Desk(text, budget_text(100_000)).open() as desk:
        desk.models.script("big", CRASH, times=2)
        desk.models.script("small", CRASH, times=2)
        assert [await desk.text() for _ in range(3)] == ["later"] * 3
        assert desk.models.asked == ["big", "small"] * 2
        assert desk.attempts() == [("big", "open"), ("small", "open")]
        assert (desk.intent().body["targets"], desk.result().body["degraded"]) == ([], "canned")
        assert desk.held() == 0


@pytest.mark.parametrize("kind", ["answer", "person"])
async def test_words_do_not_stand_in_for_json_of_a_schema(kind: str) -> None:
    schema = '{"type": "object"}'
    async with Desk(route_text("big", otherwise={kind: "Please call."})).open() as desk:
        desk.models.script("big", CRASH)
        with pytest.raises(NoTarget):
            await desk.ask(chat(response_schema=schema))
        assert desk.result().body["outcome"] == "failed"
        assert await desk.referrals.count() == 0
    async with Desk(route_text("big", otherwise={kind: "{}"})).open() as desk:
        desk.models.script("big", CRASH)
        assert await desk.text(response_schema=schema) == "{}"


async def test_every_target_denied_is_answered_and_never_asked() -> None:
    otherwise = {"answer": "no"}
    async with Desk(route_text("forbidden", otherwise=otherwise)).open() as desk:
        assert await desk.text() == "no"
        assert desk.models.asked == []
        assert desk.intent().body["targets"] == []
        assert desk.attempts() == [("forbidden", "denied")]


async def test_without_an_answer_for_that_the_decision_is_refused() -> None:
    async with Desk(route_text("forbidden", otherwise="refuse")).open() as desk:
        with pytest.raises(NoTarget):
            await desk.ask(chat())
        body = desk.result().body
        assert (body["outcome"], body["reason"], body["intent"]) == ("failed", "no_target", None)
        assert body["route"] == "best"
        assert desk.log.of_type("INTENT") == []


async def test_a_person_is_asked_durably_before_the_caller_hears_of_it() -> None:
    otherwise = {"person": "Somebody will look at this."}
    async with Desk(route_text("big", otherwise=otherwise)).open() as desk:
        desk.models.script("big", CRASH, times=2)
        assert await desk.text() == "Somebody will look at this."
        (referral,) = desk.referrals.rows
        assert (referral.decision, referral.route) == ("d1", "best")
        assert desk.result().body["degraded"] == "person"
        desk.referrals.failure = StorageFull("full")
        with pytest.raises(StorageFull):
            await desk.ask(chat(decision="d2"))
        assert desk.result().body["reason"] == "storage_full"


async def test_a_model_by_its_own_name_keeps_its_own_error() -> None:
    async with Desk().open() as desk:
        desk.models.script("big", CRASH)
        with pytest.raises(WorkerCrashed):
            await desk.ask(chat(model="big"))
        assert desk.models.asked == ["big"]
        assert desk.result().body["attempts"] == [
            {"model": "big", "outcome": "worker_crashed", "us": 0}
        ]


# --- other actions -------------------------------------------------------------------------------


def others(name: str) -> list[tuple[str, Any]]:
    common: dict[str, Any] = {"model": name, "caller": ANALYST, "subject": "s"}
    return [
        ("embed", EmbedCall(decision="e", texts=("a", "b"), **common)),
        ("rerank", RerankCall(decision="r", query="q", documents=("aa", "b"), **common)),
        ("infer", InferCall(decision="i", inputs=(Tensor("x", "UINT8", (1,), b"0"),), **common)),
    ]


@pytest.mark.parametrize("which", [0, 1, 2])
async def test_every_action_is_routed(which: int) -> None:
    text = route_text("big", "small", actions=["embed", "rerank", "infer"])
    async with Desk(text).open() as desk:
        action, call = others("best")[which]
        desk.models.script("big", CRASH)
        answer = await getattr(desk.pipeline, action)(call)
        assert desk.models.asked == ["big", "small"]
        assert desk.result().body["degraded"] == "fallback"
        assert answer.receipt.result_seq == desk.result().seq
        assert desk.metrics.all[-1].action == action
        desk.models.script("big", CRASH)
        desk.models.script("small", CRASH)
        with pytest.raises(NoTarget):
            await getattr(desk.pipeline, action)(call)


async def test_reranking_is_recorded_and_scored() -> None:
    async with Desk().open() as desk:
        _, call = others("big")[1]
        answer = await desk.pipeline.rerank(call)
        assert (answer.scores, answer.prompt_tokens) == ((2.0, 1.0), 2)
        assert desk.log.drafts[0].private["prompt"] == ["q", "aa", "b"]
        assert desk.log.drafts[1].private == {"output": ["2.0", "1.0"]}
        assert desk.intent().body["action"] == "rerank"


# --- time ----------------------------------------------------------------------------------------


async def test_a_target_has_its_own_time_and_the_next_gets_the_rest() -> None:
    hasty = {"model": "big", "timeout_ms": 10}
    async with Desk(route_text(hasty, "small")).open() as desk:
        desk.models.script("big", asyncio.Event())
        texts, end = await desk.ask(chat())
        assert (texts, end.degraded) == (["small"], "fallback")
        assert desk.attempts() == [("big", "target_timeout"), ("small", "answered")]
        assert desk.models.open.total() == 0
        timeout = desk.models.requests[0].timeout
        assert timeout is not None
        assert 0 < timeout <= 0.010


async def test_the_callers_time_covers_the_whole_decision() -> None:
    async with Desk(route_text("big", "small")).open() as desk:
        desk.models.script("big", asyncio.Event())
        with pytest.raises(DeadlineExceeded):
            await desk.ask(chat(timeout=0.01))
        assert desk.models.asked == ["big"]
        assert desk.result().body["reason"] == "deadline_exceeded"
        assert desk.pipeline.breakers()[0].state == "closed"
        assert desk.models.open.total() == 0


# --- hedging -------------------------------------------------------------------------------------

HEDGED = {"model": "big", "hedge_after_ms": 5}


async def test_a_slow_start_is_hedged_and_the_loser_is_cancelled() -> None:
    async with Desk(route_text(HEDGED, "small")).open() as desk:
        desk.models.script("big", asyncio.Event())
        desk.models.script("small", "s", "m", "all")
        texts, end = await desk.ask(chat(stream=True))
        assert (texts, end.model, end.degraded) == (["s", "m", "all"], "small", "fallback")
        assert desk.attempts() == [("big", "hedge_lost"), ("small", "answered")]
        assert desk.models.open.total() == 0
        assert len(desk.log.of_type("INTENT")) == len(desk.log.of_type("RESULT")) == 1


async def test_a_stalled_target_opens_its_breaker_though_a_hedge_always_wins() -> None:
    rule = {"latency_ms": 50, "min_requests": 3}
    async with Desk(route_text(HEDGED, "small", breaker=rule)).open() as desk:
        for number in range(3):
            gate = asyncio.Event()
            desk.models.script("big", asyncio.Event())
            desk.models.script("small", gate, "small")
            task = asyncio.ensure_future(desk.text(decision=f"d{number}"))
            await until(lambda: desk.models.open.total() == 2)
            await desk.clock.advance(0.1)
            gate.set()
            assert await task == "small"
        big = desk.pipeline.breakers()[0]
        assert (big.target, big.state, big.reason) == ("big", "open", "latency")


@pytest.mark.parametrize("end", ["deadline", "disconnect"])
async def test_callers_that_wait_in_vain_open_a_breaker(end: str) -> None:
    rule = {"latency_ms": 50, "min_requests": 1}
    async with Desk(route_text("big", breaker=rule)).open() as desk:
        desk.models.script("big", asyncio.Event())
        timeout = 0.5 if end == "deadline" else None
        task = asyncio.ensure_future(desk.ask(chat(timeout=timeout)))
        await until(lambda: desk.models.open["big"] == 1)
        await desk.clock.advance(0.1)
        if end == "disconnect":
            task.cancel()
        with pytest.raises((DeadlineExceeded, asyncio.CancelledError)):
            await task
        (breaker,) = desk.pipeline.breakers()
        assert (breaker.state, breaker.reason) == ("open", "latency")


async def test_a_quick_start_is_not_hedged() -> None:
    async with Desk(route_text(HEDGED, "small")).open() as desk:
        assert await desk.text() == "big"
        assert desk.models.asked == ["big"]


async def test_the_hedged_one_may_still_win() -> None:
    async with Desk(route_text(HEDGED, "small")).open() as desk:
        gate = asyncio.Event()
        desk.models.script("big", gate, "late")
        desk.models.script("small", asyncio.Event())
        task = asyncio.ensure_future(desk.ask(chat()))
        await until(lambda: desk.models.open["small"] == 1)
        gate.set()
        texts, end = await task
        assert (texts, end.model, end.degraded) == (["late"], "big", "")
        assert desk.attempts() == [("big", "answered"), ("small", "hedge_lost")]
        assert desk.models.open.total() == 0


@pytest.mark.parametrize("first", ["big", "small"])
async def test_a_contender_that_fails_leaves_the_other_running(first: str) -> None:
    async with Desk(route_text(HEDGED, "small")).open() as desk:
        gates = {"big": asyncio.Event(), "small": asyncio.Event()}
        other = "small" if first == "big" else "big"
        desk.models.script(first, gates[first], CRASH)
        desk.models.script(other, gates[other], "well")
        task = asyncio.ensure_future(desk.text())
        await until(lambda: desk.models.open.total() == 2)
        gates[first].set()
        await until(lambda: desk.models.open[first] == 0)
        gates[other].set()
        assert await task == "well"
        assert (first, "worker_crashed") in desk.attempts()


async def test_a_hedge_needs_a_retry_token_and_a_permitted_target() -> None:
    for text in (
        route_text(HEDGED, "small", retry={"burst": 0, "ratio": "0"}),
        route_text(HEDGED, "forbidden"),
    ):
        async with Desk(text).open() as desk:
            gate = asyncio.Event()
            desk.models.script("big", gate, "late")
            task = asyncio.ensure_future(desk.text())
            await asyncio.sleep(0.02)
            assert desk.models.asked == ["big"]
            gate.set()
            assert await task == "late"


async def test_both_contenders_fail() -> None:
    async with Desk(route_text(HEDGED, "small")).open() as desk:
        gate = asyncio.Event()
        desk.models.script("big", gate, CRASH)
        desk.models.script("small", gate, CRASH)
        task = asyncio.ensure_future(desk.text())
        await until(lambda: desk.models.open.total() == 2)
        gate.set()
        with pytest.raises(NoTarget):
            await task
        assert desk.attempts() == [("big", "worker_crashed"), ("small", "worker_crashed")]


async def test_cancelling_a_race_frees_both_and_is_recorded() -> None:
    async with Desk(route_text(HEDGED, "small")).open() as desk:
        for name in ("big", "small"):
            desk.models.script(name, asyncio.Event())
        task = asyncio.ensure_future(desk.text())
        await until(lambda: desk.models.open.total() == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: len(desk.log.of_type("RESULT")) == 1)
        assert desk.models.open.total() == 0
        assert desk.attempts() == [("big", "cancelled"), ("small", "cancelled")]


@pytest.mark.parametrize("turns", range(12))
async def test_a_race_may_be_cancelled_at_any_turn(turns: int) -> None:
    async with Desk(route_text(HEDGED, "small"), budget_text(100_000)).open() as desk:
        gate = asyncio.Event()
        for name in ("big", "small"):
            desk.models.script(name, gate, "a", "b", "c", "d")
        task = asyncio.ensure_future(desk.text())
        await until(lambda: desk.models.open.total() == 2)
        gate.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):  # in the last turns it is answered before
            await task
        assert desk.models.open.total() == 0
        await until(lambda: len(desk.log.of_type("RESULT")) == 1)
        assert desk.held() == 0
        assert all(outcome for _, outcome in desk.attempts())


# --- what leaves the machine -----------------------------------------------------------------


CLOUD = model("cloud", remote=True, data_classes=frozenset({""}))


@pytest.mark.parametrize("first", ["cloud", "small"])
async def test_a_remote_model_is_not_asked_before_the_intent_is_durable(first: str) -> None:
    order = ("cloud", "small") if first == "cloud" else ("small", "cloud")
    async with Desk(route_text(*order), models=(CLOUD, model("small"))).open() as desk:
        desk.log.gate.clear()
        desk.models.script("small", CRASH)
        task = asyncio.ensure_future(desk.text())
        for _ in range(50):
            await asyncio.sleep(0)
        assert "cloud" not in desk.models.asked
        desk.log.gate.set()
        assert await task == "cloud"


async def test_a_refused_intent_asks_no_remote_model() -> None:
    async with Desk(route_text("cloud"), models=(CLOUD,)).open() as desk:
        desk.log.failure = StorageError("broken")
        with pytest.raises(StorageError):
            await desk.text()
        assert desk.models.asked == []


# --- budgets -------------------------------------------------------------------------------------


async def test_what_was_not_used_is_given_back() -> None:
    async with Desk(route_text("big", "small"), budget_text(100_000)).open() as desk:
        await desk.text()
        assert (desk.spent(), desk.held()) == (8, 0)  # 7 of the prompt and 1 of the answer
        desk.models.script("big", Overloaded("full"))
        await desk.text()
        assert (desk.spent(), desk.held()) == (16, 0)
        with pytest.raises(PolicyDenied):
            await desk.ask(chat(caller=Caller("2", ("guest",))))
        assert (desk.spent(), desk.held()) == (16, 0)


async def test_an_attempt_whose_end_nobody_saw_is_charged_at_its_worst() -> None:
    async with Desk(route_text("big", "small"), budget_text(100_000)).open() as desk:
        desk.models.script("big", CRASH)
        await desk.text()
        assert desk.spent() > 8 + 200  # the prompt's bound: its bytes and the template's
        assert desk.held() == 0


async def test_leaving_while_the_model_lets_go_is_no_way_to_a_refund() -> None:
    class Slow(ScriptedModels):
        """Takes its time to free what an answer held."""

        async def generate(self, request: Generate) -> AsyncIterator[Delta | Finished]:
            try:
                async for event in super().generate(request):
                    yield event
            finally:
                closing.set()
                await asyncio.Event().wait()

    closing = asyncio.Event()
    desk = Desk(route_text("big", breaker=TWO), budget_text(100_000))
    desk.models = Slow(model("big"))
    desk.activate(desk.releases.lease().__enter__().policy)
    async with desk.open():
        desk.models.script("big", "a", "b", Finished("stop", 7, 2))
        task = asyncio.ensure_future(desk.ask(chat(stream=True)))
        await closing.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert desk.attempts() == [("big", "answered")]
    assert (desk.spent(), desk.held()) == (9, 0)


async def test_a_budget_for_one_attempt_leaves_none_for_a_second() -> None:
    async with Desk(route_text("big", "small"), budget_text(400)).open() as desk:
        desk.models.script("big", Overloaded("full"))
        with pytest.raises(NoTarget):
            await desk.ask(chat())
        assert desk.attempts() == [("small", "budget"), ("big", "overloaded")]
        assert (desk.spent(), desk.held()) == (0, 0)
        assert await desk.text() == "big"
        with pytest.raises(BudgetExceeded):
            await desk.ask(chat(max_tokens=400))
        assert desk.result().body["reason"] == "budget_exceeded"
        assert desk.held() == 0


async def test_a_hundred_callers_race_for_one_call() -> None:
    async with Desk(budget_text(400)).open() as desk:
        calls = [chat(model="big", decision=f"d{i}") for i in range(100)]
        ends = await asyncio.gather(*(desk.ask(call) for call in calls), return_exceptions=True)
        assert sum(not isinstance(end, BaseException) for end in ends) == 1
        assert sum(isinstance(end, BudgetExceeded) for end in ends) == 99
        assert desk.held() == 0
        assert len(desk.log.of_type("RESULT")) == 100


@pytest.mark.parametrize("which", [0, 1])
async def test_vectors_and_scores_are_paid_for_too(which: int) -> None:
    async with Desk(budget_text(100)).open() as desk:
        action, call = others("big")[which]
        await getattr(desk.pipeline, action)(call)
        assert (desk.spent(), desk.held()) == (2, 0)
    async with Desk(budget_text(2)).open() as desk:
        with pytest.raises(BudgetExceeded):
            await getattr(desk.pipeline, action)(call)
        assert desk.models.asked == []


async def test_an_intent_that_was_refused_leaves_nothing_reserved() -> None:
    async with Desk(budget_text(400)).open() as desk:
        desk.log.failure = StorageError("broken")
        with pytest.raises(StorageError):
            await desk.ask(chat(model="big"))
        await until(lambda: desk.held() == 0)
        assert desk.spent() == 0


async def test_the_cost_of_every_attempt_is_in_the_result() -> None:
    price = Price("EUR", 1_000_000, 2_000_000)
    models = (model("big", price=price), model("small", price=price))
    async with Desk(route_text("big", "small"), models=models).open() as desk:
        await desk.text()
        assert desk.result().body["cost"] == {"micro": "9", "currency": "EUR"}
        decided = desk.metrics.all[-1]
        assert (decided.cost_micro, decided.currency, decided.route) == (9, "EUR", "best")
        desk.models.script("big", "x", Finished("stop", 10, 10))
        desk.models.script("small", '"ok"')
        await desk.ask(chat(response_schema='{"type":"string"}'))
        assert desk.result().body["cost"] == {"micro": str(30 + 9), "currency": "EUR"}


# --- what is told --------------------------------------------------------------------------------


async def test_decided_is_told_everything_and_no_callers_name() -> None:
    async with Desk(route_text("big", "small")).open() as desk:
        desk.models.script("big", CRASH)
        await desk.ask(chat(priority="batch"))
        decided = desk.metrics.all[-1]
        assert (decided.action, decided.model, decided.route) == ("chat", "small", "best")
        assert (decided.outcome, decided.degraded, decided.attempts) == ("answered", "fallback", 2)
        assert (decided.tokens_in, decided.tokens_out, decided.priority) == (7, 1, "batch")
        assert decided.first_seconds == 0.0
        with pytest.raises(UnknownModel):
            await desk.ask(chat(model="zebra"))
        assert (desk.metrics.all[-1].model, desk.metrics.all[-1].route) == ("", "")


async def test_tool_calls_and_logprobs_reach_the_end_and_the_record() -> None:
    made = ToolCall("call_1", "lookup", '{"id":7}')
    async with Desk().open() as desk:
        desk.models.script("big", Delta("", tool_calls=(made,)), Finished("tool_calls", 9, 4, 3))
        events = [event async for event in desk.pipeline.stream(chat(model="big"))]
        assert events[0] == Delta("", (), (made,))
        end = events[1]
        assert isinstance(end, Answered)
        assert (end.finish, end.tool_calls, end.cached_tokens) == ("tool_calls", (made,), 3)
        assert desk.log.drafts[-1].private["output"] == {
            "content": "",
            "tool_calls": [{"id": "call_1", "name": "lookup", "arguments": '{"id":7}'}],
        }
        assert desk.result().body["cached_tokens"] == 3


async def test_everything_a_caller_may_set_reaches_the_model() -> None:
    async with Desk().open() as desk:
        call = chat(
            model="big",
            repeat_penalty=1.1,
            logit_bias=((3, -1.0),),
            top_logprobs=2,
            grammar="start: /a/",
            tools=(Tool("lookup", "zebra"),),
            tool_choice="required",
            tool_name="lookup",
            parallel_tool_calls=False,
            priority="batch",
            timeout=60.0,
        )
        await desk.ask(call)
        (asked,) = desk.models.requests
        assert asked.sampling.repeat_penalty == 1.1
        assert asked.sampling.logit_bias == ((3, -1.0),)
        assert (asked.sampling.top_logprobs, asked.sampling.grammar) == (2, "start: /a/")
        assert (asked.tools, asked.tool_choice, asked.tool_name) == (
            call.tools,
            "required",
            "lookup",
        )
        assert (asked.parallel_tool_calls, asked.caller, asked.priority) == (
            False,
            "11111111",
            "batch",
        )
        assert asked.timeout is not None
        assert 59 < asked.timeout <= 60
        params = desk.intent().body["params"]
        assert isinstance(params, dict)
        assert (params["tools"], params["biases"], params["grammar"]) == (1, 1, True)
        options = desk.log.drafts[0].private["options"]
        assert isinstance(options, dict)
        assert options["grammar"] == "start: /a/"
        assert b"zebra" not in b"".join(desk.log.leaves)


async def test_a_route_reports_the_replaced_release_to_nobody_in_flight() -> None:
    async with Desk(route_text("big", "small")).open() as desk:
        gate = asyncio.Event()
        desk.models.script("big", gate, "old")
        task = asyncio.ensure_future(desk.text())
        await until(lambda: desk.models.open["big"] == 1)
        assert desk.releases.active is not None
        desk.releases.active = replace(desk.releases.active, policy=compile_policy(ALLOW_ALL))
        with pytest.raises(UnknownModel):
            await desk.ask(chat(decision="d2"))
        gate.set()
        assert await task == "old"
