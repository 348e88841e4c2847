"""Classes, fair shares, pre-emption, deadlines, adapters, drafts: who runs when."""

from __future__ import annotations

import string
from collections.abc import Sequence

import msgspec
import pytest

from exclave_agent.runtimes import frames
from exclave_agent.runtimes.costs import Measured
from exclave_agent.runtimes.draft import TRIAL_STEPS
from exclave_agent.runtimes.engine import NO_TOKEN, Refused, Running, Work
from exclave_agent.runtimes.jobs import EmbedJob
from exclave_agent.runtimes.planning import LEAST_CHUNK
from exclave_agent.runtimes.scheduler import SAFE_TOKENS
from exclave_agent.runtimes.text import StopFilter
from exclave_testing.fake_engine import (
    END,
    TOKEN_BYTES,
    Bench,
    FakeEngine,
    FakeSampler,
    sampling,
)

ALPHABET = string.ascii_lowercase * 40


# --- classes and pre-emption ----------------------------------------------------------------


def test_interactive_requests_are_admitted_before_batch_ones() -> None:
    bench = Bench(FakeEngine(slots=1))
    bench.submit(1, max_tokens=3)
    bench.submit(2, batch=True)
    bench.submit(3)
    bench.run()
    assert bench.finals == [1, 3, 2]


def test_a_batch_sequence_yields_at_the_next_step_and_says_the_same() -> None:
    engine = FakeEngine(slots=1)
    bench = Bench(engine, park_bytes=10_000)
    bench.submit(1, prompt=40, max_tokens=30, batch=True)
    bench.at(10, lambda: bench.submit(2, prompt=4, max_tokens=5))
    bench.run()
    assert bench.first_step(2) == 11, "it waited for more than the step under way"
    assert bench.texts == {1: ALPHABET[:30], 2: ALPHABET[:5]}
    assert bench.finals == [2, 1]
    ended = bench.ended[1]
    assert (ended.preemptions, ended.prompt_tokens, ended.completion_tokens) == (1, 40, 30)
    assert bench.scheduler.stats().preemptions == 1
    # Its state was parked: no token was computed twice, and the place is free again.
    computed = sum(entry[3] for plan in engine.plans for entry in plan if entry[0] == 1)
    assert computed == 40 + 29
    assert engine.saves == engine.restores == [0]
    assert bench.scheduler._parking.bytes == 0


@pytest.mark.parametrize("why", ["no room", "computing is cheaper", "the engine refuses it"])
def test_a_state_that_cannot_be_parked_is_computed_again(why: str) -> None:
    dear = Measured(token=0.0001, rows={1: 0.1}, copy=1.0)
    engine = FakeEngine(slots=1, measured=dear if why == "computing is cheaper" else None)
    engine.refuses_states = why == "the engine refuses it"
    bench = Bench(engine, park_bytes=100 if why == "no room" else 10_000)
    bench.submit(1, prompt=40, max_tokens=30, batch=True)
    bench.at(10, lambda: bench.submit(2, prompt=4, max_tokens=5))
    bench.run()
    assert bench.texts == {1: ALPHABET[:30], 2: ALPHABET[:5]}
    assert len(engine.saves) == (why == "the engine refuses it")
    assert bench.ended[1].preemptions == 1
    computed = sum(entry[3] for plan in engine.plans for entry in plan if entry[0] == 1)
    assert computed > 40 + 29


def test_who_yields_is_who_loses_least_and_interactive_ones_never_do() -> None:
    engine = FakeEngine(slots=3)
    bench = Bench(engine)
    bench.submit(1, max_tokens=40)
    bench.submit(2, prompt=9, max_tokens=40, batch=True)
    bench.submit(3, prompt=3, max_tokens=40, batch=True)
    bench.at(5, lambda: [bench.submit(n, max_tokens=40) for n in (4, 5, 6)])
    bench.run()
    # Two yield to 4 and 5, the younger first; 6 waits: there is nobody left to yield.
    assert bench.ended[3].preemptions == bench.ended[2].preemptions == 1
    assert bench.first_step(4) == bench.first_step(5) == 6
    assert bench.first_step(6) > 30
    assert all(bench.ended[n].preemptions == 0 for n in (1, 4, 5, 6))


