"""What the agent counts: each figure, its labels, and the page that describes them."""

import re
from dataclasses import replace
from pathlib import Path

from exclave_agent.ports import (
    BreakerView,
    BudgetView,
    Decided,
    MemoryPlan,
    Placement,
    RuntimeStats,
    Timing,
)
from exclave_agent.telemetry.metrics import Metrics
from exclave_agent.telemetry.quantiles import MOST, WINDOW, Quantiles
from exclave_agent.telemetry.views import Views

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"

ANSWER = Decided(
    action="chat",
    model="small",
    route="assistant",
    outcome="answered",
    seconds=2.0,
    first_seconds=0.5,
    tokens_in=100,
    tokens_out=11,
    cached_tokens=40,
    timing=Timing(
        queued_us=250_000,
        prefill_us=250_000,
        decode_us=1_000_000,
        preemptions=1,
        drafted=8,
        accepted=6,
    ),
    degraded="fallback",
    attempts=2,
    cost_micro=1500,
    currency="EUR",
)

PLAN = MemoryPlan(
    8 << 30,
    0,
    (
        Placement(
            "small", "llama", "ab" * 32, "loaded", "cpu", 300, 0, 200, False, 2, 0.0, 1.5,
            degraded="a GPU was expected",
            stats=RuntimeStats(
                steps=10, waiting=1, batch_sequences=25, batch_tokens=60, busy_us=2_000_000,
                prefix_hits=3, prefix_tokens=90, prefix_bytes=4096,
            ),
        ),
    ),
)  # fmt: skip


def figures(metrics: Metrics) -> dict[str, float]:
    """Series -> value."""
    lines = metrics.render().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def watched() -> Metrics:
    metrics = Metrics(lambda: 0.0)
    metrics.watch(
        Views(
            plan=lambda: PLAN,
            breakers=lambda: [BreakerView("assistant", "small", "open", "errors", 3.0)],
            budgets=lambda: [
                BudgetView("tenant", "2026-11", 120, 30, 1000, 5_000_000, 0, 9_000_000, "EUR")
            ],
        )
    )
    metrics.decided(ANSWER)
    metrics.decided(
        Decided(action="chat", model="small", outcome="answered", seconds=0.001, cache="exact")
    )
    return metrics


def test_an_answer_counts_in_every_figure() -> None:
    seen = figures(watched())
    route = 'route="assistant"'
    both = f'model="small",{route}'
    assert seen['exclave_tokens_total{direction="cached",model="small"}'] == 40
    assert seen[f"exclave_queue_seconds_sum{{{both}}}"] == 0.25
    assert seen[f"exclave_first_token_seconds_sum{{{both}}}"] == 0.5
    assert seen[f"exclave_inter_token_seconds_sum{{{both}}}"] == 0.1  # 10 gaps in one second
    assert seen[f"exclave_attempts_total{{{route}}}"] == 2
    assert seen[f'exclave_degraded_total{{how="fallback",{route}}}'] == 1
    assert seen[f'exclave_cost_total{{currency="EUR",{both}}}'] == 0.0015
    assert seen[f'exclave_cost_per_thousand{{currency="EUR",{route}}}'] == 1.5
    assert seen['exclave_drafted_tokens_total{model="small",result="accepted"}'] == 6
    assert seen['exclave_drafted_tokens_total{model="small",result="rejected"}'] == 2
    assert seen['exclave_preemptions_total{model="small"}'] == 1
    assert seen['exclave_completion_cache_hits_total{kind="exact",model="small"}'] == 1


def test_what_was_spent_in_vain_is_in_the_cost_of_a_thousand() -> None:
    metrics = Metrics(lambda: 0.0)
    vain = Decided(
        action="chat",
        model="small",
        outcome="failed",
        seconds=1.0,
        cost_micro=1000,
        currency="EUR",
    )
    metrics.decided(vain)
    assert b"exclave_cost_per_thousand{" not in metrics.render()  # of no answer
    metrics.decided(replace(vain, outcome="answered"))
    key = 'exclave_cost_per_thousand{currency="EUR",route="small"}'
    assert figures(metrics)[key] == 2.0


def test_who_waits_for_a_person_is_shown() -> None:
    metrics = Metrics()
    metrics.watch(Views(lambda: PLAN, list, list, referrals=lambda: 3))
    assert figures(metrics)["exclave_referrals_waiting"] == 3


def test_quantiles_stand_for_each_route() -> None:
    seen = figures(watched())
    for figure, value in (
        ("decision_seconds", 2.0),
        ("queue_seconds", 0.25),
        ("first_token_seconds", 0.5),
        ("inter_token_seconds", 0.1),
    ):
        for quantile in ("0.5", "0.95", "0.99"):
            name = f'exclave_recent_{figure}{{quantile="{quantile}",route="assistant"}}'
            assert seen[name] == value, name


def test_other_rooms_are_read_at_each_scrape() -> None:
    seen = figures(watched())
    assert seen['exclave_memory_budget_bytes{device="ram"}'] == 8 << 30
    assert seen['exclave_model_loaded{model="small"}'] == 1
    assert seen['exclave_model_degraded{model="small"}'] == 1
    assert seen['exclave_model_resident_bytes{model="small"}'] == 200
    assert seen['exclave_engine_busy_seconds_total{model="small"}'] == 2
    sequences = seen['exclave_engine_batch_sequences_total{model="small"}']
    assert sequences / seen['exclave_engine_steps_total{model="small"}'] == 2.5
    state = 'exclave_breaker_state{{route="assistant",state="{}",target="small"}}'
    assert [seen[state.format(each)] for each in ("closed", "open", "half-open")] == [0, 1, 0]
    budget = 'account="tenant"'
    assert seen[f'exclave_budget_tokens{{{budget},kind="reserved",period="2026-11"}}'] == 30
    money = f'exclave_budget_money{{{budget},currency="EUR",kind="limit",period="2026-11"}}'
    assert seen[money] == 9


def test_the_page_names_every_series_and_no_other() -> None:
    families = re.findall(r"^# TYPE (\w+) ", watched().render().decode(), re.MULTILINE)
    # A counter's family has its suffix in this format; `_created` is an aside of the library.
    made = {name for name in families if not name.endswith("_created")}
    told = set(re.findall(r"^\| `(exclave_\w+)` \|", PAGE.read_text(), re.MULTILINE))
    assert told == made


def test_quantiles_are_the_nearest_rank() -> None:
    window = Quantiles(lambda: 0.0)
    for value in range(1, 101):
        window.observe(float(value))
    assert window.read() == {0.5: 50.0, 0.95: 95.0, 0.99: 99.0}
    one = Quantiles(lambda: 0.0)
    one.observe(7.0)
    assert one.read() == {0.5: 7.0, 0.95: 7.0, 0.99: 7.0}


def test_quantiles_forget_what_is_old_and_hold_a_bounded_number() -> None:
    now = [0.0]
    window = Quantiles(lambda: now[0])
    for value in range(MOST + 10):
        window.observe(float(value))
    assert min(window.read().values()) > 10
    now[0] = WINDOW + 1
    assert window.read() == {}
