"""Bad requests to a real agent: the right status, a message that names the field, no raw data."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from exclave_testing.processes import Agent, World

CANARY = "Xylophone-Marmalade-5512"


@pytest.fixture
def agent(world: World) -> Agent:
    """A live agent with both models."""
    return world.agents["south"]


def chat(**fields: Any) -> dict[str, Any]:
    """A chat body whose prompt is the canary."""
    body = {"model": "smollm2", "messages": [{"role": "user", "content": CANARY}]}
    return {**body, "max_tokens": 4, **fields}


def test_request_with_unknown_model(agent: Agent) -> None:
    code, answer = agent.post("/v1/chat/completions", chat(model="gpt-17"))
    assert code in (403, 404), answer
    assert CANARY not in json.dumps(answer)


def test_request_with_bad_json(agent: Agent) -> None:
    code, answer = agent.post("/v1/chat/completions", b'{"model": "smollm2", ' + CANARY.encode())
    assert code == 400
    assert CANARY not in json.dumps(answer)


def test_request_with_too_many_tokens(agent: Agent) -> None:
    code, answer = agent.post("/v1/chat/completions", chat(max_tokens=1_000_000))
    assert code == 400, answer
    assert "1000000" in json.dumps(answer)
    long = chat(messages=[{"role": "user", "content": f"{CANARY} word " * 3000}])
    code, answer = agent.post("/v1/chat/completions", long)
    assert code == 400, answer
    assert answer["error"]["code"] == "context_length_exceeded"
    assert CANARY not in json.dumps(answer)


def test_request_with_no_key(agent: Agent) -> None:
    key, agent.key = agent.key, ""
    try:
        code, answer = agent.post("/v1/chat/completions", chat())
    finally:
        agent.key = key
    assert code == 401
    assert answer["error"]["code"] == "missing_api_key"


def test_request_with_unknown_key(agent: Agent) -> None:
    headers = {"authorization": "Bearer exk_00000000_" + "A" * 43}
    code, _ = agent.post("/v1/chat/completions", chat(), headers)
    assert code == 401


def test_request_with_wrong_role(agent: Agent) -> None:
    key = agent.key
    agent.create_key("stranger")
    try:
        code, answer = agent.post("/v1/chat/completions", chat())
    finally:
        agent.key = key
    assert code == 403, answer
    assert answer["error"]["code"] == "policy_denied"
    assert CANARY not in json.dumps(answer)


# --- over the wire, against the real model ------------------------------------------------------


def alive(agent: Agent) -> None:
    """The agent and its model answer the next caller."""
    code, answer = agent.chat("Say hello.", max_tokens=2)
    assert code == 200, answer


def test_request_that_is_not_utf8(agent: Agent) -> None:
    for raw in (b"\xff\xfe", b"\xc3\x28", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"):
        body = json.dumps(chat()).encode().replace(CANARY.encode(), raw)
        code, answer = agent.post("/v1/chat/completions", body)
        assert (code, answer["error"]["code"]) == (400, "invalid_utf8")
    lone = json.dumps(chat()).replace(CANARY, "\\ud800")
    assert agent.post("/v1/chat/completions", lone.encode())[0] == 400
    alive(agent)


def test_prompt_of_ten_megabytes(agent: Agent) -> None:
    big = [{"role": "user", "content": CANARY + "x" * 10_000_000}]
    began = time.monotonic()
    code, answer = agent.post("/v1/chat/completions", chat(messages=big))
    assert code == 413, answer
    assert "4194304" in json.dumps(answer)
    assert CANARY not in json.dumps(answer)
    assert time.monotonic() - began < 10
    below = [{"role": "user", "content": CANARY + " word" * 500_000}]
    code, answer = agent.post("/v1/chat/completions", chat(messages=below))
    assert code in (400, 403), answer  # the pack denies prompts of more than 256 KiB
    assert CANARY not in json.dumps(answer)
    alive(agent)


BEYOND = [-1, 2**31, -(2**63) - 1, 10**40, 1.5, True, "7"]


@pytest.mark.parametrize("value", BEYOND, ids=repr)
def test_negative_and_huge_limits(agent: Agent, value: object) -> None:
    fields: list[dict[str, Any]] = [
        {"max_tokens": value},
        {"max_completion_tokens": value, "max_tokens": None},
        {"top_k": value},
        {"top_logprobs": value, "logprobs": True},
    ]
    for given in fields:
        code, answer = agent.post("/v1/chat/completions", chat(**given))
        assert code == 400, answer
        assert answer["error"]["param"] == next(iter(given))
    code, answer = agent.post("/v1/chat/completions", chat(max_tokens=0))
    assert (code, answer["error"]["param"]) == (400, "max_tokens")


CONTRADICTIONS: list[dict[str, Any]] = [
    {"type": "string", "enum": [1, 2]},
    {"type": "integer", "minimum": 5, "maximum": 1},
    {"allOf": [{"type": "string"}, {"type": "integer"}]},
    {"type": "object", "required": ["a"], "properties": {"a": False}},
    {"type": "string", "minLength": 9, "maxLength": 1},
    {"type": 7},
    {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
    {"$ref": "https://example.org/schema.json"},
    {"not": {}},
]


@pytest.mark.parametrize("schema", CONTRADICTIONS, ids=lambda schema: json.dumps(schema)[:40])
def test_contradictory_schema(agent: Agent, schema: dict[str, Any]) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    code, answer = agent.post("/v1/chat/completions", chat(response_format=form))
    assert code in (400, 422), answer
    assert CANARY not in json.dumps(answer)
    alive(agent)


def test_grammar_that_never_terminates(agent: Agent) -> None:
    code, answer = agent.post("/v1/chat/completions", chat(grammar='start: "a" start'))
    if code == 200:
        choice = answer["choices"][0]
        assert choice["finish_reason"] == "length"
        assert set(choice["message"]["content"]) == {"a"}
    else:  # or it is known beforehand that no answer can end
        assert (code, answer["error"]["param"]) == (400, "grammar")
    code, answer = agent.post("/v1/chat/completions", chat(grammar="start: /a+/", max_tokens=8))
    assert code == 200, answer
    assert set(answer["choices"][0]["message"]["content"]) == {"a"}
    alive(agent)


HOSTILE = [
    "not a grammar",
    "start: missing",
    "start: start",
    "start: /(a{1,500}){1,500}/",
    "start: /(?=a)b/",
    "start: " + "(" * 5000 + '"a"' + ")" * 5000,
    "start: " + " ".join(f"r{n}" for n in range(4000)),
    "\n".join(["start: r0", *(f"r{n}: r{n + 1} r{n + 1}" for n in range(60)), 'r60: "a"']),
    'start: %json {"$ref": "https://example.org/x"}',
    '%import common.WORD\nstart: WORD @"',
    "start: <[999999999]>",
]


@pytest.mark.parametrize("grammar", HOSTILE, ids=lambda grammar: repr(grammar)[:40])
def test_hostile_grammars(agent: Agent, grammar: str) -> None:
    began = time.monotonic()
    code, answer = agent.post("/v1/chat/completions", chat(grammar=grammar))
    assert code in (200, 400, 422), answer
    if code == 400:
        assert answer["error"]["param"] == "grammar"
        assert grammar not in json.dumps(answer)
    assert time.monotonic() - began < 20
    alive(agent)
