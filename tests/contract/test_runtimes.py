"""The contract of `ports.Runtimes` and `ports.ModelSet`: the fake and the real workers alike."""

from __future__ import annotations

import asyncio
import struct
from array import array
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from exclave_agent.errors import (
    BadRequest,
    ModelLoadFailed,
    Overloaded,
    TooManyTokens,
    Unavailable,
    UnknownModel,
)
from exclave_agent.ports import (
    Delta,
    Finished,
    Generate,
    Message,
    ModelSet,
    ModelSpec,
    Runtimes,
    Sampling,
    Tensor,
)
from exclave_agent.runtimes.supervisor import Supervisor
from exclave_agent.system import SystemClock, SystemRng
from exclave_testing.models import double_and_total_onnx, sha256_of, smollm2_path
from exclave_testing.runtimes import FakeRuntimes


@dataclass
class Harness:
    """One implementation and models that it loads."""

    runtimes: Runtimes
    chat: ModelSpec
    onnx: ModelSpec
    broken: ModelSpec


@pytest.fixture(params=["fake", "workers"])
async def harness(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Harness]:
    onnx_path = double_and_total_onnx(tmp_path / "double.onnx")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(60))
    chat = ModelSpec(
        "chat",
        "llama",
        smollm2_path(),
        "aa" * 32,
        {"n_ctx": 512, "n_parallel": 2, "max_queue": 2, "embeddings": True},
    )
    onnx = ModelSpec("double", "onnx", onnx_path, sha256_of(onnx_path), {"max_batch": 8})
    bad = ModelSpec("broken", "llama", broken, sha256_of(broken))
    if request.param == "fake":
        yield Harness(FakeRuntimes(broken=["broken"]), chat, onnx, bad)
        return
    async with Supervisor(clock=SystemClock(), rng=SystemRng()) as supervisor:
        yield Harness(supervisor, chat, onnx, bad)


def ask(text: str, max_tokens: int = 8, **sampling: object) -> Generate:
    """A chat request, greedy unless told otherwise."""
    chosen = {"temperature": 0.0, **sampling}
    return Generate(
        "chat",
        Sampling(max_tokens=max_tokens, **chosen),  # type: ignore[arg-type]  # test shorthand
        (Message("user", text),),
    )


async def read(models: ModelSet, request: Generate) -> tuple[str, Finished]:
    """The whole answer; checks the order of events."""
    text = ""
    finished: Finished | None = None
    async for event in models.generate(request):
        assert finished is None, "an event after Finished"
        if isinstance(event, Delta):
            assert event.text
            text += event.text
        else:
            finished = event
    assert finished is not None
    return text, finished


async def test_models_describe_themselves(harness: Harness) -> None:
    models = await harness.runtimes.load([harness.chat, harness.onnx])
    infos = models.models()
    assert set(infos) == {"chat", "double"}
    chat, double = infos["chat"], infos["double"]
    assert (chat.name, chat.sha256, chat.context_tokens) == ("chat", "aa" * 32, 512)
    assert chat.actions == {"chat", "complete", "embed", "rerank"}
    assert double.actions == {"infer"}
    assert [(one.name, one.datatype, one.shape) for one in double.inputs] == [
        ("x", "FP32", (-1, 4))
    ]
    assert {one.name for one in double.outputs} == {"y", "total"}
    assert {chat.network, double.network} == {"none"}
    await models.close()


async def test_generate_streams_and_counts(harness: Harness) -> None:
    models = await harness.runtimes.load([harness.chat])
    text, finished = await read(models, ask("Name three colours.", max_tokens=6))
    assert text
    assert finished.reason == "length"
    assert finished.completion_tokens == 6
    assert finished.prompt_tokens > 0
    await models.close()


async def test_greedy_is_deterministic(harness: Harness) -> None:
    models = await harness.runtimes.load([harness.chat])
    first, counted = await read(models, ask("Say something about rain.", max_tokens=12))
    again, recounted = await read(models, ask("Say something about rain.", max_tokens=12))
    assert again == first
    # How long it took and how much of the prompt was still known is another matter.
    assert (recounted.prompt_tokens, recounted.completion_tokens) == (
        counted.prompt_tokens,
        counted.completion_tokens,
    )
    await models.close()