def test_steps_with_interactive_prefill_hold_little_batch_work() -> None:
    engine = FakeEngine(slots=3, step_tokens=10)
    bench = Bench(engine, batch_share=0.25)
    for request in (1, 2):
        bench.submit(request, max_tokens=60, batch=True)
    bench.at(8, lambda: bench.submit(3, prompt=100, max_tokens=1))
    bench.run()
    during = engine.plans[bench.first_step(3) :][:9]
    assert all(plan[-1][0] == 3 for plan in during)
    with_batch = [number for number, plan in enumerate(during) if len(plan) > 1]
    # One step in four holds the batch sequences' tokens, the others the prompt alone.
    assert with_batch == [3, 7]
    assert bench.texts[1] == bench.texts[2] == ALPHABET[:60]


def test_a_batch_prompt_comes_in_steps_not_longer_than_two_of_decoding() -> None:
    engine = FakeEngine(slots=2, step_tokens=512)
    bench = Bench(engine)
    bench.submit(1, prompt=300, max_tokens=1, batch=True)
    bench.at(2, lambda: bench.submit(2, prompt=50, max_tokens=1))
    bench.run()
    chunks = [entry[3] for plan in engine.plans for entry in plan if entry[0] == 1]
    # A step of decoding takes 0.1 s, a prompt's token 0.01 s: twenty tokens are two such steps.
    assert max(chunks) <= 20
    assert min(chunks[:-1]) >= LEAST_CHUNK
    assert bench.first_step(2) == 3
    alone = Bench(FakeEngine(slots=2, step_tokens=512))
    alone.submit(1, prompt=300, max_tokens=1)
    alone.run()
    assert [entry[3] for plan in alone.engine.plans for entry in plan] == [300]


@pytest.mark.parametrize("parked", [True, False])
def test_batch_work_goes_on_under_an_endless_interactive_load(parked: bool) -> None:
    engine = FakeEngine(slots=1)
    bench = Bench(engine, park_bytes=10_000 if parked else 0, batch_share=0.1)
    bench.submit(1, prompt=30, max_tokens=3 * SAFE_TOKENS, batch=True)
    request = 10

    def flood(step: int) -> None:
        nonlocal request
        if 1 not in bench.ended and bench.scheduler._waiting.size(True) < 2:
            request += 1
            bench.submit(request, prompt=5, max_tokens=6, caller=f"c{request % 3}")

    engine.between = flood
    bench.run(steps=5000)
    # A turn is owed after 16 tokens' worth of steps at its share, and lasts for 16 tokens.
    assert bench.ended[1].completion_tokens == 3 * SAFE_TOKENS
    assert bench.texts[1] == ALPHABET[: 3 * SAFE_TOKENS]
    steps = max(number for number, plan in enumerate(engine.plans) if plan[0][0] == 1)
    assert steps < 4 * (SAFE_TOKENS / 0.1 + SAFE_TOKENS + 40)


def test_batch_work_that_is_due_gets_one_slot_and_not_every_one_that_falls_free() -> None:
    engine = FakeEngine(slots=4, step_tokens=64)
    bench = Bench(engine, batch_share=0.5)
    slots = bench.scheduler._slots
    for request in range(1, 7):
        bench.submit(request, prompt=600, max_tokens=3, batch=True)
    request, most = 10, 0

    def flood(step: int) -> None:
        nonlocal request, most
        if step > 5 and bench.scheduler._waiting.size(True):
            most = max(most, sum(not one.interactive for one in slots.order))
        while len(bench.ended) < 40 and bench.scheduler._waiting.size(True) < 6:
            request += 1
            bench.submit(request, prompt=5, max_tokens=6)

    engine.between = flood
    bench.run(steps=5000)
    assert most == 1
    assert {1, 2, 3, 4, 5, 6} <= set(bench.ended)


