"""Gauges of what other rooms hold at the moment: models and memory, breakers, budgets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from exclave_agent.ports import BreakerView, BudgetView, MemoryPlan, Placement

_BREAKER_STATES = ("closed", "open", "half-open")


@dataclass(frozen=True, slots=True)
class Views:
    """Where to look; called at each scrape, on the event loop."""

    plan: Callable[[], MemoryPlan]
    breakers: Callable[[], Sequence[BreakerView]]
    budgets: Callable[[], Sequence[BudgetView]]
    referrals: Callable[[], int] = lambda: 0


_STATS = (
    ("exclave_engine_steps", "Steps of the model's engine", "steps", 1.0),
    ("exclave_engine_batch_tokens", "Tokens of all steps together", "batch_tokens", 1.0),
    (
        "exclave_engine_batch_sequences",
        "Sequences of all steps together; by exclave_engine_steps_total: the batch's occupancy",
        "batch_sequences",
        1.0,
    ),
    ("exclave_engine_busy_seconds", "Time inside the engine", "busy_us", 1e-6),
    (
        "exclave_prefix_cache_hits",
        "Requests that began behind a prefix computed earlier",
        "prefix_hits",
        1.0,
    ),
    (
        "exclave_prefix_cache_tokens",
        "Prompt tokens that were not computed again",
        "prefix_tokens",
        1.0,
    ),
)
"""Counters of a worker since it started: name, text, field of RuntimeStats, unit."""

_PLACES: tuple[tuple[str, str, Callable[[Placement], float]], ...] = (
    ("exclave_model_resident_bytes", "What the model's process holds", lambda m: m.resident_bytes),
    ("exclave_model_ram_bytes", "Main memory planned for the model", lambda m: m.ram_bytes),
    ("exclave_model_vram_bytes", "GPU memory planned for the model", lambda m: m.vram_bytes),
    ("exclave_model_in_use", "Requests with the model now", lambda m: m.in_use),
    ("exclave_model_waiting", "Of these, waiting for a slot", lambda m: m.stats.waiting),
    (
        "exclave_model_degraded",
        "1 while the model runs worse than its release asks for",
        lambda m: float(bool(m.degraded)),
    ),
    (
        "exclave_model_loaded",
        "1 while the model is in memory",
        lambda m: float(m.state == "loaded"),
    ),
    ("exclave_prefix_cache_bytes", "Held by the prefix cache", lambda m: m.stats.prefix_bytes),
)


def families(views: Views) -> Iterator[Metric]:
    """All of it, as it is now."""
    yield from _of_plan(views.plan())
    yield from _of_breakers(views.breakers())
    yield from _of_budgets(views.budgets())
    waiting = GaugeMetricFamily(
        "exclave_referrals_waiting", "Decisions handed to a person that wait for one"
    )
    waiting.add_metric((), views.referrals())
    yield waiting


def _of_plan(plan: MemoryPlan) -> Iterator[Metric]:
    budget = GaugeMetricFamily(
        "exclave_memory_budget_bytes", "What all models may take", labels=("device",)
    )
    budget.add_metric(("ram",), plan.ram_budget)
    budget.add_metric(("vram",), plan.vram_budget)
    yield budget
    for name, text, value in _PLACES:
        gauge = GaugeMetricFamily(name, text, labels=("model",))
        for model in plan.models:
            gauge.add_metric((model.name,), value(model))
        yield gauge
    for name, text, field, unit in _STATS:
        counter = CounterMetricFamily(name, text, labels=("model",))
        for model in plan.models:
            counter.add_metric((model.name,), getattr(model.stats, field) * unit)
        yield counter


def _of_breakers(breakers: Sequence[BreakerView]) -> Iterator[Metric]:
    gauge = GaugeMetricFamily(
        "exclave_breaker_state",
        "1 for the state that the target's circuit breaker is in",
        labels=("route", "target", "state"),
    )
    for breaker in breakers:
        for state in _BREAKER_STATES:
            labels = (breaker.route, breaker.target, state)
            gauge.add_metric(labels, float(breaker.state == state))
    yield gauge


def _of_budgets(budgets: Sequence[BudgetView]) -> Iterator[Metric]:
    tokens = GaugeMetricFamily(
        "exclave_budget_tokens",
        "Tokens of the budget's period; kind: used, reserved or limit",
        labels=("account", "period", "kind"),
    )
    money = GaugeMetricFamily(
        "exclave_budget_money",
        "Money of the budget's period, in the currency's unit; kind: used, reserved or limit",
        labels=("account", "period", "currency", "kind"),
    )
    for one in budgets:
        for kind, count in (
            ("used", one.tokens),
            ("reserved", one.tokens_reserved),
            ("limit", one.tokens_limit),
        ):
            if count is not None:
                tokens.add_metric((one.account, one.period, kind), count)
        if not one.currency:
            continue
        for kind, micro in (
            ("used", one.money_micro),
            ("reserved", one.money_reserved_micro),
            ("limit", one.money_limit_micro),
        ):
            if micro is not None:
                money.add_metric((one.account, one.period, one.currency, kind), micro / 1e6)
    yield tokens
    yield money
