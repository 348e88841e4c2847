"""What a worker's steps bring, as the caller of a generation reads it."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from exclave_agent.errors import WorkerCrashed
from exclave_agent.ports import (
    Delta,
    Finished,
    Generate,
    Message,
    Sampling,
    Timing,
    TokenLogprob,
    Tool,
    ToolCall,
)
from exclave_agent.runtimes import frames
from exclave_agent.runtimes.requests import generate_frame
from exclave_agent.runtimes.streams import TextStream, finished

MAX_TOKENS = 100


def stream() -> TextStream:
    ids = itertools.count(1)
    return TextStream(lambda: f"call_{next(ids)}", MAX_TOKENS, {"f", "g"})


async def test_text_that_piles_up_comes_in_one_piece_with_all_beside_it() -> None:
    read = stream()
    read.push("ab")
    read.add(frames.Extra(1, logprobs=[frames.LogprobFrame(b"ab", -0.5, [(b"x", -1.0)])]))
    read.push("c")
    read.add(
        frames.Extra(
            1,
            logprobs=[frames.LogprobFrame(b"c", -0.25)],
            tool_calls=[
                frames.ToolCallFrame("", "f", "{}"),
                frames.ToolCallFrame("", "g", '{"a":1}'),
            ],
        )
    )
    read.end(
        finished(
            frames.Ended(
                1,
                "tool_calls",
                5,
                2,
                cached_tokens=3,
                queued_us=1,
                prefill_us=2,
                decode_us=3,
                preemptions=4,
                drafted=5,
                accepted=6,
            ),
            MAX_TOKENS,
        )
    )
    assert [event async for event in read.events()] == [
        Delta(
            "abc",
            (TokenLogprob(b"ab", -0.5, ((b"x", -1.0),)), TokenLogprob(b"c", -0.25)),
            (ToolCall("call_1", "f", "{}"), ToolCall("call_2", "g", '{"a":1}')),
        ),
        Finished("tool_calls", 5, 2, 3, Timing(1, 2, 3, 4, 5, 6)),
    ]


async def test_a_call_without_text_is_an_event_of_its_own_and_wakes_the_reader() -> None:
    read = stream()
    events = read.events()
    first = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    read.add(frames.Extra(1, tool_calls=[frames.ToolCallFrame("", "f", "{}")]))
    assert await first == Delta("", (), (ToolCall("call_1", "f", "{}"),))


async def test_what_came_before_a_death_is_read_first() -> None:
    read = stream()
    read.push("ab")
    read.end(WorkerCrashed("died"))
    read.end(Finished("stop", 1, 1))
    events = read.events()
    assert await anext(events) == Delta("ab")
    with pytest.raises(WorkerCrashed):
        await anext(events)


def test_a_frame_says_everything_that_a_request_says() -> None:
    request = Generate(
        "m",
        Sampling(
            max_tokens=7,
            temperature=1,
            top_p=1,
            top_k=3,
            min_p=0,
            frequency_penalty=1,
            presence_penalty=2,
            repeat_penalty=3,
            seed=-1,
            stop=("x",),
            logit_bias=((5, -100),),
            top_logprobs=2,
            json_schema="{}",
            grammar="start: /a/",
        ),
        messages=(
            Message("assistant", "", (ToolCall("c", "f", "{}"),)),
            Message("tool", "42", tool_call_id="c", name="f"),
        ),
        tools=(Tool("f", "does", '{"type":"object"}'),),
        tool_choice="required",
        tool_name="f",
        parallel_tool_calls=False,
        caller="key",
        priority="batch",
    )
    frame = generate_frame(9, request, lambda: 0, adapter="ad", timeout=1.5)
    # Over the wire, as a worker reads it.
    (body,) = frames.Splitter().feed(bytes(frames.encode(frame)))
    assert frames.decode_for_worker(body) == frame
    assert frame == frames.Generate(
        9,
        [
            frames.ChatMessage("assistant", "", [frames.ToolCallFrame("c", "f", "{}")]),
            frames.ChatMessage("tool", "42", [], "c", "f"),
        ],
        None,
        frames.SamplingFrame(
            7,
            1.0,
            1.0,
            3,
            0.0,
            1.0,
            2.0,
            (1 << 32) - 1,
            ["x"],
            "{}",
            3.0,
            [(5, -100.0)],
            2,
            "start: /a/",
        ),
        [frames.ToolFrame("f", "does", '{"type":"object"}')],
        "required",
        "f",
        False,
        "key",
        "batch",
        1_500_000,
        "ad",
    )


def test_a_seed_is_drawn_only_for_who_gave_none() -> None:
    def drawn(seed: int | None) -> int:
        request = Generate("m", Sampling(max_tokens=1, seed=seed), prompt="x")
        return generate_frame(1, request, lambda: 77).sampling.seed

    assert drawn(None) == 77
    assert drawn(5) == 5
