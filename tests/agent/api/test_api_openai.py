"""OpenAI's API as plain HTTP: what is answered, what is refused by name, and how errors read."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from exclave_agent.errors import StorageFull
from exclave_agent.ports import LeafDraft
from exclave_testing.local_api import CAP, GUEST, LocalApi

CHAT = "/v1/chat/completions"
USAGE = {
    "prompt_tokens": 2,
    "completion_tokens": 3,
    "total_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 0},
}


@pytest.fixture
async def api() -> AsyncIterator[LocalApi]:
    async with LocalApi().open() as opened:
        yield opened


@pytest.fixture
async def http(api: LocalApi) -> AsyncIterator[httpx.AsyncClient]:
    async with api.client() as client:
        yield client


def chat(**changes: Any) -> dict[str, Any]:
    body = {"model": "small", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
    return {key: value for key, value in (body | changes).items() if value is not ...}


def events(text: str) -> list[Any]:
    parts = text.split("\n\n")
    assert parts.pop() == ""
    assert all(part.startswith("data: ") for part in parts)
    return [part[6:] if part == "data: [DONE]" else json.loads(part[6:]) for part in parts]


async def test_a_plain_chat(api: LocalApi, http: httpx.AsyncClient) -> None:
    response = await http.post(CHAT, json=chat())
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    decision = response.headers["x-exclave-decision"]
    assert response.headers["x-request-id"] == decision
    assert api.results()[0].body["decision"] == decision
    assert body == {
        "id": f"chatcmpl-{decision}",
        "object": "chat.completion",
        "created": 1_900_000_000,
        "model": "small",
        "system_fingerprint": "fp_5555555555555555",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "the quick brown", "refusal": None},
                "logprobs": None,
                "finish_reason": "length",
            }
        ],
        "usage": USAGE,
    }


async def test_a_streamed_chat(http: httpx.AsyncClient) -> None:
    response = await http.post(CHAT, json=chat(stream=True, stream_options={"include_usage": True}))
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *chunks, usage, done = events(response.text)
    assert done == "[DONE]"
    assert chunks[0]["choices"][0]["delta"] == {
        "role": "assistant",
        "content": "",
        "refusal": None,
    }
    assert [each["choices"][0]["delta"].get("content") for each in chunks[1:]] == [
        "the",
        " quick",
        " brown",
        None,
    ]
    assert [each["choices"][0]["finish_reason"] for each in chunks[-2:]] == [None, "length"]
    assert {each["id"] for each in (*chunks, usage)} == {
        f"chatcmpl-{response.headers['x-exclave-decision']}"
    }
    assert all(each["usage"] is None for each in chunks)
    assert usage["choices"] == []
    assert usage["usage"] == USAGE


async def test_everything_that_is_understood_reaches_the_model(
    api: LocalApi, http: httpx.AsyncClient
) -> None:
    body = chat(
        messages=[
            {"role": "developer", "content": "be brief"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            },
            {"role": "assistant", "content": "c", "tool_calls": [], "refusal": None},
        ],
        max_tokens=...,
        max_completion_tokens=4,
        temperature=0,
        top_p=0.5,
        top_k=7,
        min_p=0.1,
        frequency_penalty=-1,
        presence_penalty=2,
        seed=9,
        stop=["fox", "x"],
        n=1,
        user="patient-7",
        store=False,
        service_tier="auto",
        logprobs=False,
        tools=[],
        tool_choice="none",
        parallel_tool_calls=True,
        response_format={"type": "text"},
        metadata={"data_class": "internal", "note": "free text"},
    )  # fmt: skip
    response = await http.post(CHAT, json=body)
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["message"]["content"] == "the quick brown "
    (request,) = api.models.requests
    assert [(each.role, each.content) for each in request.messages] == [
        ("system", "be brief"),
        ("user", "ab"),
        ("assistant", "c"),
    ]
    sampling = request.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p) == (4, 0.0, 0.5)
    assert (sampling.top_k, sampling.min_p, sampling.seed) == (7, 0.1, 9)
    assert (sampling.frequency_penalty, sampling.presence_penalty) == (-1.0, 2.0)
    assert sampling.stop == ("fox", "x")
    assert {draft.subject for draft in api.log.drafts} == {"patient-7"}
    assert api.log.of_type("INTENT")[0].body["data_class"] == "internal"


async def test_the_data_class_header_decides_before_metadata(
    api: LocalApi, http: httpx.AsyncClient
) -> None:
    response = await http.post(
        CHAT,
        json=chat(metadata={"data_class": "internal"}),
        headers={"x-exclave-data-class": "restricted"},
    )
    assert response.status_code == 403
    assert response.headers["x-exclave-rule"] == "not-restricted"
    assert api.outcomes() == [("denied", "policy_denied")]


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"type": "json_object"}, 200),
        (
            {
                "type": "json_schema",
                "json_schema": {"name": "n", "schema": {"required": ["ok"]}, "strict": True},
            },
            200,
        ),
        ({"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "string"}}}, 422),
    ],
)
async def test_response_formats(http: httpx.AsyncClient, form: Any, status: int) -> None:
    response = await http.post(CHAT, json=chat(response_format=form, max_tokens=16))
    assert response.status_code == status
    if status == 200:
        content = response.json()["choices"][0]["message"]["content"]
        assert json.loads(content) == {"ok": True}
    else:
        assert response.json()["error"]["code"] == "output_invalid"


async def test_a_text_completion(http: httpx.AsyncClient) -> None:
    body = {"model": "small", "prompt": ["once"], "max_tokens": 2, "echo": False, "best_of": 1}
    response = await http.post("/v1/completions", json=body)
    answer = response.json()
    assert answer["object"] == "text_completion"
    assert answer["id"].startswith("cmpl-")
    assert answer["choices"] == [
        {"index": 0, "text": "the quick", "logprobs": None, "finish_reason": "length"}
    ]
    streamed = await http.post("/v1/completions", json=body | {"stream": True, "prompt": "once"})
    *chunks, done = events(streamed.text)
    assert done == "[DONE]"
    assert [each["choices"][0]["text"] for each in chunks] == ["the", " quick", ""]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


async def test_embeddings_as_numbers_and_as_base64(http: httpx.AsyncClient) -> None:
    body = {"model": "small", "input": ["a", "bb"], "encoding_format": "float"}
    response = await http.post("/v1/embeddings", json=body)
    answer = response.json()
    assert [each["index"] for each in answer["data"]] == [0, 1]
    assert answer["data"][0]["embedding"][0] == 0.5
    assert answer["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    response = await http.post("/v1/embeddings", json=body | {"encoding_format": "base64"})
    raw = b64decode(response.json()["data"][0]["embedding"])
    assert raw[:4] == b"\x00\x00\x00\x3f"  # 0.5


async def test_models(http: httpx.AsyncClient) -> None:
    listed = (await http.get("/v1/models")).json()
    assert [each["id"] for each in listed["data"]] == ["small", "forbidden", "score"]
    assert {each["owned_by"] for each in listed["data"]} == {"exclave"}
    one = await http.get("/v1/models/small")
    assert one.json() == {
        "id": "small",
        "object": "model",
        "created": 1_900_000_000,
        "owned_by": "exclave",
    }
    assert (await http.get("/v1/models/absent")).status_code == 404


BAD_CHATS: list[tuple[dict[str, Any], str | None]] = [
    ({"model": ...}, "model"),
    ({"model": 5}, "model"),
    ({"messages": ...}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [{"content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": "x", "name": "b b"}]}, "messages[0].name"),
    ({"messages": [{"role": "user", "content": "x", "mood": "y"}]}, "messages[0].mood"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content[0]",
    ),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": "5"}, "max_tokens"),
    ({"max_completion_tokens": 5}, "max_tokens"),
    ({"max_tokens": CAP + 1}, "max_tokens"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 1.01}, "top_p"),
    ({"frequency_penalty": 3}, "frequency_penalty"),
    ({"presence_penalty": -3}, "presence_penalty"),
    ({"seed": 2**63}, "seed"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
    ({"stop": [""]}, "stop[0]"),
    ({"stop": "x" * 257}, "stop"),
    ({"n": 2}, "n"),
    ({"n": True}, "n"),
    ({"functions": [{}]}, "functions"),
    ({"logit_bias": {"one": 1}}, "logit_bias"),
    ({"logit_bias": {"01": 1}}, "logit_bias"),
    ({"logit_bias": {"2147483648": 1}}, "logit_bias"),
    ({"logit_bias": {"1": 101}}, "logit_bias[...]"),
    ({"logprobs": 1}, "logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"top_logprobs": 1}, "top_logprobs"),
    ({"repeat_penalty": 0}, "repeat_penalty"),
    ({"service_tier": "slow"}, "service_tier"),
    ({"grammar": ""}, "grammar"),
    ({"grammar": "x" * 65_537}, "grammar"),
    ({"grammar": "start: \"a\"", "response_format": {"type": "json_object"}}, "grammar"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"reasoning_effort": "high"}, "reasoning_effort"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": 5}}},
     "response_format"),
    ({"metadata": {"data_class": "not a label"}}, "metadata.data_class"),
    ({"metadata": {"a": 1}}, "metadata[...]"),
    ({"user": "u" * 257}, "user"),
    ({"frequency": 1}, "frequency"),
    ({"not a name, but prose": 1}, None),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "param"), BAD_CHATS, ids=lambda value: str(value)[:50])
async def test_a_bad_chat_is_refused_by_name(
    http: httpx.AsyncClient, changes: dict[str, Any], param: str | None
) -> None:
    response = await http.post(CHAT, json=chat(**changes))
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert "prose" not in response.text
    if param is not None:
        assert param.partition("[")[0] in error["message"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", {"model": "small"}, "prompt"),
        ("/v1/completions", {"model": "small", "prompt": ["a", "b"]}, "prompt"),
        ("/v1/completions", {"model": "small", "prompt": [1, 2]}, "prompt"),
        ("/v1/completions", {"model": "small", "prompt": []}, "prompt"),
        ("/v1/completions", {"model": "small", "prompt": "a", "echo": True}, "echo"),
        ("/v1/completions", {"model": "small", "prompt": "a", "logprobs": 6}, "logprobs"),
        ("/v1/completions", {"model": "small", "prompt": "a", "logprobs": True}, "logprobs"),
        ("/v1/completions", {"model": "small", "prompt": "a", "best_of": 2}, "best_of"),
        ("/v1/completions", {"model": "small", "prompt": "a", "suffix": "z"}, "suffix"),
        ("/v1/embeddings", {"model": "small", "input": []}, "input"),
        ("/v1/embeddings", {"model": "small", "input": [1, 2]}, "input"),
        ("/v1/embeddings", {"model": "small", "input": ["a", ""]}, "input"),
        ("/v1/embeddings", {"model": "small", "input": "a", "dimensions": 3}, "dimensions"),
        ("/v1/embeddings", {"model": "small", "input": "a", "encoding_format": "hex"},
         "encoding_format"),
        ("/v1/embeddings", {"model": "small", "input": ["a"] * 2049}, "input"),
    ],
)  # fmt: skip
async def test_other_bad_bodies(
    http: httpx.AsyncClient, path: str, body: dict[str, Any], param: str
) -> None:
    response = await http.post(path, json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"[]", "invalid_type"),
        (b'{"model":"small","messages":[{"role":"user","content":""}]}x', "invalid_json"),
        (b'{"model":"\xff"}', "invalid_utf8"),
        (b'{"model":"\\ud800"}', "invalid_json"),
        (b"[" * 100_000, "invalid_type"),
        (b'{"audio":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_json"),
        (b'{"audio":' * 100_000, "invalid_json"),
        (b'{"prediction":' * 100_000, "invalid_json"),
        (b'{"tools":' + b"[" * 100_000, "invalid_type"),
        (b'{"temperature":NaN}', "invalid_json"),
        (b'{"temperature":-Infinity}', "invalid_json"),
        (b'{"temperature":1e999}', "invalid_value"),
        (b'{"max_tokens":' + b"9" * 5000 + b"}", "invalid_value"),
        (b'{"model":"\x00"}', "invalid_json"),
        (b"\xef\xbb\xbf{}", "invalid_json"),
        ('{"model":"small"}'.encode("utf-16"), "invalid_json"),
        (b'{"response_format":{"type":"json_schema","json_schema":{"name":"n","schema":"\xff"}},'
         b'"model":"small","messages":[{"role":"user","content":"x"}]}', "invalid_utf8"),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
async def test_what_is_not_json(http: httpx.AsyncClient, body: bytes, code: str) -> None:
    response = await http.post(CHAT, content=body)
    assert (response.status_code, response.json()["error"]["code"]) == (400, code)


async def test_errors_after_the_first_delta_end_the_stream_without_a_finish(
    api: LocalApi, http: httpx.AsyncClient
) -> None:
    def failing(draft: LeafDraft) -> StorageFull | None:
        return StorageFull("the disk is full") if draft.type == "RESULT" else None

    api.log.fail_on = failing
    response = await http.post(CHAT, json=chat(stream=True))
    assert response.status_code == 200
    *chunks, last = events(response.text)
    assert last == {
        "error": {
            "message": "the disk is full",
            "type": "storage_error",
            "param": None,
            "code": "storage_full",
        }
    }
    assert all(each["choices"][0]["finish_reason"] is None for each in chunks)


async def test_errors_before_the_first_delta_have_their_status(
    api: LocalApi, http: httpx.AsyncClient
) -> None:
    api.log.failure = StorageFull("the disk is full")
    for stream in (False, True):
        response = await http.post(CHAT, json=chat(stream=stream))
        assert response.status_code == 507
        assert response.json()["error"]["code"] == "storage_full"
        assert "x-exclave-decision" in response.headers


async def test_keys(api: LocalApi) -> None:
    async with api.client(key=None) as http:
        for path in ("/v1/models", "/v2", "/v2/models/score", "/v1/models/small"):
            assert (await http.get(path)).status_code == 401
        for headers in ({}, {"authorization": "Basic abc"}, {"authorization": "Bearer "}):
            response = await http.post(CHAT, json=chat(), headers=headers)
            assert response.status_code == 401
            assert response.json()["error"]["code"] == "missing_api_key"
            assert response.headers["www-authenticate"].startswith("Bearer")
        response = await http.post(
            CHAT, json=chat(), headers={"authorization": "Bearer exk_unknown"}
        )
        assert response.json()["error"]["code"] == "invalid_api_key"
        assert "exk_unknown" not in response.text
        assert "x-exclave-decision" not in response.headers
    async with api.client(key=GUEST) as http:
        response = await http.post(CHAT, json=chat())
        assert response.status_code == 403
        assert response.json()["error"]["code"] == "policy_denied"
        assert response.headers["x-exclave-rule"] == "default-deny"
    assert api.outcomes() == [("denied", "policy_denied")]
    async with api.client(key=None) as http:
        api.keys.keys.clear()
        assert (await http.get("/v1/models")).status_code == 401


async def test_unknown_paths_and_methods(http: httpx.AsyncClient) -> None:
    for path in ("/", "/v1", "/v1/chat", "/v3/x", "/v1/chat/completions/"):
        response = await http.get(path)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "unknown_url")
    assert (await http.get("/v2/nothing")).json()["error"].startswith("no such path")
    response = await http.get(CHAT)
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert (await http.delete("/v2")).json() == {"error": "this path takes GET, HEAD"}
