"""What a decision needs besides its model: tools, the endpoint and the secret of a remote one."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave_agent.decide.authorize import civil, request_of
from exclave_agent.errors import NoTarget, PolicyDenied
from exclave_agent.ports import Tool
from exclave_policy.schema import CONTENT, VARIABLES
from exclave_testing.policies import allow, compiled, deny, document
from exclave_testing.routing import Desk, chat, route_text
from exclave_testing.scripted import model

CLOUD = model(
    "cloud",
    remote=True,
    provider="openai",
    endpoint="api.example.com",
    secret="cloud-key",
    data_classes=frozenset({""}),
)
SMALL = model("small")
CHAT = allow("chats")
ENDPOINT = allow("sends", actions=["use_endpoint"], endpoints=["api.example.com"])
SECRET = allow("unlocks", actions=["use_secret"], secrets=["cloud-key"])
TOOL = allow("tools", actions=["call_tool"], tools=["lookup"])
CANARY = "caller_chose_this"


def policy(*rules: dict[str, Any]) -> str:
    return json.dumps(document(*rules))


def desk(*rules: dict[str, Any], route: bool = False) -> Desk:
    routes = (route_text("cloud", "small"),) if route else ()
    return Desk(*routes, policy=policy(*rules), models=(CLOUD, SMALL))


# --- remote models -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "thing"),
    [
        ((CHAT,), "endpoint"),
        ((CHAT, SECRET), "endpoint"),
        ((CHAT, ENDPOINT), "secret"),
        ((CHAT, ENDPOINT, SECRET, deny("no", actions=["use_secret"])), "secret"),
        ((CHAT, ENDPOINT | {"endpoints": ["other.example.com"]}, SECRET), "endpoint"),
        ((CHAT, ENDPOINT | {"models": ["small"]}, SECRET), "endpoint"),
        ((CHAT, ENDPOINT | {"subjects": {"roles": ["intern"]}}, SECRET), "endpoint"),
    ],
)
async def test_a_remote_model_needs_its_endpoint_and_its_secret(
    rules: tuple[dict[str, Any], ...], thing: str
) -> None:
    async with desk(*rules).open() as opened:
        with pytest.raises(PolicyDenied) as refused:
            await opened.ask(chat(model="cloud"))
        assert thing in refused.value.message
        assert opened.models.asked == []
        assert opened.result().body["outcome"] == "denied"
    async with desk(*rules, route=True).open() as opened:
        assert (await opened.ask(chat()))[1].model == "small"
        attempts = opened.result().body["attempts"]
        assert isinstance(attempts, list)
        assert attempts[0] == {"model": "cloud", "outcome": "denied", "us": 0}


async def test_what_was_granted_is_on_record() -> None:
    async with desk(CHAT, ENDPOINT, SECRET).open() as opened:
        assert (await opened.ask(chat(model="cloud")))[1].model == "cloud"
        assert opened.log.of_type("INTENT")[0].body["grants"] == [
            {
                "model": "cloud",
                "grants": [
                    {"action": "use_endpoint", "name": "api.example.com", "rule": "sends"},
                    {"action": "use_secret", "name": "cloud-key", "rule": "unlocks"},
                ],
            }
        ]


async def test_neither_a_hedge_nor_a_fallback_reaches_what_is_not_granted() -> None:
    hedged = route_text({"model": "small", "hedge_after_ms": 1}, "cloud")
    opened = Desk(hedged, policy=policy(CHAT), models=(CLOUD, SMALL))
    async with opened.open() as running:
        running.models.script("small", RuntimeError("broken"), times=1)
        with pytest.raises((RuntimeError, NoTarget)):
            await running.ask(chat())
        assert "cloud" not in running.models.asked


async def test_a_local_model_needs_nothing_more() -> None:
    async with desk(CHAT).open() as opened:
        await opened.ask(chat(model="small"))
        assert opened.log.of_type("INTENT")[0].body["grants"] == []


# --- tools ---------------------------------------------------------------------------------------


async def test_each_tool_that_is_offered_must_be_allowed() -> None:
    async with desk(CHAT, TOOL).open() as opened:
        await opened.ask(chat(model="small", tools=(Tool("lookup"),)))
        grants = opened.log.of_type("INTENT")[0].body["grants"]
        told = [{"action": "call_tool", "name": "lookup", "rule": "tools"}]
        assert grants == [{"model": "small", "grants": told}]
        with pytest.raises(PolicyDenied) as refused:
            await opened.ask(chat(model="small", tools=(Tool("lookup"), Tool(CANARY))))
        assert (refused.value.rule, CANARY in refused.value.message) == ("default-deny", False)
        assert opened.models.asked == ["small"]


async def test_a_tools_name_is_told_only_where_a_rule_names_it() -> None:
    async with desk(CHAT, TOOL | {"tools": ["*"]}).open() as opened:
        await opened.ask(chat(model="small", tools=(Tool(CANARY),)))
        bodies = json.dumps([dict(draft.body) for draft in opened.log.drafts])
        assert CANARY not in bodies
        assert '"name": null' in bodies


async def test_the_smallest_limit_of_all_verdicts_holds() -> None:
    rules = (CHAT | {"limits": {"max_tokens": 50}}, TOOL | {"limits": {"max_tokens": 7}})
    async with desk(*rules).open() as opened:
        await opened.ask(chat(model="small", max_tokens=None, tools=(Tool("lookup"),)))
        params = opened.log.of_type("INTENT")[0].body["params"]
        assert isinstance(params, dict)
        assert params["max_tokens"] == 7


# --- what the record keeps -----------------------------------------------------------------------


async def test_the_record_keeps_why_beside_the_data_and_ids_in_the_leaf() -> None:
    watched = deny("watched", mode="audit", when='run.workflow == "night"')
    busy = allow("busy", when="request.message_count >= 1")
    async with desk(CHAT, busy, watched).open() as opened:
        await opened.ask(chat(model="small", workflow="night", run=CANARY))
        intent = opened.log.of_type("INTENT")[0]
        ruled = intent.body["policy"]
        assert isinstance(ruled, dict)
        assert ruled["rule"] == "chats"
        assert ruled["matched"] == ["chats", "busy"]
        assert ruled["would"] == {"allowed": False, "rule": "watched", "matched": ["watched"]}
        kept = opened.log.drafts[0].private["policy"]
        assert isinstance(kept, dict)
        names, rules = kept["names"], kept["rules"]
        assert isinstance(names, dict)
        assert names.keys() == VARIABLES.keys() - CONTENT
        assert (names["run.id"], names["run.workflow"]) == (CANARY, "night")
        assert rules == [
            ["chats", "allow", "enforce", ""],
            ["busy", "allow", "enforce", "request.message_count >= 1"],
            ["watched", "deny", "audit", 'run.workflow == "night"'],
        ]
        assert CANARY not in json.dumps([dict(draft.body) for draft in opened.log.drafts])


@settings(max_examples=300, deadline=None)
@given(st.integers(-719_162, 2_932_896))
def test_dates_are_those_of_the_calendar(days: int) -> None:
    date = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=days)
    assert civil(days) == (date.year, date.month, date.day)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 4_102_444_800))
def test_the_time_is_utc(seconds: int) -> None:
    date = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    asked = request_of(chat(), seconds * 10**9)
    told = (asked.year, asked.month, asked.day, asked.hour, asked.minute, asked.weekday)
    wanted = (date.year, date.month, date.day, date.hour, date.minute, date.weekday())
    assert told == wanted


def test_conditions_see_the_target() -> None:
    rules = compiled(allow("a", when='model.remote && model.provider == "openai"'))
    call = chat(model="cloud")
    assert rules.evaluate(request_of(call, 0, info=CLOUD)).allowed
    assert not rules.evaluate(request_of(call, 0, info=SMALL)).allowed
    assert not rules.evaluate(request_of(call, 0)).allowed
