"""Tools, grammars, schemas and log probabilities with the real model, through its worker."""

from __future__ import annotations

import json
import math
import time
from collections.abc import AsyncIterator
from typing import Any

import jsonschema_rs
import pytest

from exclave_agent.errors import BadRequest, Overloaded
from exclave_agent.ports import (
    Delta,
    Finished,
    Generate,
    Message,
    ModelSet,
    ModelSpec,
    Sampling,
    Tool,
    ToolCall,
)
from exclave_agent.runtimes.supervisor import Supervisor
from exclave_agent.system import SystemClock, SystemRng
from exclave_testing.models import smollm2_path

pytestmark = pytest.mark.model

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "days": {"enum": [1, 2, 3]}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER = Tool("get_weather", "The weather of a city.", json.dumps(CITY))
NOW = Tool("now", "The time.", "{}")


@pytest.fixture
async def models() -> AsyncIterator[ModelSet]:
    async with Supervisor(clock=SystemClock(), rng=SystemRng()) as supervisor:
        spec = ModelSpec("m", "llama", smollm2_path(), "aa" * 32, {"n_ctx": 768, "n_parallel": 4})
        loaded = await supervisor.load([spec])
        yield loaded
        await loaded.close()
        assert supervisor.crashes == 0


async def ask(
    models: ModelSet, text: str, *, max_tokens: int = 120, more: Any = None, **sampling: Any
) -> tuple[list[Delta], Finished]:
    """One message; the whole answer's events."""
    chosen = Sampling(max_tokens=max_tokens, **{"temperature": 0.0, **sampling})
    deltas: list[Delta] = []
    request = Generate("m", chosen, (Message("user", text),), **(more or {}))
    async for event in models.generate(request):
        if isinstance(event, Finished):
            return deltas, event
        deltas.append(event)
    raise AssertionError("no Finished")


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def calls_of(deltas: list[Delta]) -> list[ToolCall]:
    return [call for delta in deltas for call in delta.tool_calls]


async def test_a_required_call_comes_whole_and_matches_its_schema(models: ModelSet) -> None:
    for temperature in (0.0, 1.5):
        deltas, finished = await ask(
            models,
            "What is the weather in Paris?",
            temperature=temperature,
            seed=1,
            more={
                "tools": (WEATHER, NOW),
                "tool_choice": "required",
                "tool_name": "get_weather",
                "parallel_tool_calls": False,
            },
        )
        (call,) = calls_of(deltas)
        assert call.name == "get_weather"
        assert call.id
        jsonschema_rs.validate(CITY, json.loads(call.arguments))
        assert text_of(deltas) == ""
        assert finished.reason == "tool_calls"


async def test_a_call_is_answered_and_the_talk_goes_on(models: ModelSet) -> None:
    request = Generate(
        "m",
        Sampling(max_tokens=20, temperature=0),
        (
            Message("user", "What time is it?"),
            Message("assistant", "", (ToolCall("c1", "now", "{}"),)),
            Message("tool", "Noon.", tool_call_id="c1", name="now"),
        ),
        tools=(NOW,),
    )
    events = [event async for event in models.generate(request)]
    assert isinstance(events[-1], Finished)
    assert text_of([event for event in events if isinstance(event, Delta)])


async def test_a_call_that_is_cut_off_is_none(models: ModelSet) -> None:
    more = {"tools": (WEATHER,), "tool_choice": "required"}
    deltas, finished = await ask(models, "Paris?", max_tokens=12, more=more)
    assert (calls_of(deltas), text_of(deltas), finished.reason) == ([], "", "length")


async def test_a_grammar_decides_what_is_said(models: ModelSet) -> None:
    deltas, finished = await ask(models, "Is water wet?", grammar='start: ("yes" | "no") ", sir"')
    assert text_of(deltas) in ("yes, sir", "no, sir")
    assert finished.reason == "stop"
    deltas, finished = await ask(
        models, "Count.", max_tokens=30, grammar='start: item start\nitem: /[0-9]/ " "\n'
    )
    assert finished.reason == "length"
    assert set(text_of(deltas)) <= set("0123456789 ")


async def test_hostile_grammars_hold_nobody_up(models: ModelSet) -> None:
    hostile = {
        "grammar": [
            "start: /(x{1000}){1000}/",
            "start: a\na: a a | /./ | a a a\n",
            "start: r0\n" + "".join(f'r{n}: r{n + 1} "x"\n' for n in range(3000)) + 'r3000: "y"',
        ],
        "json_schema": [
            json.dumps({"allOf": [{"type": "string", "pattern": f"a.{{{n}}}b"} for n in range(40)]})
        ],
    }
    for field, values in hostile.items():
        for value in values:
            begun = time.monotonic()
            with pytest.raises((BadRequest, Overloaded)):
                await ask(models, "x", **{field: value})
            assert time.monotonic() - begun < 20
    assert text_of((await ask(models, "Hi.", max_tokens=4))[0])


async def test_log_probabilities_belong_to_the_text(models: ModelSet) -> None:
    deltas, _ = await ask(models, "Say hello.", max_tokens=16, top_logprobs=3)
    told = [one for delta in deltas for one in delta.logprobs]
    assert b"".join(one.token for one in told) == text_of(deltas).encode()
    for one in told:
        assert one.logprob <= 0
        assert len(one.top) == 3
        assert one.top[0][1] == pytest.approx(one.logprob, abs=1e-4), "greedy: it is the best"
        assert sum(math.exp(value) for _, value in one.top) <= 1.0001
    plain, _ = await ask(models, "Say hello.", max_tokens=16)
    assert text_of(plain) == text_of(deltas)
    assert not any(delta.logprobs for delta in plain)


async def test_a_bias_bans_and_commands(models: ModelSet) -> None:
    plain, _ = await ask(models, "Say hello.", max_tokens=1)
    only, _ = await ask(models, "Say hello.", max_tokens=3, logit_bias=((1000, 500.0),))
    (once, _) = await ask(models, "Say hello.", max_tokens=1, logit_bias=((1000, 500.0),))
    assert text_of(once)
    assert text_of(only) == 3 * text_of(once), "nothing but the token that is commanded"
    assert text_of(once) != text_of(plain)
    banned, _ = await ask(
        models, "Say hello.", max_tokens=3, logit_bias=((1000, 500.0), (1001, 600.0))
    )
    assert text_of(once) not in text_of(banned), "another one is wanted more"


@pytest.mark.parametrize(
    ("more", "sampling", "param"),
    [
        ({"tools": (Tool("a b"),)}, {}, "tools"),
        ({"tools": (NOW,), "tool_choice": "required", "tool_name": "x"}, {}, "tool_choice"),
        ({"tools": (NOW,)}, {"grammar": 'start: "x"'}, "grammar"),
        ({}, {"grammar": 'start: "x"', "json_schema": "{}"}, "grammar"),
        ({}, {"grammar": "start: %%"}, "grammar"),
        ({}, {"grammar": "x" * 70_000}, "grammar"),
    ],
)
async def test_what_does_not_go_together_is_named(
    models: ModelSet, more: dict[str, Any], sampling: dict[str, Any], param: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        await ask(models, "x", more=more, **sampling)
    assert caught.value.param == param
