"""The agent's own headers, rerank, and what is listed, over a decision path that tests write."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from exclave_agent.decide.calls import EmbedCall, GenerateCall, RerankCall
from exclave_testing.fake_pipeline import FakePipeline, model

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": "hello"}]}


# --- headers ------------------------------------------------------------------------------------


async def test_headers_reach_every_call(http: httpx.AsyncClient, script: FakePipeline) -> None:
    common = {
        "x-exclave-data-class": "internal",
        "x-exclave-workflow": "triage",
        "x-exclave-run": "run 7/a",
    }
    generated = common | {"x-exclave-timeout-ms": "1500", "x-exclave-cache": "force"}
    await http.post(CHAT, json=HELLO, headers=generated)
    call = script.asked(GenerateCall)
    assert (call.data_class, call.workflow, call.run) == ("internal", "triage", "run 7/a")
    assert (call.timeout, call.cache, call.priority) == (1.5, "force", "interactive")
    for path, body, kind in (
        ("/v1/embeddings", {"model": "small", "input": "a"}, EmbedCall),
        ("/v1/rerank", {"model": "small", "query": "a", "documents": ["b"]}, RerankCall),
    ):
        script.calls.clear()
        script.scores = (1.0,)
        assert (await http.post(path, json=body, headers=common)).status_code == 200
        other = script.asked(kind)
        assert (other.data_class, other.workflow, other.run) == ("internal", "triage", "run 7/a")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("priority", "urgent"),
        ("timeout-ms", "0"),
        ("timeout-ms", "-5"),
        ("timeout-ms", "1.5"),
        ("timeout-ms", "1e3"),
        ("timeout-ms", "86400001"),
        ("timeout-ms", "9" * 5000),
        ("timeout-ms", b"\xb2"),  # a digit to str.isdigit, and none to int
        ("workflow", "two words"),
        ("workflow", "w" * 65),
        ("run", "r" * 129),
        ("run", b"caf\xe9"),
        ("cache", "on"),
        ("data-class", "a b"),
    ],
)
async def test_bad_headers_are_refused_by_name(
    http: httpx.AsyncClient, script: FakePipeline, name: str, value: str | bytes
) -> None:
    raw = value if isinstance(value, bytes) else value.encode()
    response = await http.post(CHAT, json=HELLO, headers={f"x-exclave-{name}".encode(): raw})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == f"x-exclave-{name}"
    assert not script.calls


@pytest.mark.parametrize("name", ["priority: batch", "timeout-ms: 5", "cache: off"])
async def test_headers_without_effect_are_refused(http: httpx.AsyncClient, name: str) -> None:
    header, _, value = f"x-exclave-{name}".partition(": ")
    bodies = {
        "/v1/embeddings": {"model": "small", "input": "a"},
        "/v1/rerank": {"model": "small", "query": "a", "documents": ["b"]},
        "/v2/models/small/infer": {"inputs": []},
    }
    for path, body in bodies.items():
        response = await http.post(path, json=body, headers={header: value})
        assert response.status_code == 400
        assert header in response.text


# --- rerank and models --------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank"])
async def test_rerank(http: httpx.AsyncClient, script: FakePipeline, path: str) -> None:
    script.scores = (0.1, 0.9, 0.1, 0.5)
    body = {"model": "judge", "query": "q", "documents": ["a", {"text": "b"}, "c", "d"]}
    response = await http.post(path, json=body)
    assert response.status_code == 200, response.text
    decision = response.headers["x-exclave-decision"]
    assert response.json() == {
        "id": f"rerank-{decision}",
        "object": "list",
        "model": "judge",
        "results": [
            {"index": 1, "relevance_score": 0.9},
            {"index": 3, "relevance_score": 0.5},
            {"index": 0, "relevance_score": 0.1},
            {"index": 2, "relevance_score": 0.1},
        ],
        "usage": {"prompt_tokens": 9, "total_tokens": 9},
    }
    call = script.asked(RerankCall)
    assert (call.query, call.documents) == ("q", ("a", "b", "c", "d"))
    best = await http.post(path, json=body | {"top_n": 1, "return_documents": True})
    assert best.json()["results"] == [
        {"index": 1, "relevance_score": 0.9, "document": {"text": "b"}}
    ]
    assert len((await http.post(path, json=body | {"top_n": 99})).json()["results"]) == 4


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"query": ""}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": ["a", ""]}, "documents"),
        ({"documents": [{"title": "x"}]}, "documents[0].title"),
        ({"documents": ["a"] * 1025}, "documents"),
        ({"top_n": 0}, "top_n"),
        ({"max_tokens_per_doc": 5}, "max_tokens_per_doc"),
        ({"rank_fields": ["title"]}, "rank_fields"),
        ({"instruction": "x"}, "instruction"),
    ],
)
async def test_bad_reranks(http: httpx.AsyncClient, changes: dict[str, Any], param: str) -> None:
    body = {"model": "judge", "query": "q", "documents": ["a"], **changes}
    response = await http.post("/v1/rerank", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


BEST = """
apiVersion: exclave.dev/v1
kind: Route
metadata: {name: best, version: "1.0.0"}
spec:
  actions: [chat]
  targets: [{model: small}]
"""


async def test_models_and_routes_are_listed(http: httpx.AsyncClient, script: FakePipeline) -> None:
    script.activate(model("small"), model("far", remote=True, provider="openai"), route=BEST)
    listed = (await http.get("/v1/models")).json()["data"]
    assert [(each["id"], each["owned_by"]) for each in listed] == [
        ("small", "exclave"),
        ("far", "openai"),
        ("best", "exclave"),
    ]
    assert (await http.get("/v1/models/best")).json()["id"] == "best"


# --- one request, read in one way ---------------------------------------------------------------


async def test_of_duplicate_keys_the_last_is_meant(
    http: httpx.AsyncClient, script: FakePipeline
) -> None:
    body = b'{"model":"a","messages":[{"role":"user","content":"x"}],"model":"b"}'
    assert (await http.post(CHAT, content=body)).json()["model"] == "b"
    assert script.asked(GenerateCall).model == "b"


async def test_logit_biases_are_sorted(http: httpx.AsyncClient, script: FakePipeline) -> None:
    body = HELLO | {"logit_bias": {"10": -100, "9": 1.5, "2147483647": 0}}
    await http.post(CHAT, json=body)
    assert script.asked(GenerateCall).logit_bias == ((9, 1.5), (10, -100.0), (2147483647, 0.0))
