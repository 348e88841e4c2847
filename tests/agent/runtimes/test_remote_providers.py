"""What goes over the wire to each kind of provider: path, headers and body, and nothing beside."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from exclave_agent.errors import BadRequest, ModelLoadFailed, RemoteFailed
from exclave_agent.ports import (
    Generate,
    Message,
    ModelSpec,
    Price,
    Sampling,
    Tool,
    ToolCall,
)
from exclave_agent.runtimes.remote_requests import chat, complete, most_prompt_tokens, strict
from exclave_protocol.endpoint import Endpoint, EndpointPrice
from exclave_testing.endpoints import (
    DONE,
    GOOD,
    HEAD,
    KEY,
    Asked,
    FakeEndpoint,
    Opened,
    ask,
    authority,
    count,
    document,
    event,
    piece,
    says,
    text_of,
)

CALLER = "cafe0001"
REQUEST = Generate("remote", Sampling(max_tokens=8), (Message("user", "hi"),), caller=CALLER)
PROMPT = Generate("remote", Sampling(max_tokens=8), prompt="once", caller=CALLER)
STANDARD = {"host", "content-type", "content-length", "connection", "accept", "user-agent"} | {
    "accept-encoding"
}


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Opened]:
    made = Opened(tmp_path)
    yield made
    await made.runtime.close()


async def sent(opened: Opened, request: Generate, path: str = "", **fields: Any) -> Asked:
    """The one request that a document makes of this."""
    async with FakeEndpoint(says(*GOOD)).open() as server:
        await ask(opened.model(document(server.url + path, **fields)), request)
        (asked,) = server.asked
        return asked


AZURE: dict[str, Any] = {"provider": "azure", "auth": "api-key", "api_version": "2024-10-21"}


@pytest.mark.parametrize(
    ("path", "fields", "target", "credential"),
    [
        ("/v1", {"provider": "openai"}, "/v1/chat/completions", "authorization"),
        ("/v1", {"provider": "vllm"}, "/v1/chat/completions", "authorization"),
        (
            "",
            {**AZURE, "deployment": "prod-mini"},
            "/openai/deployments/prod-mini/chat/completions?api-version=2024-10-21",
            "api-key",
        ),
        (
            "/",
            {**AZURE, "auth": "bearer"},
            "/openai/deployments/m-1/chat/completions?api-version=2024-10-21",
            "authorization",
        ),
        (
            "/openai/v1",
            {"provider": "bedrock", "model": "openai.gpt-oss-20b-1:0"},
            "/openai/v1/chat/completions",
            "authorization",
        ),
        (
            "/v1/projects/p-1/locations/europe-west4/endpoints/openapi",
            {"provider": "vertex", "model": "google/gemini-2.5-flash"},
            "/v1/projects/p-1/locations/europe-west4/endpoints/openapi/chat/completions",
            "authorization",
        ),
        ("/v1/", {"provider": "compatible"}, "/v1/chat/completions", "authorization"),
        (
            "/v1",
            {"provider": "compatible", "auth": "api-key"},
            "/v1/chat/completions",
            "api-key",
        ),
    ],
)
async def test_where_it_goes(
    opened: Opened, path: str, fields: dict[str, Any], target: str, credential: str
) -> None:
    asked = await sent(opened, REQUEST, path, **fields)
    assert (asked.method, asked.target) == ("POST", target)
    assert asked.headers[credential] == (KEY if credential == "api-key" else f"Bearer {KEY}")
    assert set(asked.headers) == STANDARD | {credential}
    assert asked.headers["user-agent"] == "exclave-agent"
    assert asked.headers["accept-encoding"] == "identity"
    assert asked.body["model"] == fields.get("deployment", fields.get("model", "m-1"))
    assert CALLER.encode() not in asked.raw


async def test_nothing_of_the_environment_leaves(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "OPENAI_API_KEY": "sk-environment",
        "OPENAI_ORG_ID": "org-environment",
        "OPENAI_PROJECT_ID": "proj-environment",
        "OPENAI_CUSTOM_HEADERS": "x-environment: 1",
        "OPENAI_BASE_URL": "http://127.0.0.1:1/",
        "HTTP_PROXY": "http://127.0.0.1:1",
        "HTTPS_PROXY": "http://127.0.0.1:1",
        "ALL_PROXY": "http://127.0.0.1:1",
    }.items():
        monkeypatch.setenv(name, value)
        monkeypatch.setenv(name.lower(), value)
    asked = await sent(opened, REQUEST, "/v1", provider="openai")
    assert set(asked.headers) == STANDARD | {"authorization"}
    assert asked.headers["authorization"] == f"Bearer {KEY}"


async def test_the_documents_headers_and_no_key_where_none_is_needed(opened: Opened) -> None:
    headers = {"x-exclave-data-class": "public"}
    asked = await sent(opened, REQUEST, "/v1", provider="vllm", secret="", headers=headers)
    assert set(asked.headers) == STANDARD | {"x-exclave-data-class"}
    asked = await sent(
        opened, REQUEST, "/v1", provider="openai", organization="org-1", project="proj-1"
    )
    assert asked.headers["openai-organization"] == "org-1"
    assert asked.headers["openai-project"] == "proj-1"


async def test_a_cookie_is_not_kept(opened: Opened) -> None:
    head = HEAD.replace(b"\r\n\r\n", b"\r\nset-cookie: who=you; Path=/\r\n\r\n")
    async with FakeEndpoint(says(head, *GOOD[1:])).open() as server:
        model = opened.model(document(server.url))
        await ask(model, REQUEST)
        await ask(model, REQUEST)
        assert all("cookie" not in asked.headers for asked in server.asked)


async def test_completions(opened: Opened) -> None:
    chunks = (
        event({"choices": [{"index": 0, "text": "up"}]}),
        event({"choices": [{"index": 0, "text": " on", "finish_reason": "length"}]}),
    )
    async with FakeEndpoint(says(HEAD, *chunks, count(1, 2, 0), DONE)).open() as server:
        deltas, end = await ask(opened.model(document(f"{server.url}/v1")), PROMPT)
        (asked,) = server.asked
    assert (asked.target, asked.body["prompt"]) == ("/v1/completions", "once")
    assert (text_of(deltas), end.reason, end.prompt_tokens) == ("up on", "length", 1)


# --- TLS and proxies -------------------------------------------------------------------------


async def test_a_certificate_that_nobody_vouches_for(opened: Opened, tmp_path: Path) -> None:
    context, pem = authority(tmp_path)
    async with FakeEndpoint(says(*GOOD)).open(context) as server:
        assert server.url.startswith("https:")
        with pytest.raises(RemoteFailed) as caught:
            await ask(opened.model(document(server.url)), REQUEST)
        assert caught.value.code == "remote_unreachable"
        assert server.asked == []
        trusting = Opened(tmp_path, authority=pem)
        deltas, _ = await ask(trusting.model(document(server.url)), REQUEST)
        await trusting.runtime.close()
    assert text_of(deltas) == "hello"


async def test_a_certificate_of_another_host(opened: Opened, tmp_path: Path) -> None:
    context, pem = authority(tmp_path, "127.0.0.2")
    async with FakeEndpoint(says(*GOOD)).open(context) as server:
        trusting = Opened(tmp_path, authority=pem)
        with pytest.raises(RemoteFailed):
            await ask(trusting.model(document(server.url)), REQUEST)
        await trusting.runtime.close()
        assert server.asked == []


async def test_the_proxy_that_is_set(tmp_path: Path) -> None:
    async with FakeEndpoint(says(*GOOD)).open() as proxy:
        through = Opened(tmp_path, proxy=proxy.url)
        deltas, _ = await ask(through.model(document("http://127.0.0.1:9/v1")), REQUEST)
        await through.runtime.close()
    assert text_of(deltas) == "hello"
    assert proxy.asked[0].target == "http://127.0.0.1:9/v1/chat/completions"


async def test_a_proxy_that_is_none(tmp_path: Path) -> None:
    made = Opened(tmp_path, proxy="http://[::::]:99999")
    with pytest.raises(RemoteFailed, match="remote_proxy"):
        await ask(made.model(document("http://127.0.0.1:9/v1")), REQUEST)


async def test_certificates_that_cannot_be_read(tmp_path: Path) -> None:
    made = Opened(tmp_path, authority=tmp_path / "absent.pem")
    with pytest.raises(RemoteFailed, match="remote_ca cannot be read"):
        await ask(made.model(document("https://127.0.0.1:9/v1")), REQUEST)


# --- bodies ----------------------------------------------------------------------------------


def endpoint(provider: str, **fields: Any) -> Endpoint:
    given = AZURE if provider == "azure" else {"provider": provider}
    return document("https://endpoint.example/v1", **(given | fields))


def test_a_full_request_in_their_words() -> None:
    schema = json.dumps({"type": "object", "properties": {}, "additionalProperties": False})
    request = Generate(
        "remote",
        Sampling(
            max_tokens=9,
            temperature=0.5,
            top_p=0.9,
            frequency_penalty=0.1,
            presence_penalty=0.2,
            seed=7,
            stop=("\n",),
            logit_bias=((5, -1.0),),
            top_logprobs=2,
            json_schema=schema,
        ),
        (
            Message("system", "be brief"),
            Message("user", "add", name="ann"),
            Message("assistant", "", (ToolCall("call_1", "add", "{}"),)),
            Message("tool", "3", tool_call_id="call_1", name="add"),
        ),
        tools=(Tool("add", "adds", '{"type":"object"}'),),
        tool_choice="required",
        tool_name="add",
        parallel_tool_calls=False,
        caller=CALLER,
        priority="batch",
    )
    assert chat(endpoint("openai"), request) == {
        "model": "m-1",
        "stream": True,
        "stream_options": {"include_usage": True},
        "store": False,
        "max_completion_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "frequency_penalty": 0.1,
        "presence_penalty": 0.2,
        "seed": 7,
        "stop": ["\n"],
        "logit_bias": {"5": -1.0},
        "logprobs": True,
        "top_logprobs": 2,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": json.loads(schema), "strict": False},
        },
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "add", "name": "ann"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "add", "arguments": "{}"},
                    }
                ],
            },
            {"role": "tool", "content": "3", "tool_call_id": "call_1"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "add",
                    "description": "adds",
                    "parameters": {"type": "object"},
                },
            }
        ],
        "tool_choice": {"type": "function", "function": {"name": "add"}},
        "parallel_tool_calls": False,
    }


@pytest.mark.parametrize("provider", ["openai", "azure", "bedrock", "vertex"])
@pytest.mark.parametrize(
    ("name", "value"),
    [("top_k", 5), ("min_p", 0.1), ("repeat_penalty", 1.1), ("grammar", 'start: "a"')],
)
def test_what_they_do_not_know_is_refused_by_name(provider: str, name: str, value: Any) -> None:
    request = Generate("remote", Sampling(8, **{name: value}), (Message("user", "hi"),))
    with pytest.raises(BadRequest) as caught:
        chat(endpoint(provider), request)
    assert caught.value.param == name


def test_open_engines_know_more() -> None:
    chosen = Sampling(8, top_k=5, min_p=0.1, repeat_penalty=1.1)
    request = Generate("remote", chosen, (Message("user", "hi"),))
    body = chat(endpoint("vllm"), request)
    assert (body["top_k"], body["min_p"], body["repetition_penalty"]) == (5, 0.1, 1.1)
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (1.0, 1.0, 8)
    assert chat(endpoint("compatible"), request)["repeat_penalty"] == 1.1
    grammar = Generate("remote", Sampling(8, grammar='start: "a"'), (Message("user", "hi"),))
    assert chat(endpoint("vllm"), grammar)["structured_outputs"] == {"grammar": 'start: "a"'}
    with pytest.raises(BadRequest):
        chat(endpoint("compatible"), grammar)


def test_a_schema_for_plain_completions() -> None:
    request = Generate("remote", Sampling(8, json_schema="{}"), prompt="x")
    assert complete(endpoint("vllm"), request)["structured_outputs"] == {"json": {}}
    with pytest.raises(BadRequest):
        complete(endpoint("openai"), request)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string"}, True),
        ({"type": "object"}, False),
        ({"type": "object", "properties": {}, "additionalProperties": False}, False),
        (
            {
                "type": "object",
                "properties": {"a": {"type": "string"}},
                "required": ["a"],
                "additionalProperties": False,
            },
            True,
        ),
        (
            {
                "type": "object",
                "properties": {"a": {"anyOf": [{"type": "object"}]}},
                "required": ["a"],
                "additionalProperties": False,
            },
            False,
        ),
    ],
)
def test_which_schemas_are_strict(schema: object, expected: bool) -> None:
    assert strict(schema) is expected


def test_the_most_that_a_prompt_can_be() -> None:
    request = Generate("remote", Sampling(8), (Message("user", "grüezi"),))
    assert most_prompt_tokens(endpoint("openai"), request) == 4 + 7 + 64 + 16
    assert most_prompt_tokens(endpoint("openai", context_tokens=20), request) == 20


# --- what comes back beside text -------------------------------------------------------------


async def test_log_probabilities(opened: Opened) -> None:
    told = {
        "content": [
            {
                "token": "é",
                "logprob": -0.1,
                "bytes": [195],
                "top_logprobs": [{"token": "a", "logprob": -2.0, "bytes": None}],
            }
        ]
    }
    chunk = event({"choices": [{"index": 0, "delta": {"content": "é"}, "logprobs": told}]}) + piece(
        finish="stop"
    )
    async with FakeEndpoint(says(HEAD, chunk, count(), DONE)).open() as server:
        deltas, _ = await ask(opened.model(document(server.url)), REQUEST)
    (one,) = deltas[0].logprobs
    assert (one.token, one.logprob, one.top) == (b"\xc3", -0.1, ((b"a", -2.0),))


async def test_reasons_and_refusals(opened: Opened) -> None:
    answer = (HEAD, piece(refusal="I may not."), piece(finish="content_filter"), count(), DONE)
    async with FakeEndpoint(says(*answer)).open() as server:
        deltas, end = await ask(opened.model(document(server.url)), REQUEST)
    assert (text_of(deltas), end.reason) == ("I may not.", "content_filter")


# --- what a model says of itself -------------------------------------------------------------


async def test_what_is_known_of_it(opened: Opened) -> None:
    price = EndpointPrice("EUR", "0.15", "0.6", "0.075")
    model = opened.model(
        document("https://e.example/v1", price=price, context_tokens=128_000, provider="openai")
    )
    info = model.info
    assert (info.name, info.runtime, info.remote, info.provider) == (
        "remote",
        "remote",
        True,
        "openai",
    )
    assert (info.data_classes, info.context_tokens) == (frozenset({"", "public"}), 128_000)
    assert info.actions == {"chat", "complete", "embed"}
    assert info.price == Price("EUR", 150_000, 600_000, 75_000)
    assert info.price.cost_micro(1_000_000, 1_000_000, 500_000) == 712_500


async def test_nothing_listed_nothing_leaves(opened: Opened) -> None:
    model = opened.model(document("https://e.example/v1", data_classes=()))
    assert model.info.data_classes == frozenset()


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"", "endpoint"), (b"{}", "schema"), (b"\x00" * 20_000, "limit"), (None, "No such file")],
)
async def test_what_is_no_document(opened: Opened, data: bytes | None, words: str) -> None:
    path = opened.home / "document"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ModelLoadFailed, match=words):
        opened.runtime.open(ModelSpec("r", "remote", path, "a" * 64))


async def test_parameters_are_the_documents(opened: Opened) -> None:
    spec = opened.spec(document("https://e.example/v1"))
    with pytest.raises(ModelLoadFailed, match="takes no parameters"):
        opened.runtime.open(ModelSpec("r", "remote", spec.path, spec.sha256, {"n_ctx": 1}))
