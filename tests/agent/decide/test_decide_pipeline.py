"""The decision path's promises: order, durability before answers, a record for every end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from exclave_agent.decide.calls import Answered, EmbedCall, GenerateCall, InferCall
from exclave_agent.errors import (
    BadRequest,
    NoRelease,
    OutputInvalid,
    PolicyDenied,
    StorageError,
    StorageFull,
    TooManyTokens,
    UnknownModel,
    WorkerCrashed,
)
from exclave_agent.ports import Caller, Delta, LeafDraft, Message, Tensor
from exclave_protocol.canonical import JsonValue
from exclave_testing.audit import FakeAuditLog
from exclave_testing.local_api import CAP, LocalApi
from exclave_testing.runtimes import FakeRuntimes

SECRET = "zebra-Käse-9f3"
ANALYST = Caller("11111111", ("analyst",))
WORDS = ("one", " two", " three", " four")


def replying(*pieces: str, **settings: Any) -> FakeRuntimes:
    return FakeRuntimes(reply=lambda request: pieces, **settings)


@pytest.fixture
async def api() -> AsyncIterator[LocalApi]:
    async with LocalApi(replying(*WORDS)).open() as opened:
        yield opened


def chat(**changes: Any) -> GenerateCall:
    fields: dict[str, Any] = {
        "decision": "d1",
        "action": "chat",
        "model": "small",
        "caller": ANALYST,
        "subject": "patient-7",
        "messages": (Message("user", SECRET),),
    }
    return GenerateCall(**(fields | changes))


def tensor_call(**changes: Any) -> InferCall:
    fields: dict[str, Any] = {
        "decision": "d1",
        "model": "score",
        "caller": ANALYST,
        "subject": "patient-7",
        "inputs": (Tensor("x", "FP32", (1, 4), bytes(16)),),
    }
    return InferCall(**(fields | changes))


async def ask(api: LocalApi, call: GenerateCall) -> tuple[list[str], Answered]:
    events = [event async for event in api.pipeline.stream(call)]
    end = events.pop()
    assert isinstance(end, Answered)
    return [event.text for event in events if isinstance(event, Delta)], end


async def until(condition: Callable[[], bool], deadline: float = 5.0) -> None:
    async with asyncio.timeout(deadline):
        while not condition():
            await asyncio.sleep(0)


RULED = {"digest": "b" * 64, "would": None}


def private(log: FakeAuditLog, index: int) -> dict[str, JsonValue]:
    """What is kept of a leaf, without why the policy decided so (test_decide_grants.py)."""
    return {name: v for name, v in log.drafts[index].private.items() if name != "policy"}


# --- answered -----------------------------------------------------------------------------


async def test_an_answer_has_an_intent_then_a_result(api: LocalApi) -> None:
    texts, end = await ask(api, chat(stream=True, temperature=0.25, stop=("###",), seed=-5))
    assert texts == list(WORDS)
    assert (end.finish, end.completion_tokens) == ("stop", 4)
    intent, result = api.log.of_type("INTENT")[0], api.results()[0]
    assert (end.receipt.intent_seq, end.receipt.result_seq) == (intent.seq, result.seq)
    assert intent.body == {
        "decision": "d1",
        "action": "chat",
        "actor": {"key": "11111111", "roles": ["analyst"]},
        "model": {"name": "small", "digest": "5" * 64, "runtime": "llama"},
        "route": None,
        "targets": [{"name": "small", "digest": "5" * 64, "runtime": "llama"}],
        "policy": RULED | {"rule": "analysts", "matched": ["analysts"]},
        "grants": [],
        "redacted": [],
        "release": {"digest": "a" * 64, "version": "7"},
        "data_class": "",
        "received": "2030-03-17T17:46:40.000000000Z",
        "params": {
            "max_tokens": CAP,
            "temperature": "0.25",
            "top_p": "1.0",
            "top_k": 0,
            "min_p": "0.0",
            "frequency_penalty": "0.0",
            "presence_penalty": "0.0",
            "repeat_penalty": "1.0",
            "seed": "-5",
            "biases": 0,
            "stops": 1,
            "schema": False,
            "grammar": False,
            "tools": 0,
            "stream": True,
            "priority": "interactive",
        },
    }
    assert result.body == {
        "decision": "d1",
        "intent": str(intent.seq),
        "outcome": "answered",
        "reason": "",
        "finish": "stop",
        "policy": RULED | {"rule": "analysts", "matched": ["analysts"]},
        "tokens_in": 2,
        "tokens_out": 4,
        "latency_us": 0,
        "first_us": 0,
        "model": {"name": "small", "digest": "5" * 64, "runtime": "llama"},
        "attempts": [{"model": "small", "outcome": "answered", "us": 0}],
        "degraded": "",
        "cache": "",
        "cached_tokens": 0,
        "cost": None,
    }
    assert private(api.log, 0) == {
        "prompt": [{"role": "user", "content": SECRET}],
        "context": [],
        "options": {"stop": ["###"], "response_schema": None},
    }
    assert private(api.log, 1) == {"output": "one two three four"}
    assert {draft.subject for draft in api.log.drafts} == {"patient-7"}


async def test_nothing_a_caller_wrote_is_in_the_public_record(api: LocalApi) -> None:
    await ask(api, chat(stop=(SECRET,), subject=SECRET))
    with pytest.raises(UnknownModel):
        await ask(api, chat(model=SECRET))
    with pytest.raises(PolicyDenied):
        await ask(api, chat(caller=Caller("2", ("guest",)), model=SECRET))
    with pytest.raises(BadRequest):
        await api.pipeline.infer(
            tensor_call(inputs=(Tensor(SECRET, "FP32", (1, 4), bytes(16)),), outputs=(SECRET,))
        )
    public = api.public_bytes().decode()
    assert len(api.results()) == 4
    assert SECRET not in public
    assert "zebra" not in public
    # The name of a model that is not ours is the caller's text: committed, not shown.
    assert api.results()[1].body["model"] == {"name": None}
    assert api.log.drafts[2].private["model"] == SECRET


async def test_no_delta_before_the_intent_is_durable(api: LocalApi) -> None:
    api.log.gate.clear()
    events = api.pipeline.stream(chat(stream=True))
    first = asyncio.ensure_future(anext(events))
    await until(lambda: len(api.models.requests) == 1)  # the model runs meanwhile
    for _ in range(50):
        await asyncio.sleep(0)
    assert not first.done()
    assert api.log.drafts == []
    api.log.gate.set()
    assert await first == Delta("one")
    assert [draft.type for draft in api.log.drafts] == ["INTENT"]
    await events.aclose()


async def test_no_end_before_the_result_is_durable(api: LocalApi) -> None:
    events = api.pipeline.stream(chat(stream=True))
    for word in WORDS:
        assert await anext(events) == Delta(word)
    api.log.gate.clear()
    last = asyncio.ensure_future(anext(events))
    for _ in range(50):
        await asyncio.sleep(0)
    assert not last.done()
    api.log.gate.set()
    assert isinstance(await last, Answered)


async def test_unstreamed_text_waits_for_the_result(api: LocalApi) -> None:
    refuse_results(api, StorageError("disk on fire"))
    events = api.pipeline.stream(chat(stream=False))
    with pytest.raises(StorageError):
        await anext(events)


async def test_embeddings_and_tensors_are_recorded(api: LocalApi) -> None:
    embedded = await api.pipeline.embed(
        EmbedCall(decision="d1", model="small", caller=ANALYST, subject="s", texts=(SECRET, "b"))
    )
    assert len(embedded.vectors) == 2
    inferred = await api.pipeline.infer(tensor_call(decision="d2", outputs=("total",)))
    assert [tensor.name for tensor in inferred.outputs] == ["total"]
    assert api.outcomes() == [("answered", ""), ("answered", "")]
    assert private(api.log, 0)["prompt"] == [SECRET, "b"]
    assert private(api.log, 3) == {
        "output": [{"name": "total", "datatype": "FP32", "shape": [1, 1], "data": "AAAAAA=="}]
    }
    assert api.log.of_type("INTENT")[1].body["params"] == {"inputs": 1, "bytes": 16}


async def test_infer_and_embed_answer_only_after_the_record(api: LocalApi) -> None:
    api.log.gate.clear()
    task = asyncio.ensure_future(api.pipeline.infer(tensor_call()))
    for _ in range(50):
        await asyncio.sleep(0)
    assert not task.done()
    api.log.gate.set()
    answer = await task
    assert answer.receipt.result_seq == api.results()[0].seq


# --- refused ------------------------------------------------------------------------------


async def test_a_denial_is_one_result_that_commits_to_the_prompt(api: LocalApi) -> None:
    with pytest.raises(PolicyDenied) as denied:
        await ask(api, chat(data_class="restricted"))
    assert (denied.value.rule, denied.value.decision_id) == ("not-restricted", "d1")
    (leaf,) = api.results()
    assert api.log.of_type("INTENT") == []
    assert api.models.requests == []
    assert leaf.body["intent"] is None
    assert (leaf.body["outcome"], leaf.body["reason"]) == ("denied", "policy_denied")
    assert leaf.body["policy"] == RULED | {
        "rule": "not-restricted",
        "matched": ["not-restricted"],
    }
    assert leaf.body["actor"] == {"key": "11111111", "roles": ["analyst"]}
    assert leaf.body["action"] == "chat"
    assert leaf.body["model"] == {"name": "small", "digest": "5" * 64, "runtime": "llama"}
    assert private(api.log, 0)["prompt"] == [{"role": "user", "content": SECRET}]


async def test_nothing_matching_is_denied_by_default(api: LocalApi) -> None:
    with pytest.raises(PolicyDenied) as denied:
        await ask(api, chat(caller=Caller("2", ("guest",))))
    assert denied.value.rule == "default-deny"


async def test_the_policy_sees_the_key_and_never_the_name_a_caller_gives(api: LocalApi) -> None:
    api.set_policy(
        """