async def test_a_stop_string_ends_the_answer_and_is_not_sent(harness: Harness) -> None:
    models = await harness.runtimes.load([harness.chat])
    text, _ = await read(models, ask("Count to ten.", max_tokens=12))
    stop = text[3:6]
    stopped, finished = await read(models, ask("Count to ten.", max_tokens=12, stop=(stop,)))
    assert stopped == text[: text.index(stop)]
    assert finished.reason == "stop"
    await models.close()


async def test_completes_a_raw_prompt(harness: Harness) -> None:
    models = await harness.runtimes.load([harness.chat])
    request = Generate("chat", Sampling(max_tokens=4, temperature=0), prompt="Once upon a time")
    text, finished = await read(models, request)
    assert text
    assert finished.completion_tokens == 4
    await models.close()


async def test_too_many_tokens_is_refused_with_the_numbers(harness: Harness) -> None:
    models = await harness.runtimes.load([harness.chat])
    with pytest.raises(TooManyTokens, match=r"500.*512"):
        await read(models, ask("word " * 30, max_tokens=500))
    await models.close()


async def test_unknown_models_and_actions(harness: Harness) -> None:
    models = await harness.runtimes.load([harness.chat, harness.onnx])
    x = Tensor("x", "FP32", (1, 4), bytes(16))
    with pytest.raises(UnknownModel):
        await read(models, Generate("nobody", Sampling(max_tokens=1), (Message("user", "x"),)))
    with pytest.raises(UnknownModel):
        await read(models, Generate("double", Sampling(max_tokens=1), (Message("user", "x"),)))
    with pytest.raises(UnknownModel):
        await models.infer("chat", [x])
    with pytest.raises(UnknownModel):
        await models.embed("double", ["x"])
    await models.close()


async def test_a_bad_json_schema_is_a_bad_request(harness: Harness) -> None:
    models = await harness.runtimes.load([harness.chat])
    for schema in ("not json", "[]"):
        with pytest.raises(BadRequest) as caught:
            await read(models, ask("x", json_schema=schema))
        assert caught.value.param == "response_format"
    await models.close()


async def test_a_full_queue_is_overloaded_and_leaving_frees_places(harness: Harness) -> None:
    if isinstance(harness.runtimes, FakeRuntimes):
        harness.runtimes.token_latency = 0.05
    models = await harness.runtimes.load([harness.chat])
    # Two slots and two places to wait: of six at once, two find no place.
    many = [ask(f"Tell me a long story about {n}.", max_tokens=40) for n in range(6)]
    results = await asyncio.gather(*(read(models, one) for one in many), return_exceptions=True)
    refused = [one for one in results if isinstance(one, Overloaded)]
    assert len(refused) == 2
    assert all(one.retry_after is not None and one.retry_after > 0 for one in refused)
    assert sum(isinstance(one, tuple) for one in results) == 4
    # Four that leave after their first word (or while waiting) make room for four more.
    tasks = [asyncio.create_task(read(models, one)) for one in many[:4]]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    again = await asyncio.gather(*(read(models, ask("Hi.", max_tokens=2)) for _ in range(4)))
    assert len(again) == 4
    await models.close()


async def test_closing_the_iterator_frees_the_slot(harness: Harness) -> None:
    models = await harness.runtimes.load([harness.chat])
    for _ in range(6):
        events = models.generate(ask("Tell me a long story.", max_tokens=200))
        async for event in events:
            assert isinstance(event, Delta)
            break
        await events.aclose()  # type: ignore[attr-defined]  # it is an async generator
    text, _ = await asyncio.wait_for(read(models, ask("Hi.", max_tokens=2)), 20)
    assert text
    await models.close()


