"""The steps by themselves: the budget's numbers, the validator's limits, the bodies' words."""

from __future__ import annotations

import asyncio
import json
import struct
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave_agent.decide import bodies
from exclave_agent.decide.authorize import authorize, prompt_bytes
from exclave_agent.decide.budget import DEFAULT_TOKENS, budget, default_tokens
from exclave_agent.decide.calls import EmbedCall, GenerateCall, InferCall
from exclave_agent.decide.overlap import IntentTask, Overlap
from exclave_agent.decide.validate import Validator
from exclave_agent.errors import BadRequest, OutputInvalid, StorageError, TooManyTokens
from exclave_agent.ports import Appended, Caller, Message, Tensor
from exclave_policy.guards.schemas import MAX_SCHEMA_BYTES
from exclave_protocol.canonical import encode
from exclave_testing.clock import START_NS
from exclave_testing.local_api import compile_policy

CALLER = Caller("k", ("analyst",))


# --- authorize ------------------------------------------------------------------------------


def test_sizes_are_bytes_of_everything_sent() -> None:
    common: dict[str, Any] = {"decision": "d", "model": "m", "caller": CALLER, "subject": "s"}
    messages = (Message("user", "Käse"), Message("assistant", "ok"))
    assert prompt_bytes(GenerateCall(action="chat", messages=messages, **common)) == 7
    assert prompt_bytes(GenerateCall(action="complete", prompt="ß", **common)) == 2
    assert prompt_bytes(EmbedCall(texts=("a", "ß"), **common)) == 3
    tensors = (Tensor("x", "FP32", (2,), bytes(8)), Tensor("y", "BOOL", (1,), b"\1"))
    assert prompt_bytes(InferCall(inputs=tensors, **common)) == 9


@pytest.mark.parametrize(
    ("condition", "seconds", "allowed"),
    [
        # START_NS is Sunday 2030-03-17 17:46:40 UTC.
        ("time.weekday == 6 && time.hour == 17", 0, True),
        ("time.weekday == 0 && time.hour == 0", 6 * 3600 + 800, True),
        ("time.weekday == 6 && time.hour == 17", 6 * 3600 + 800, False),
    ],
)
def test_the_policy_knows_the_hour_in_utc(condition: str, seconds: int, allowed: bool) -> None:
    policy = compile_policy(
        f"""
apiVersion: exclave.dev/v1
kind: Policy
metadata: {{name: clock, version: "1.0.0"}}
spec:
  rules:
    - id: hours
      effect: allow
      subjects: {{roles: [analyst]}}
      actions: [chat]
      models: ["*"]
      when: {condition}
"""
    )
    call = GenerateCall(decision="d", action="chat", model="m", caller=CALLER, subject="s")
    assert authorize(policy, call, START_NS + seconds * 10**9).allowed is allowed


# --- budget ---------------------------------------------------------------------------------


def test_what_is_asked_for_within_the_cap_is_granted() -> None:
    assert budget(10, None) == 10
    assert budget(10, 10) == 10
    assert budget(None, 10) is None
    with pytest.raises(TooManyTokens, match=r"11.*10"):
        budget(11, 10)


@pytest.mark.parametrize(
    ("cap", "context", "tokens"),
    [
        (None, 0, DEFAULT_TOKENS),
        (None, 8192, DEFAULT_TOKENS),
        (2000, 8192, DEFAULT_TOKENS),
        (100, 8192, 100),
        (None, 512, 256),
        (100, 64, 32),
        (None, 1, 1),
    ],
)
def test_the_default_leaves_room_for_a_prompt(cap: int | None, context: int, tokens: int) -> None:
    assert default_tokens(cap, context) == tokens