apiVersion: exclave.dev/v1
kind: Policy
metadata: {name: one, version: "1.0.0"}
spec:
  rules:
    - id: only-this-key
      effect: allow
      subjects: {roles: [analyst]}
      actions: [chat]
      models: ["*"]
      when: subject.id == "11111111"
"""
    )
    await ask(api, chat(subject="anybody"))
    with pytest.raises(PolicyDenied):
        await ask(api, chat(caller=Caller("2", ("analyst",)), subject="11111111"))


async def test_a_denial_that_cannot_be_recorded_is_a_storage_error(api: LocalApi) -> None:
    api.log.failure = StorageFull("the disk is full")
    with pytest.raises(StorageFull):
        await ask(api, chat(data_class="restricted"))


async def test_more_than_the_cap_is_refused_with_both_numbers(api: LocalApi) -> None:
    with pytest.raises(TooManyTokens, match=rf"{CAP + 1}.*{CAP}"):
        await ask(api, chat(max_tokens=CAP + 1))
    assert api.outcomes() == [("denied", "max_tokens_exceeded")]
    assert api.models.requests == []


async def test_more_than_the_context_is_refused_before_the_model(api: LocalApi) -> None:
    text = "analysts: no cap"
    api.set_policy(
        f"""
apiVersion: exclave.dev/v1
kind: Policy
metadata: {{name: free, version: "1.0.0", description: "{text}"}}
spec:
  rules:
    - id: all
      effect: allow
      subjects: {{roles: [analyst]}}
      actions: [chat]
      models: ["*"]
