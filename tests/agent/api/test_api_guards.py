"""What callers are told of the policy's guards: statuses, headers, a stream's last part."""

from __future__ import annotations

import json
from typing import Any

import pytest

from exclave_testing.local_api import LocalApi
from exclave_testing.obliged import approval, obliging, validator

TOLD = "A colleague will answer this."
NOTICE = "A machine wrote this."


def body(**more: Any) -> dict[str, Any]:
    return {
        "model": "small",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 4,
    } | more


async def post(api: LocalApi, path: str = "/v1/chat/completions", **more: Any) -> Any:
    async with api.client() as client:
        return await client.post(path, json=body(**more))


async def test_a_refused_answer_is_422_and_names_its_guard() -> None:
    async with LocalApi().open() as api:
        held = validator({"pattern": {"must": ["never said"]}})
        api.set_policy(obliging(validators=["held"]), held)
        for stream in (False, True):
            told = await post(api, stream=stream)
            assert (told.status_code, told.headers["x-exclave-guard"]) == (422, "held")
            error = told.json()["error"]
            assert (error["code"], error["type"]) == ("output_invalid", "output_invalid_error")
            assert "quick" not in told.text, "nothing of the answer"


async def test_a_refused_input_is_422_and_names_its_guard() -> None:
    async with LocalApi().open() as api:
        held = validator({"pattern": {"must_not": ["hi"]}}, stage="input")
        api.set_policy(obliging(validators=["held"]), held)
        told = await post(api)
        assert (told.status_code, told.headers["x-exclave-guard"]) == (422, "held")
        assert told.json()["error"]["code"] == "input_refused"
        assert api.models.requests == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_person_s_word_comes_in_place_of_the_answer(stream: bool) -> None:
    async with LocalApi().open() as api:
        failure = {"otherwise": "escalate", "told": TOLD}
        held = validator({"pattern": {"must": ["never said"]}}, on_failure=failure)
        api.set_policy(obliging(validators=["held"], notices=[NOTICE]), held)
        told = await post(api, stream=stream)
        assert told.status_code == 200 and TOLD in told.text and "quick" not in told.text
        if stream:
            parts = [line[6:] for line in told.text.splitlines() if line.startswith("data: {")]
            assert json.loads(parts[-1])["exclave"] == {"degraded": "person", "notices": [NOTICE]}
        else:
            assert told.headers["x-exclave-degraded"] == "person"
            assert told.headers["x-exclave-notice"] == NOTICE


async def test_what_waits_for_approval_is_200_where_words_stand_in_and_403_elsewhere() -> None:
    async with LocalApi().open() as api:
        api.set_policy(obliging(approvals=["four-eyes"]), approval(told=TOLD))
        told = await post(api)
        assert (told.status_code, told.headers["x-exclave-degraded"]) == (200, "approval")
        assert TOLD in told.text and "quick" not in told.text
        async with api.client() as client:
            told = await client.post("/v1/embeddings", json={"model": "small", "input": "hi"})
        assert (told.status_code, told.headers["x-exclave-approval"]) == (403, "four-eyes")
        assert told.json()["error"]["code"] == "approval_needed"
        assert [each.approvals for each in api.referrals.rows] == [("four-eyes",)] * 2


async def test_notices_go_with_every_kind_of_answer() -> None:
    async with LocalApi().open() as api:
        api.set_policy(obliging(notices=[NOTICE, "And this."]))
        async with api.client() as client:
            for path, asked in (
                ("/v1/embeddings", {"model": "small", "input": "hi"}),
                ("/v1/chat/completions", body()),
            ):
                told = await client.post(path, json=asked)
                assert told.headers.get_list("x-exclave-notice") == [NOTICE, "And this."]