def test_of_the_batch_sequences_that_hold_slots_only_one_is_kept_when_it_is_due() -> None:
    engine = FakeEngine(slots=3, step_tokens=32)
    bench = Bench(engine, batch_share=1.0)
    for request in (1, 2, 3):
        bench.submit(request, prompt=2000, max_tokens=3, batch=True)
    # For twenty steps of prefill no batch token came: it is due.
    bench.at(30, lambda: [bench.submit(n, max_tokens=2) for n in (4, 5)])
    bench.run(steps=5000)
    assert bench.first_step(4) == bench.first_step(5) == 31
    assert bench.ended[1].preemptions == 0


# --- callers --------------------------------------------------------------------------------


def test_a_caller_with_a_hundred_requests_does_not_hold_up_one_with_few() -> None:
    engine = FakeEngine(slots=2)
    bench = Bench(engine, max_queue=200)
    for request in range(100):
        bench.submit(request, max_tokens=10, caller="greedy")
    for request in range(100, 104):
        bench.submit(request, max_tokens=10, caller="modest")
    bench.run(steps=5000)
    modest = [at for at, request in enumerate(bench.finals) if request >= 100]
    # Behind the two that had the slots: one of each in turn.
    assert modest[-1] <= 10, modest


def test_shares_are_equal_in_tokens_not_in_requests() -> None:
    engine = FakeEngine(slots=1)
    bench = Bench(engine, max_queue=400)
    for request in range(100):
        bench.submit(request, prompt=4, max_tokens=5, caller="short")
    for request in range(100, 200):
        bench.submit(request, prompt=16, max_tokens=40, caller="long")
    tokens = {"short": 0, "long": 0}
    bench.at(900, bench.scheduler.stop)
    while bench.scheduler.turn():
        pass
    for plan in engine.plans:
        for request, _, _, size in plan:
            tokens["short" if request < 100 else "long"] += size if size > 1 else 2
    assert 0.85 < tokens["short"] / tokens["long"] < 1.18, tokens


def test_who_comes_back_has_saved_nothing_up() -> None:
    engine = FakeEngine(slots=1)
    bench = Bench(engine, max_queue=100)
    bench.submit(1, max_tokens=2, caller="idle")
    for request in range(10, 40):
        bench.submit(request, max_tokens=10, caller="busy")
    bench.at(200, lambda: [bench.submit(n, max_tokens=10, caller="idle") for n in range(100, 110)])
    bench.run()
    after = bench.finals[bench.finals.index(100) :]
    # From then on they alternate.
    assert all(sum(n >= 100 for n in after[at : at + 2]) == 1 for at in range(0, 16, 2)), after


# --- deadlines, cancellation, admission -------------------------------------------------------


def test_what_is_late_is_dropped_within_a_step_running_or_waiting() -> None:
    engine = FakeEngine(slots=1)
    bench = Bench(engine)
    bench.submit(1, max_tokens=100, timeout=1.05)
    bench.submit(2, max_tokens=100, timeout=0.5)
    bench.submit(3, max_tokens=3, timeout=60)
    bench.run()
    assert bench.failed[1].code == bench.failed[2].code == "deadline_exceeded"
    assert bench.finals == [2, 1, 3]
    assert bench.texts[3] == "abc"
    # A step takes 0.1 s (the prompt's 0.13): the first ran for 1.05 s and the step under way.
    assert len([plan for plan in engine.plans if plan[0][0] == 1]) <= 11
    assert bench.samplers[1].closed == bench.samplers[2].closed == 1


def test_what_cannot_be_in_time_is_refused_before_it_is_computed_but_only_for_certain() -> None:
    engine = FakeEngine(slots=1, step_tokens=512)
    bench = Bench(engine)
    # Of a machine that has computed nothing yet nothing is certain.
    bench.submit(1, prompt=400, max_tokens=2, timeout=0.001)
    bench.run()
    assert bench.failed[1].code == "deadline_exceeded"
    assert len(engine.plans) == 1
    steps = len(engine.plans)
    # 400 tokens took 4.1 s; no machine twice as fast has done it in one.
    bench.submit(3, prompt=400, max_tokens=1, timeout=1.0)
    bench.submit(4, prompt=400, max_tokens=1, timeout=3.0)
    bench.run()
    assert bench.failed[3].code == "deadline_exceeded"
    assert bench.began(4) == 0
    assert not [plan for plan in engine.plans[steps:] if plan[0][0] == 3]


