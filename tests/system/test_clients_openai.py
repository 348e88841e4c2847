"""The `openai` package, unchanged, against a real agent and a real language model."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel

from exclave_testing.clients import CHAT_MODEL, Service
from exclave_testing.processes import wait_for

pytestmark = pytest.mark.model

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say hello."}]
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city now.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 12, "pattern": "^[A-Za-z]+$"},
                "unit": {"enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}


class Mood(BaseModel):
    """What `parse` is to fill."""

    mood: Literal["good", "bad"]
    score: Literal[1, 2, 3]


@pytest.fixture
def ai(service: Service) -> Iterator[OpenAI]:
    with OpenAI(base_url=service.base_url, api_key=service.key, max_retries=0) as client:
        yield client


def connect(service: Service) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=service.base_url, api_key=service.key, max_retries=0)


# --- chat ---------------------------------------------------------------------------------------


def test_chat(ai: OpenAI, service: Service) -> None:
    raw = ai.chat.completions.with_raw_response.create(
        model=CHAT_MODEL, messages=HELLO, max_completion_tokens=8, temperature=0, seed=7
    )
    answer = raw.parse()
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert 1 <= answer.usage.completion_tokens <= 8
    assert answer.usage.prompt_tokens_details is not None
    assert raw.headers["x-exclave-model"] == CHAT_MODEL
    decision = raw.headers["x-exclave-decision"]
    assert answer.id == f"chatcmpl-{decision}"
    assert service.record(decision)["outcome"] == "answered"


def test_chat_streams(ai: OpenAI) -> None:
    stream = ai.chat.completions.create(
        model=CHAT_MODEL,
        messages=HELLO,
        max_tokens=8,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] in ("stop", "length")
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens <= 8


def test_the_stream_helper_gathers_the_whole_answer(ai: OpenAI) -> None:
    with ai.chat.completions.stream(
        model=CHAT_MODEL,
        messages=HELLO,
        max_tokens=24,
        extra_body={"grammar": 'start: "Hello, world!"'},  # it raises when cut by max_tokens
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.content == "Hello, world!"


def test_stop_ends_the_answer_before_it(ai: OpenAI) -> None:
    asked = {"model": CHAT_MODEL, "prompt": "1, 2, 3, 4,", "temperature": 0, "max_tokens": 24}
    whole = ai.completions.create(**asked).choices[0].text  # type: ignore[call-overload]
    word = whole[len(whole) // 2 :][:2]
    cut = ai.completions.create(**asked, stop=[word]).choices[0]  # type: ignore[call-overload]
    assert cut.finish_reason == "stop"
    assert cut.text == whole[: whole.index(word)]


def test_closing_a_stream_is_recorded_as_cancelled(ai: OpenAI, service: Service) -> None:
    raw = ai.chat.completions.with_raw_response.create(
        model=CHAT_MODEL,
        messages=[{"role": "user", "content": "Write a very long story about the sea."}],
        max_tokens=512,
        stream=True,
    )
    decision = raw.headers["x-exclave-decision"]
    stream = raw.parse()
    next(iter(stream))
    stream.close()
    result = service.record(decision)
    assert (result["outcome"], result["reason"]) == ("cancelled", "client_gone")


def test_batch_tier_is_echoed(ai: OpenAI) -> None:
    answer = ai.chat.completions.create(
        model=CHAT_MODEL, messages=HELLO, max_tokens=2, service_tier="flex"
    )
    assert answer.service_tier == "flex"


# --- forms and tools ----------------------------------------------------------------------------


def test_parse_fills_a_pydantic_model(ai: OpenAI) -> None:
    answer = ai.chat.completions.parse(
        model=CHAT_MODEL, messages=HELLO, response_format=Mood, max_tokens=48, temperature=0
    )
    assert isinstance(answer.choices[0].message.parsed, Mood)


def test_a_schema_holds_in_a_stream_too(ai: OpenAI) -> None:
    with ai.chat.completions.stream(
        model=CHAT_MODEL, messages=HELLO, response_format=Mood, max_tokens=48, temperature=0
    ) as stream:
        final = stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Mood)


def test_json_object(ai: OpenAI) -> None:
    answer = ai.chat.completions.create(
        model=CHAT_MODEL,
        messages=[{"role": "user", "content": 'Answer with the JSON object {"ok": 1} only.'}],
        response_format={"type": "json_object"},
        max_tokens=200,
        temperature=0,
        seed=1,
    )
    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)


def test_a_grammar_of_the_callers(ai: OpenAI) -> None:
    answer = ai.chat.completions.create(
        model=CHAT_MODEL,
        messages=HELLO,
        max_tokens=8,
        extra_body={"grammar": 'start: "yes" | "no"'},
    )
    assert answer.choices[0].message.content in ("yes", "no")


def check_call(call: Any) -> None:
    assert call.type == "function"
    assert call.id
    assert call.function.name == "get_weather"
    arguments = json.loads(call.function.arguments)
    assert set(arguments) == {"city", "unit"}
    assert arguments["unit"] in ("celsius", "fahrenheit")


def test_tools_there_and_back(ai: OpenAI) -> None:
    question: ChatCompletionMessageParam = {"role": "user", "content": "How is Oslo's weather?"}
    first = ai.chat.completions.create(
        model=CHAT_MODEL,
        messages=[question],
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
        parallel_tool_calls=False,
        max_tokens=128,
        temperature=0,
    )
    choice = first.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls
    (call,) = choice.message.tool_calls
    check_call(call)
    second = ai.chat.completions.create(
        model=CHAT_MODEL,
        messages=[
            question,
            choice.message.to_dict(),  # type: ignore[list-item]  # as its documentation does
            {"role": "tool", "tool_call_id": call.id, "content": "9 degrees, rain"},
        ],
        tools=[WEATHER],
        tool_choice="none",
        max_tokens=16,
    )
    assert second.choices[0].message.content
    assert not second.choices[0].message.tool_calls


def test_tool_calls_in_a_stream(ai: OpenAI) -> None:
    with ai.chat.completions.stream(
        model=CHAT_MODEL,
        messages=[{"role": "user", "content": "How is Oslo's weather?"}],
        tools=[WEATHER],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=128,
        temperature=0,
    ) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert final.choices[0].finish_reason == "tool_calls"
    assert final.choices[0].message.tool_calls
    check_call(final.choices[0].message.tool_calls[0])


# --- tokens -------------------------------------------------------------------------------------


def test_logprobs(ai: OpenAI) -> None:
    answer = ai.chat.completions.create(
        model=CHAT_MODEL, messages=HELLO, max_tokens=4, temperature=0, logprobs=True, top_logprobs=3
    )
    choice = answer.choices[0]
    assert choice.logprobs is not None
    content = choice.logprobs.content
    assert content
    joined = b"".join(bytes(each.bytes or ()) for each in content).decode()
    assert joined.startswith(choice.message.content or "-")
    for each in content:
        assert len(each.top_logprobs) == 3
        assert each.logprob <= 0
        # Greedy: the token is the likeliest of its alternatives.
        assert each.token == each.top_logprobs[0].token
        assert math.fsum(math.exp(top.logprob) for top in each.top_logprobs) <= 1.0001


def test_logit_bias_forces_a_token(ai: OpenAI) -> None:
    asked = {"model": CHAT_MODEL, "prompt": "A", "temperature": 0, "max_tokens": 3}
    usual = ai.completions.create(**asked, logprobs=2)  # type: ignore[call-overload]
    assert usual.choices[0].logprobs is not None
    forced = ai.completions.create(**asked, logit_bias={"100": 100})  # type: ignore[call-overload]
    text = forced.choices[0].text
    assert text
    assert text != usual.choices[0].text
    assert text == text[: len(text) // 3] * 3  # one token, three times


def test_completions_with_legacy_logprobs(ai: OpenAI) -> None:
    answer = ai.completions.create(
        model=CHAT_MODEL, prompt="The capital of France is", max_tokens=4, temperature=0, logprobs=2
    )
    choice = answer.choices[0]
    assert "Paris" in choice.text
    assert choice.logprobs is not None
    assert choice.logprobs.tokens
    assert choice.logprobs.text_offset
    assert choice.logprobs.text_offset[0] == 0
    stream = ai.completions.create(
        model=CHAT_MODEL,
        prompt="The capital of France is",
        max_tokens=4,
        temperature=0,
        stream=True,
    )
    assert "Paris" in "".join(chunk.choices[0].text for chunk in stream)


# --- embeddings and models ----------------------------------------------------------------------


def test_embeddings(ai: OpenAI) -> None:
    texts = ["a cat sleeps", "a kitten sleeps", "interest rates rise"]
    plain = ai.embeddings.create(model=CHAT_MODEL, input=texts)  # asks for base64 by itself
    floats = ai.embeddings.create(model=CHAT_MODEL, input=texts, encoding_format="float")
    assert plain.usage.prompt_tokens > 0
    for one, other in zip(plain.data, floats.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-3)
        assert math.hypot(*one.embedding) == pytest.approx(1, abs=1e-3)
    for refused in ([[1, 2, 3]], [1, 2, 3]):
        with pytest.raises(openai.BadRequestError, match="token ids"):
            ai.embeddings.create(model=CHAT_MODEL, input=refused)  # type: ignore[arg-type]


def test_models(ai: OpenAI) -> None:
    listed = {model.id: model.owned_by for model in ai.models.list()}
    assert listed["smollm2"] == listed["fraud"] == "exclave"
    assert ai.models.retrieve("smollm2").id == "smollm2"


# --- errors -------------------------------------------------------------------------------------


def test_errors_are_its_own_classes(ai: OpenAI) -> None:
    create = ai.chat.completions.create
    with pytest.raises(openai.BadRequestError) as bad:
        create(model=CHAT_MODEL, messages=HELLO, n=2)
    assert bad.value.param == "n"
    with pytest.raises(openai.BadRequestError) as long:
        create(model=CHAT_MODEL, messages=[{"role": "user", "content": "word " * 2000}])
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError) as unknown:
        create(model="absent", messages=HELLO)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError):
        ai.with_options(api_key="exk_00000000_" + "A" * 43).models.list()
    with pytest.raises(openai.PermissionDeniedError) as denied:
        create(
            model=CHAT_MODEL, messages=HELLO, extra_headers={"x-exclave-data-class": "restricted"}
        )
    assert denied.value.code == "policy_denied"


def test_a_deadline_is_told(ai: OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as late:
        ai.chat.completions.create(
            model=CHAT_MODEL,
            messages=[{"role": "user", "content": "Write a very long story."}],
            max_tokens=512,
            extra_headers={"x-exclave-timeout-ms": "50"},
        )
    assert (late.value.status_code, late.value.code) == (504, "deadline_exceeded")


def test_a_timeout_of_the_client_cancels_the_work(ai: OpenAI, service: Service) -> None:
    before = service.decisions("RESULT")
    with pytest.raises(openai.APITimeoutError):
        ai.with_options(timeout=0.3).chat.completions.create(
            model=CHAT_MODEL,
            messages=[{"role": "user", "content": "Write a very long story."}],
            max_tokens=512,
        )
    new = wait_for("its RESULT", lambda: service.decisions("RESULT") - before)
    (decision,) = new
    result = service.record(decision)
    assert (result["outcome"], result["reason"]) == ("cancelled", "client_gone")


# --- many at once -------------------------------------------------------------------------------


def test_async_client_with_many_at_once(service: Service) -> None:
    async def ask(ai: AsyncOpenAI, number: int) -> str:
        stream = await ai.chat.completions.create(
            model=CHAT_MODEL,
            messages=[{"role": "user", "content": f"Count from {number}."}],
            max_tokens=6,
            stream=True,
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def main() -> list[str]:
        async with connect(service) as ai:
            return await asyncio.gather(*(ask(ai, number) for number in range(8)))

    texts = asyncio.run(main())
    assert len(texts) == 8
    assert all(texts)


def test_a_cancelled_task_frees_the_model(service: Service) -> None:
    async def main() -> str:
        async with connect(service) as ai:
            tasks = [
                asyncio.create_task(
                    ai.chat.completions.create(
                        model=CHAT_MODEL,
                        messages=[{"role": "user", "content": "A long story, please."}],
                        max_tokens=512,
                    )
                )
                for _ in range(4)  # as many as the model has slots
            ]
            await asyncio.sleep(0.5)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            async with asyncio.timeout(20):
                answer = await ai.chat.completions.create(
                    model=CHAT_MODEL, messages=HELLO, max_tokens=2
                )
            return answer.choices[0].finish_reason

    assert asyncio.run(main()) in ("stop", "length")
