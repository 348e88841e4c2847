"""The scheduler over the real language model: what it does between the lines changes no answer.

Sums are taken in another order where a batch has another shape, so two nearly equal tokens may
change places; where that can happen a test says how many answers must be the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from exclave_agent.runtimes import frames
from exclave_agent.runtimes.costs import Measured
from exclave_agent.runtimes.engine import LoadError, Refused
from exclave_agent.runtimes.hosts import NO_GPU, LlamaHost
from exclave_agent.runtimes.llama import LlamaEngine
from exclave_agent.runtimes.parameters import LlamaParameters
from exclave_agent.runtimes.scheduler import Limits, Scheduler
from exclave_testing.fake_engine import sampling
from exclave_testing.lora import write_lora
from exclave_testing.models import smollm2_path

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]

ZERO, STRONG = "00" * 32, "11" * 32
COPIES_PAY = Measured(token=0.01, rows={1: 0.03, 2: 0.031, 9: 0.04}, copy=1e-12)
QUESTIONS = ["What is bread?", "Where do bees live?", "What is the moon?", "Who was Bach?"]
RULES = "You work in a shop. " + " ".join(f"Rule {n}: be polite and exact." for n in range(9))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> LlamaEngine:
    folder = tmp_path_factory.mktemp("lora")
    adapters = [
        frames.AdapterFrame(ZERO, str(write_lora(folder / "zero.gguf", 0.0)), 1.0),
        frames.AdapterFrame(STRONG, str(write_lora(folder / "strong.gguf", 0.5)), 1.0),
    ]
    parameters = LlamaParameters(n_ctx=384, n_parallel=3, n_batch=128)
    loaded = LlamaEngine(str(smollm2_path()), parameters, 1, adapters)
    # What pays on this machine at this moment is not what is tested here.
    loaded.measured = COPIES_PAY
    return loaded


class Talk:
    """A scheduler over the engine, driven by hand."""

    def __init__(self, engine: LlamaEngine, slots: int = 3, **limits: float) -> None:
        self.engine = engine
        self.texts: dict[int, str] = {}
        self.ended: dict[int, frames.Ended] = {}
        engine.slots = slots
        self.scheduler = Scheduler(engine, self._emit, Limits(**limits))  # type: ignore[arg-type]

    def _emit(self, frame: frames.ToAgent) -> None:
        assert isinstance(frame, frames.Step), frame
        for text in frame.texts:
            self.texts[text.id] = self.texts.get(text.id, "") + text.text
        self.ended |= {ended.id: ended for ended in frame.ended}

    def ask(
        self,
        request: int,
        *turns: str,
        system: str = "",
        max_tokens: int = 10,
        priority: str = "interactive",
        adapter: str = "",
        caller: str = "anna",
    ) -> None:
        """`turns`: the user's and the model's words in turn."""
        messages = [frames.ChatMessage("system", system)] if system else []
        for at, words in enumerate(turns):
            messages.append(frames.ChatMessage("assistant" if at % 2 else "user", words))
        frame = frames.Generate(
            request,
            messages,
            None,
            sampling(max_tokens),
            priority=priority,
            adapter=adapter,
            caller=caller,
        )
        self.scheduler.submit(self.engine.prepare(frame))

    def run(self, turns: int = 1_000_000) -> None:
        while self.scheduler.active and turns:
            self.scheduler.turn()
            turns -= 1


def plain(engine: LlamaEngine, **options: str) -> dict[int, str]:
    """The answers to all questions, one by one, nothing kept and nothing guessed."""
    engine.reuses = False
    talk = Talk(engine, slots=1)
    for number, question in enumerate(QUESTIONS):
        talk.ask(number, question, **options)  # type: ignore[arg-type]  # only words
        talk.run()
    engine.reuses = True
    return talk.texts


def same(one: dict[int, str], other: dict[int, str]) -> int:
    """How many of the questions have the same answer in both."""
    return sum(one[number] == other[number] for number in range(len(QUESTIONS)))


@pytest.mark.parametrize("parked", [True, False])
def test_a_pre_empted_answer_is_the_one_it_would_have_been(
    engine: LlamaEngine, parked: bool
) -> None:
    alone = plain(engine)
    texts: dict[int, str] = {}
    for number, question in enumerate(QUESTIONS):
        talk = Talk(engine, slots=1, park_bytes=(64 << 20) * parked)
        talk.ask(number, question, priority="batch")
        talk.run(turns=7)
        talk.ask(100, "Say one word.", max_tokens=2)
        talk.run()
        assert talk.ended[number].preemptions == 1
        assert list(talk.ended) == [100, number]
        texts |= talk.texts
    # A parked state comes back bit by bit. One computed again is a prompt where it was an answer.
    assert same(alone, texts) >= (len(QUESTIONS) if parked else len(QUESTIONS) - 1)


def test_what_is_reused_from_slot_running_slot_and_store_changes_no_answer(
    engine: LlamaEngine,
) -> None:
    fresh = plain(engine, system=RULES)
    # All at once: three follow the first one's prefill. Then one after the other in one slot.
    together = Talk(engine, slots=3)
    for number, question in enumerate(QUESTIONS):
        together.ask(number, question, system=RULES, caller=f"caller {number}")
    together.run()
    assert all(together.ended[number].cached_tokens > 90 for number in (1, 2, 3))
    stored = Talk(engine, slots=1, prefix_bytes=64 << 20)
    for number, question in enumerate(QUESTIONS):
        stored.ask(100 + number, "Hello. " * 20, max_tokens=1)
        stored.ask(number, question, system=RULES, caller=f"caller {number}")
        stored.run()
    assert all(stored.ended[number].cached_tokens > 90 for number in (1, 2, 3))
    assert stored.scheduler.stats().prefix_bytes > 1 << 20
    assert same(fresh, together.texts) >= 3
    assert same(fresh, stored.texts) >= 3


def test_a_conversation_goes_on_behind_its_own_words(engine: LlamaEngine) -> None:
    talk = Talk(engine, slots=1)
    talk.ask(1, "Name a fruit.", system=RULES, max_tokens=12)
    talk.run()
    said = talk.texts[1]
    talk.ask(2, "Name a fruit.", said, "Another one.", system=RULES, max_tokens=12)
    talk.ask(3, "Name a fruit.", said, "Another one.", system=RULES, max_tokens=12, caller="eve")
    talk.run()
    first, second, third = (talk.ended[n] for n in (1, 2, 3))
    assert second.cached_tokens >= first.prompt_tokens, "not behind what was asked before"
    assert third.cached_tokens < first.prompt_tokens, "behind what another caller wrote"
    assert talk.texts[2] == talk.texts[3]


def test_guesses_change_no_answer(engine: LlamaEngine) -> None:
    text = "The red fox and the blue fox met the old fox at the red house of the blue fox."
    question = f"Repeat this three times: {text}"
    answers, accepted = [], 0
    for draft_tokens in (0, 8):
        talk = Talk(engine, slots=1, draft_tokens=draft_tokens)
        talk.ask(1, question, max_tokens=32)
        talk.run()
        answers.append(talk.texts[1])
        accepted = talk.ended[1].accepted
    assert answers[0] == answers[1]
    assert accepted >= 4


FOXES = {"type": "array", "items": {"const": "red fox"}, "minItems": 9, "maxItems": 9}
CALL: dict[str, Any] = {
    "type": "object",
    "properties": {name: {"const": "the red fox"} for name in ("one", "two", "three")},
    "required": ["one", "two", "three"],
    "additionalProperties": False,
}


FOXES_GRAMMAR = 'start: ("the red fox, "){12}'
CONSTRAINED: dict[str, tuple[dict[str, Any], list[frames.ToolFrame]]] = {
    "json_schema": ({"json_schema": json.dumps(FOXES)}, []),
    "tools": ({}, [frames.ToolFrame("f", "", json.dumps(CALL))]),
    "grammar": ({"grammar": FOXES_GRAMMAR}, []),
    # Over many tokens that are guessed right, and amid them.
    "stop": ({"grammar": FOXES_GRAMMAR, "stop": ["x, the red fox, the red fox, the r"]}, []),
    "length": ({"grammar": FOXES_GRAMMAR, "max_tokens": 23}, []),
}


def constrained(
    engine: LlamaEngine, kind: str, draft_tokens: int
) -> tuple[str, list[frames.ToolCallFrame], frames.Ended, bytes]:
    """Text, calls, end, and the bytes that log probabilities were told of."""
    more, tools = CONSTRAINED[kind]
    sent: list[frames.Step] = []

    def emit(frame: frames.ToAgent) -> None:
        assert isinstance(frame, frames.Step), frame
        sent.append(frame)

    engine.slots = 1
    scheduler = Scheduler(engine, emit, Limits(draft_tokens=draft_tokens))
    asked = frames.Generate(
        1,
        [frames.ChatMessage("user", "Speak of foxes.")],
        None,
        msgspec.structs.replace(sampling(90), top_logprobs=1, **more),
        tools=tools,
        tool_choice="required" if tools else "auto",
        parallel_tool_calls=False,
    )
    scheduler.submit(engine.prepare(asked))
    while scheduler.active:
        scheduler.turn()
    (ended,) = [one for step in sent for one in step.ended]
    extras = [extra for step in sent for extra in step.extras]
    return (
        "".join(one.text for step in sent for one in step.texts),
        [one for extra in extras for one in extra.tool_calls],
        ended,
        b"".join(one.token for extra in extras for one in extra.logprobs),
    )


@pytest.mark.parametrize("kind", CONSTRAINED)
def test_guesses_and_constraints_together_give_the_answer_of_the_constraint(
    engine: LlamaEngine, kind: str
) -> None:
    *plain, slow, plain_told = constrained(engine, kind, 0)
    *guessed, ended, told = constrained(engine, kind, 8)
    assert slow.drafted == 0
    assert ended.accepted >= 4
    assert (guessed, told) == (plain, plain_told)
    assert (ended.reason, ended.completion_tokens) == (slow.reason, slow.completion_tokens)
    text, calls = guessed
    if kind == "json_schema":
        assert json.loads(text) == ["red fox"] * 9
    elif kind == "tools":
        assert json.loads(calls[0].arguments) == dict.fromkeys(CALL["required"], "the red fox")
        assert (text, ended.reason) == ("", "tool_calls")
    elif kind == "grammar":
        assert text == "the red fox, " * 12
    elif kind == "stop":
        assert (text, ended.reason) == ("the red fo", "stop")
    else:
        assert (ended.completion_tokens, ended.reason) == (23, "length")
    if kind in ("json_schema", "grammar", "length"):
        assert told.decode() == text


def test_the_costs_measured_at_load_are_plausible(engine: LlamaEngine) -> None:
    from exclave_agent.runtimes.costs_probe import probe

    measured = probe(engine, 8)
    assert measured.token > 0
    assert measured.rows[1] > 0
    # To copy a token's keys and values is far cheaper than to compute them.
    assert measured.copy * engine.state_bytes(1) < measured.rows[1] / 20


# --- adapters ----------------------------------------------------------------------------------


def test_an_adapter_of_zeros_changes_nothing_and_a_strong_one_does(engine: LlamaEngine) -> None:
    as_it_is = plain(engine)
    assert same(as_it_is, plain(engine, adapter=ZERO)) >= 3
    strong = plain(engine, adapter=STRONG)
    assert same(as_it_is, strong) == 0
    # And side by side, each in its own steps, with everything kept.
    mixed = Talk(engine, prefix_bytes=64 << 20)
    for number, question in enumerate(QUESTIONS):
        mixed.ask(number, question)
        mixed.ask(10 + number, question, adapter=STRONG)
    mixed.run()
    assert same(as_it_is, mixed.texts) >= 3
    assert same(strong, {n - 10: text for n, text in mixed.texts.items() if n >= 10}) >= 3


def test_an_adapter_that_is_not_there_is_named(engine: LlamaEngine, tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        Talk(engine).ask(1, "Hi.", adapter="22" * 32)
    assert caught.value.code == "model_not_found"
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(60))
    for path in (tmp_path / "absent.gguf", broken):
        with pytest.raises(LoadError, match="adapter 222222222222"):
            LlamaEngine(
                str(smollm2_path()),
                LlamaParameters(n_ctx=128, n_parallel=1),
                1,
                [frames.AdapterFrame("22" * 32, str(path), 1.0)],
            )


# --- the host ------------------------------------------------------------------------------------


@pytest.mark.parametrize("expected", [True, False])
def test_the_host_tells_what_it_takes_and_that_a_gpu_is_missing(expected: bool) -> None:
    parameters: dict[str, int | str | bool] = {
        "n_ctx": 128,
        "n_parallel": 2,
        "threads": 1,
        "expect_gpu": expected,
        "n_gpu_layers": 0,
        "prefix_mib": 3,
        "park_mib": 0,
        "cache_type": "q8_0",
        "flash_attn": "on",
    }
    sent: list[frames.ToAgent] = []

    def emit(*some: frames.ToAgent) -> None:
        sent.extend(some)

    host = LlamaHost(frames.Load("llama", str(smollm2_path()), parameters), emit)
    assert (host.degraded == NO_GPU) is expected
    assert host.ram_bytes > smollm2_path().stat().st_size * 0.9 + (3 << 20)
    assert host.vram_bytes == 0
    message = frames.ChatMessage("user", "Hi.")
    host.submit(frames.Generate(1, [message], None, sampling(3)))
    while host._scheduler.active:
        host._scheduler.turn()
    assert [frame.ended for frame in sent if isinstance(frame, frames.Step)][-1]
    stats = host.stats()
    assert stats.batch_sequences >= 3
    assert stats.busy_us > 0