def test_a_cancelled_sequence_that_is_parked_frees_its_bytes() -> None:
    engine = FakeEngine(slots=1)
    bench = Bench(engine, park_bytes=10_000)
    bench.submit(1, prompt=40, max_tokens=30, batch=True)
    bench.at(10, lambda: bench.submit(2, prompt=4, max_tokens=20))
    held: list[int] = []
    bench.at(15, lambda: held.append(bench.scheduler._parking.bytes))
    bench.at(15, lambda: bench.scheduler.cancel(1))
    bench.at(17, lambda: held.append(bench.scheduler._parking.bytes))
    bench.run()
    assert held[0] > 40 * TOKEN_BYTES
    assert held[1] == 0
    assert bench.finals == [2]
    assert bench.samplers[1].closed == 1


def test_batch_requests_do_not_fill_the_queue_of_interactive_ones() -> None:
    bench = Bench(FakeEngine(slots=1), max_queue=2)
    for request in (1, 2, 3):
        bench.submit(request, batch=True)
    with pytest.raises(Refused) as caught:
        bench.submit(4, batch=True)
    assert caught.value.code == "overloaded"
    bench.submit(5)
    bench.run()
    assert set(bench.finals) == {1, 2, 3, 5}


def test_retry_after_follows_the_measured_rate_of_the_class() -> None:
    engine = FakeEngine(slots=1)
    bench = Bench(engine, max_queue=0)
    for request in range(30):
        bench.submit(request, max_tokens=100)
        bench.run()
    bench.submit(50, max_tokens=100)
    with pytest.raises(Refused) as caught:
        bench.submit(51)
    # An interactive request held its slot for ten seconds; of batch ones nothing is known.
    assert caught.value.retry_after is not None
    assert 18 <= caught.value.retry_after <= 21
    bench.submit(52, batch=True)
    with pytest.raises(Refused) as slow:
        bench.submit(53, batch=True)
    assert slow.value.retry_after is not None
    assert slow.value.retry_after < 5


# --- figures ----------------------------------------------------------------------------------


def test_an_answer_s_times_and_the_workers_counters() -> None:
    engine = FakeEngine(slots=1)
    bench = Bench(engine)
    bench.submit(1, prompt=10, max_tokens=5)
    bench.submit(2, prompt=10, max_tokens=3)
    bench.scheduler.submit_embed(EmbedJob(7, [[1] * 5]))
    bench.run()
    second = bench.ended[2]
    # 0.1 s a step and 0.01 s a prompt token, by the engine's clock.
    assert abs(second.queued_us - 600_000) < 5
    assert abs(second.prefill_us - 200_000) < 5
    assert abs(second.decode_us - 200_000) < 5
    stats = bench.scheduler.stats()
    assert stats.batch_tokens == 10 + 4 + 10 + 2 + 5
    assert stats.batch_sequences == 5 + 3 + 1
    assert abs(stats.busy_us - 1_000_000) < 10
    assert stats.waiting == 0


# --- texts between the steps --------------------------------------------------------------------


def test_answers_wait_for_no_more_of_a_text_job_than_a_chunk() -> None:
    engine = FakeEngine(slots=1, step_tokens=16)
    engine.embed_texts, engine.embed_tokens = 50, 400
    bench = Bench(engine)
    bench.submit(1, max_tokens=4)
    bench.scheduler.submit_embed(EmbedJob(7, [[1] * 20, *[[1] * 8] * 40]))
    bench.run()
    # One text is not cut; after that sixteen tokens a call, and all at once when nobody waits.
    assert engine.embedded == [1, 2, 2, 36]


def test_cancelling_what_is_not_there_makes_no_room_in_the_queue() -> None:
    bench = Bench(FakeEngine(slots=1), max_queue=1)
    bench.submit(1)
    bench.submit(2)
    for unknown in range(100, 120):
        bench.scheduler.cancel(unknown)
    with pytest.raises(Refused):
        bench.submit(3)


