"""The clients that people already have, unchanged, against the real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import openai
import pytest
import tritonclient.http as triton
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam
from tritonclient.utils import InferenceServerException

from exclave_agent.api.server import Listening, serving
from exclave_agent.errors import StorageFull, WorkerCrashed
from exclave_agent.ports import LeafDraft
from exclave_testing.local_api import ANALYST, CAP, GUEST, LocalApi
from exclave_testing.runtimes import FakeRuntimes

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]


@asynccontextmanager
async def served(api: LocalApi | None = None) -> AsyncIterator[tuple[LocalApi, Listening]]:
    api = api or LocalApi()
    async with api.open(), serving(api.app, port=0) as listening:
        yield api, listening


@asynccontextmanager
async def client(
    api: LocalApi | None = None, key: str = ANALYST
) -> AsyncIterator[tuple[LocalApi, AsyncOpenAI]]:
    async with served(api) as (opened, listening):
        base = f"{listening.base_url}/v1"
        async with AsyncOpenAI(base_url=base, api_key=key, max_retries=0) as openai_client:
            yield opened, openai_client


# --- openai ---------------------------------------------------------------------------------


async def test_openai_chat() -> None:
    async with client() as (api, ai):
        answer = await ai.chat.completions.create(
            model="small", messages=HELLO, max_tokens=4, temperature=0, stop=["lazy"]
        )
        assert answer.choices[0].message.content == "the quick brown fox"
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 4
        assert api.outcomes() == [("answered", "")]


async def test_openai_streams() -> None:
    async with client() as (api, ai):
        stream = await ai.chat.completions.create(
            model="small",
            messages=HELLO,
            max_tokens=4,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == "the quick brown fox"
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.total_tokens == 6
        assert api.outcomes() == [("answered", "")]


async def test_openai_parses_a_schema() -> None:
    async with client() as (_, ai):
        answer = await ai.chat.completions.create(
            model="small",
            messages=HELLO,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "ok", "strict": True, "schema": {"required": ["ok"]}},
            },
        )
        assert json.loads(answer.choices[0].message.content or "") == {"ok": True}


async def test_openai_completions_embeddings_models() -> None:
    async with client() as (_, ai):
        answer = await ai.completions.create(model="small", prompt="once", max_tokens=2)
        assert answer.choices[0].text == "the quick"
        stream = await ai.completions.create(
            model="small", prompt="once", max_tokens=2, stream=True
        )
        assert "".join([chunk.choices[0].text async for chunk in stream]) == "the quick"
        vectors = await ai.embeddings.create(model="small", input=["a", "bb"])  # sends base64
        assert vectors.data[0].embedding == [0.5, pytest.approx(1 / 3), 0.25, pytest.approx(0.2)]
        assert "small" in [model.id for model in (await ai.models.list()).data]
        assert (await ai.models.retrieve("small")).id == "small"


async def test_openai_errors_are_its_own_classes() -> None:
    async with client() as (api, ai):
        create = ai.chat.completions.create
        with pytest.raises(openai.BadRequestError) as bad:
            await create(model="small", messages=HELLO, max_tokens=CAP + 1)
        assert (bad.value.code, bad.value.param) == ("max_tokens_exceeded", "max_tokens")
        with pytest.raises(openai.NotFoundError) as unknown:
            await create(model="absent", messages=HELLO)
        assert unknown.value.code == "model_not_found"
        with pytest.raises(openai.PermissionDeniedError) as denied:
            await create(model="forbidden", messages=HELLO)
        assert denied.value.response.headers["x-exclave-rule"] == "not-forbidden"
        with pytest.raises(openai.BadRequestError, match="only 1 is"):
            await create(model="small", messages=HELLO, n=2)
        with pytest.raises(openai.AuthenticationError):
            await ai.with_options(api_key="exk_wrong").models.list()
        with pytest.raises(openai.PermissionDeniedError):
            await ai.with_options(api_key=GUEST).chat.completions.create(
                model="small", messages=HELLO
            )
        api.log.failure = StorageFull("the disk is full")
        with pytest.raises(openai.InternalServerError) as full:
            await create(model="small", messages=HELLO)
        assert full.value.status_code == 507


async def test_openai_sees_an_error_in_mid_stream() -> None:
    async with client() as (api, ai):

        def failing(draft: LeafDraft) -> StorageFull | None:
            return StorageFull("the disk is full") if draft.type == "RESULT" else None

        api.log.fail_on = failing
        stream = await ai.chat.completions.create(model="small", messages=HELLO, stream=True)
        finished: list[str | None] = []

        async def read() -> None:
            async for chunk in stream:
                finished.append(chunk.choices[0].finish_reason)

        with pytest.raises(openai.APIError, match="the disk is full"):
            await read()
        assert finished
        assert set(finished) == {None}


async def test_openai_retries_a_crash_and_each_attempt_is_recorded() -> None:
    attempts = []

    def reply(request: object) -> tuple[str, ...]:
        attempts.append(request)
        if len(attempts) == 1:
            raise WorkerCrashed("the model's worker died", retry_after=0.01)
        return ("fine",)

    async with client(LocalApi(FakeRuntimes(reply=reply))) as (api, ai):
        answer = await ai.with_options(max_retries=1).chat.completions.create(
            model="small", messages=HELLO
        )
        assert answer.choices[0].message.content == "fine"
        assert api.outcomes() == [("failed", "worker_crashed"), ("answered", "")]


async def test_openai_closing_a_stream_is_recorded() -> None:
    async with client(LocalApi(FakeRuntimes(token_latency=3600))) as (api, ai):
        stream = await ai.chat.completions.create(model="small", messages=HELLO, stream=True)
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        await stream.close()
        async with asyncio.timeout(5):
            while not api.results():
                await asyncio.sleep(0.001)
        assert api.outcomes() == [("cancelled", "client_gone")]


# --- tritonclient ---------------------------------------------------------------------------


def key() -> dict[str, str]:
    """A fresh dictionary: the client adds headers of its own to the one it is given."""
    return {"authorization": f"Bearer {ANALYST}"}


def ask_triton(address: str) -> None:
    """Runs in a thread: the client is synchronous."""
    ai = triton.InferenceServerClient(address, concurrency=2)
    try:
        assert ai.is_server_live()
        assert ai.is_server_ready()
        assert ai.is_model_ready("score", headers=key())
        assert not ai.is_model_ready("absent", headers=key())
        assert ai.get_server_metadata(headers=key())["extensions"] == ["binary_tensor_data"]
        assert ai.get_model_metadata("score", headers=key())["inputs"][0]["shape"] == [-1, 4]
        values = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], dtype=np.float32)
        for binary_in in (True, False):
            for outputs in (
                None,
                [triton.InferRequestedOutput("y", binary_data=True)],
                [
                    triton.InferRequestedOutput("y", binary_data=False),
                    triton.InferRequestedOutput("total", binary_data=True),
                ],
            ):
                tensor = triton.InferInput("x", [2, 4], "FP32")
                tensor.set_data_from_numpy(values, binary_data=binary_in)
                result = ai.infer(
                    "score", [tensor], outputs=outputs, request_id="r7", headers=key()
                )
                assert result.get_response()["id"] == "r7"
                np.testing.assert_array_equal(result.as_numpy("y"), values * 2)
                if outputs is None or len(outputs) == 2:
                    np.testing.assert_array_equal(result.as_numpy("total"), [[10], [26]])
        versioned = ai.infer("score", [tensor], model_version="7", headers=key())
        np.testing.assert_array_equal(versioned.as_numpy("y"), values * 2)
        with pytest.raises(InferenceServerException, match="no API key"):
            ai.infer("score", [tensor])
        with pytest.raises(InferenceServerException, match="no model of that name"):
            ai.infer("absent", [tensor], headers=key())
        wrong = triton.InferInput("x", [8], "FP32")
        wrong.set_data_from_numpy(values.reshape(8))
        with pytest.raises(InferenceServerException, match="shape"):
            ai.infer("score", [wrong], headers=key())
    finally:
        ai.close()


async def test_tritonclient() -> None:
    async with served() as (api, listening):
        await asyncio.to_thread(ask_triton, f"{listening.host}:{listening.port}")
        outcomes = [outcome for outcome, _ in api.outcomes()]
        assert outcomes == ["answered"] * 7 + ["failed", "failed"]
