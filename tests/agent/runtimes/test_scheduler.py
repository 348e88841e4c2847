"""The scheduler over an engine that writes down what it is asked."""

from __future__ import annotations

import pytest

from exclave_agent.runtimes import frames
from exclave_agent.runtimes.engine import NO_TOKEN, Refused
from exclave_agent.runtimes.jobs import EmbedJob
from exclave_agent.runtimes.slots import GAP_STEPS
from exclave_testing.fake_engine import END, Bench, FakeEngine


def figures(bench: Bench, request: int) -> tuple[str, int, int]:
    """Why it ended, tokens of its prompt, tokens of its answer."""
    ended = bench.ended[request]
    return ended.reason, ended.prompt_tokens, ended.completion_tokens


def test_an_answer_ends_at_max_tokens() -> None:
    bench = Bench(FakeEngine())
    bench.submit(1, prompt=3, max_tokens=4)
    bench.run()
    assert bench.texts == {1: "abcd"}
    assert figures(bench, 1) == ("length", 3, 4)
    assert bench.engine.forgotten[-1] == (0, 0)
    assert bench.samplers[1].closed == 1


def test_an_end_token_ends_it_and_is_not_counted() -> None:
    engine = FakeEngine()
    engine.next_token = lambda running: END if running.used == 2 else ord("x")
    bench = Bench(engine)
    bench.submit(1, max_tokens=9)
    bench.run()
    assert bench.texts == {1: "xx"}
    assert figures(bench, 1) == ("stop", 3, 2)


def test_a_stop_string_over_several_tokens() -> None:
    bench = Bench(FakeEngine())
    bench.submit(1, max_tokens=20, stops=["de"])
    bench.run()
    assert bench.texts == {1: "abc"}
    assert bench.ended[1].reason == "stop"


def test_sequences_are_decoded_together_in_one_frame_a_step() -> None:
    bench = Bench(FakeEngine(slots=3))
    for request in (1, 2, 3):
        bench.submit(request, max_tokens=3)
    bench.run()
    assert [len(plan) for plan in bench.engine.plans] == [3, 3, 3]
    assert len(bench.frames) == 3
    assert bench.texts == {1: "abc", 2: "abc", 3: "abc"}


def test_a_long_prompt_is_decoded_in_chunks_beside_the_others() -> None:
    engine = FakeEngine(slots=2, step_tokens=10)
    bench = Bench(engine)
    bench.submit(1, prompt=4, max_tokens=6)
    engine.between = lambda step: bench.submit(2, prompt=25, max_tokens=2) if step == 1 else None
    bench.run()
    of_second = [entry for plan in engine.plans for entry in plan if entry[0] == 2]
    # Beside one decoding sequence a step has room for nine prompt tokens.
    assert of_second[:3] == [(2, 1, 0, 9), (2, 1, 9, 9), (2, 1, 18, 7)]
    for plan in engine.plans[2:5]:
        assert (plan[0][0], plan[0][3]) == (1, 1), "the first one lost a step"
    assert bench.texts == {1: "abcdef", 2: "ab"}


def test_prompts_are_prefilled_in_the_order_of_arrival() -> None:
    engine = FakeEngine(slots=3, step_tokens=8)
    bench = Bench(engine)
    for request in (1, 2, 3):
        bench.submit(request, prompt=8, max_tokens=1)
    bench.run()
    assert [plan[0][0] for plan in engine.plans] == [1, 2, 3]


def test_cancelling_frees_the_slot_within_one_step() -> None:
    engine = FakeEngine(slots=1)
    bench = Bench(engine)
    bench.submit(1, max_tokens=100)
    bench.submit(2, max_tokens=2)
    engine.between = lambda step: bench.scheduler.cancel(1) if step == 3 else None
    bench.run()
    # The step that was under way is the last of the cancelled one.
    assert [plan[0][0] for plan in engine.plans] == [1, 1, 1, 1, 2, 2]
    assert bench.samplers[1].closed == 1
    assert 1 not in bench.ended
    assert bench.texts[2] == "ab"


