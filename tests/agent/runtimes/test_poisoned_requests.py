"""A request that kills its worker is found out, tried twice and never again; others are served."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from exclave_agent.errors import DeadlineExceeded, Quarantined, WorkerCrashed
from exclave_agent.ports import Delta, Finished, Generate, ModelSet, ModelSpec, Sampling
from exclave_agent.runtimes import suspects
from exclave_agent.runtimes.births import program
from exclave_agent.runtimes.memory_keeper import MemorySettings
from exclave_agent.runtimes.quarantine import Culprit
from exclave_agent.runtimes.restart import LOOP, Crash, Timings
from exclave_agent.runtimes.supervisor import Supervisor
from exclave_agent.system import SystemClock, SystemRng
from exclave_testing.fake_worker import FAKE_WORKER
from exclave_testing.workers import until

TIMINGS = Timings(load=30, first_backoff=0.02, longest_backoff=0.05, drain=10)


class Bench:
    """A supervisor of fake workers, one model loaded, and what it reported."""

    def __init__(self, folder: Path, timings: Timings = TIMINGS) -> None:
        self.journal, self.marker = folder / "journal", folder / "marker"
        self.crashes: list[Crash] = []
        self.culprits: list[Culprit] = []
        model = folder / "model"
        model.write_bytes(b"m")
        self.spec = ModelSpec(
            "m",
            "llama",
            model,
            "aa" * 32,
            {"journal": str(self.journal), "marker": str(self.marker), "n_ctx": 64},
        )
        self.supervisor = Supervisor(
            clock=SystemClock(),
            rng=SystemRng(),
            timings=timings,
            birth=program(*FAKE_WORKER),
            on_crash=self.crashes.append,
            on_quarantine=self._quarantined,
            memory=MemorySettings(ram=1 << 29),
        )
        self.models: ModelSet

    async def _quarantined(self, culprit: Culprit) -> None:
        self.culprits.append(culprit)

    async def ask(self, prompt: str, timeout: float | None = None, caller: str = "") -> str:
        """The whole answer."""
        text = ""
        request = Generate(
            "m", Sampling(max_tokens=4), prompt=prompt, timeout=timeout, caller=caller
        )
        async for event in self.models.generate(request):
            if isinstance(event, Delta):
                text += event.text
        return text

    def tries(self, prompt: str) -> int:
        """How often workers were sent a prompt."""
        if not self.journal.exists():
            return 0
        lines = self.journal.read_text().splitlines()
        return sum(line.split("\t")[0] == prompt for line in lines)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    async with made.supervisor:
        made.models = await made.supervisor.load([made.spec])
        yield made


async def test_a_poisoned_request_is_tried_twice_and_never_a_third_time(bench: Bench) -> None:
    assert await bench.ask("hello") == "ok"
    with pytest.raises(Quarantined):
        await bench.ask("poison")
    assert bench.tries("poison") == 2
    await until(lambda: bench.supervisor.crashes == 2)
    for caller in ("", "somebody else"):
        with pytest.raises(Quarantined):
            await bench.ask("poison", caller=caller)
    assert bench.tries("poison") == 2
    assert await bench.ask("hello again") == "ok"
    await until(lambda: bench.culprits == [Culprit("m", "aa" * 32)])


async def test_the_innocent_in_flight_are_tried_once_more_and_answered(bench: Bench) -> None:
    innocent = [asyncio.create_task(bench.ask(f"hold {n}")) for n in range(6)]
    await until(lambda: all(bench.tries(f"hold {n}") == 1 for n in range(6)))
    with pytest.raises(Quarantined):
        await bench.ask("poison")
    assert await asyncio.gather(*innocent) == ["ok"] * 6
    assert [bench.tries(f"hold {n}") for n in range(6)] == [2] * 6
    assert bench.tries("poison") == 2
    # What was answered is no suspect any more: it may run beside others again.
    assert await bench.ask("hold 1") == "ok"


async def test_two_poisons_in_flight_are_both_found(bench: Bench) -> None:
    innocent = asyncio.create_task(bench.ask("hold"))
    await until(lambda: bench.tries("hold") == 1)
    poisons = await asyncio.gather(
        bench.ask("poison 1"), bench.ask("poison 2"), return_exceptions=True
    )
    assert all(isinstance(one, Quarantined) for one in poisons)
    assert await innocent == "ok"
    assert max(bench.tries("poison 1"), bench.tries("poison 2")) == 2


async def test_many_copies_of_a_poison_kill_two_workers_and_no_more(bench: Bench) -> None:
    results = await asyncio.gather(*(bench.ask("poison") for _ in range(8)), return_exceptions=True)
    assert all(isinstance(one, Quarantined) for one in results)
    assert await bench.ask("hello") == "ok"
    assert bench.supervisor.crashes == 2


async def test_poisoned_requests_make_no_crash_loop_of_a_model_that_answers(
    bench: Bench,
) -> None:
    assert await bench.ask("hello") == "ok"
    for n in range(2 * LOOP):
        with pytest.raises(Quarantined):
            await bench.ask(f"poison {n}")
    await until(lambda: bench.supervisor.crashes == 4 * LOOP)
    assert max(one.in_a_row for one in bench.crashes) < LOOP
    assert await bench.ask("hello again") == "ok"


async def test_a_model_that_every_request_kills_is_a_crash_loop(bench: Bench) -> None:
    for n in range(LOOP):
        with pytest.raises(Quarantined):
            await bench.ask(f"poison {n}")
    await until(lambda: bench.crashes[-1].in_a_row >= LOOP)


async def test_what_was_delivered_already_is_not_said_again(bench: Bench) -> None:
    said = ""
    request = Generate("m", Sampling(max_tokens=4), prompt="speak and die")
    with pytest.raises(WorkerCrashed) as caught:  # noqa: PT012 - what came before counts
        async for event in bench.models.generate(request):
            assert not isinstance(event, Finished)
            said += event.text
    assert type(caught.value) is WorkerCrashed
    assert said == "word"
    assert bench.tries("speak and die") == 1
    # The same again is a suspect: it runs alone, and is found out.
    with pytest.raises(Quarantined):
        await bench.ask("speak and die")
    assert bench.tries("speak and die") == 2


async def test_a_worker_that_takes_too_much_memory_dies_as_a_failed_request(bench: Bench) -> None:
    assert await bench.ask("allocate 16") == "ok"
    with pytest.raises(Quarantined):
        await bench.ask("allocate 8192")
    assert await bench.ask("allocate 16") == "ok"


async def test_another_seed_does_not_hide_a_poison(bench: Bench) -> None:
    async def seeded(seed: int) -> None:
        request = Generate("m", Sampling(max_tokens=4, seed=seed), prompt="poison")
        async for _ in bench.models.generate(request):
            pass

    for seed in (1, 2):
        with pytest.raises(Quarantined):
            await seeded(seed)
    assert bench.tries("poison") == 2


async def hang_up(bench: Bench, prompt: str) -> None:
    """Send it, and go away at once."""
    sent, deaths = bench.tries(prompt), bench.supervisor.crashes
    asking = asyncio.create_task(bench.ask(prompt))
    await until(lambda: bench.tries(prompt) > sent or asking.done())
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking
    await until(lambda: bench.supervisor.crashes > deaths)


async def test_who_sends_poison_and_hangs_up_makes_no_crash_loop(bench: Bench) -> None:
    assert await bench.ask("hello") == "ok"
    for n in range(2 * LOOP):
        await hang_up(bench, f"fuse {100 + n}")
    assert max(one.in_a_row for one in bench.crashes) == 0
    assert await bench.ask("hello again") == "ok"


async def test_poison_is_found_out_though_its_caller_hangs_up(bench: Bench) -> None:
    assert await bench.ask("hello") == "ok"
    for _ in range(2):
        await hang_up(bench, "fuse 100")
    with pytest.raises(Quarantined):
        await bench.ask("fuse 100")
    assert bench.tries("fuse 100") == 2
    await until(lambda: bench.culprits == [Culprit("m", "aa" * 32)])


async def test_who_hangs_the_worker_and_hangs_up_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suspects, "LINGERING", 0.05)
    bench = Bench(tmp_path, replace(TIMINGS, ping=0.02, hung=0.4))
    async with bench.supervisor:
        bench.models = await bench.supervisor.load([bench.spec])
        assert await bench.ask("hello") == "ok"
        for _ in range(2):
            await hang_up(bench, "hang")
        with pytest.raises(Quarantined):
            await bench.ask("hang")
        assert max(one.in_a_row for one in bench.crashes) == 0
        assert await bench.ask("hello again") == "ok"


async def test_poison_that_kills_after_its_first_word_makes_no_crash_loop(bench: Bench) -> None:
    assert await bench.ask("hello") == "ok"
    for n in range(2 * LOOP):
        with pytest.raises(WorkerCrashed):
            await bench.ask(f"speak {n}")
    await until(lambda: bench.supervisor.crashes == 2 * LOOP)
    assert max(one.in_a_row for one in bench.crashes) == 0
    assert await bench.ask("hello again") == "ok"


async def test_streams_of_different_callers_that_die_are_a_crash_loop(bench: Bench) -> None:
    assert await bench.ask("hello") == "ok"
    for n in range(LOOP):
        with pytest.raises(WorkerCrashed):
            await bench.ask(f"speak {n}", caller=f"caller {n}")
        await until(lambda n=n: bench.supervisor.crashes == n + 1)  # type: ignore[misc] # a default
    assert bench.crashes[-1].in_a_row >= LOOP


async def test_a_suspect_is_not_convicted_by_a_poison_that_was_given_up_before_it(
    bench: Bench,
) -> None:
    assert await bench.ask("hello") == "ok"
    innocent = asyncio.create_task(bench.ask("sleep 300"))
    await until(lambda: bench.tries("sleep 300") == 1)
    await hang_up(bench, "fuse 50")
    # It is a suspect now, and runs alone; meanwhile another poison is sent and given up.
    assert await innocent == "ok"
    innocent = asyncio.create_task(bench.ask("sleep 301"))
    await until(lambda: bench.tries("sleep 301") == 1)
    innocent.cancel()
    await hang_up(bench, "fuse 100")
    poison = asyncio.create_task(bench.ask("fuse 400"))
    await until(lambda: bench.tries("fuse 400") == 1)
    poison.cancel()
    assert await bench.ask("sleep 301") == "ok"
    assert not bench.culprits
    assert max(one.in_a_row for one in bench.crashes) == 0


async def test_the_time_that_a_caller_gave_goes_to_the_worker(bench: Bench) -> None:
    assert await bench.ask("hello", timeout=20) == "ok"
    line = bench.journal.read_text().splitlines()[-1]
    assert 15_000_000 < int(line.split("\t")[2]) <= 20_000_000
    with pytest.raises(DeadlineExceeded):
        await bench.ask("hello", timeout=0)


async def test_a_request_that_waits_behind_a_suspect_keeps_its_deadline(bench: Bench) -> None:
    slow = asyncio.create_task(bench.ask("sleep 1500"))
    await until(lambda: bench.tries("sleep 1500") == 1)
    killed = asyncio.create_task(bench.ask("poison"))
    await until(lambda: bench.supervisor.crashes >= 1)
    # Both are suspects now and run one after another; whoever comes meanwhile waits.
    with pytest.raises(DeadlineExceeded):
        await bench.ask("hello", timeout=0.2)
    assert await slow == "ok"
    with pytest.raises(Quarantined):
        await killed
    assert await bench.ask("hello") == "ok"
