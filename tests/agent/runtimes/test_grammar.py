"""A grammar holds any model to its form, ends with it, and costs nobody else anything."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema_rs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher
from numpy.typing import NDArray

from exclave_agent.runtimes.engine import NO_TOKEN, Refused
from exclave_agent.runtimes.grammar import KEPT, TRIAL_WALL, Constraint, Grammars
from exclave_agent.runtimes.sampling import LlamaSampler
from exclave_agent.runtimes.schemas import MAX_SCHEMA, inline, read_schema
from exclave_testing.sampling import sampling
from exclave_testing.vocabulary import END, Vocabulary

VOCABULARY = Vocabulary()
GRAMMARS = Grammars(VOCABULARY)


def sampler(constraint: Constraint, **chosen: Any) -> LlamaSampler:
    return LlamaSampler(VOCABULARY, sampling(**chosen), 64, constraint)  # type: ignore[arg-type]  # as much of a Gguf as it needs


def by_schema(schema: dict[str, Any]) -> Constraint:
    read = read_schema(json.dumps(schema), "response_format")
    text = inline(read)
    # A caller of its own: after a schema that is killed its caller has to wait.
    return GRAMMARS.constraint(f"%llguidance {{}}\nstart: %json {text}\n", "response_format", text)


def roll(constraint: Constraint, dice: int, most: int = 400, **chosen: Any) -> tuple[bytes, bool]:
    """What a model of random logits writes, and whether it came to an end."""
    rng = np.random.default_rng(dice)
    rolling = sampler(constraint, **chosen)
    out = b""
    for _ in range(most):
        token = rolling.sample(None, 0, VOCABULARY.logits(rng))
        assert token >= 0
        if token == END:
            return out, True
        out += VOCABULARY.pieces[token]
    return out, False


# --- schemas ----------------------------------------------------------------------------------

_LEAVES = st.sampled_from(
    [
        {"type": "boolean"},
        {"type": "null"},
        {"type": "integer", "minimum": -5, "maximum": 1200},
        {"type": "number", "minimum": 0, "maximum": 10},
        {"type": "string", "maxLength": 6},
        {"enum": ["a", "é\n", 1, None]},
        {"const": {"x": [1, 2]}},
        {"type": "string", "pattern": "^[a-c]{2,4}$"},
    ]
)


def _objects(children: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    names = st.dictionaries(st.sampled_from(["a", "b", 'q"', "é"]), children, max_size=3)
    return st.builds(
        lambda some, all_: {
            "type": "object",
            "properties": some,
            "required": sorted(some) if all_ else [],
            "additionalProperties": False,
        },
        names,
        st.booleans(),
    )


_SCHEMAS = st.recursive(
    _LEAVES,
    lambda children: st.one_of(
        _objects(children),
        st.builds(lambda one: {"type": "array", "items": one, "maxItems": 3}, children),
        st.builds(lambda *some: {"anyOf": list(some)}, children, children),
    ),
    max_leaves=5,
)


@settings(max_examples=40, deadline=None)
@given(_SCHEMAS, st.integers(0, 999), st.sampled_from([0.0, 0.7, 2.0]))
def test_whatever_a_model_wants_its_answer_matches_the_schema(
    schema: dict[str, Any], seed: int, temperature: float
) -> None:
    out, ended = roll(by_schema(schema), seed, temperature=temperature, seed=seed)
    if ended:
        jsonschema_rs.validate(schema, json.loads(out))
    else:
        assert len(out) >= 400, "only whitespace and digits without end take so long"


def test_a_complete_answer_ends_though_the_model_would_go_on() -> None:
    constraint = by_schema({"const": [1]})
    rolling = sampler(constraint)
    out = []
    for _ in range(90):
        token = rolling.sample(None, 0, VOCABULARY.wanting(VOCABULARY.tokenise("x")[0]))
        out.append(token)
        if token == END:
            break
    assert out[-1] == END
    assert b"".join(VOCABULARY.pieces[token] for token in out).split() == [b"[", b"1", b"]"]
    assert constraint.complete_at == len(out) - 1


def test_what_never_ends_goes_on_until_somebody_stops_it() -> None:
    grammar = 'start: ("a" | "b") start\n'
    out, ended = roll(GRAMMARS.constraint(grammar, "grammar"), 1, most=300)
    assert not ended
    assert set(out) <= set(b"ab")


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": 5}, "grammar"),
        ({"enum": []}, "contradicts"),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "contradicts"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "contradicts"),
        ({"type": "object", "required": ["s3cret"], "additionalProperties": False}, "contradicts"),
        ({"$ref": "#/$defs/s3cret"}, "refers"),
        ({"$ref": "https://s3cret.example/x"}, "refers"),
        ({"type": "string", "pattern": "s3cret["}, "grammar"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"const": "s3cret"}}, "not cannot"),
        ({"$ref": "#"}, "too complex"),
        ({"description": "s3cret" * 20_000}, str(MAX_SCHEMA)),
        ({"type": "string", "pattern": "a" * 2000}, "2000"),
        ({"properties": {f"p{n}": {} for n in range(600)}}, "600"),
        ({"type": "integer", "multipleOf": 999_983}, "multipleOf"),
        (
            {"allOf": [{"type": "string", "pattern": f"a.{{{n}}}b"} for n in range(9, 40)]},
            "complex",
        ),
    ],
)
def test_a_schema_that_cannot_be_kept_is_refused_without_quoting_it(
    schema: dict[str, Any], says: str
) -> None:
    with pytest.raises(Refused) as caught:
        by_schema(schema)
    assert caught.value.param == "response_format"
    assert says in caught.value.message
    assert "s3cret" not in caught.value.message


@pytest.mark.parametrize("text", ["", "{", "[]", "1", '{"items": ' * 5000 + "{}" + "}" * 5000])
def test_what_is_no_schema_is_refused(text: str) -> None:
    with pytest.raises(Refused) as caught:
        read_schema(text, "response_format")
    assert caught.value.param == "response_format"


# --- grammars of callers ------------------------------------------------------------------------

HOSTILE = {
    "no grammar": "start: %%%",
    "nothing": "",
    "forced for ever": 'start: "x" start\n',
    "counted": 'start: A\nA: (("x"{1000}){1000}){1000}\n',
    "regex counted": "start: /(x{1000}){1000}/\n",
    "a chain that overflows the stack": "start: r0\n"
    + "".join(f'r{n}: r{n + 1} "x"\n' for n in range(6000))
    + 'r6000: "y"\n',
    "doubling terminals": "start: R0\n"
    + "".join(f"R{n}: R{n + 1} R{n + 1}\n" for n in range(60))
    + 'R60: "y"\n',
    "deep": "start: " + "(" * 9000 + '"x"' + ")" * 9000,
    "somebody else's": "start: @other",
}


@pytest.mark.parametrize("grammar", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_grammar_is_refused_in_bounded_time(grammar: str) -> None:
    begun, cpu = time.monotonic(), os.times()
    with pytest.raises(Refused) as caught:
        GRAMMARS.constraint(grammar, "grammar", caller=grammar[:40])
    spent = os.times()
    assert caught.value.param == "grammar"
    assert spent.children_user + spent.user - cpu.children_user - cpu.user < 1.5
    assert time.monotonic() - begun < 10, "the clock runs on where others use the machine"


def test_a_grammar_that_is_slow_later_on_is_given_up() -> None:
    """An ambiguous one: each token takes longer than the one before."""
    constraint = GRAMMARS.constraint('start: a\na: a a | "x" | a a a\n', "grammar")
    rolling = sampler(constraint)
    logits = VOCABULARY.wanting(VOCABULARY.tokenise("x")[0])
    begun = time.thread_time()
    for _ in range(2000):
        if rolling.sample(None, 0, logits) == NO_TOKEN:
            break
    assert time.thread_time() - begun < 12
    assert rolling.sample(None, 0, logits) == NO_TOKEN


def test_who_sends_hostile_grammars_waits_and_nobody_else() -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 0.5
        return now[0]

    grammars = Grammars(VOCABULARY, clock)
    with pytest.raises(Refused, match="too complex"):
        grammars.constraint(HOSTILE["counted"], "grammar", "mallory")
    with pytest.raises(Refused) as caught:
        grammars.constraint('start: "fine"', "grammar", "mallory")
    assert caught.value.code == "overloaded"
    assert caught.value.retry_after
    grammars.constraint('start: "fine"', "grammar", "alice")
    # What has been compiled already is anybody's.
    grammars.constraint('start: "fine"', "grammar", "mallory")
    now[0] += 60
    grammars.constraint('start: "fine too"', "grammar", "mallory")


def test_a_trial_that_got_no_processor_is_not_held_against_the_grammar() -> None:
    class Crowded(Grammars):
        starved = True

        def allowed(self, matcher: LLMatcher) -> NDArray[np.intp]:
            if self.starved:
                os.kill(os.getpid(), signal.SIGALRM)
            return super().allowed(matcher)

    grammars = Crowded(VOCABULARY)
    with pytest.raises(Refused) as caught:
        grammars.constraint('start: "fine"', "grammar", "alice")
    assert (caught.value.code, caught.value.param) == ("overloaded", "grammar")
    assert caught.value.retry_after
    grammars.starved = False
    grammars.constraint('start: "fine"', "grammar", "alice")


SLOW_TRIAL = """
import sys, time
sys.path.insert(0, sys.argv[1])
from exclave_agent.runtimes.grammar import Grammars
from exclave_testing.vocabulary import Vocabulary