# --- validate -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schema",
    [
        "",
        "zebra",
        "[]",
        "1",
        '{"type":"zebra"}',
        '{"$ref":"http://127.0.0.1:9/zebra"}',
        '{"$ref":"file:///etc/hostname"}',
        '{"pattern":"(zebra"}',
        '{"pattern":"a(?=b)"}',
        "[" * 100_000,
        '{"items":' * 600 + "{}" + "}" * 600,
        '{"x":"' + "y" * MAX_SCHEMA_BYTES + '"}',
    ],
)
def test_a_schema_that_is_not_one_is_refused_without_quoting_it(schema: str) -> None:
    with pytest.raises(BadRequest) as refused:
        Validator(schema)
    assert refused.value.param == "response_format"
    assert "zebra" not in str(refused.value)


def test_a_reference_within_the_schema_works() -> None:
    validator = Validator('{"$defs":{"n":{"type":"integer"}},"items":{"$ref":"#/$defs/n"}}')
    validator.check("[1,2]", "d")
    with pytest.raises(OutputInvalid):
        validator.check('["a"]', "d")


def test_a_pattern_cannot_stall_the_agent() -> None:
    validator = Validator('{"pattern":"^(a+)+$"}')
    with pytest.raises(OutputInvalid):
        validator.check('"' + "a" * 50_000 + 'b"', "d")


@given(st.text())
def test_an_answer_is_valid_exactly_when_the_standard_library_reads_an_object(text: str) -> None:
    try:
        is_object = isinstance(json.loads(text), dict)
    except ValueError:
        is_object = False
    validator = Validator('{"type":"object"}')
    if is_object:
        validator.check(text, "d")
    else:
        with pytest.raises(OutputInvalid):
            validator.check(text, "d")


def test_an_answer_nested_too_deep_is_invalid() -> None:
    with pytest.raises(OutputInvalid):
        Validator("{}").check("[" * 100_000 + "]" * 100_000, "d")


# --- bodies ---------------------------------------------------------------------------------


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_decimals_read_back_and_have_no_exponent(value: float) -> None:
    text = bodies.decimal(value)
    assert float(text) == value
    assert "e" not in text.lower()
    Decimal(text)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=8))
def test_vectors_are_little_endian_float32(values: list[float]) -> None:
    assert bodies.float32(values) == struct.pack(f"<{len(values)}f", *values)
    encode(bodies.vectors([values]))  # canonical: no float among them


# --- overlap --------------------------------------------------------------------------------


def landing(outcome: asyncio.Future[Appended | StorageError]) -> IntentTask:
    async def wait() -> Appended | StorageError:
        return await outcome

    return asyncio.get_running_loop().create_task(wait())


async def test_the_block_ends_before_the_record_and_waits_for_it() -> None:
    outcome: asyncio.Future[Appended | StorageError] = asyncio.Future()
    done = []

    async def work() -> None:
        async with Overlap(landing(outcome)):
            done.append("block")
        done.append("durable")

    task = asyncio.ensure_future(work())
    for _ in range(10):
        await asyncio.sleep(0)
    assert done == ["block"]
    outcome.set_result(Appended(1, 1, b""))
    await task
    assert done == ["block", "durable"]


async def test_an_outer_cancellation_wins_over_a_refused_record() -> None:
    outcome: asyncio.Future[Appended | StorageError] = asyncio.Future()

    async def work() -> None:
        async with Overlap(landing(outcome)):
            await asyncio.sleep(3600)

    task = asyncio.ensure_future(work())
    await asyncio.sleep(0)
    outcome.set_result(StorageError("full"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_record_refused_after_the_block_leaves_no_cancellation_behind() -> None:
    outcome: asyncio.Future[Appended | StorageError] = asyncio.Future()

    async def work() -> str:
        with pytest.raises(StorageError):
            async with Overlap(landing(outcome)):
                pass
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        current = asyncio.current_task()
        assert current is not None
        assert current.cancelling() == 0
        return "calm"

    task = asyncio.ensure_future(work())
    await asyncio.sleep(0)
    outcome.set_result(StorageError("full"))
    assert await task == "calm"


async def test_a_block_that_fails_by_itself_keeps_its_error() -> None:
    outcome: asyncio.Future[Appended | StorageError] = asyncio.Future()
    with pytest.raises(BadRequest):
        async with Overlap(landing(outcome)):
            raise BadRequest("wrong")
    outcome.set_result(Appended(1, 1, b""))