def test_cancelling_what_waits_or_is_unknown() -> None:
    engine = FakeEngine(slots=1)
    bench = Bench(engine)
    bench.submit(1, max_tokens=3)
    bench.submit(2)
    bench.scheduler.cancel(2)
    bench.scheduler.cancel(77)
    bench.run()
    assert set(bench.texts) == {1}
    assert bench.samplers[2].closed == 1


def test_a_full_queue_is_refused_with_when_to_come_again() -> None:
    bench = Bench(FakeEngine(slots=2), max_queue=1)
    for request in (1, 2, 3):
        bench.submit(request)
    with pytest.raises(Refused) as caught:
        bench.submit(4)
    assert caught.value.code == "overloaded"
    assert caught.value.retry_after is not None
    assert caught.value.retry_after >= 1
    bench.scheduler.cancel(3)
    bench.submit(5)
    bench.run()
    assert set(bench.texts) == {1, 2, 5}


def test_a_sequence_that_no_token_can_continue_fails_alone() -> None:
    engine = FakeEngine(slots=2)
    engine.next_token = lambda running: (
        NO_TOKEN if running.id == 1 and running.used == 1 else ord("z")
    )
    bench = Bench(engine)
    bench.submit(1)
    bench.submit(2, max_tokens=3)
    bench.run()
    assert bench.failed[1].code == "output_invalid"
    assert bench.texts[2] == "zzz"
    assert bench.samplers[1].closed == 1


def test_a_gap_that_stays_is_closed_and_one_that_is_filled_is_not() -> None:
    engine = FakeEngine(slots=3)
    bench = Bench(engine)
    bench.submit(1, max_tokens=2)
    bench.submit(2, max_tokens=20)
    bench.submit(3, max_tokens=20)
    engine.between = lambda step: bench.submit(4, max_tokens=4) if step == 2 else None
    bench.run()
    # The first gap (slot 0, after step 2) is filled by request 4; the second, when that ends,
    # stays and is closed by moving request 3 down from slot 2.
    assert engine.moves == [(2, 0)]
    moved = next(at for at, plan in enumerate(engine.plans) if (3, 0) in [e[:2] for e in plan])
    gap = next(at for at, plan in enumerate(engine.plans) if [e[1] for e in plan] == [1, 2])
    assert moved - gap >= GAP_STEPS
    assert bench.texts[3] == "".join(chr(ord("a") + n) for n in range(20))


def test_gaps_stay_where_moving_does_not_pay() -> None:
    engine = FakeEngine(slots=2)
    engine.moving_pays = False
    bench = Bench(engine)
    bench.submit(1, max_tokens=1)
    bench.submit(2, max_tokens=15)
    bench.run()
    assert engine.moves == []


def prefills(engine: FakeEngine, request: int) -> list[tuple[int, int, int]]:
    """(slot, position, tokens) of a request's first piece of work."""
    works = [entry for plan in engine.plans for entry in plan if entry[0] == request]
    return [works[0][1:]]


def test_a_shareable_beginning_is_decoded_once_and_the_rest_is_forgotten() -> None:
    engine = FakeEngine(slots=1)
    bench = Bench(engine)
    bench.submit(1, prompt=[5, 6, 7, 1, 1], max_tokens=3, shareable=3)
    bench.submit(2, prompt=[5, 6, 7, 2, 2, 2], max_tokens=1, shareable=3)
    bench.submit(3, prompt=[5, 6, 8, 1], max_tokens=1, shareable=3)
    bench.submit(4, prompt=[5, 6, 8], max_tokens=1, shareable=2)
    bench.submit(5, prompt=[5, 6, 8, 1], max_tokens=1)
    bench.run()
    # What request 1 and 2 said after their shareable three is not there any more.
    assert engine.forgotten == [
        (0, 0), (0, 3), (0, 3), (0, 3), (0, 2), (0, 3), (0, 2), (0, 2), (0, 2), (0, 0)
    ]  # fmt: skip
    assert prefills(engine, 2) == [(0, 3, 3)]
    assert prefills(engine, 3) == [(0, 2, 2)]
    # The last token of a prompt is decoded even where all of it is known.
    assert prefills(engine, 4) == [(0, 2, 1)]
    assert prefills(engine, 5) == [(0, 2, 2)]
    assert [bench.ended[n].prompt_tokens for n in (1, 2, 3, 4, 5)] == [5, 6, 4, 3, 4]