class Slow(Grammars):
    def allowed(self, matcher):
        print("in the child", flush=True)
        time.sleep(60)

Slow(Vocabulary()).constraint('start: "x"', "grammar")
"""


def test_a_trial_ends_with_the_worker_whose_socket_it_holds() -> None:
    tests = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", SLOW_TRIAL, str(tests)], stdout=subprocess.PIPE
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"in the child\n"
        begun = time.monotonic()
        worker.kill()
        assert worker.stdout.read() == b"", "until nobody holds the other end"
        assert time.monotonic() - begun < 0.75 * TRIAL_WALL


def test_a_grammar_is_compiled_once_and_its_users_are_apart() -> None:
    grammars = Grammars(VOCABULARY)
    first, second = (grammars.constraint('start: "ab" | "cd"', "grammar") for _ in range(2))
    assert grammars.trials == 1
    a, d = VOCABULARY.tokenise("ab")[0], VOCABULARY.tokenise("c")[0]
    assert first.take(a)
    assert not first.take(d)
    assert second.take(d)
    for n in range(KEPT):
        grammars.constraint(f'start: "{n}"', "grammar")
    grammars.constraint('start: "ab" | "cd"', "grammar")
    assert grammars.trials == KEPT + 2, "only so many are kept"


def test_a_refusal_is_remembered_too() -> None:
    grammars = Grammars(VOCABULARY)
    for _ in range(3):
        with pytest.raises(Refused):
            grammars.constraint("start: %%%", "grammar")
    assert grammars.trials == 1


def test_forced_tokens_are_those_that_the_sampler_then_takes() -> None:
    constraint = GRAMMARS.constraint('start: "null" ("," | ";")', "grammar")
    forced = list(constraint.forced())
    assert b"".join(VOCABULARY.pieces[token] for token in forced) == b"null"
    rolling = sampler(constraint)
    rng = np.random.default_rng(0)
    assert [rolling.sample(None, 0, VOCABULARY.logits(rng)) for _ in forced] == forced
    assert list(rolling.forced()) == []


# --- sampling ------------------------------------------------------------------------------------


def counted(make: Callable[[int], bytes], runs: int = 600) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    for run in range(runs):
        out = make(run)
        found[out] = found.get(out, 0) + 1
    return found


def test_a_constrained_choice_keeps_the_models_odds() -> None:
    """Drawing freely and again among the allowed ones must not bend the distribution."""
    logits = np.zeros(VOCABULARY.tokens, dtype=np.float32)
    a, b = VOCABULARY.tokenise("a")[0], VOCABULARY.tokenise("b")[0]
    logits[[a, b]] = [np.log(30), np.log(10)]

    def draw(seed: int) -> bytes:
        constraint = GRAMMARS.constraint('start: "a" | "b"', "grammar")
        token = sampler(constraint, temperature=1.0, seed=seed).sample(None, 0, logits)
        return VOCABULARY.pieces[token]

    found = counted(draw)
    assert set(found) == {b"a", b"b"}
    assert 0.67 < found[b"a"] / 600 < 0.83


def test_log_probabilities_are_the_models_own() -> None:
    rng = np.random.default_rng(3)
    logits = VOCABULARY.logits(rng)
    exact = logits.astype(np.float64)
    exact -= np.log(np.exp(exact - exact.max()).sum()) + exact.max()
    constraint = GRAMMARS.constraint('start: "true" | "q"', "grammar")
    rolling = sampler(constraint, top_logprobs=5, temperature=1.7, logit_bias=[(9, 4.0)])
    token = rolling.sample(None, 0, logits)
    told = rolling.logprob
    assert told is not None
    assert told.token == VOCABULARY.pieces[token]
    assert told.logprob == pytest.approx(float(exact[token]), abs=1e-4)
    best = np.argsort(-exact)[:5]
    assert [piece for piece, _ in told.top] == [VOCABULARY.pieces[n] for n in best]
    assert [value for _, value in told.top] == pytest.approx(list(exact[best]), abs=1e-4)


def test_bias_and_penalties_count_though_the_model_is_greedy() -> None:
    logits = VOCABULARY.wanting(VOCABULARY.tokenise("a")[0])
    a, b = VOCABULARY.tokenise("a")[0], VOCABULARY.tokenise("b")[0]
    logits[b] = 49
    free = "start: /[ab]+/"
    biased = sampler(GRAMMARS.constraint(free, "grammar"), logit_bias=[(a, -100.0)])
    assert biased.sample(None, 0, logits) == b
    repeat = sampler(GRAMMARS.constraint(free, "grammar"), repeat_penalty=1.5)
    assert [repeat.sample(None, 0, logits) for _ in range(2)] == [a, b]
    plain = sampler(GRAMMARS.constraint(free, "grammar"))
    assert [plain.sample(None, 0, logits) for _ in range(2)] == [a, a]


@pytest.mark.parametrize(
    ("cut", "left"),
    [
        ({}, {b"a", b"b", b"c"}),
        ({"top_k": 2}, {b"a", b"b"}),
        ({"top_k": 1}, {b"a"}),
        ({"top_p": 0.6}, {b"a", b"b"}),
        ({"top_p": 0.3}, {b"a"}),
        ({"min_p": 0.5}, {b"a", b"b"}),
        ({"min_p": 0.9}, {b"a"}),
        ({"temperature": 0.01}, {b"a"}),
    ],
)
def test_what_is_cut_off_is_never_drawn(cut: dict[str, Any], left: set[bytes]) -> None:
    logits = np.full(VOCABULARY.tokens, -40, dtype=np.float32)
    tokens = [VOCABULARY.tokenise(one)[0] for one in "abc"]
    logits[tokens] = np.log([0.5, 0.3, 0.2])

    def draw(seed: int) -> bytes:
        constraint = GRAMMARS.constraint("start: /[abc]/", "grammar")
        chosen = {"temperature": 1.0, "seed": seed, **cut}
        return VOCABULARY.pieces[sampler(constraint, **chosen).sample(None, 0, logits)]

    assert set(counted(draw, 200)) == left


@pytest.mark.parametrize("temperature", [1e-9, 1e-40, 5e-324])
@pytest.mark.parametrize("cut", [{}, {"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.1}])
def test_next_to_no_temperature_is_none(temperature: float, cut: dict[str, Any]) -> None:
    """Logits that are divided by so little are infinite, and infinities less each other nothing."""
    logits = VOCABULARY.logits(np.random.default_rng(5))
    logits[END] = -50
    chosen = [
        sampler(GRAMMARS.constraint("start: /(.|\\n)*/", "grammar"), temperature=one, **cut).sample(
            None, 0, logits
        )
        for one in (0.0, temperature)
    ]
    assert chosen[0] == chosen[1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 1.1),
        ("min_p", float("inf")),
        ("frequency_penalty", -101.0),
        ("presence_penalty", 101.0),
        ("repeat_penalty", 0.0),
        ("repeat_penalty", float("nan")),
        ("max_tokens", 0),
        ("logit_bias", [(VOCABULARY.tokens, 1.0)]),
        ("logit_bias", [(1, 1001.0)]),
        ("logit_bias", [(1, float("nan"))]),
        ("logit_bias", [(1, 1.0), (1, 2.0)]),
    ],
)
def test_a_parameter_that_is_out_of_range_is_named(name: str, value: object) -> None:
    with pytest.raises(Refused) as caught:
        sampler(GRAMMARS.constraint('start: "x"', "grammar"), **{name: value})
    assert caught.value.param == name
    assert caught.value.message.startswith(name)
