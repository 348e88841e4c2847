"""The accounts' promises: the worst case before, the truth after, never beyond a limit."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from exclave_agent.decide.accounts import Periods
from exclave_agent.decide.budget import Budgets, Reservation, amount
from exclave_agent.decide.calls import EmbedCall, GenerateCall, InferCall, RerankCall
from exclave_agent.decide.worst import Worst, worst_case
from exclave_agent.errors import BudgetExceeded, StorageError
from exclave_agent.ports import ActiveRelease, Caller, Message, ModelInfo, Price, Tensor, Tool
from exclave_policy.compile import compile_pack
from exclave_policy.pack import Pack
from exclave_testing.clock import FakeClock
from exclave_testing.policies import allow, document
from exclave_testing.runtimes import FakeRuntimes
from exclave_testing.storage import FakeLedger

EUR = Price("EUR", 1_000_000, 2_000_000)
"""One euro for a million prompt tokens, two for a million of answer: 1 and 2 millionths each."""
DAY = 86_400.0


def model(price: Price | None = None, **changes: Any) -> ModelInfo:
    fields: dict[str, Any] = {
        "name": "small",
        "runtime": "llama",
        "sha256": "5" * 64,
        "actions": frozenset({"chat"}),
        "context_tokens": 4096,
        "price": price,
    }
    return ModelInfo(**(fields | changes))


async def release_of(spec: dict[str, Any] | None) -> ActiveRelease:
    files = {"policy.yaml": json.dumps(document(allow("a")))}
    if spec is not None:
        head = {"apiVersion": "exclave.dev/v1", "metadata": {"name": "b", "version": "1"}}
        files["policies/b.yaml"] = json.dumps(head | {"kind": "Budget", "spec": spec})
    policy = compile_pack(Pack("test", "1", files))
    return ActiveRelease("a" * 64, 1, 1, policy, "b" * 64, await FakeRuntimes().load([]))


def call(**changes: Any) -> GenerateCall:
    fields: dict[str, Any] = {
        "decision": "d1",
        "action": "chat",
        "model": "small",
        "caller": Caller("k", ("clerk",)),
        "subject": "s",
        "messages": (Message("user", "hello"),),
    }
    return GenerateCall(**(fields | changes))


async def opened(ledger: FakeLedger | None = None, clock: FakeClock | None = None) -> Budgets:
    budgets = Budgets(ledger or FakeLedger(), clock or FakeClock())
    await budgets.load()
    return budgets


TREE: dict[str, Any] = {
    "currency": "EUR",
    "tenant": {"tokens": 10_000, "per": "month"},
    "teams": [
        {
            "name": "claims",
            "roles": ["clerk"],
            "tokens": 5_000,
            "money": "0.01",
            "per": "day",
            "workflows": [
                {"name": "triage", "tokens": 2_000, "per": "total", "run": {"tokens": 1_000}},
                {"name": "letters", "tokens": 400, "per": "day"},
            ],
        }
    ],
}


def held(reservation: Reservation) -> list[tuple[str, str, int, int]]:
    return [(e.account, e.period, e.tokens, e.money_micro) for e in reservation.entries()]


# --- who pays ---------------------------------------------------------------------------------


async def test_the_worst_case_is_held_on_every_account_of_the_path() -> None:
    budgets, release = await opened(), await release_of(TREE)
    asked = call(workflow="triage", run="patient 7's run")
    reservation = budgets.reserve(release, asked, [model(EUR)], Worst(100, 200))
    found = held(reservation)
    assert [(period, tokens, money) for _, period, tokens, money in found] == [
        ("2030-03", 300, 500),
        ("2030-03-17", 300, 500),
        ("total", 300, 500),
        ("2030-03-17", 300, 500),
    ]
    assert [name for name, *_ in found][:3] == [
        "tenant",
        "tenant/team:claims",
        "tenant/team:claims/workflow:triage",
    ]
    assert found[3][0].startswith("tenant/team:claims/workflow:triage/run:")
    assert "patient" not in found[3][0]
    assert (reservation.tokens, reservation.money_micro) == (300, 500)


@pytest.mark.parametrize(
    ("changes", "accounts"),
    [
        ({"caller": Caller("k", ("guest",))}, 1),
        ({}, 2),
        ({"workflow": "nobody knows"}, 2),
        ({"workflow": "letters"}, 3),
        ({"workflow": "letters", "run": "r"}, 3),
        ({"workflow": "triage"}, 4),
    ],
)
async def test_which_accounts_are_charged(changes: dict[str, Any], accounts: int) -> None:
    budgets, release = await opened(), await release_of(TREE)
    reservation = budgets.reserve(release, call(**changes), [model(EUR)], Worst(1, 1))
    assert len(reservation.entries()) == accounts


async def test_requests_without_a_run_share_one() -> None:
    budgets, release = await opened(), await release_of(TREE)
    budgets.reserve(release, call(workflow="triage"), [model(EUR)], Worst(500, 500))
    with pytest.raises(BudgetExceeded, match="budget of this run: 0 of 1000 tokens are left"):
        budgets.reserve(release, call(workflow="triage"), [model(EUR)], Worst(1, 0))
    budgets.reserve(release, call(workflow="triage", run="other"), [model(EUR)], Worst(500, 500))


async def test_only_teams_and_only_workflows_where_the_document_says_so() -> None:
    spec = json.loads(json.dumps(TREE)) | {"teams_only": True}
    spec["teams"][0]["workflows_only"] = True
    budgets, release = await opened(), await release_of(spec)
    with pytest.raises(BudgetExceeded, match="roles belong to no team"):
        budgets.reserve(release, call(caller=Caller("k", ("x",))), [model(EUR)], Worst(1, 1))
    with pytest.raises(BudgetExceeded, match="name one of triage, letters"):
        budgets.reserve(release, call(workflow="mine"), [model(EUR)], Worst(1, 1))
    assert budgets.reserve(release, call(workflow="letters"), [model(EUR)], Worst(1, 1)).entries()


async def test_without_a_document_nothing_is_counted() -> None:
    budgets, release = await opened(), await release_of(None)
    reservation = budgets.reserve(release, call(), [model()], Worst(2**40, 2**40))
    assert (reservation.entries(), reservation.settle(5, 5), budgets.views()) == ((), (), [])


async def test_nothing_is_admitted_before_the_sums_are_known() -> None:
    budgets = Budgets(FakeLedger(), FakeClock())
    with pytest.raises(StorageError, match="not loaded"):
        budgets.reserve(await release_of(TREE), call(), [model(EUR)], Worst(1, 1))


# --- refusals ---------------------------------------------------------------------------------


async def test_a_refusal_names_account_numbers_and_when_it_renews() -> None:
    clock = FakeClock()  # 17:46:40 UTC
    budgets, release = await opened(clock=clock), await release_of(TREE)
    budgets.reserve(release, call(), [model(EUR)], Worst(4_000, 0))
    with pytest.raises(BudgetExceeded) as refused:
        budgets.reserve(release, call(), [model(EUR)], Worst(900, 200))
    assert refused.value.message == (
        "budget of tenant/team:claims for this day: 1000 of 5000 tokens are left, and this "
        "request may use 1100: ask for fewer tokens, or wait"
    )
    assert refused.value.retry_after == 6 * 3600 + 13 * 60 + 20


async def test_the_account_that_renews_last_is_named() -> None:
    budgets, release = await opened(), await release_of(TREE)
    with pytest.raises(BudgetExceeded, match="budget of tenant for this month") as refused:
        budgets.reserve(release, call(), [model(EUR)], Worst(10_001, 0))
    assert refused.value.retry_after == pytest.approx(14 * DAY + 6 * 3600 + 13 * 60 + 20)
    with pytest.raises(BudgetExceeded) as never:
        budgets.reserve(release, call(workflow="triage"), [model(EUR)], Worst(10_001, 0))
    assert never.value.retry_after is None


async def test_money_runs_out_too() -> None:
    budgets, release = await opened(), await release_of(TREE)
    dear = model(replace(EUR, output_micro=20_000_000), name="dear")
    with pytest.raises(BudgetExceeded) as refused:
        budgets.reserve(release, call(), [model(EUR), dear], Worst(0, 501))
    assert refused.value.message == (
        "budget of tenant/team:claims for this day: 0.01 of 0.01 EUR are left, and this request "
        "may cost 0.01002: ask for fewer tokens, or wait"
    )
    assert budgets.reserve(release, call(), [model(EUR), dear], Worst(0, 500)).money_micro == 10_000


@pytest.mark.parametrize("price", [None, Price("USD", 1, 1)])
async def test_an_unknown_price_is_refused_where_money_is_limited(price: Price | None) -> None:
    budgets, release = await opened(), await release_of(TREE)
    with pytest.raises(BudgetExceeded, match="limits money in EUR, and model small has"):
        budgets.reserve(release, call(), [model(EUR), model(price)], Worst(1, 1))
    outside = call(caller=Caller("k", ("guest",)))  # the tenant's account limits tokens only
    assert held(budgets.reserve(release, outside, [model(price)], Worst(1, 1))) == [
        ("tenant", "2030-03", 2, 0)
    ]
    # What takes no tokens costs nothing whatever the price.
    assert budgets.reserve(release, call(), [model(price)], Worst(0, 0)).entries() == ()


async def test_a_refusal_holds_nothing() -> None:
    budgets, release = await opened(), await release_of(TREE)
    for _ in range(3):
        with pytest.raises(BudgetExceeded):
            budgets.reserve(release, call(), [model(EUR)], Worst(9_999, 0))
    assert all(view.tokens_reserved == 0 for view in budgets.views())
    budgets.reserve(release, call(), [model(EUR)], Worst(5_000, 0))


async def test_a_hundred_racing_for_one_calls_budget_one_passes() -> None:
    spec = {"tenant": {"tokens": 300, "per": "day"}}
    budgets, release = await opened(), await release_of(spec)
    start = asyncio.Event()

    async def race() -> bool:
        await start.wait()
        try:
            reservation = budgets.reserve(release, call(), [model()], Worst(100, 200))
        except BudgetExceeded:
            return False
        await asyncio.sleep(0)
        reservation.settle(100, 200)
        return True

    async with asyncio.TaskGroup() as group:
        racers = [group.create_task(race()) for _ in range(100)]
        start.set()
    assert sum(racer.result() for racer in racers) == 1


async def test_absurd_amounts_are_refused_not_overflown() -> None:
    spec = {"currency": "EUR", "tenant": {"tokens": 2**53 - 1, "money": "999999999", "per": "day"}}
    budgets, release = await opened(), await release_of(spec)
    huge = replace(EUR, output_micro=10**30)
    for worst, price in ((Worst(2**53, 0), EUR), (Worst(1, 1), huge)):
        with pytest.raises(BudgetExceeded, match="more than any budget"):
            budgets.reserve(release, call(), [model(price)], worst)


# --- the truth after --------------------------------------------------------------------------


async def test_settling_refunds_the_rest() -> None:
    ledger = FakeLedger()
    budgets, release = await opened(ledger), await release_of(TREE)
    reservation = budgets.reserve(release, call(), [model(EUR)], Worst(1_000, 1_000))
    ledger.add(reservation.entries())
    ledger.add(reservation.settle(10, 20, 0, EUR))
    assert ledger.sums == {
        ("tenant", "2030-03"): (30, 50),
        ("tenant/team:claims", "2030-03-17"): (30, 50),
    }
    view = budgets.views()[1]
    assert (view.account, view.period) == ("tenant/team:claims", "day")
    assert (view.tokens, view.tokens_reserved, view.tokens_limit) == (30, 0, 5_000)
    assert (view.money_micro, view.money_reserved_micro, view.money_limit_micro) == (50, 0, 10_000)
    assert (reservation.settle(1, 1), reservation.release()) == ((), ())
    reservation.drop()
    assert budgets.views()[1].tokens == 30


async def test_what_nobody_counted_is_charged_at_its_worst() -> None:
    ledger = FakeLedger()
    budgets, release = await opened(ledger), await release_of(TREE)
    reservation = budgets.reserve(release, call(), [model(EUR)], Worst(100, 200))
    assert reservation.tokens == 300
    ledger.add(reservation.entries())
    ledger.add(reservation.settle(None, 7, 0, EUR))
    assert ledger.sums["tenant", "2030-03"] == (107, 114)
    other = budgets.reserve(release, call(), [model(EUR)], Worst(100, 200))
    ledger.add(other.entries())
    ledger.add(other.settle(7, None, 0, EUR))
    assert ledger.sums["tenant", "2030-03"] == (107 + 207, 114 + 407)


async def test_cached_prompts_cost_what_the_provider_asks() -> None:
    price = replace(EUR, cached_input_micro=100_000)
    ledger = FakeLedger()
    budgets, release = await opened(ledger), await release_of(TREE)
    reservation = budgets.reserve(release, call(), [model(price)], Worst(1_000, 0))
    ledger.add(reservation.entries())
    ledger.add(reservation.settle(1_000, 0, 900, price))
    assert ledger.sums["tenant", "2030-03"] == (1_000, 100 + 90)
    dearer = replace(EUR, cached_input_micro=5_000_000)
    assert budgets.reserve(release, call(), [model(dearer)], Worst(100, 0)).money_micro == 500


async def test_release_and_drop_give_everything_back() -> None:
    ledger = FakeLedger()
    budgets, release = await opened(ledger), await release_of(TREE)
    unused = budgets.reserve(release, call(), [model(EUR)], Worst(5_000, 0))
    ledger.add(unused.entries())
    ledger.add(unused.release())
    assert set(ledger.sums.values()) == {(0, 0)}
    budgets.reserve(release, call(), [model(EUR)], Worst(5_000, 0)).drop()  # never in the ledger
    budgets.reserve(release, call(), [model(EUR)], Worst(5_000, 0))


async def test_more_than_the_worst_is_counted_all_the_same() -> None:
    budgets, release = await opened(), await release_of(TREE)
    budgets.reserve(release, call(), [model(EUR)], Worst(10, 10)).settle(9_000, 0, 0, EUR)
    assert budgets.views()[1].tokens == 9_000
    with pytest.raises(BudgetExceeded, match="0 of 5000 tokens are left"):
        budgets.reserve(release, call(), [model(EUR)], Worst(1, 0))


# --- periods and restarts ---------------------------------------------------------------------


async def test_an_overdrawn_account_refuses_what_costs_and_nothing_else() -> None:
    budgets, release = await opened(), await release_of(TREE)
    budgets.reserve(release, call(), [model(EUR)], Worst(10, 0)).settle(6_000, 0, 0, EUR)
    budgets.reserve(release, call(), [model(EUR)], Worst(0, 0))
    with pytest.raises(BudgetExceeded, match=" 0 of 5000 tokens"):
        budgets.reserve(release, call(), [model(EUR)], Worst(1, 0))


async def test_a_crash_leaves_the_worst_case_spent() -> None:
    ledger, release = FakeLedger(), await release_of(TREE)
    reservation = (await opened(ledger)).reserve(release, call(), [model(EUR)], Worst(4_000, 0))
    ledger.add(reservation.entries())
    again = await opened(ledger)
    with pytest.raises(BudgetExceeded, match="1000 of 5000 tokens are left"):
        again.reserve(release, call(), [model(EUR)], Worst(1_001, 0))


async def test_a_new_day_begins_at_midnight_utc() -> None:
    clock = FakeClock()
    budgets, release = await opened(clock=clock), await release_of(TREE)
    budgets.reserve(release, call(), [model(EUR)], Worst(5_000, 0)).settle(4_000, 0, 0, EUR)
    clock.step(6 * 3600 + 13 * 60 + 19)
    with pytest.raises(BudgetExceeded, match="for this day") as refused:
        budgets.reserve(release, call(), [model(EUR)], Worst(4_000, 0))
    assert refused.value.retry_after == 1
    clock.step(1)
    assert budgets.reserve(release, call(), [model(EUR)], Worst(4_000, 0)).entries()
    with pytest.raises(BudgetExceeded, match="for this month"):
        budgets.reserve(release, call(), [model(EUR)], Worst(2_001, 0))


async def test_what_is_held_over_midnight_is_settled_where_it_was_held() -> None:
    ledger, clock = FakeLedger(), FakeClock()
    budgets, release = await opened(ledger, clock), await release_of(TREE)
    reservation = budgets.reserve(release, call(), [model(EUR)], Worst(1_000, 0))
    ledger.add(reservation.entries())
    clock.step(40 * DAY)
    await budgets.forget()  # a period with something held is not forgotten
    ledger.add(reservation.settle(10, 0, 0, EUR))
    assert ledger.sums["tenant/team:claims", "2030-03-17"] == (10, 10)
    await budgets.forget()
    assert ledger.sums == {}


async def test_a_run_is_remembered_for_a_week() -> None:
    ledger, clock = FakeLedger(), FakeClock()
    budgets, release = await opened(ledger, clock), await release_of(TREE)
    asked = call(workflow="triage", run="r")
    first = budgets.reserve(release, asked, [model(EUR)], Worst(900, 0))
    ledger.add(first.entries())
    ledger.add(first.settle(900, 0, 0, EUR))
    clock.step(6 * DAY)
    await budgets.forget()
    with pytest.raises(BudgetExceeded, match="budget of this run: 100 of 1000 tokens"):
        budgets.reserve(release, asked, [model(EUR)], Worst(101, 0))
    clock.step(DAY)
    await budgets.forget()
    assert [key for key in ledger.sums if "run:" in key[0]] == []
    budgets.reserve(release, asked, [model(EUR)], Worst(1_000, 0))


async def test_runs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exclave_agent.decide.budget.MAX_RUNS", 3)
    ledger, clock = FakeLedger(), FakeClock()
    budgets, release = await opened(ledger, clock), await release_of(TREE)

    def reserve(run: str) -> None:
        reservation = budgets.reserve(
            release, call(workflow="triage", run=run), [model(EUR)], Worst(1, 0)
        )
        ledger.add(reservation.entries())
        ledger.add(reservation.settle(1, 0, 0, EUR))

    for run in "abc":
        reserve(run)
    with pytest.raises(BudgetExceeded, match="3 runs of this workflow are remembered"):
        reserve("d")
    reserve("a")
    budgets = await opened(ledger, clock)
    with pytest.raises(BudgetExceeded, match="3 runs of this workflow are remembered"):
        reserve("d")
    clock.step(8 * DAY)
    await budgets.forget()
    reserve("d")


async def test_another_document_goes_on_with_the_same_names() -> None:
    budgets, release = await opened(), await release_of(TREE)
    budgets.reserve(release, call(), [model(EUR)], Worst(4_000, 0)).settle(4_000, 0, 0, EUR)
    changed = json.loads(json.dumps(TREE))
    changed["teams"][0] |= {"tokens": 4_100, "roles": ["other", "clerk"]}
    renamed = json.loads(json.dumps(changed))
    renamed["teams"][0]["name"] = "claims-2"
    with pytest.raises(BudgetExceeded, match="100 of 4100 tokens are left"):
        budgets.reserve(await release_of(changed), call(), [model(EUR)], Worst(101, 0))
    assert budgets.reserve(await release_of(renamed), call(), [model(EUR)], Worst(101, 0))


# --- the worst case ---------------------------------------------------------------------------


def test_the_worst_case_covers_bytes_template_and_tools() -> None:
    text = "ü" * 10
    plain = worst_case(call(messages=(Message("user", text),)), model(context_tokens=0), 50)
    assert plain.completion == 50
    assert plain.prompt >= 20 + 64
    tool = Tool("f", "what it does", '{"type": "object"}')
    more = worst_case(call(messages=(Message("user", text),), tools=(tool,)), model(), 50)
    assert more.prompt >= plain.prompt + len("fwhat it does") + len(tool.parameters)


def test_no_attempt_exceeds_a_known_context() -> None:
    long = call(messages=(Message("user", "x" * 100_000),))
    assert worst_case(long, model(), 96) == Worst(4_000, 96)
    assert worst_case(long, model(context_tokens=0), 96).prompt > 100_000


def test_what_is_not_generated_has_no_answer_tokens() -> None:
    shared: dict[str, Any] = {
        "decision": "d",
        "model": "m",
        "caller": Caller("k", ()),
        "subject": "",
    }
    embed = EmbedCall(**shared, texts=("abc", "d" * 9_000))
    assert worst_case(embed, model()) == Worst(8_192, 0)
    assert worst_case(embed, model(context_tokens=0)).prompt >= 9_003
    rerank = RerankCall(**shared, query="q" * 10, documents=("a", "b", "c"))
    assert worst_case(rerank, model(context_tokens=0)).prompt >= 33
    infer = InferCall(**shared, inputs=(Tensor("x", "FP32", (1,), bytes(4)),))
    assert worst_case(infer, model()).total == 0


@pytest.mark.parametrize(
    ("micro", "text"),
    [
        (0, "0.00"),
        (1, "0.000001"),
        (1_500_000, "1.50"),
        (10_000, "0.01"),
        (12_345_678, "12.345678"),
    ],
)
def test_amounts_are_written_as_decimals(micro: int, text: str) -> None:
    assert amount(micro) == text


# --- any order of events ------------------------------------------------------------------------


class Spending(RuleBasedStateMachine):
    """Reservations, settlements, crashes and passing days in any order."""

    @initialize()
    def start(self) -> None:
        self.clock, self.ledger = FakeClock(), FakeLedger()
        self.release = asyncio.run(release_of(TREE))
        self.open: list[tuple[Reservation, Worst, bool]] = []
        self.load()

    def load(self) -> None:
        self.budgets = asyncio.run(opened(self.ledger, self.clock))

    @rule(
        prompt=st.integers(0, 3_000),
        completion=st.integers(0, 1_500),
        durable=st.booleans(),
        workflow=st.sampled_from(["", "triage", "letters"]),
        run=st.sampled_from(["", "r1", "r2"]),
        role=st.sampled_from(["clerk", "guest"]),
    )
    def reserve(
        self,
        prompt: int,
        completion: int,
        durable: bool,
        workflow: str,
        run: str,
        role: str,
    ) -> None:
        worst = Worst(prompt, completion)
        asked = call(workflow=workflow, run=run, caller=Caller("k", (role,)))
        try:
            reservation = self.budgets.reserve(self.release, asked, [model(EUR)], worst)
        except BudgetExceeded:
            return
        if durable:
            self.ledger.add(reservation.entries())
        self.open.append((reservation, worst, durable))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        place = data.draw(st.integers(0, len(self.open) - 1))
        reservation, worst, durable = self.open.pop(place)
        if not durable:
            reservation.drop()
        elif data.draw(st.booleans()):
            prompt = data.draw(st.integers(0, worst.prompt))
            completion = data.draw(st.integers(0, worst.completion))
            self.ledger.add(reservation.settle(prompt, completion, 0, EUR))
        else:
            self.ledger.add(reservation.release())

    @rule(days=st.integers(0, 20))
    def wait(self, days: int) -> None:
        self.clock.step(days * DAY)
        asyncio.run(self.budgets.forget())

    @rule()
    def crash(self) -> None:
        self.open.clear()
        self.load()

    @invariant()
    def no_limit_is_exceeded(self) -> None:
        for view in self.budgets.views(self.release.policy.budget):
            assert min(view.tokens, view.tokens_reserved, view.money_micro) >= 0
            assert view.tokens_limit is not None
            assert view.tokens + view.tokens_reserved <= view.tokens_limit
            if view.money_limit_micro is not None:
                spent = view.money_micro + view.money_reserved_micro
                assert spent <= view.money_limit_micro

    @invariant()
    def the_ledger_holds_what_is_settled_and_what_is_reserved(self) -> None:
        """So whatever crashes now, no less than the worst case is on the books."""
        expected: dict[tuple[str, str], list[int]] = {}
        for key, sums in self.budgets._sums.items():
            expected[key] = [sums.tokens, sums.money]
        for reservation, _, durable in self.open:
            for entry in reservation.entries() if durable else ():
                expected[entry.account, entry.period][0] += entry.tokens
                expected[entry.account, entry.period][1] += entry.money_micro
        books = {key: list(sums) for key, sums in self.ledger.sums.items() if any(sums)}
        assert books == {key: sums for key, sums in expected.items() if any(sums)}


TestSpending = Spending.TestCase
TestSpending.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


async def test_ended_periods_are_looked_for_once_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []

    def over(periods: Periods, period: str) -> bool:
        looks.append(period)
        return False

    clock = FakeClock()
    budgets, release = await opened(clock=clock), await release_of(TREE)
    budgets.reserve(release, call(), [model(EUR)], Worst(1, 0))
    monkeypatch.setattr(Periods, "over", over)
    await budgets.forget()
    seen = len(looks)
    await budgets.forget()
    assert len(looks) == seen > 0
    clock.step(DAY)
    await budgets.forget()
    assert len(looks) == 2 * seen
