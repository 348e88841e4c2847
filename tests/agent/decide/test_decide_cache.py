"""The completion cache's promises: the same question, the same permission, the same answer."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave_agent.decide import semantic
from exclave_agent.decide.cache import ROW_BYTES, Cache, CachedAnswer
from exclave_agent.decide.cached import Completion
from exclave_agent.decide.calls import GenerateCall
from exclave_agent.errors import Overloaded, StorageError
from exclave_agent.ports import (
    ActiveRelease,
    Caller,
    Embeddings,
    Generate,
    Message,
    ModelInfo,
    ModelSpec,
    Sampling,
    Tool,
    ToolCall,
)
from exclave_policy.compile import compile_pack
from exclave_policy.evaluate import CompiledPolicy
from exclave_policy.pack import Pack
from exclave_testing.clock import FakeClock, SeededRng
from exclave_testing.homes import Home, execute, vault
from exclave_testing.policies import allow, document
from exclave_testing.runtimes import FakeModelSet, FakeRuntimes
from exclave_testing.storage import FakeCompletionStore

ANSWER = Completion("An answer, ünïcode.", "stop", 12, 5, (ToolCall("call_1", "f", '{"a": 1}'),))
SPEC: dict[str, Any] = {"models": ["small"], "data_classes": ["", "public"], "ttl_seconds": 100}
SEMANTIC = SPEC | {
    "semantic": {"data_classes": ["public"], "threshold": "0.9", "embed_model": "embedder"}
}
INFO = ModelInfo("small", "llama", "5" * 64, frozenset({"chat"}), 4096)


class Models(FakeModelSet):
    """Embeds a text as the vector that stands in it: "words [1, 0]"."""

    failure: Overloaded | None = None
    embedded: list[str]

    async def embed(self, model: str, texts: Sequence[str]) -> Embeddings:
        assert model == "embedder"
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        self.embedded += texts
        vectors = [tuple(map(float, json.loads(text[text.index("[") :]))) for text in texts]
        return Embeddings(tuple(vectors), len(texts))


def models(**parameters: Any) -> Models:
    specs = [
        ModelSpec("small", "llama", Path("s"), "5" * 64),
        ModelSpec("embedder", "llama", Path("e"), "6" * 64, {"embeddings": True}),
    ]
    made = Models(FakeRuntimes(), specs)
    made.embedded = []
    return made


def policy_of(spec: dict[str, Any] | None) -> CompiledPolicy:
    files = {"policy.yaml": json.dumps(document(allow("a")))}
    if spec is not None:
        head = {"apiVersion": "exclave.dev/v1", "metadata": {"name": "c", "version": "1"}}
        files["policies/c.yaml"] = json.dumps(head | {"kind": "Cache", "spec": spec})
    return compile_pack(Pack("test", "1", files))


def release_of(spec: dict[str, Any] | None = SPEC, **changes: Any) -> ActiveRelease:
    fields: dict[str, Any] = {
        "digest": "a" * 64,
        "version": 1,
        "generation": 1,
        "policy": policy_of(spec),
        "policy_digest": "b" * 64,
        "models": models(),
    }
    return ActiveRelease(**(fields | changes))


def call(**changes: Any) -> GenerateCall:
    fields: dict[str, Any] = {
        "decision": "d1",
        "action": "chat",
        "model": "small",
        "caller": Caller("k", ("analyst",)),
        "subject": "erika",
    }
    return GenerateCall(**(fields | changes))


def asked(text: str = "hello", *, system: str = "be kind", **sampling: Any) -> Generate:
    return Generate(
        model="small",
        messages=(Message("system", system), Message("user", text)),
        sampling=Sampling(**({"max_tokens": 20, "temperature": 0.0} | sampling)),
    )


class Bench:
    """A cache over a store, and the shortest ways to ask it."""

    def __init__(self, spec: dict[str, Any] | None = SPEC, tenant: str = "acme") -> None:
        self.store, self.clock = FakeCompletionStore(), FakeClock()
        self.cache = Cache(self.store, self.clock, tenant)
        self.release = release_of(spec)

    async def keep(
        self, request: Generate | None = None, answer: Completion = ANSWER, **changes: Any
    ) -> bool:
        asking = asked() if request is None else request
        return await self.cache.keep(self.release, call(**changes), asking, INFO, answer)

    async def lookup(
        self, request: Generate | None = None, info: ModelInfo = INFO, **changes: Any
    ) -> CachedAnswer | None:
        asking = asked() if request is None else request
        return await self.cache.lookup(self.release, call(**changes), asking, info)


# --- the same request --------------------------------------------------------------------------


async def test_an_answer_comes_back_as_it_was() -> None:
    bench = Bench()
    assert await bench.lookup() is None
    assert await bench.keep()
    found = await bench.lookup(decision="d2", caller=Caller("other", ()), subject="heinz")
    assert found == CachedAnswer(ANSWER, "exact")


TOOL = Tool("f", "does it", "{}")
SAMPLINGS: dict[str, Any] = {
    "max_tokens": 21,
    "temperature": 0.0 + 1e-9,
    "top_p": 0.5,
    "top_k": 3,
    "min_p": 0.1,
    "frequency_penalty": 0.1,
    "presence_penalty": 0.1,
    "repeat_penalty": 1.1,
    "seed": 0,
    "stop": ("x",),
    "logit_bias": ((5, 1.0),),
    "json_schema": "{}",
    "grammar": "start: /a/",
}
OTHERS: dict[str, Generate] = {
    "text": asked("hello "),
    "context": asked(system="be brief"),
    "role": replace(asked(), messages=(Message("user", "be kind"), Message("user", "hello"))),
    "name": replace(asked(), messages=(*asked().messages[:1], Message("user", "hello", name="x"))),
    "more": replace(asked(), messages=(*asked().messages, Message("assistant", "x"))),
    "prompt": replace(asked(), messages=(), prompt="hello"),
    "tools": replace(asked(), tools=(TOOL,)),
    "choice": replace(asked(), tool_choice="required"),
    "tool": replace(asked(), tool_name="f"),
    "parallel": replace(asked(), parallel_tool_calls=False),
    **{name: asked(**{name: value}) for name, value in SAMPLINGS.items()},
}


@pytest.mark.parametrize("name", OTHERS)
async def test_another_request_is_another_answer(name: str) -> None:
    bench = Bench()
    await bench.keep(cache="force")
    assert await bench.lookup(OTHERS[name], cache="force") is None
    assert await bench.keep(OTHERS[name], replace(ANSWER, text=name), cache="force")
    found = await bench.lookup(OTHERS[name], cache="force")
    assert found is not None
    assert found.completion.text == name


def test_every_field_of_a_request_is_looked_at() -> None:
    """A new field of the port must be put into the key, or known not to change an answer."""
    unseen = {"model", "caller", "priority", "timeout", "messages", "sampling", "top_logprobs"}
    fields = {*Generate.__dataclass_fields__, *Sampling.__dataclass_fields__} - unseen
    spelled = {"tools": "tools", "tool_choice": "choice", "tool_name": "tool"}
    spelled |= {"parallel_tool_calls": "parallel"}
    assert {spelled.get(name, name) for name in fields} <= set(OTHERS)


@pytest.mark.parametrize(
    "changes",
    [
        {"policy_digest": "c" * 64},
        {"digest": "c" * 64},
        {"model": "c" * 64},
        {"base": "other"},
        {"data_class": "public"},
        {"action": "complete"},
        {"tenant": "other"},
    ],
)
async def test_what_else_can_change_an_answer_parts_them(changes: dict[str, str]) -> None:
    bench = Bench()
    await bench.keep()
    info = replace(INFO, sha256=changes.get("model", INFO.sha256), base=changes.get("base", ""))
    bench.release = replace(
        bench.release,
        **{name: value for name, value in changes.items() if "digest" in name},  # type: ignore[arg-type]  # texts, all of them
    )
    bench.cache._tenant = changes.get("tenant", "acme")
    of_call: dict[str, Any] = {
        name: value for name, value in changes.items() if name in ("data_class", "action")
    }
    assert await bench.lookup(info=info, **of_call) is None


async def test_two_adapters_of_one_digest_differ_by_their_base() -> None:
    bench = Bench()
    adapter = replace(INFO, base="embedder")
    await bench.cache.keep(bench.release, call(), asked(), adapter, ANSWER)
    assert await bench.lookup(info=adapter) is not None
    assert await bench.lookup(info=replace(INFO, base="small")) is None


async def test_two_models_of_one_file_have_answers_of_their_own() -> None:
    bench = Bench(SPEC | {"models": ["*"]})
    await bench.keep()
    assert await bench.lookup() is not None
    assert await bench.lookup(info=replace(INFO, name="other-parameters")) is None


async def test_urgency_and_caller_do_not_part_requests() -> None:
    bench = Bench()
    await bench.keep()
    same = replace(asked(), caller="x", priority="batch", timeout=3.0, model="an-alias")
    assert await bench.lookup(same) is not None


async def test_a_subject_keeps_to_itself_where_the_policy_says_so() -> None:
    bench = Bench(SPEC | {"share": "subject"})
    await bench.keep(subject="erika")
    assert await bench.lookup(subject="heinz") is None
    assert await bench.lookup(subject="erika") is not None


# --- what is kept at all -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampling", "use", "kept"),
    [
        ({}, "auto", True),
        ({"temperature": 1.0}, "auto", False),
        ({"temperature": 1.0, "seed": 7}, "auto", True),
        ({"temperature": 1.0}, "force", True),
        ({}, "off", False),
        ({"top_logprobs": 0}, "force", False),
    ],
)
async def test_only_deterministic_requests_unless_asked(
    sampling: dict[str, Any], use: str, kept: bool
) -> None:
    bench = Bench()
    assert await bench.keep(asked(**sampling), cache=use) is kept
    assert (await bench.lookup(asked(**sampling), cache=use) is not None) is kept


async def test_off_does_not_look() -> None:
    bench = Bench()
    await bench.keep()
    assert await bench.lookup(cache="off") is None


@pytest.mark.parametrize(
    ("spec", "changes"),
    [(None, {}), (SPEC, {"data_class": "health"}), (SPEC | {"models": ["other"]}, {})],
)
async def test_the_policy_says_what_may_be_kept(
    spec: dict[str, Any] | None, changes: dict[str, Any]
) -> None:
    bench = Bench(spec)
    assert not await bench.keep(**changes, cache="force")
    assert bench.store.rows == {}


@pytest.mark.parametrize(
    ("finish", "kept"),
    [
        ("stop", True),
        ("length", True),
        ("tool_calls", True),
        ("content_filter", False),
        ("", False),
    ],
)
async def test_only_whole_answers_are_kept(finish: str, kept: bool) -> None:
    assert await Bench().keep(answer=replace(ANSWER, finish=finish)) is kept


async def test_half_a_character_is_not_kept() -> None:
    bench = Bench()
    assert not await bench.keep(answer=replace(ANSWER, text="\ud800"))
    assert not await bench.keep(asked("\ud800"))
    assert await bench.lookup(asked("\ud800")) is None


# --- how long, how much ------------------------------------------------------------------------


async def test_an_answer_lasts_as_long_as_the_policy_says() -> None:
    bench = Bench()
    await bench.keep()
    bench.clock.step(99.9)
    assert await bench.lookup() is not None
    bench.clock.step(0.1)
    assert await bench.lookup() is None
    assert (len(bench.cache), bench.cache.bytes, bench.store.rows) == (0, 0, {})


async def test_the_least_recently_used_go_first() -> None:
    bench = Bench(SPEC | {"max_mib": 1})
    large = replace(ANSWER, text="x" * 300_000)
    for name in "abc":
        assert await bench.keep(asked(name), large)
    assert await bench.lookup(asked("a")) is not None
    assert await bench.keep(asked("d"), large)
    found = [name for name in "abcd" if await bench.lookup(asked(name)) is not None]
    assert found == ["a", "c", "d"]
    assert len(bench.store.rows) == 3
    assert bench.cache.bytes == sum(row[0].size for row in bench.store.rows.values()) <= 1 << 20


async def test_many_at_once_stay_within_the_bound_together() -> None:
    bench = Bench(SPEC | {"max_mib": 1})
    large = replace(ANSWER, text="x" * 300_000)
    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(bench.keep(asked(str(number)), large))
    kept = sum(len(row[2]) + ROW_BYTES for row in bench.store.rows.values())
    assert len(bench.store.rows) == 3
    assert bench.cache.bytes == kept <= 1 << 20


async def test_entries_are_bounded_however_small_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exclave_agent.decide.cache.MAX_ENTRIES", 2)
    bench = Bench()
    for name in "abc":
        await bench.keep(asked(name))
    assert len(bench.cache) == len(bench.store.rows) == 2
    assert await bench.lookup(asked("a")) is None


async def test_a_write_that_fails_takes_no_newer_answer_with_it() -> None:
    bench = Bench()
    refused, put, gate = StorageError("no"), bench.store.put, asyncio.Event()

    async def fail(*args: Any, **named: Any) -> None:
        await gate.wait()
        raise refused

    bench.store.put = fail  # type: ignore[method-assign]  # for one write
    first = asyncio.ensure_future(bench.keep())
    await asyncio.sleep(0)
    bench.store.put = put  # type: ignore[method-assign]  # as it was
    assert await bench.keep()
    gate.set()
    assert not await first
    assert await bench.lookup() is not None


async def test_what_does_not_fit_is_not_kept() -> None:
    bench = Bench(SPEC | {"max_mib": 1})
    await bench.keep()
    assert not await bench.keep(asked("x"), replace(ANSWER, text="x" * (1 << 20)))
    assert await bench.lookup() is not None


async def test_the_same_again_replaces() -> None:
    bench = Bench()
    await bench.keep()
    size = bench.cache.bytes
    await bench.keep()
    assert (len(bench.cache), bench.cache.bytes) == (1, size)


async def test_a_restart_finds_what_was_kept() -> None:
    bench = Bench()
    await bench.keep()
    bench.clock.step(50)
    await bench.keep(asked("later"))
    bench.clock.step(60)
    size = bench.cache.bytes // 2
    bench.cache = Cache(bench.store, bench.clock, "acme")
    await bench.cache.load()
    assert (len(bench.cache), len(bench.store.rows)) == (1, 1)
    assert abs(bench.cache.bytes - size) < 20
    assert await bench.lookup(asked("later")) is not None


async def test_a_store_that_fails_is_a_miss_and_loses_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench(SPEC | {"max_mib": 1})
    large = replace(ANSWER, text="x" * 300_000)
    for name in "abc":
        await bench.keep(asked(name), large)
    before = bench.cache.bytes
    bench.store.failure = StorageError("the disk is gone")
    assert await bench.lookup(asked("a")) is None
    assert not await bench.keep(asked("secret question"), large)
    bench.store.failure = None
    assert bench.cache.bytes == before
    assert [n for n in "abc" if await bench.lookup(asked(n)) is not None] == ["a", "b", "c"]
    assert caplog.text.count("the disk is gone") == 2
    assert "secret question" not in caplog.text


# --- erasure -----------------------------------------------------------------------------------


async def test_an_erased_subject_is_gone_from_a_real_home(tmp_path: Path) -> None:
    release, clock = release_of(SEMANTIC), FakeClock()
    texts = {"erika": "hers [1, 0]", "heinz": "his [0, 1]"}

    async def both(cache: Cache) -> list[str]:
        found = []
        for subject, text in texts.items():
            asking = call(subject=subject, data_class="public")
            if await cache.lookup(release, asking, asked(text), INFO) is not None:
                found.append(subject)
        return found

    async with Home(tmp_path) as home:
        cache = Cache(home.storage.completions, clock, "acme")
        await cache.load()
        for subject, text in texts.items():
            asking = call(subject=subject, data_class="public")
            assert await cache.keep(release, asking, asked(text), INFO, ANSWER)
        assert await both(cache) == ["erika", "heinz"]
        for path in tmp_path.rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                assert b"An answer" not in data
                assert b"hers" not in data
        (tag,) = [home.storage._vault.master.tag("erika")]
        execute(vault(tmp_path), "DELETE FROM subject WHERE tag = ?", (tag,))
        assert await both(cache) == ["heinz"]
    async with Home(tmp_path) as home:
        cache = Cache(home.storage.completions, clock, "acme")
        await cache.load()
        assert len(cache) == 1
        assert await both(cache) == ["heinz"]
        execute(vault(tmp_path), "DELETE FROM subject")
        await cache.sweep()
        assert (len(cache), cache.bytes) == (0, 0)
        assert list(await home.storage.completions.index()) == []


async def test_a_new_key_under_an_old_number_opens_nothing(tmp_path: Path) -> None:
    """Row numbers are used again: a value must not open, or stay, for whoever gets the number."""
    release, clock = release_of(), FakeClock()
    async with Home(tmp_path) as home:
        cache = Cache(home.storage.completions, clock, "acme")
        assert await cache.keep(release, call(), asked(), INFO, ANSWER)
        execute(vault(tmp_path), "DELETE FROM subject")
    async with Home(tmp_path, rng=SeededRng(9)) as home:
        store = home.storage.completions
        cache = Cache(store, clock, "acme")
        (kept,) = await store.index()
        assert await cache.keep(release, call(), asked("other"), INFO, ANSWER)
        numbers = execute(tmp_path / "state.db", "SELECT DISTINCT subject FROM completion")
        assert len(numbers) == 1
        assert await store.get(kept.key) is None
        assert list(await store.sweep(0)) == [kept.key]
        assert await cache.lookup(release, call(), asked("other"), INFO) is not None


# --- similar questions -------------------------------------------------------------------------


def public(**changes: Any) -> dict[str, Any]:
    return {"data_class": "public"} | changes


async def test_a_similar_question_of_the_same_subject_is_answered() -> None:
    bench = Bench(SEMANTIC)
    assert await bench.keep(asked("a [1, 0, 0]"), **public())
    near = await bench.lookup(asked("b [0.95, 0.1, 0]"), **public())
    assert near == CachedAnswer(ANSWER, "semantic", "0.9945")
    assert await bench.lookup(asked("b [0.5, 0.6, 0]"), **public()) is None


@pytest.mark.parametrize(
    ("request_", "changes"),
    [
        (asked("b [1, 0]"), {"subject": "heinz"}),
        (asked("b [1, 0]"), {"caller": Caller("another", ("analyst",))}),
        (asked("b [1, 0]"), {"data_class": ""}),
        (asked("b [1, 0]", system="be brief"), {}),
        (asked("b [1, 0]", max_tokens=21), {}),
        (asked("b [1, 0]", temperature=1.0), {}),
        (replace(asked("b [1, 0]"), messages=(Message("user", "b [1, 0]"),)), {}),
        (replace(asked(), messages=(*asked().messages, Message("assistant", "[1, 0]"))), {}),
        (replace(asked(), messages=(), prompt="b [1, 0]"), {}),
    ],
)
async def test_only_the_last_question_may_differ(
    request_: Generate, changes: dict[str, Any]
) -> None:
    bench = Bench(SEMANTIC)
    await bench.keep(asked("a [1, 0]"), **public())
    assert await bench.lookup(asked("b [1, 0]"), **public()) is not None
    assert await bench.lookup(request_, **public(**changes)) is None


async def test_the_question_is_embedded_once_and_only_where_it_may_help() -> None:
    bench = Bench(SEMANTIC)
    embedded = bench.release.models.embedded  # type: ignore[attr-defined]  # of `Models`
    await bench.lookup(asked("a [1, 0]"), **public())
    assert embedded == []  # nothing is kept that could be similar
    await bench.keep(asked("a [1, 0]"), **public())
    await bench.lookup(asked("a [1, 0]"), **public())  # an exact hit
    assert embedded == ["a [1, 0]"]
    await bench.lookup(asked("b [0, 1]"), **public(decision="d2"))
    await bench.keep(asked("b [0, 1]"), **public(decision="d2"))
    assert embedded == ["a [1, 0]", "b [0, 1]"]
    assert len(bench.cache._vectors) == 0


async def test_an_embedding_model_that_fails_is_a_miss(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(SEMANTIC)
    await bench.keep(asked("a [1, 0]"), **public())
    bench.release.models.failure = Overloaded("full")  # type: ignore[attr-defined]  # of `Models`
    assert await bench.lookup(asked("secret [1, 0]"), **public()) is None
    assert "secret" not in caplog.text


async def test_a_question_does_not_leave_the_machine_to_be_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(SEMANTIC)
    held = bench.release.models
    remote = {name: replace(info, remote=True) for name, info in held.models().items()}
    monkeypatch.setattr(held, "models", lambda: remote)
    await bench.keep(asked("a [1, 0]"), **public())
    assert await bench.lookup(asked("b [1, 0]"), **public()) is None
    assert held.embedded == []  # type: ignore[attr-defined]  # of `Models`
    assert await bench.lookup(asked("a [1, 0]"), **public()) is not None


# --- the nearest vector ------------------------------------------------------------------------


def test_a_vector_of_no_length_is_like_nothing() -> None:
    assert semantic.pack([0.0, 0.0]) == b""
    assert semantic.pack([math.nan, 1.0]) == b""


@given(
    st.lists(st.lists(st.floats(-1, 1), min_size=80, max_size=80), max_size=12),
    st.lists(st.floats(-1, 1), min_size=80, max_size=80),
    st.floats(0.5, 1),
)
def test_the_bound_never_loses_the_nearest(
    vectors: list[list[float]], wanted: list[float], threshold: float
) -> None:
    question = semantic.pack(wanted)
    packed = [(b"%d" % i, semantic.pack(vector)) for i, vector in enumerate(vectors)]
    found = semantic.nearest(packed, question, threshold) if question else None

    def cosine(a: list[float], b: list[float]) -> float:
        lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
        return sum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else -1.0

    best = max((cosine(vector, wanted) for vector in vectors), default=-1.0)
    if found is None:
        assert best < threshold + 1e-4 or not question
    else:
        assert abs(found[1] - best) < 1e-4
        assert found[1] >= threshold - 1e-4


def test_the_same_vector_reaches_the_highest_threshold() -> None:
    rng = random.Random(5)
    vector = semantic.pack([rng.gauss(0, 1) for _ in range(576)])
    other = semantic.pack([rng.gauss(0, 1) for _ in range(576)])
    longer = semantic.pack([1.0] * 577)
    found = semantic.nearest([(b"x", other), (b"l", longer), (b"a", vector)], vector, 1.0)
    assert found is not None
    assert found[0] == b"a"
    assert found[1] == pytest.approx(1.0, abs=1e-5)
