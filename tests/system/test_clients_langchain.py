"""`langchain-openai`, unchanged, against a real agent and a real language model."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import openai
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel, SecretStr

from exclave_testing.clients import CHAT_MODEL, Service

pytestmark = pytest.mark.model


class Mood(BaseModel):
    """The mood of a sentence."""

    mood: Literal["good", "bad"]
    score: Literal[1, 2, 3]


@tool
def add(a: int, b: Literal[1, 2, 3]) -> int:
    """Add two numbers."""
    return a + b


def chat(service: Service, **fields: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model=CHAT_MODEL,
        base_url=service.base_url,
        api_key=SecretStr(service.key),
        max_retries=0,
        **{"temperature": 0, "max_tokens": 16, **fields},
    )


def test_invoke(service: Service) -> None:
    answer = chat(service, seed=3, stop_sequences=["@@"]).invoke("Say hello.")
    assert answer.content
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] <= 16
    assert answer.response_metadata["model_name"] == CHAT_MODEL
    assert answer.response_metadata["finish_reason"] in ("stop", "length")


def test_stream(service: Service) -> None:
    total: AIMessageChunk | None = None
    for chunk in chat(service, stream_usage=True).stream("Say hello."):
        assert isinstance(chunk, AIMessageChunk)
        total = chunk if total is None else total + chunk
    assert total is not None
    assert total.content
    assert total.usage_metadata is not None
    assert total.usage_metadata["input_tokens"] > 0


def test_many_at_once(service: Service) -> None:
    answers = asyncio.run(
        chat(service, max_tokens=4).abatch([f"Count from {n}." for n in range(6)])
    )
    assert len(answers) == 6
    assert all(answer.content for answer in answers)


def test_logprobs(service: Service) -> None:
    answer = chat(service, max_tokens=3, logprobs=True, top_logprobs=2).invoke("Say hello.")
    assert len(answer.response_metadata["logprobs"]["content"][0]["top_logprobs"]) == 2


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(service: Service, method: Any) -> None:
    structured = chat(service, max_tokens=96).with_structured_output(Mood, method=method)
    assert isinstance(structured.invoke("What a wonderful day!"), Mood)


def test_bound_tools_there_and_back(service: Service) -> None:
    with_tools = chat(service, max_tokens=96).bind_tools([add], tool_choice="add")
    question = HumanMessage("What is 2 plus 3?")
    asked = with_tools.invoke([question])
    assert isinstance(asked, AIMessage)
    assert asked.tool_calls
    call = asked.tool_calls[0]
    assert call["name"] == "add"
    assert set(call["args"]) == {"a", "b"}
    result = add.invoke(call)
    assert isinstance(result, ToolMessage)
    told = chat(service).invoke([question, asked, result])
    assert told.content


def test_tool_calls_in_a_stream(service: Service) -> None:
    with_tools = chat(service, max_tokens=96).bind_tools([add], tool_choice="any")
    total: AIMessageChunk | None = None
    for chunk in with_tools.stream("What is 2 plus 3?"):
        assert isinstance(chunk, AIMessageChunk)
        total = chunk if total is None else total + chunk
    assert total is not None
    assert total.tool_calls[0]["name"] == "add"


def test_completions(service: Service) -> None:
    text = OpenAI(
        model=CHAT_MODEL,
        base_url=service.base_url,
        api_key=SecretStr(service.key),
        temperature=0,
        max_tokens=4,
        max_retries=0,
        batch_size=1,  # one request is one decision: several prompts in one are refused
    )
    prompts = ["The capital of France is", "1, 2, 3, 4,"]
    assert len(text.batch(prompts)) == 2
    assert "".join(text.stream(prompts[0]))
    text.batch_size = 20
    with pytest.raises(openai.BadRequestError, match="one request is one decision"):
        text.generate(prompts)


def test_embeddings(service: Service) -> None:
    embeddings = OpenAIEmbeddings(
        model=CHAT_MODEL,
        base_url=service.base_url,
        api_key=SecretStr(service.key),
        check_embedding_ctx_length=False,  # else it sends token ids of OpenAI's tokenizer
        max_retries=0,
    )
    first, second = embeddings.embed_documents(["a cat sleeps", "interest rates rise"])
    assert len(first) == len(second) == len(embeddings.embed_query("a cat"))
    assert first != second


def test_errors_come_through(service: Service) -> None:
    with pytest.raises(openai.BadRequestError, match="only 1 is"):
        chat(service, n=2).invoke("hello")
    with pytest.raises(openai.PermissionDeniedError):
        chat(service, default_headers={"x-exclave-data-class": "restricted"}).invoke("hello")