"""
    )
    with pytest.raises(TooManyTokens, match=r"257.*256"):
        await ask(api, chat(max_tokens=257))
    await ask(api, chat())
    assert api.models.requests[0].sampling.max_tokens == 128  # half the context
    with pytest.raises(TooManyTokens, match="prompt has"):  # the runtime counts the prompt
        await ask(api, chat(max_tokens=256))
    assert api.outcomes()[0] == ("denied", "context_length_exceeded")
    assert api.outcomes()[2] == ("failed", "context_length_exceeded")


@pytest.mark.parametrize(
    ("action", "model"), [("chat", "absent"), ("chat", "score"), ("complete", "score")]
)
async def test_a_model_that_is_absent_or_serves_something_else(
    api: LocalApi, action: str, model: str
) -> None:
    prompt = {"messages": (), "prompt": "x"} if action == "complete" else {}
    with pytest.raises(UnknownModel):
        await ask(api, chat(action=action, model=model, **prompt))
    assert api.outcomes() == [("failed", "model_not_found")]
    assert api.results()[0].body["intent"] is None


async def test_no_release_no_decision(api: LocalApi) -> None:
    api.releases.active = None
    with pytest.raises(NoRelease):
        await ask(api, chat())
    with pytest.raises(NoRelease):
        await api.pipeline.infer(tensor_call())
    assert api.log.drafts == []


# --- validated ----------------------------------------------------------------------------

INTEGER = '{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]}'


@pytest.mark.parametrize("stream", [False, True])
async def test_a_valid_answer_comes_whole_after_its_result(stream: bool) -> None:
    async with LocalApi(replying("{", '"n": 1', "}")).open() as api:
        texts, _ = await ask(api, chat(response_schema=INTEGER, stream=stream))
        assert texts == ['{"n": 1}']
        assert api.outcomes() == [("answered", "")]
        assert api.models.requests[0].sampling.json_schema == INTEGER


@pytest.mark.parametrize("answer", ['{"n": "zebra"}', '{"n": 1', "zebra", '{"n":1}zebra', ""])
async def test_an_invalid_answer_never_leaves(answer: str) -> None:
    async with LocalApi(replying(answer)).open() as api:
        events = api.pipeline.stream(chat(response_schema=INTEGER, stream=True))
        with pytest.raises(OutputInvalid) as refused:
            await anext(events)
        assert refused.value.decision_id == "d1"
        assert "zebra" not in str(refused.value)
        assert api.outcomes() == [("invalid", "output_invalid")]
        if answer:
            assert private(api.log, 1) == {"output": answer}


async def test_a_bad_schema_is_the_callers_error_and_runs_no_model(api: LocalApi) -> None:
    with pytest.raises(BadRequest):
        await ask(api, chat(response_schema='{"type":"zebra"}'))
    assert api.models.requests == []
    assert api.outcomes() == [("failed", "invalid_value")]


# --- failing ------------------------------------------------------------------------------


def refuse_results(api: LocalApi, error: StorageError) -> None:
    def failing(draft: LeafDraft) -> StorageError | None:
        return error if draft.type == "RESULT" else None

    api.log.fail_on = failing


async def test_a_crash_in_mid_answer_is_recorded_with_what_was_said(api: LocalApi) -> None:
    events = api.pipeline.stream(chat(stream=True))
    assert await anext(events) == Delta("one")
    api.models.crash("small")
    with pytest.raises(WorkerCrashed):
        await anext(events)
    assert api.outcomes() == [("failed", "worker_crashed")]
    assert private(api.log, 1) == {"output": "one"}
    assert api.results()[0].body["tokens_out"] is None


async def test_an_unforeseen_error_is_recorded_without_its_text() -> None:
    def broken(request: object) -> tuple[str, ...]:
        raise KeyError(SECRET)

    async with LocalApi(FakeRuntimes(reply=broken)).open() as api:
        with pytest.raises(KeyError):
            await ask(api, chat())
        assert api.outcomes() == [("failed", "internal")]
        assert SECRET.encode() not in api.public_bytes()


@pytest.mark.parametrize("error", [StorageFull("full"), StorageError("broken")])
async def test_a_refused_intent_stops_the_model_at_once(error: StorageError) -> None:
    # The first token would come in an hour: only cancelling ends this test in time.
    async with LocalApi(replying("late", latency=3600)).open() as api:
        api.log.failure = error
        async with asyncio.timeout(5):
            with pytest.raises(type(error)):
                await ask(api, chat(stream=True))
            with pytest.raises(type(error)):
                await api.pipeline.infer(tensor_call())
        assert api.log.drafts == []
        await api.models.close()  # returns: no request holds a slot


async def test_a_refused_result_is_an_error_without_an_end(api: LocalApi) -> None:
    refuse_results(api, StorageFull("full"))
    events = api.pipeline.stream(chat(stream=True))
    assert [await anext(events) for _ in WORDS] == [Delta(word) for word in WORDS]
    with pytest.raises(StorageFull):
        await anext(events)
    text = api.metrics.render().decode()
    assert 'outcome="unrecorded"} 1.0' in text


async def test_a_bug_in_one_record_refuses_that_decision_only(api: LocalApi) -> None:
    working = api.log.append

    async def buggy(draft: LeafDraft) -> Any:
        raise RuntimeError(SECRET)

    api.log.append = buggy  # type: ignore[method-assign]  # a fault that no fake foresees
    with pytest.raises(StorageError, match="could not be made"):
        await ask(api, chat())
    api.log.append = working  # type: ignore[method-assign]  # restored
    await ask(api, chat(decision="d2"))


# --- leaving ------------------------------------------------------------------------------


async def test_closing_the_stream_records_what_was_said(api: LocalApi) -> None:
    events = api.pipeline.stream(chat(stream=True))
    assert await anext(events) == Delta("one")
    assert await anext(events) == Delta(" two")
    await events.aclose()
    await until(lambda: len(api.results()) == 1)
    assert api.outcomes() == [("cancelled", "client_gone")]
    assert private(api.log, 1) == {"output": "one two"}
    assert api.releases.held == 0
    await api.models.close()


async def test_a_cancelled_task_is_recorded_while_the_disk_is_slow() -> None:
    async with LocalApi(replying("late", latency=3600)).open() as api:
        api.log.gate.clear()
        task = asyncio.ensure_future(ask(api, chat()))
        await until(lambda: len(api.models.requests) == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert api.log.drafts == []
        assert api.releases.held == 0
        api.log.gate.set()
        await until(lambda: len(api.results()) == 1)
        assert api.outcomes() == [("cancelled", "client_gone")]
        assert api.results()[0].body["intent"] == str(api.log.of_type("INTENT")[0].seq)


async def test_cancelled_while_the_result_is_written_stays_answered(api: LocalApi) -> None:
    events = api.pipeline.stream(chat(stream=True))
    for _ in WORDS:
        await anext(events)
    api.log.gate.clear()
    last = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    last.cancel()
    with pytest.raises(asyncio.CancelledError):
        await last
    api.log.gate.set()
    await until(lambda: len(api.results()) == 1)
    assert api.outcomes() == [("answered", "")]


async def test_leaving_the_pipeline_waits_for_records_even_when_cancelled() -> None:
    api = LocalApi(replying(*WORDS))

    async def life() -> None:
        async with api.open():
            events = api.pipeline.stream(chat(stream=True))
            await anext(events)
            api.log.gate.clear()
            await events.aclose()
            await asyncio.sleep(3600)

    task = asyncio.ensure_future(life())
    await until(lambda: not api.log.gate.is_set())
    task.cancel()
    for _ in range(50):
        await asyncio.sleep(0)
    assert not task.done(), "the record is still on its way"
    api.log.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert api.outcomes() == [("cancelled", "client_gone")]


async def test_many_decisions_at_once_each_have_one_intent_and_one_result(api: LocalApi) -> None:
    calls = [chat(decision=f"d{index}", stream=index % 2 == 0) for index in range(40)]
    await asyncio.gather(*(ask(api, call) for call in calls))
    intents = {leaf.body["decision"]: leaf.seq for leaf in api.log.of_type("INTENT")}
    results = {leaf.body["decision"]: leaf for leaf in api.results()}
    assert intents.keys() == results.keys() == {call.decision for call in calls}
    assert all(
        results[each].body["intent"] == str(seq) and results[each].seq > seq
        for each, seq in intents.items()
    )


async def test_decisions_are_counted_without_callers_text(api: LocalApi) -> None:
    await ask(api, chat())
    with pytest.raises(UnknownModel):
        await ask(api, chat(model=SECRET))
    text = api.metrics.render().decode()
    assert 'exclave_decisions_total{action="chat",model="small",outcome="answered"} 1.0' in text
    assert 'exclave_decisions_total{action="chat",model="",outcome="failed"} 1.0' in text
    assert 'exclave_tokens_total{direction="out",model="small"} 4.0' in text
    assert 'exclave_decision_seconds_count{action="chat",model="small"} 1.0' in text
    assert SECRET not in text
