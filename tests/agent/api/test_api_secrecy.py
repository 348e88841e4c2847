"""What a caller sends is in no error, no log line, no metric and no public record."""

from __future__ import annotations

import json
import logging
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest

from exclave_agent.errors import (
    AgentError,
    LinkError,
    Overloaded,
    StorageError,
    StorageForeign,
    StorageFull,
    Unavailable,
    WorkerCrashed,
)
from exclave_agent.ports import Generate, LeafDraft
from exclave_testing.local_api import ANALYST, GUEST, LocalApi
from exclave_testing.runtimes import FakeRuntimes

CANARY = "CanaryÖ7f3a"
"""In every prompt; whatever holds its start has leaked."""
MARK = "Canary"
CHAT = "/v1/chat/completions"


def chat(**changes: Any) -> dict[str, Any]:
    body = {"model": "small", "messages": [{"role": "user", "content": CANARY}], "max_tokens": 3}
    return body | changes


def raising(error: Exception) -> FakeRuntimes:
    def reply(request: Generate) -> tuple[str, ...]:
        raise error

    return FakeRuntimes(reply=reply)


def answering(*pieces: str) -> FakeRuntimes:
    return FakeRuntimes(reply=lambda request: pieces)


def no_release(api: LocalApi) -> None:
    api.releases.active = None


def fail_log(error: StorageError, *types: str) -> Callable[[LocalApi], None]:
    def breaking(api: LocalApi) -> None:
        def failing(draft: LeafDraft) -> StorageError | None:
            return error if draft.type in types else None

        api.log.fail_on = failing

    return breaking


def whole(api: LocalApi) -> None:
    """Break nothing."""