def test_a_request_takes_the_slot_that_remembers_most_of_it() -> None:
    engine = FakeEngine(slots=3)
    bench = Bench(engine)
    bench.submit(1, prompt=[1, 1, 1, 0], max_tokens=1, shareable=3)
    bench.submit(2, prompt=[2, 2, 2, 0], max_tokens=1, shareable=3)
    bench.submit(3, prompt=[3, 3, 3, 0], max_tokens=1, shareable=3)
    bench.submit(4, prompt=[2, 2, 2, 4], max_tokens=1, shareable=3)
    bench.submit(5, prompt=[8, 8, 8, 8], max_tokens=1, shareable=3)
    bench.run()
    assert prefills(engine, 4) == [(1, 3, 1)]
    assert prefills(engine, 5) == [(0, 0, 4)]


def test_a_cancelled_prefill_leaves_no_more_than_was_decoded() -> None:
    engine = FakeEngine(slots=1, step_tokens=2)
    bench = Bench(engine)
    bench.submit(1, prompt=[1, 2, 3, 4, 5, 6], shareable=5)
    bench.submit(2, prompt=[1, 2, 3, 4, 5, 6], max_tokens=1, shareable=5)
    engine.between = lambda step: bench.scheduler.cancel(1) if step == 0 else None
    bench.run()
    assert prefills(engine, 2) == [(0, 2, 2)]


def test_a_moved_sequence_leaves_nothing_behind() -> None:
    engine = FakeEngine(slots=2)
    bench = Bench(engine)
    bench.submit(1, prompt=[1, 1, 1], max_tokens=1, shareable=2)
    bench.submit(2, prompt=[2, 2, 2], max_tokens=9, shareable=2)
    engine.between = lambda step: (
        bench.submit(3, prompt=[2, 2, 3], max_tokens=1, shareable=2) if step == 7 else None
    )
    bench.run()
    assert engine.moves == [(1, 0)]
    # Request 2 holds slot 0 now; slot 1, which it left, is empty.
    assert prefills(engine, 3) == [(1, 0, 3)]


def test_embeddings_are_batched_and_take_turns_with_answers() -> None:
    engine = FakeEngine()
    bench = Bench(engine)
    bench.submit(1, max_tokens=6)
    bench.scheduler.submit_embed(EmbedJob(7, [[1] * 5, [1] * 3, [1] * 4, [1] * 6]))
    bench.run()
    results = [one for one in bench.frames if isinstance(one, frames.EmbedResult)]
    assert results == [frames.EmbedResult(7, [b"\5", b"\3", b"\4", b"\6"], 18)]
    # At most two texts and eight tokens a call, and the answer moved on in between.
    assert engine.embedded == [2, 1, 1]
    assert bench.texts[1] == "abcdef"
    first = next(at for at, one in enumerate(bench.frames) if one is results[0])
    assert 0 < first < len(bench.frames) - 1


def test_a_cancelled_embedding_says_nothing() -> None:
    engine = FakeEngine()
    bench = Bench(engine)
    bench.submit(1, max_tokens=3)
    bench.scheduler.submit_embed(EmbedJob(7, [[1] * 8] * 50))
    engine.between = lambda step: bench.scheduler.cancel(7) if step == 1 else None
    bench.run()
    assert not [one for one in bench.frames if isinstance(one, frames.EmbedResult)]
    assert len(engine.embedded) < 50
