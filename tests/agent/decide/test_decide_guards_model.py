"""Guards with a real model: a judge that keeps to its form, a repair that is really asked for."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from exclave_agent.errors import OutputInvalid
from exclave_agent.ports import ModelSpec
from exclave_agent.runtimes.supervisor import Supervisor
from exclave_agent.system import SystemClock, SystemRng
from exclave_testing.models import sha256_of, smollm2_path
from exclave_testing.obliged import obliging, validator
from exclave_testing.routing import Desk, chat

pytestmark = pytest.mark.model

PROMPT = "Asked: {input}\nAnswered: {output}\nHow good is the answer, from 0 to 100?"
COLOUR = json.dumps(
    {
        "type": "object",
        "properties": {"colour": {"enum": ["red"]}},
        "required": ["colour"],
        "additionalProperties": False,
    }
)


@pytest.fixture
async def loaded() -> AsyncIterator[Any]:
    path = smollm2_path()
    spec = ModelSpec("small", "llama", path, sha256_of(path), {"n_ctx": 1024})
    async with Supervisor(clock=SystemClock(), rng=SystemRng()) as supervisor:
        models = await supervisor.load([spec])
        yield models
        await models.close()


def desk(models: Any, *documents: str, **files: str) -> Desk:
    made = Desk(*documents, policy=obliging(validators=["held"]), files=files)
    made.models = models
    active = made.releases.active
    assert active is not None
    made.activate(active.policy)
    return made


@pytest.mark.parametrize("least", ["0", "1"])
async def test_a_judge_answers_in_its_form(loaded: Any, least: str) -> None:
    judge = {"judge": {"model": "small", "prompt": "judge.md", "least": least}}
    async with desk(loaded, validator(judge), **{"judge.md": PROMPT}).open() as opened:
        call = chat(model="small", temperature=0.0, max_tokens=8)
        try:
            await opened.ask(call)
        except OutputInvalid:
            assert least == "1"
        found: Any = opened.result().body["guards"]
        if found["failed"]:
            assert least == "1"
            assert found["failed"][0]["reason"].startswith("the judge graded it ")


async def test_a_model_is_really_asked_once_more(loaded: Any) -> None:
    held = validator({"schema": {"json": COLOUR}}, on_failure={"repair": True})
    async with desk(loaded, held).open() as opened:
        with pytest.raises(OutputInvalid):  # it is a small model: it does not manage JSON by itself
            await opened.ask(chat(model="small", temperature=0.0, max_tokens=12))
        assert opened.attempts() == [("small", "output_invalid")] * 2
        assert opened.held() == 0


async def test_a_schema_of_the_request_and_one_of_the_policy(loaded: Any) -> None:
    held = validator({"schema": {"json": COLOUR}}, {"cel": "output.colour == 'red'"})
    async with desk(loaded, held).open() as opened:
        texts, _ = await opened.ask(
            chat(model="small", temperature=0.0, max_tokens=48, response_schema=COLOUR)
        )
        assert json.loads("".join(texts))["colour"] == "red"