@pytest.mark.parametrize(
    ("constraint", "param", "named"),
    [
        ({"json_schema": "{}"}, "response_format", "json_schema: "),
        ({"grammar": "start: x"}, "grammar", "grammar: "),
        ({}, "tools", "tools: "),
    ],
)
def test_an_answer_that_cannot_go_on_names_what_forbids_it(
    constraint: dict[str, str], param: str, named: str
) -> None:
    engine = FakeEngine()
    engine.next_token = lambda running: NO_TOKEN
    bench = Bench(engine)
    frame = frames.Generate(
        5,
        [],
        "",
        msgspec.structs.replace(sampling(9), **constraint),
        tools=[frames.ToolFrame("f", "", "{}")] if param == "tools" else [],
    )
    bench.scheduler.submit(Running(frame, [1, 2], FakeSampler(), StopFilter()))
    bench.run()
    assert bench.failed[5].param == param
    assert bench.failed[5].message.startswith(named)


# --- adapters -----------------------------------------------------------------------------------


def test_steps_hold_one_adapter_and_each_gets_its_turn() -> None:
    engine = FakeEngine(slots=3)
    bench = Bench(engine)
    for request, adapter in ((1, ""), (2, "a"), (3, "b")):
        bench.submit(request, prompt=3, max_tokens=30, adapter=adapter)
    bench.run()
    assert bench.texts == dict.fromkeys((1, 2, 3), ALPHABET[:30])
    last = {
        n: max(at for at, plan in enumerate(engine.plans) if plan[0][0] == n) for n in (1, 2, 3)
    }
    assert max(last.values()) - min(last.values()) <= 12, last


def test_a_new_request_s_adapter_has_its_turn_soon() -> None:
    engine = FakeEngine(slots=4)
    bench = Bench(engine)
    for request in (1, 2, 3):
        bench.submit(request, max_tokens=60, adapter=f"{request}")
    bench.at(30, lambda: bench.submit(4, max_tokens=1, adapter="new"))
    bench.run()
    assert bench.first_step(4) <= 30 + 1 + 2 * 4


def test_an_adapter_with_batch_work_only_gets_the_share_of_batch_work() -> None:
    engine = FakeEngine(slots=2)
    bench = Bench(engine, batch_share=0.1)
    bench.submit(1, prompt=3, max_tokens=400, adapter="a")
    bench.submit(2, prompt=3, max_tokens=30, adapter="b", batch=True)
    bench.run(steps=2000)
    until = max(at for at, plan in enumerate(engine.plans) if plan[0][0] == 1)
    others = sum(plan[0][0] == 2 for plan in engine.plans[:until])
    # Of four hundred steps forty, which is more than it needs: it is through before.
    assert 0.05 * until < others <= 30
    assert bench.finals == [2, 1]
    last = max(at for at, plan in enumerate(engine.plans) if plan[0][0] == 2)
    assert 200 < last < 400, "a tenth of the steps"


# --- drafts -----------------------------------------------------------------------------------

CHEAP_ROWS = Measured(token=0.01, rows={1: 0.1, 2: 0.105, 9: 0.12, 64: 0.5}, copy=1e-6)


def cycle(known: Sequence[int]) -> int:
    """The text repeats every seven tokens: an answer that a lookup foresees."""
    return ord("a") + len(known) % 7


def test_what_was_said_before_is_guessed_and_changes_nothing_but_the_steps() -> None:
    texts, steps = [], []
    for limit in (0, 8):
        engine = FakeEngine(slots=1, measured=CHEAP_ROWS)
        engine.continues = cycle
        bench = Bench(engine, draft_tokens=limit)
        bench.submit(1, prompt=[1, 2, 3], max_tokens=90)
        bench.run()
        texts.append(bench.texts)
        steps.append(len(engine.plans))
        ended = bench.ended[1]
    assert texts[0] == texts[1]
    assert steps[0] == 90
    assert steps[1] < 35, steps
    assert ended.accepted > 50
    assert ended.drafted >= ended.accepted
    assert bench.scheduler.stats().accepted == ended.accepted


