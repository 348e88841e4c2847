"""Guards that cannot look, are late, or are in each other's way: nothing leaves by that, and no
answer is stopped by what is only watched."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest

from exclave_agent.decide.contender import Contender
from exclave_agent.decide.guards import THREADS, Guards, NoKeys
from exclave_agent.errors import AgentError, OutputInvalid, Overloaded, StorageFull, Unavailable
from exclave_agent.ports import Delta, Message, Tool, ToolCall
from exclave_testing.obliged import obliging, redaction, validator
from exclave_testing.routing import Desk, budget_text, chat, route_text
from exclave_testing.scripted import model

PERSONAL = {"personal": {"kinds": ["card"]}}
NO_PROMISES = {"pattern": {"must_not": ["(?i)guarantee"]}}
JUDGE = {"judge": {"model": "small", "prompt": "prompts/judge.md", "least": "0.7"}}
TOLD = "A colleague will answer this."
OBLIGED = obliging(validators=["held"])


def judged(**more: Any) -> Desk:
    files = {"prompts/judge.md": "Asked: {input}\nAnswered: {output}\nGrade it."}
    return Desk(validator(JUDGE, **more), policy=OBLIGED, files=files)


def guards(opened: Desk) -> Any:
    return opened.result().body["guards"]


# --- a validator that is only watched ------------------------------------------------------------


@pytest.mark.parametrize("stage", ["input", "output"])
@pytest.mark.parametrize("mode", ["audit", "enforce"])
async def test_what_could_not_be_looked_at_ends_only_what_is_enforced(
    monkeypatch: pytest.MonkeyPatch, stage: str, mode: str
) -> None:
    async def full(*_: object) -> None:
        raise Overloaded("too many")

    monkeypatch.setattr(Guards, "run", full)
    async with Desk(validator(PERSONAL, stage=stage, mode=mode), policy=OBLIGED).open() as opened:
        opened.models.script("big", "fine ", "answer")
        seen: list[str] = []
        try:
            async for event in opened.pipeline.stream(chat(model="big", stream=True)):
                if isinstance(event, Delta):
                    seen.append(event.text)
        except AgentError:
            assert mode == "enforce" and seen == []
        else:
            assert mode == "audit" and "".join(seen) == "fine answer"
            (failed,) = guards(opened)["failed"]
            assert (failed["mode"], failed["check"]) == ("audit", "personal")
            assert failed["reason"] == "it could not be looked at (overloaded)"


async def test_a_judge_that_is_only_watched_takes_no_answer_with_it() -> None:
    async with judged(mode="audit").open() as opened:
        opened.models.script("big", "fine")
        opened.models.script("small", asyncio.Event())
        texts, _ = await opened.ask(chat(model="big", timeout=0.1))
        assert "".join(texts) == "fine"
        (failed,) = guards(opened)["failed"]
        assert failed["check"] == "judge"


# --- in each other's way -------------------------------------------------------------------------


async def test_a_judge_finds_the_answers_place_free() -> None:
    """It may be the same model, which answers one at a time."""
    files = {"prompts/judge.md": "Asked: {input}\nAnswered: {output}\nGrade it."}
    check = {"judge": JUDGE["judge"] | {"model": "big"}}
    async with Desk(validator(check), policy=OBLIGED, files=files).open() as opened:
        taken: list[int] = []
        ask = opened.models.generate

        def generate(request: Any) -> Any:
            taken.append(opened.models.open["big"])
            return ask(request)

        opened.models.generate = generate  # type: ignore[method-assign]  # looks before it asks
        opened.models.script("big", "fine")
        opened.models.script("big", '{"grade": 90}')
        assert await opened.text(model="big") == "fine"
        assert taken == [0, 0]


@pytest.mark.parametrize("otherwise", ["refuse", "escalate", "fall_back"])
async def test_a_breaker_that_opens_before_the_repair_changes_no_word(
    monkeypatch: pytest.MonkeyPatch, otherwise: str
) -> None:
    """Another decision's failure, while this one's first answer is being put away."""
    failure: dict[str, Any] = {"repair": True, "otherwise": otherwise}
    if otherwise == "escalate":
        failure["told"] = TOLD
    breaker = {"window_seconds": 60, "min_requests": 20, "error_rate": "0.5", "open_seconds": 60}
    documents = (
        validator(NO_PROMISES, on_failure=failure),
        route_text("big", "small", breaker=breaker),
    )
    close = Contender.close

    async def closing(self: Contender[Any]) -> None:
        await close(self)
        if self.choice.repaired:
            self.choice.breaker._open(opened.clock.monotonic(), "errors")

    monkeypatch.setattr(Contender, "close", closing)
    async with Desk(*documents, policy=OBLIGED).open() as opened:
        opened.models.script("big", "guarantee")
        if otherwise == "refuse":
            with pytest.raises(OutputInvalid):
                await opened.ask(chat())
        else:
            texts, _ = await opened.ask(chat())
            assert texts == [TOLD if otherwise == "escalate" else "small"]
        assert opened.models.asked == ["big"] + ["small"] * (otherwise == "fall_back")
        assert ("big", "open") in opened.attempts()
        assert opened.held() == 0


async def test_guards_that_stop_say_so_to_whoever_waits() -> None:
    made, go = Guards(NoKeys()), threading.Event()
    running = [asyncio.create_task(made.run(go.wait)) for _ in range(THREADS)]
    waiting = asyncio.create_task(made.run(go.wait))
    left = asyncio.create_task(made.run(go.wait))
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.wait([left])
    made.close()
    with pytest.raises(Unavailable, match="stopping"):
        await waiting
    with pytest.raises(Unavailable, match="stopping"):
        await made.run(go.wait)
    assert left.cancelled(), "whoever leaves is not told anything"
    go.set()
    assert await asyncio.gather(*running) == [True] * THREADS


# --- what a repair and a redaction cost ----------------------------------------------------------


@pytest.mark.parametrize(("calls", "asked"), [(1, 2), (100, 1)])
async def test_a_repair_is_asked_for_as_long_as_it_was_paid_for(calls: int, asked: int) -> None:
    """Each call of a tool needs an answer in the model's next prompt."""
    held = validator({"pattern": {"must": ["sorry"]}}, on_failure={"repair": True})
    tools = (Tool("find", "", "{}"),)
    made = tuple(ToolCall(f"call_{n}", "find", "{}") for n in range(calls))
    async with Desk(held, budget_text(100_000), policy=OBLIGED).open() as opened:
        opened.models.script("big", Delta("", (), made), times=2)
        with pytest.raises(OutputInvalid):
            await opened.ask(chat(model="big", tools=tools))
        assert len(opened.models.requests) == asked
        assert opened.held() == 0