async def test_infer_runs_and_selects_outputs(harness: Harness) -> None:
    models = await harness.runtimes.load([harness.onnx])
    x = Tensor("x", "FP32", (2, 4), array("f", [1, 2, 3, 4, 5, 6, 7, 8]).tobytes())
    answer = {one.name: one for one in await models.infer("double", [x])}
    assert set(answer) == {"y", "total"}
    assert array("f", answer["y"].data).tolist() == [2, 4, 6, 8, 10, 12, 14, 16]
    assert answer["total"].shape == (2, 1)
    assert struct.unpack("<2f", answer["total"].data) == (10, 26)
    (only,) = await models.infer("double", [x], ["total"])
    assert only.name == "total"
    await models.close()


@pytest.mark.parametrize(
    ("inputs", "outputs", "param"),
    [
        ([Tensor("z", "FP32", (1, 4), bytes(16))], (), "inputs"),
        ([], (), "inputs"),
        ([Tensor("x", "FP64", (1, 4), bytes(32))], (), "inputs.x"),
        ([Tensor("x", "FP32", (4,), bytes(16))], (), "inputs.x"),
        ([Tensor("x", "FP32", (1, 5), bytes(20))], (), "inputs.x"),
        ([Tensor("x", "FP32", (1, 4), bytes(16))], ("nothing",), "outputs"),
    ],
)
async def test_infer_names_what_does_not_fit(
    harness: Harness, inputs: list[Tensor], outputs: tuple[str, ...], param: str
) -> None:
    models = await harness.runtimes.load([harness.onnx])
    with pytest.raises(BadRequest) as caught:
        await models.infer("double", inputs, outputs)
    assert caught.value.param == param
    await models.close()


async def test_embed_gives_one_vector_a_text(harness: Harness) -> None:
    models = await harness.runtimes.load([harness.chat])
    answer = await models.embed("chat", ["a cat", "a dog sleeps", "numbers"])
    assert len(answer.vectors) == 3
    assert len({len(vector) for vector in answer.vectors}) == 1
    assert answer.prompt_tokens >= 3
    assert await models.embed("chat", ["a cat", "a dog sleeps", "numbers"]) == answer
    await models.close()


async def test_rerank_gives_one_score_a_document(harness: Harness) -> None:
    models = await harness.runtimes.load([harness.chat, harness.onnx])
    documents = ["a cat sleeps", "numbers and prices", "the sleeping cat"]
    answer = await models.rerank("chat", "a cat sleeps", documents)
    assert len(answer.scores) == 3
    assert answer.scores[0] == max(answer.scores), "nothing is nearer to a text than itself"
    assert answer.prompt_tokens >= 6
    with pytest.raises(UnknownModel):
        await models.rerank("double", "x", ["y"])
    await models.close()


async def test_all_or_none(harness: Harness) -> None:
    with pytest.raises(ModelLoadFailed, match="broken"):
        await harness.runtimes.load([harness.onnx, harness.broken])
    models = await harness.runtimes.load([harness.onnx])
    assert await models.infer("double", [Tensor("x", "FP32", (1, 4), bytes(16))])
    await models.close()


async def test_close_waits_refuses_and_can_be_repeated(harness: Harness) -> None:
    models = await harness.runtimes.load([harness.chat])
    reading = asyncio.create_task(read(models, ask("Tell me a story.", max_tokens=10)))
    await asyncio.sleep(0)
    await models.close()
    assert reading.done()
    assert (await reading)[1].completion_tokens == 10
    await models.close()
    with pytest.raises(Unavailable):
        await read(models, ask("Hi."))


async def test_sets_share_and_outlive_each_other(harness: Harness) -> None:
    first = await harness.runtimes.load([harness.chat])
    renamed = ModelSpec(
        "other", "llama", harness.chat.path, harness.chat.sha256, harness.chat.parameters
    )
    second = await harness.runtimes.load([renamed])
    await first.close()
    assert set(second.models()) == {"other"}
    request = Generate("other", Sampling(max_tokens=2, temperature=0), (Message("user", "Hi"),))
    assert (await read(second, request))[0]
    await second.close()
