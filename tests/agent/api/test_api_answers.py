"""How answers are worded: tool calls, log probabilities, usage, and who served them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import httpx
import pytest

from exclave_agent.decide.calls import GenerateCall
from exclave_agent.errors import BudgetExceeded, DeadlineExceeded, NoTarget, Quarantined
from exclave_agent.ports import Delta, Timing, TokenLogprob, ToolCall
from exclave_testing.fake_pipeline import END, FakePipeline

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
HELLO: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": "hello"}]}
ONCE: dict[str, Any] = {"model": "small", "prompt": "once"}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "required": ["city"]}},
}
CALLS = (ToolCall("call_1", "weather", '{"city":"Oslo"}'), ToolCall("call_2", "weather", "{}"))
TOKENS = (
    TokenLogprob(b"h", -0.5, ((b"h", -0.5), (b"H", -1.5))),
    TokenLogprob(b"\xc3", float("-inf"), ((b"\xc3", float("-inf")),)),
    TokenLogprob(b"\xa9", -0.25, ()),
    TokenLogprob(b"!", -1.0, ()),
)


def events(text: str) -> list[Any]:
    *parts, done, rest = text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(part[6:]) for part in parts]


# --- tool calls ---------------------------------------------------------------------------------


async def test_tools_and_their_history_reach_the_call(
    http: httpx.AsyncClient, script: FakePipeline
) -> None:
    said = {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "c9", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
        ],
    }
    body = HELLO | {
        "messages": [
            {"role": "user", "content": "hello", "name": "ada"},
            said,
            {"role": "tool", "tool_call_id": "c9", "content": [{"type": "text", "text": "wet"}]},
        ],
        "tools": [
            WEATHER,
            {
                "type": "function",
                "function": {"name": "now", "description": "Time", "strict": True},
            },
        ],
        "tool_choice": {"type": "function", "function": {"name": "now"}},
        "parallel_tool_calls": False,
    }
    response = await http.post(CHAT, json=body)
    assert response.status_code == 200, response.text
    call = script.asked(GenerateCall)
    user, assistant, tool = call.messages
    assert (user.role, user.name) == ("user", "ada")
    assert assistant.tool_calls == (ToolCall("c9", "weather", "{}"),)
    assert assistant.content == ""
    assert (tool.role, tool.content, tool.tool_call_id, tool.name) == (
        "tool",
        "wet",
        "c9",
        "weather",
    )
    assert [each.name for each in call.tools] == ["weather", "now"]
    assert json.loads(call.tools[0].parameters) == WEATHER["function"]["parameters"]  # type: ignore[index]
    assert call.tools[1].description == "Time"
    assert json.loads(call.tools[1].parameters)["additionalProperties"] is False
    assert (call.tool_choice, call.tool_name, call.parallel_tool_calls) == (
        "required",
        "now",
        False,
    )


@pytest.mark.parametrize("choice", ["auto", "none", "required"])
async def test_a_choice_in_words(
    http: httpx.AsyncClient, script: FakePipeline, choice: str
) -> None:
    await http.post(CHAT, json=HELLO | {"tools": [WEATHER], "tool_choice": choice})
    call = script.asked(GenerateCall)
    assert (call.tool_choice, call.tool_name, call.parallel_tool_calls) == (choice, "", True)


@pytest.mark.parametrize("where", ["deltas", "end"])
async def test_tool_calls_are_told(
    http: httpx.AsyncClient, script: FakePipeline, where: str
) -> None:
    end = replace(END, finish="tool_calls", tool_calls=CALLS)
    deltas = [Delta("", tool_calls=(call,)) for call in CALLS] if where == "deltas" else []
    script.events = [*deltas, end]
    choice = (await http.post(CHAT, json=HELLO | {"tools": [WEATHER]})).json()["choices"][0]
    wanted = [
        {"id": "call_1", "type": "function",
         "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}},
        {"id": "call_2", "type": "function", "function": {"name": "weather", "arguments": "{}"}},
    ]  # fmt: skip
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"] == wanted
    streamed = await http.post(CHAT, json=HELLO | {"tools": [WEATHER], "stream": True})
    told: list[Any] = []
    for each in events(streamed.text):
        told += each["choices"][0]["delta"].get("tool_calls", [])
    assert told == [{"index": index, **call} for index, call in enumerate(wanted)]
    assert events(streamed.text)[-1]["choices"][0]["finish_reason"] == "tool_calls"


def function(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": fields}


BAD: list[tuple[dict[str, Any], str]] = [
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
    ({"tools": [function(name="no spaces")]}, "tools[0].function.name"),
    ({"tools": [function(name="n" * 65)]}, "tools[0].function.name"),
    ({"tools": [function(name="f", parameters=[])]}, "tools[0].function.parameters"),
    ({"tools": [function(name="f", code="x")]}, "tools[0].function.code"),
    ({"tools": [function(name="f"), function(name="f")]}, "tools"),
    ({"tools": [function(name=f"f{at}") for at in range(129)]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": "any", "tools": [WEATHER]}, "tool_choice"),
    ({"tool_choice": function(name="absent"), "tools": [WEATHER]}, "tool_choice"),
    ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {}}}, "tool_choice"),
    ({"tools": [WEATHER], "grammar": "start: /a/"}, "grammar"),
    ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
]  # fmt: skip
BAD_MESSAGES: list[tuple[dict[str, Any], str]] = [
    ({"role": "tool", "content": "x"}, "messages[0].tool_call_id"),
    ({"role": "tool", "content": "x", "tool_call_id": "c1"}, "messages[0].tool_call_id"),
    ({"role": "user", "content": "x", "tool_call_id": "c1"}, "messages[0].tool_call_id"),
    ({"role": "user", "content": "x", "tool_calls": [{"id": "c", "function": {}}]},
     "messages[0].tool_calls[0].function.name"),
    ({"role": "user", "content": "x",
      "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]},
     "messages[0].tool_calls"),
    ({"role": "assistant", "tool_calls": [{"id": "c", "type": "custom"}]},
     "messages[0].tool_calls[0].type"),
    ({"role": "assistant", "tool_calls": [{"id": "c"}]}, "messages[0].tool_calls[0].function"),
    ({"role": "assistant", "tool_calls": [{"id": "i" * 257}]}, "messages[0].tool_calls[0].id"),
    ({"role": "assistant", "content": None, "tool_calls": []}, "messages[0].content"),
    ({"role": "assistant", "content": "x", "audio": {"id": "a"}}, "messages[0].audio"),
    ({"role": "assistant", "content": "x", "function_call": {}, "refusal": "no"},
     "messages[0].refusal"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "param"),
    [*BAD, *(({"messages": [sent]}, param) for sent, param in BAD_MESSAGES)],
    ids=lambda value: str(value)[:60],
)
async def test_bad_tools_are_refused_by_name(
    http: httpx.AsyncClient, changes: dict[str, Any], param: str
) -> None:
    response = await http.post(CHAT, json=HELLO | changes)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


# --- log probabilities --------------------------------------------------------------------------


async def test_logprobs_of_a_chat(http: httpx.AsyncClient, script: FakePipeline) -> None:
    script.events = [Delta("h", TOKENS[:1]), Delta("é!", TOKENS[1:]), replace(END, logprobs=TOKENS)]
    body = HELLO | {"logprobs": True, "top_logprobs": 2}
    told = (await http.post(CHAT, json=body)).json()["choices"][0]["logprobs"]
    assert script.asked(GenerateCall).top_logprobs == 2
    assert told["refusal"] is None
    first, half, *_ = told["content"]
    assert first == {
        "token": "h",
        "logprob": -0.5,
        "bytes": [0x68],
        "top_logprobs": [
            {"token": "h", "logprob": -0.5, "bytes": [0x68]},
            {"token": "H", "logprob": -1.5, "bytes": [0x48]},
        ],
    }
    assert (half["token"], half["logprob"], half["bytes"]) == ("\\xc3", -9999.0, [0xC3])
    joined = bytes(byte for each in told["content"] for byte in each["bytes"])
    assert joined.decode() == "hé!"
    streamed = await http.post(CHAT, json=body | {"stream": True})
    content: list[Any] = []
    for each in events(streamed.text):
        content += (each["choices"][0]["logprobs"] or {"content": []})["content"]
    assert content == told["content"]


async def test_logprobs_that_only_the_end_tells(
    http: httpx.AsyncClient, script: FakePipeline
) -> None:
    script.events = [Delta("hé!"), replace(END, logprobs=TOKENS)]
    streamed = await http.post(CHAT, json=HELLO | {"logprobs": True, "stream": True})
    content: list[Any] = []
    for each in events(streamed.text):
        content += (each["choices"][0]["logprobs"] or {"content": []})["content"]
    assert len(content) == 4


async def test_no_logprobs_unless_asked_for(http: httpx.AsyncClient, script: FakePipeline) -> None:
    script.events = [Delta("h", TOKENS[:1]), END]
    assert (await http.post(CHAT, json=HELLO)).json()["choices"][0]["logprobs"] is None
    assert (await http.post(COMPLETIONS, json=ONCE)).json()["choices"][0]["logprobs"] is None
    assert all(call.top_logprobs is None for call in script.calls if isinstance(call, GenerateCall))


async def test_legacy_logprobs(http: httpx.AsyncClient, script: FakePipeline) -> None:
    script.events = [Delta("h", TOKENS[:1]), Delta("é!", TOKENS[1:]), replace(END, logprobs=TOKENS)]
    told = (await http.post(COMPLETIONS, json=ONCE | {"logprobs": 2})).json()
    assert told["choices"][0]["logprobs"] == {
        "tokens": ["h", "bytes:\\xc3", "bytes:\\xa9", "!"],
        "token_logprobs": [-0.5, -9999.0, -0.25, -1.0],
        "top_logprobs": [{"h": -0.5, "H": -1.5}, {"bytes:\\xc3": -9999.0}, {}, {}],
        "text_offset": [0, 1, 1, 2],
    }
    streamed = await http.post(COMPLETIONS, json=ONCE | {"logprobs": 0, "stream": True})
    offsets: list[int] = []
    for each in events(streamed.text):
        if each["choices"][0]["logprobs"]:
            assert each["choices"][0]["logprobs"]["top_logprobs"] is None
            offsets += each["choices"][0]["logprobs"]["text_offset"]
    assert offsets == [0, 1, 1, 2]


# --- who served it, and what it took ------------------------------------------------------------


async def test_usage_tells_what_was_cached_and_guessed(
    http: httpx.AsyncClient, script: FakePipeline
) -> None:
    timing = Timing(drafted=5, accepted=3)
    script.events = [Delta("hi"), replace(END, cached_tokens=4, timing=timing)]
    told = (await http.post(CHAT, json=HELLO)).json()["usage"]
    assert told["prompt_tokens_details"] == {"cached_tokens": 4}
    assert told["completion_tokens_details"] == {
        "accepted_prediction_tokens": 3,
        "rejected_prediction_tokens": 2,
    }


@pytest.mark.parametrize("form", ["whole", "stream", "held"])
async def test_who_answered_is_told(
    http: httpx.AsyncClient, script: FakePipeline, form: str
) -> None:
    end = replace(END, model="tiny", cache="exact", degraded="fallback")
    script.events = [Delta('{"a":'), Delta("1}"), end]
    body = HELLO | {"stream": form != "whole"}
    if form == "held":
        body |= {"response_format": {"type": "json_object"}}
    response = await http.post(CHAT, json=body)
    told = {
        name: response.headers.get(f"x-exclave-{name}") for name in ("model", "cache", "degraded")
    }
    known = {"model": "tiny", "cache": "exact", "degraded": "fallback"}
    assert told == (dict.fromkeys(known) if form == "stream" else known)
    if form != "whole":
        *parts, last = events(response.text)
        assert last["exclave"] == known
        assert last["system_fingerprint"] == "fp_5555555555555555"
        assert "".join(each["choices"][0]["delta"]["content"] for each in parts) == '{"a":1}'
    else:
        assert response.json()["model"] == "small"


@pytest.mark.parametrize(
    ("tier", "header", "priority", "echo"),
    [
        (None, None, "interactive", None),
        ("auto", None, "interactive", "default"),
        ("priority", None, "interactive", "default"),
        ("flex", None, "batch", "flex"),
        (None, "batch", "batch", None),
        ("flex", "interactive", "interactive", "default"),
        ("default", "batch", "batch", "flex"),
    ],
)
async def test_priority_by_tier_and_by_header(
    http: httpx.AsyncClient,
    script: FakePipeline,
    tier: str | None,
    header: str | None,
    priority: str,
    echo: str | None,
) -> None:
    body = HELLO | ({"service_tier": tier} if tier else {})
    headers = {"x-exclave-priority": header} if header else {}
    for stream in (False, True):
        script.calls.clear()
        response = await http.post(CHAT, json=body | {"stream": stream}, headers=headers)
        assert script.asked(GenerateCall).priority == priority
        told = events(response.text) if stream else [response.json()]
        assert {each.get("service_tier") for each in told} == {echo}


@pytest.mark.parametrize(
    ("error", "status", "code", "wait"),
    [
        (BudgetExceeded("the budget of team red is spent", retry_after=90.5), 429,
         "budget_exceeded", "91"),
        (DeadlineExceeded("the time given ran out"), 504, "deadline_exceeded", "1"),
        (NoTarget("no target may answer", retry_after=5), 503, "no_target", "5"),
        (Quarantined("this request killed the worker twice"), 422, "request_quarantined", None),
    ],
)  # fmt: skip
async def test_new_errors_have_their_status(
    http: httpx.AsyncClient,
    script: FakePipeline,
    error: Exception,
    status: int,
    code: str,
    wait: str | None,
) -> None:
    script.events = [error]
    response = await http.post(CHAT, json=HELLO)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert response.headers.get("retry-after") == wait