def test_guesses_that_are_wrong_stop_and_leave_nothing_in_the_slot() -> None:
    engine = FakeEngine(slots=1, measured=CHEAP_ROWS)
    # Pairs recur and are followed by something else each time; the engine checks its cells.
    engine.continues = lambda known: ord("a") + (len(known) * len(known) // 3) % 4
    bench = Bench(engine, draft_tokens=8)
    bench.submit(1, prompt=[1, 2, 3], max_tokens=200)
    bench.run()
    expected, known = "", [1, 2, 3]
    while len(expected) < 200:
        known.append(engine.continues(known))
        expected += chr(known[-1])
    assert bench.texts[1] == expected


def test_an_end_or_a_stop_within_a_draft_ends_the_answer_there() -> None:
    engine = FakeEngine(slots=2, measured=CHEAP_ROWS)
    engine.continues = lambda known: END if len(known) == 40 else cycle(known)
    bench = Bench(engine, draft_tokens=8)
    bench.submit(1, prompt=[1, 2, 3], max_tokens=90)
    bench.submit(2, prompt=[1, 2, 3], max_tokens=90, stops=["cdefgabcde"])
    bench.run()
    assert bench.ended[1].completion_tokens == 37
    assert bench.ended[1].reason == bench.ended[2].reason == "stop"
    assert "cdefgabcde" not in bench.texts[2]


def test_no_draft_where_rows_cost_as_much_as_steps() -> None:
    engine = FakeEngine(slots=1, measured=Measured(rows={1: 0.1, 2: 0.2, 9: 0.9}, token=0.01))
    engine.continues = cycle
    bench = Bench(engine, draft_tokens=8)
    bench.submit(1, max_tokens=50)
    bench.run()
    assert bench.ended[1].drafted == 0
    assert len(engine.plans) == 50


@pytest.mark.parametrize("answers", [1, 3])
def test_what_a_disturbed_machine_measured_at_load_is_not_believed_for_ever(answers: int) -> None:
    # Drafts would cost nothing (a step of the fake takes 0.1 s), but seemed to at load.
    dear = {1: 0.1, **{rows: 0.1 * rows for rows in (2, 3, 5, 6, 9, 15, 27, 64)}}
    engine = FakeEngine(
        slots=answers, step_tokens=64, measured=Measured(token=0.01, rows=dear, copy=1e-6)
    )
    engine.continues = cycle
    bench = Bench(engine, draft_tokens=8)
    for request in range(answers):
        bench.submit(request, prompt=[1, 2, 3], max_tokens=3000)
    bench.run(steps=4000)
    assert TRIAL_STEPS <= len(engine.plans) < TRIAL_STEPS + 400
    assert set(bench.texts.values()) == {"".join(chr(ord("a") + (3 + n) % 7) for n in range(3000))}


def test_where_drafts_never_pay_they_are_tried_as_good_as_never() -> None:
    class Dear(FakeEngine):
        def decode(self, plan: Sequence[Work]) -> None:
            super().decode(plan)
            self.clock.now += 0.1 * sum(work.draft for work in plan)

    rows = {1: 0.1, 2: 0.2, 9: 0.9}
    engine = Dear(slots=1, step_tokens=64, measured=Measured(rows=rows, token=0.1))
    engine.continues = cycle
    bench = Bench(engine, draft_tokens=8)
    bench.submit(1, max_tokens=3000)
    bench.run(steps=4000)
    assert 0 < bench.ended[1].drafted <= 3 * 8


def test_a_constraint_that_allows_nothing_within_a_draft() -> None:
    engine = FakeEngine(slots=1, measured=CHEAP_ROWS)
    engine.continues = lambda known: NO_TOKEN if len(known) == 41 else cycle(known)
    bench = Bench(engine, draft_tokens=8)
    bench.submit(1, prompt=[1, 2, 3], max_tokens=90)
    bench.run()
    assert bench.failed[1].code == "output_invalid"