BOTH = ("INTENT", "RESULT")
FULL = StorageFull("the disk is full: free some space")
TOO_DEEP = {"role": "user", "content": CANARY, "name": CANARY}
CASES: dict[str, tuple[int, Any, FakeRuntimes | None, Callable[[LocalApi], None]]] = {
    "answered": (200, chat(), answering(CANARY), whole),
    "streamed": (200, chat(stream=True), answering(CANARY), whole),
    "denied": (403, chat(model="forbidden"), None, whole),
    "over the cap": (400, chat(max_tokens=10**6), None, whole),
    "prompt too long": (
        400, chat(messages=[{"role": "user", "content": f"{CANARY} " * 300}]), None, whole),
    "unknown model": (404, chat(model=CANARY), None, whole),
    "unknown parameter": (400, chat(**{CANARY: 1}), None, whole),
    "unknown message field": (400, chat(messages=[TOO_DEEP]), None, whole),
    "wrong type": (400, chat(temperature=CANARY), None, whole),
    "wrong role": (400, chat(messages=[{"role": CANARY, "content": CANARY}]), None, whole),
    "wrong part": (
        400, chat(messages=[{"role": "user", "content": [{"type": CANARY}]}]), None, whole),
    "wrong format": (400, chat(response_format={"type": CANARY}), None, whole),
    "wrong schema": (
        400,
        chat(response_format={"type": "json_schema",
                              "json_schema": {"name": CANARY, "schema": {"type": CANARY}}}),
        None, whole),
    "wrong data class": (400, chat(metadata={"data_class": CANARY}), None, whole),
    "unsupported": (400, chat(tools=[CANARY]), None, whole),
    "cut short": (400, json.dumps(chat()).encode()[:-3], None, whole),
    "not UTF-8": (400, json.dumps(chat(), ensure_ascii=False).encode("latin-1"), None, whole),
    "invalid answer": (
        422, chat(response_format={"type": "json_object"}), answering(CANARY), whole),
    "overloaded": (429, chat(), raising(Overloaded("queue full", retry_after=2.2)), whole),
    "crashed": (502, chat(), raising(WorkerCrashed("the worker died")), whole),
    "closed": (503, chat(), raising(Unavailable("closing")), whole),
    "no release": (503, chat(), None, no_release),
    "disk full at the intent": (507, chat(), None, fail_log(FULL, *BOTH)),
    "disk full at the result": (507, chat(), None, fail_log(FULL, "RESULT")),
    "disk full at a denial": (507, chat(model="forbidden"), None, fail_log(FULL, *BOTH)),
    "database damaged": (500, chat(), None, fail_log(StorageForeign("not ours"), *BOTH)),
    "storage broken": (500, chat(), None, fail_log(StorageError("broken"), *BOTH)),
    "unforeseen": (500, chat(), raising(KeyError(CANARY)), whole),
    "unforeseen, streamed": (500, chat(stream=True), raising(ValueError(CANARY)), whole),
    "of another room": (500, chat(), raising(LinkError("the coordinator is away")), whole),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
async def test_no_path_leaks_what_was_sent(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    status, body, runtimes, breaking = CASES[name]
    async with LocalApi(runtimes).open() as api, api.client() as http:
        breaking(api)
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        response = await http.post(CHAT, content=content)
    assert response.status_code == status, response.text
    if status != 200:
        assert MARK not in response.text
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
    assert MARK not in str(response.headers)
    assert MARK not in caplog.text
    assert all(MARK not in str(record.__dict__) for record in caplog.records if _ours(record))
    assert MARK not in api.metrics.render().decode()
    public = api.public_bytes()
    for form in (MARK.encode(), b64encode(MARK.encode()), MARK.encode().hex().encode()):
        assert form not in public
    if status in (429, 502, 503):
        assert int(response.headers["retry-after"]) >= 1
    # Whatever reached the path has its record, or its refusal for want of one.
    if "x-exclave-decision" in response.headers and status not in (500, 503, 507):
        assert [leaf.body["decision"] for leaf in api.results()] == [
            response.headers["x-exclave-decision"]
        ]


def _ours(record: logging.LogRecord) -> bool:
    """The test's own client logs its request lines; they hold no body."""
    return record.name.startswith("exclave")


async def test_an_unforeseen_error_is_logged_by_type_and_place(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with LocalApi(raising(KeyError(CANARY))).open() as api, api.client() as http:
        response = await http.post(CHAT, json=chat())
    (record,) = [each for each in caplog.records if each.name == "exclave_agent.api.errors"]
    assert response.headers["x-request-id"] in record.getMessage()
    assert "KeyError" in record.getMessage()
    assert response.headers["x-request-id"] in response.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v2/models/score/infer", "/v2/models/Canary/infer"])
async def test_tensors_do_not_leak(path: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with LocalApi().open() as api, api.client() as http:
        good = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
        for bad in (
            {"name": CANARY},
            {"datatype": CANARY},
            {"data": [CANARY] * 4},
            {"parameters": {CANARY: 1}},
            {CANARY: 1},
        ):
            response = await http.post(path, json={"inputs": [good | bad]})
            assert response.status_code in (400, 404)
            assert MARK not in response.text
    assert MARK.encode() not in api.public_bytes()
    ours = [record.getMessage() for record in caplog.records if _ours(record)]
    assert MARK not in "".join(ours)


async def test_keys_do_not_leak(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with LocalApi().open() as api:
        for key in (ANALYST, GUEST, "exk_unknown"):
            async with api.client(key) as http:
                response = await http.post(CHAT, json=chat())
                assert key not in response.text + str(response.headers)
    assert "exk_" not in api.public_bytes().decode()
    assert "exk_" not in caplog.text


def test_every_error_of_the_tree_has_a_status() -> None:
    from exclave_agent.api.errors import tell

    def subclasses(base: type[AgentError]) -> set[type[AgentError]]:
        return {base}.union(*(subclasses(each) for each in base.__subclasses__()))

    for kind in subclasses(AgentError):
        error = kind.__new__(kind)
        AgentError.__init__(error, "text")
        for name in ("param", "retry_after", "rule"):
            if not hasattr(error, name):
                setattr(error, name, "x" if name == "rule" else None)
        told = tell(error, "id")
        assert 400 <= told.status <= 599
        assert told.code
