"""Any mix of requests, cancellations and times: nothing leaks, all end once, limits hold."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exclave_agent.runtimes.costs import Measured
from exclave_agent.runtimes.engine import Refused
from exclave_testing.fake_engine import Bench, FakeEngine

SYSTEMS = [[], list(range(100, 130)), [*range(100, 120), *range(300, 330)]]


@dataclass(frozen=True)
class Ask:
    """One request, and when it comes and is perhaps cancelled."""

    step: int
    system: int
    words: int
    answer: int
    caller: str
    batch: bool
    timeout: float | None
    adapter: str
    cancelled: int | None


asks = st.builds(
    Ask,
    step=st.integers(0, 60),
    system=st.integers(0, 2),
    words=st.integers(1, 40),
    answer=st.integers(1, 25),
    caller=st.sampled_from(["", "anna", "boris", "carol"]),
    batch=st.booleans(),
    timeout=st.none() | st.floats(0.01, 5.0),
    adapter=st.sampled_from(["", "", "", "x"]),
    cancelled=st.none() | st.integers(0, 80),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    many=st.lists(asks, min_size=1, max_size=25),
    slots=st.integers(1, 4),
    step_tokens=st.sampled_from([8, 16, 64]),
    park=st.sampled_from([0, 3_000, 100_000]),
    store=st.sampled_from([0, 4_000, 100_000]),
    drafts=st.sampled_from([0, 4]),
    reuses=st.booleans(),
    moving=st.booleans(),
    refuses=st.booleans(),
    copy=st.sampled_from([1e-7, 1.0]),
)
def test_every_request_ends_once_and_nothing_is_left(
    many: list[Ask],
    slots: int,
    step_tokens: int,
    park: int,
    store: int,
    drafts: int,
    reuses: bool,
    moving: bool,
    refuses: bool,
    copy: float,
) -> None:
    measured = Measured(token=0.01, rows={1: 0.1, 64: 0.2}, copy=copy)
    engine = FakeEngine(slots, step_tokens, measured=measured)
    engine.reuses, engine.moving_pays, engine.refuses_states = reuses, moving, refuses
    engine.continues = lambda known: ord("a") + sum(known[-2:]) % 3
    bench = Bench(
        engine, 10, park_bytes=park, prefix_bytes=store, draft_tokens=drafts, prefix_seconds=2.0
    )
    parking, kept = bench.scheduler._parking, bench.scheduler._store
    tried: set[int] = set()
    accepted: set[int] = set()
    cancelled: set[int] = set()

    def act(step: int) -> None:
        assert parking.bytes <= park
        assert kept.bytes <= store
        for request, ask in enumerate(many):
            if ask.step == step and request not in tried:
                tried.add(request)
                submit(request, ask)
            if ask.cancelled == step and request in accepted:
                bench.scheduler.cancel(request)
                cancelled.add(request)

    def submit(request: int, ask: Ask) -> None:
        system = SYSTEMS[ask.system]
        # Everybody writes the same words: only their names keep them apart.
        prompt = [*system, *range(500, 500 + ask.words)]
        try:
            bench.submit(
                request,
                prompt,
                ask.answer,
                shareable=len(system),
                caller=ask.caller,
                batch=ask.batch,
                timeout=ask.timeout,
                adapter=ask.adapter,
            )
            accepted.add(request)
        except Refused:
            assert bench.scheduler._waiting.size(not ask.batch) >= 10

    engine.between = act
    # Steps come only while there is work: what is due in a pause is handed in by hand.
    while True:
        bench.run(steps=3000)
        due = [ask.step for request, ask in enumerate(many) if request not in tried]
        if not due:
            break
        act(min(due))

    assert len(bench.finals) == len(set(bench.finals))
    assert accepted - cancelled <= set(bench.finals) <= accepted
    assert bench.scheduler._slots.free == slots
    assert parking.bytes == 0
    assert len(parking) == 0
    assert not bench.scheduler._fairness._active
    assert all(sampler.closed >= 1 for n, sampler in bench.samplers.items() if n in accepted)
    for request, ended in bench.ended.items():
        prompt = [*SYSTEMS[many[request].system], *range(500, 500 + many[request].words)]
        known = prompt[:]
        for _ in range(ended.completion_tokens):
            known.append(engine.continues(known))
        assert bench.texts[request] == "".join(map(chr, known[len(prompt) :]))
