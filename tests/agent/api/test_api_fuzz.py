"""Whatever bytes come, the answer is the caller's fault or an answer: never a 500."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from exclave_testing.local_api import LocalApi

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8)
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "system", "tool", "assistant"]),
            "content": st.text() | JSON,
        },
        optional={"tool_calls": JSON, "tool_call_id": st.text(max_size=2), "name": JSON},
    ),
    max_size=3,
)
CHAT_FIELDS = {
    "temperature": st.floats(-1, 3) | JSON,
    "top_p": st.floats(0, 1) | JSON,
    "top_k": st.integers() | JSON,
    "max_tokens": st.integers() | JSON,
    "max_completion_tokens": st.integers(1, 80),
    "seed": st.integers() | JSON,
    "stop": st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=5) | JSON,
    "n": JSON,
    "stream": st.booleans(),
    "stream_options": st.fixed_dictionaries({"include_usage": st.booleans()}) | JSON,
    "user": st.text(max_size=5) | JSON,
    "metadata": st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2) | JSON,
    "tools": st.lists(
        st.fixed_dictionaries(
            {
                "type": st.sampled_from(["function", "custom"]),
                "function": st.fixed_dictionaries(
                    {"name": st.text(max_size=3) | st.just("f")}, optional={"parameters": JSON}
                ),
            }
        ),
        max_size=2,
    )
    | JSON,
    "tool_choice": st.sampled_from(["auto", "none", "required"]) | JSON,
    "parallel_tool_calls": st.booleans(),
    "logit_bias": st.dictionaries(st.integers(-1, 2**33).map(str), st.floats(-101, 101), max_size=3)
    | JSON,
    "logprobs": st.booleans(),
    "top_logprobs": st.integers(-1, 21) | JSON,
    "grammar": st.text(max_size=9),
    "service_tier": st.sampled_from(["auto", "flex"]) | JSON,
    "repeat_penalty": st.floats(-1, 3),
    "response_format": st.fixed_dictionaries(
        {
            "type": st.sampled_from(["text", "json_object", "json_schema"]),
            "json_schema": st.fixed_dictionaries({"name": st.text(max_size=3), "schema": JSON}),
        }
    )
    | JSON,
}
CHATS = st.fixed_dictionaries(
    {"model": st.sampled_from(["small", "score", "forbidden", "?"]), "messages": MESSAGES},
    optional=CHAT_FIELDS,
)
TENSORS = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(["x", "y", ""]),
            "datatype": st.sampled_from(["FP32", "INT8", "BYTES", "BOOL", "FP16", "?"]),
            "shape": st.lists(st.integers(-1, 4), max_size=3),
            "data": st.lists(st.floats(allow_nan=False) | st.integers(), max_size=8) | JSON,
        },
        optional={"parameters": st.dictionaries(st.sampled_from(["binary_data_size", "z"]), JSON)},
    ),
    max_size=2,
)
V2 = st.fixed_dictionaries(
    {"inputs": TENSORS},
    optional={"id": JSON, "outputs": JSON, "parameters": JSON},
)
COMPLETIONS = st.fixed_dictionaries(
    {"model": st.just("small"), "prompt": JSON | st.text()},
    optional={"max_tokens": st.integers(1, 70), "echo": JSON, "stream": st.booleans()},
)
EMBEDDINGS = st.fixed_dictionaries(
    {"model": st.just("small"), "input": JSON | st.lists(st.text(max_size=5), max_size=4)},
    optional={"encoding_format": st.sampled_from(["float", "base64", "x"]), "dimensions": JSON},
)
RERANKS = st.fixed_dictionaries(
    {
        "model": st.just("small"),
        "query": st.text(max_size=4),
        "documents": JSON | st.lists(st.text(max_size=4), max_size=4),
    },
    optional={"top_n": st.integers() | JSON, "return_documents": st.booleans()},
)
PATHS = {
    "/v1/rerank": RERANKS,
    "/v1/chat/completions": CHATS,
    "/v1/completions": COMPLETIONS,
    "/v1/embeddings": EMBEDDINGS,
    "/v2/models/score/infer": V2,
}
GIVEN = st.sampled_from(sorted(PATHS)).flatmap(
    lambda path: st.tuples(st.just(path), PATHS[path] | JSON)
)


def post(path: str, content: bytes, headers: dict[str, str] | None = None) -> tuple[int, LocalApi]:
    async def exchange() -> tuple[int, LocalApi]:
        api = LocalApi()
        async with api.open(), api.client() as http:
            response = await http.post(path, content=content, headers=headers)
            text = response.text
        assert response.status_code == 200 or "error" in text
        # A stream that began must not end in an error of ours either.
        assert '"internal"' not in text
        return response.status_code, api

    with asyncio.Runner() as runner:
        return runner.run(exchange())


@settings(deadline=None, max_examples=150)
@given(GIVEN)
def test_any_json_is_answered_or_refused(given_request: tuple[str, Any]) -> None:
    path, body = given_request
    status, api = post(path, json.dumps(body).encode())
    assert status in (200, 400, 403, 404, 422)
    intents = {leaf.body["decision"] for leaf in api.log.of_type("INTENT")}
    results = {leaf.body["decision"] for leaf in api.results()}
    assert intents <= results
    if status in (200, 403, 422):
        assert len(results) == 1


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(sorted(PATHS)), st.binary(max_size=200))
def test_any_bytes_are_refused(path: str, body: bytes) -> None:
    status, _ = post(path, body)
    assert status == 400


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=64), st.integers(-2, 300), st.integers(-2, 70))
def test_any_binary_tensor_is_answered_or_refused(raw: bytes, head: int, size: int) -> None:
    tensor = {
        "name": "x",
        "datatype": "FP32",
        "shape": [1, 4],
        "parameters": {"binary_data_size": size},
    }
    text = json.dumps({"inputs": [tensor]}).encode()
    length = len(text) if head > 250 else head
    status, _ = post(
        "/v2/models/score/infer", text + raw, {"inference-header-content-length": str(length)}
    )
    assert status in (200, 400)


@settings(deadline=None, max_examples=50)
@given(
    st.binary(max_size=40),
    st.sampled_from([b"data-class", b"priority", b"timeout-ms", b"workflow", b"run", b"cache"]),
)
def test_any_key_and_label_are_refused(raw: bytes, name: bytes) -> None:
    async def exchange() -> int:
        api = LocalApi()
        async with api.open(), api.client(key=None) as http:
            messages = [{"role": "user", "content": "x"}]
            response = await http.post(
                "/v1/chat/completions",
                json={"model": "small", "messages": messages},
                headers={b"authorization": b"Bearer exk_analyst", b"x-exclave-" + name: raw},
            )
            first = response.status_code
            response = await http.get("/v1/models", headers={b"authorization": b"Bearer " + raw})
            assert response.status_code == 401
            return first

    with asyncio.Runner() as runner:
        assert runner.run(exchange()) in (200, 400, 504)