async def test_the_worst_case_is_that_of_what_is_sent() -> None:
    words = " ".join(f"{a}@{b}" for a in "abcdefghijklm" for b in "abcdefghijklm")
    hidden = redaction("custom", patterns=["[a-z]@[a-z]"])
    cloud = model("cloud", runtime="remote", remote=True, endpoint="api", context_tokens=0)
    policy = obliging(redactions=["hidden"])
    async with Desk(hidden, budget_text(100_000), policy=policy, models=(cloud,)).open() as opened:
        gate = asyncio.Event()
        opened.models.script("cloud", gate, "ok")
        messages = (Message("user", words),)
        asking = asyncio.create_task(opened.ask(chat(model="cloud", messages=messages)))
        while not opened.models.requests:
            await asyncio.sleep(0.001)
        (sent,) = opened.models.requests
        size = len(json.dumps([each.content for each in sent.messages]))
        assert size > 2 * len(words), "tokens are longer than what they stand for"
        assert opened.held() >= size
        gate.set()
        await asking


# --- which decisions are being answered ----------------------------------------------------------


async def test_a_decision_is_live_from_its_intent_to_its_result() -> None:
    async with Desk(policy=obliging()).open() as opened:
        gate = asyncio.Event()
        opened.models.script("big", gate, "fine")
        assert not opened.pipeline.live("d1")
        asking = asyncio.create_task(opened.ask(chat(model="big")))
        while not opened.models.requests:
            await asyncio.sleep(0)
        assert opened.pipeline.live("d1")
        gate.set()
        await asking
        assert not opened.pipeline.live("d1")
        full = StorageFull("the disk is full")
        opened.log.fail_on = lambda draft: full if draft.type == "RESULT" else None
        with pytest.raises(StorageFull):
            await opened.ask(chat(model="big"))
        assert not opened.pipeline.live("d1"), "what could not be recorded has ended too"
