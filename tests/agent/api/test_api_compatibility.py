"""docs/compatibility.md is true: every row is asked of the running API, and none is missing."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Any, get_type_hints

import httpx
import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params

from exclave_agent.api import openai_bodies as bodies
from exclave_agent.api import openai_parameters as parameters
from exclave_testing.fake_pipeline import FakePipeline
from exclave_testing.processes import ROOT

PAGE = (ROOT / "docs" / "compatibility.md").read_text()
TOOL = {"type": "function", "function": {"name": "f"}}
OTHER_MESSAGE = [{"role": "user", "content": "y"}]
GENERATED: dict[str, Any] = {
    "model": "b", "max_tokens": 5, "temperature": 0.5, "top_p": 0.5, "top_k": 3, "min_p": 0.1,
    "repeat_penalty": 1.5, "frequency_penalty": 1, "presence_penalty": 1, "logit_bias": {"1": 1},
    "seed": 3, "stop": "x", "stream": True, "grammar": "start: /a/", "user": "someone",
    "metadata": {"data_class": "internal"}, "n": 2,
}  # fmt: skip
CHAT = GENERATED | {
    "messages": OTHER_MESSAGE, "max_completion_tokens": 5, "logprobs": True,
    "response_format": {"type": "json_object"}, "service_tier": "flex", "tools": [TOOL],
    "store": True, "safety_identifier": "x", "prompt_cache_key": "x",
    "prompt_cache_options": {"mode": "x"}, "prompt_cache_retention": "24h",
    "prediction": {"type": "content", "content": "x"}, "functions": [{"name": "f"}],
    "function_call": {"name": "f"}, "modalities": ["text", "audio"],
    "audio": {"voice": "x", "format": "mp3"}, "reasoning_effort": "high", "verbosity": "low",
    "web_search_options": {}, "moderation": {"model": "x"},
}  # fmt: skip
COMPLETION = GENERATED | {
    "prompt": "y", "logprobs": 2, "best_of": 2, "echo": True, "suffix": "z",
}  # fmt: skip
EMBEDDING: dict[str, Any] = {
    "model": "b", "input": ["y", "z"], "encoding_format": "base64", "user": "someone",
    "metadata": {"data_class": "internal"}, "dimensions": 3,
}  # fmt: skip
RERANK: dict[str, Any] = {
    "model": "b", "query": "y", "documents": ["y"], "top_n": 1, "return_documents": True,
    "user": "someone", "metadata": {"data_class": "internal"}, "max_tokens_per_doc": 5,
    "rank_fields": ["x"],
}  # fmt: skip
# Some only mean something beside others: what they are sent beside.
BESIDE: dict[str, dict[str, Any]] = {
    "top_logprobs": {"logprobs": True},
    "stream_options": {"stream": True},
    "tool_choice": {"tools": [TOOL]},
    "parallel_tool_calls": {"tools": [TOOL]},
}
CHAT |= {
    "top_logprobs": 2, "stream_options": {"include_usage": True}, "tool_choice": "required",
    "parallel_tool_calls": False,
}  # fmt: skip
COMPLETION |= {"stream_options": {"include_usage": True}}

APIS: dict[str, tuple[dict[str, parameters.Parameter], type, dict[str, Any], dict[str, Any]]] = {
    "/v1/chat/completions": (
        dict(parameters.CHAT),
        bodies.ChatBody,
        CHAT,
        {"model": "a", "messages": [{"role": "user", "content": "x"}]},
    ),
    "/v1/completions": (
        dict(parameters.COMPLETIONS),
        bodies.CompletionBody,
        COMPLETION,
        {"model": "a", "prompt": "x"},
    ),
    "/v1/embeddings": (
        dict(parameters.EMBEDDINGS),
        bodies.EmbeddingBody,
        EMBEDDING,
        {"model": "a", "input": "x"},
    ),
    "/v1/rerank": (
        dict(parameters.RERANK),
        bodies.RerankBody,
        RERANK,
        {"model": "a", "query": "x", "documents": ["x", "z"]},
    ),
}


def rows(path: str) -> dict[str, tuple[str, str]]:
    """Parameter -> status and notes, of the page."""
    section = re.search(rf"^## POST {re.escape(path)}\n(.*?)(?=^## )", PAGE, re.M | re.S)
    assert section, path
    found = re.findall(r"^\| `(\w+)` \| (\w+) \| ?(.*?) ?\|$", section[1], re.M)
    return {name: (status, notes) for name, status, notes in found}


ROWS = [(path, name, *row) for path in APIS for name, row in rows(path).items()]


@pytest.fixture
def script() -> FakePipeline:
    made = FakePipeline()
    made.scores = (0.25, 0.75)
    return made


@pytest.fixture
async def http(script: FakePipeline) -> AsyncIterator[httpx.AsyncClient]:
    async with script.client() as client:
        yield client


def said(response: httpx.Response, script: FakePipeline) -> str:
    """What a request came to, without the ids of the decision."""
    call = re.sub(r"decision='\w+'", "", repr(script.calls.pop()))
    return call + re.sub(r"0{20}\w{12}", "", response.text)


@pytest.mark.parametrize(("path", "name", "status", "notes"), ROWS, ids=lambda v: str(v)[:30])
async def test_a_row_is_true(
    http: httpx.AsyncClient, script: FakePipeline, path: str, name: str, status: str, notes: str
) -> None:
    table, _, examples, base = APIS[path]
    assert table[name].support == status
    beside = base | BESIDE.get(name, {})
    response = await http.post(path, json=beside | {name: examples[name]})
    if status == "refused":
        assert (response.status_code, response.json()["error"]["param"]) == (400, name)
        assert not script.calls
        for neutral in table[name].neutral:
            accepted = await http.post(path, json=base | {name: neutral})
            assert accepted.status_code == 200
            assert str(neutral).lower().strip("'[]") in notes.lower() or neutral == ""
        return
    assert response.status_code == 200, response.text
    with_it = said(response, script)
    without = said(await http.post(path, json=beside), script)
    assert (with_it == without) == (status == "ignored")


@pytest.mark.parametrize("path", APIS)
def test_the_page_the_table_and_the_parser_name_the_same(path: str) -> None:
    table, body, examples, _ = APIS[path]
    assert set(rows(path)) == set(table) == set(body.__struct_fields__) == set(examples)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("path", "documented"),
    [
        ("/v1/chat/completions", chat_create_params.CompletionCreateParamsBase),
        ("/v1/completions", completion_create_params.CompletionCreateParamsBase),
        ("/v1/embeddings", embedding_create_params.EmbeddingCreateParams),
    ],
)
def test_everything_that_openai_documents_is_there(path: str, documented: type) -> None:
    missing = set(get_type_hints(documented)) - set(rows(path))
    assert not missing, f"docs/compatibility.md lacks {sorted(missing)}"


async def test_what_is_in_no_table_is_refused(http: httpx.AsyncClient) -> None:
    for path, (_, _, _, base) in APIS.items():
        response = await http.post(path, json=base | {"wholly_new": 1})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "wholly_new"
        assert response.json()["error"]["code"] == "unknown_parameter"


def test_every_client_is_the_one_that_is_installed() -> None:
    section = PAGE[PAGE.index("## Clients") :]
    found = re.findall(r"^\| `([\w-]+)` \| ([\w.]+) \| `([\w/.]+)` \|", section, re.M)
    assert {name for name, _, _ in found} == {
        "openai",
        "langchain-openai",
        "tritonclient",
        "llm",
        "curl",
    }
    for name, tested, suite in found:
        assert (ROOT / suite).is_file()
        if tested != "any":
            assert version(name) == tested, f"docs/compatibility.md: {name}"
