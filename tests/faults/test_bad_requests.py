"""Bad requests to a real agent: the right status, a message that names the field, no raw data."""

from __future__ import annotations

import json
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
