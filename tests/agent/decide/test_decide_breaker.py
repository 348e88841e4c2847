"""Circuit breakers and retry budgets by themselves: pure, with the time as an argument."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave_agent.decide.breaker import Breaker
from exclave_agent.decide.retry import RetryBudget
from exclave_policy.kinds.routes import BreakerRule, Retry

RULE = BreakerRule(
    window_seconds=60,
    min_requests=4,
    error_rate=0.5,
    latency_ms=1000,
    invalid_rate=0.5,
    open_seconds=30,
)


def succeed(breaker: Breaker, now: float, latency: float = 0.1) -> None:
    permit = breaker.acquire(now)
    assert permit is not None
    permit.succeeded(now, latency)


def fail(breaker: Breaker, now: float, times: int = 1, fault: str = "errors") -> None:
    for _ in range(times):
        permit = breaker.acquire(now)
        assert permit is not None
        permit.failed(now, "invalid" if fault == "invalid" else "errors")


def opened() -> Breaker:
    breaker = Breaker(RULE)
    fail(breaker, 0.0, 4)
    return breaker


@pytest.mark.parametrize("fault", ["errors", "invalid"])
def test_it_opens_on_a_rate_of_faults(fault: str) -> None:
    breaker = Breaker(RULE)
    for _ in range(2):
        succeed(breaker, 0.0)
    fail(breaker, 1.0, fault=fault)
    assert breaker.state(1.0) == "closed"  # three outcomes say nothing
    fail(breaker, 1.0, fault=fault)
    assert (breaker.state(1.0), breaker.reason) == ("open", fault)
    assert breaker.acquire(30.9) is None
    assert breaker.opens_in(11.0) == pytest.approx(20.0)


def test_it_opens_on_the_95th_percentile_of_the_latency() -> None:
    breaker = Breaker(RULE)
    for _ in range(19):
        succeed(breaker, 0.0)
    succeed(breaker, 0.0, latency=5.0)
    assert breaker.state(0.0) == "closed"  # one in twenty
    assert breaker.latency(0.0) == 0.1
    succeed(breaker, 0.0, latency=5.0)
    assert (breaker.state(0.0), breaker.reason) == ("open", "latency")


def test_what_left_the_window_counts_no_more() -> None:
    breaker = Breaker(RULE)
    fail(breaker, 0.0, 3)
    for _ in range(3):
        succeed(breaker, 60.0)
    fail(breaker, 60.0)
    assert breaker.state(60.0) == "closed"  # one of four
    fail(breaker, 60.0, 2)
    assert breaker.state(60.0) == "open"  # three of six


def test_a_half_open_breaker_lets_one_probe_through() -> None:
    breaker = opened()
    assert breaker.state(30.0) == "half-open"
    probe = breaker.acquire(30.0)
    assert probe is not None
    assert probe.probe
    assert breaker.acquire(30.0) is None
    probe.succeeded(31.0, 0.1)
    assert (breaker.state(31.0), breaker.reason) == ("closed", "")
    assert breaker.acquire(31.0) is not None


def test_a_failed_probe_opens_again() -> None:
    breaker = opened()
    fail(breaker, 30.0)
    assert breaker.state(59.9) == "open"
    assert breaker.state(60.0) == "half-open"


def test_a_slow_probe_opens_again() -> None:
    breaker = opened()
    succeed(breaker, 30.0, latency=1.5)
    assert (breaker.state(31.0), breaker.reason) == ("open", "latency")


def test_a_probe_that_says_nothing_makes_room_for_the_next() -> None:
    breaker = opened()
    for _ in range(3):
        probe = breaker.acquire(30.0)
        assert probe is not None
        probe.void()
    assert breaker.state(30.0) == "half-open"


def test_a_probe_that_never_ends_does_not_keep_the_next_from_trying() -> None:
    breaker = opened()
    stuck = breaker.acquire(30.0)
    assert stuck is not None
    assert breaker.acquire(59.9) is None
    succeed(breaker, 60.0)
    assert breaker.state(60.0) == "closed"
    stuck.failed(61.0, "errors")  # one outcome among others by now
    assert breaker.state(61.0) == "closed"


def test_the_end_of_a_stale_probe_lets_no_third_one_through() -> None:
    breaker = opened()
    stale, probe = breaker.acquire(30.0), breaker.acquire(60.0)
    assert stale is not None
    assert probe is not None
    stale.void()
    assert breaker.acquire(60.0) is None


def give_up(breaker: Breaker, now: float, waited: float) -> None:
    permit = breaker.acquire(now)
    assert permit is not None
    permit.abandoned(now, waited)


def test_waiting_in_vain_for_longer_than_the_limit_is_slow() -> None:
    breaker = Breaker(RULE)
    for _ in range(4):
        give_up(breaker, 5.0, waited=1.0)  # no longer than a good answer may take
    assert breaker.state(5.0) == "closed"
    for _ in range(4):
        give_up(breaker, 6.0, waited=1.1)
    assert (breaker.state(6.0), breaker.reason) == ("open", "latency")
    give_up(breaker, 40.0, waited=1.1)  # the probe
    assert breaker.state(40.0) == "open"


def test_without_a_limit_nobody_is_slow() -> None:
    breaker = Breaker(BreakerRule(min_requests=1, error_rate=0.0))
    give_up(breaker, 0.0, waited=1e6)
    assert breaker.state(0.0) == "closed"


def test_a_permit_ends_once() -> None:
    breaker = Breaker(RULE)
    permit = breaker.acquire(0.0)
    assert permit is not None
    for _ in range(10):
        permit.failed(0.0, "errors")
    assert breaker.state(0.0) == "closed"


def test_outcomes_of_before_it_opened_say_nothing_of_a_target_that_rested() -> None:
    breaker = Breaker(RULE)
    late = [breaker.acquire(0.0) for _ in range(8)]
    fail(breaker, 0.0, 4)
    succeed(breaker, 30.0)  # the probe
    for permit in late:
        assert permit is not None
        permit.failed(31.0, "errors")
    assert breaker.state(31.0) == "closed"


def test_without_a_rule_it_never_opens() -> None:
    breaker = Breaker(None)
    fail(breaker, 0.0, 100)
    assert breaker.state(0.0) == "closed"


def test_a_new_rule_keeps_what_is_known() -> None:
    breaker = opened()
    breaker.obey(BreakerRule(open_seconds=1))
    assert breaker.state(1.0) == "open"
    breaker.obey(None)
    assert breaker.state(1.0) == "closed"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["acquire", "succeed", "fail", "invalid", "void", "wait"]),
            st.integers(0, 5),
        ),
        max_size=60,
    )
)
def test_never_more_than_one_probe_and_never_one_while_open(steps: list[tuple[str, int]]) -> None:
    breaker, now, out = Breaker(RULE), 0.0, []
    for what, which in steps:
        if what == "wait":
            now += 7.0 * which
        elif what == "acquire":
            state = breaker.state(now)
            permit = breaker.acquire(now)
            assert (permit is None) == (not breaker.admits(now) or state == "open") or permit
            if permit is not None:
                assert state != "open"
                assert permit.probe == (state == "half-open")
                out.append(permit)
        elif out:
            permit = out.pop(which % len(out))
            if what == "succeed":
                permit.succeeded(now, 0.1)
            elif what == "void":
                permit.void()
            else:
                permit.failed(now, "errors" if what == "fail" else "invalid")
        if breaker.state(now) == "half-open" and not breaker.admits(now):
            assert sum(permit.probe for permit in out) >= 1, "a probe is on its way"
    for permit in out:
        permit.void()
    assert breaker.admits(now + 31.0), "nothing is lost for good"


# --- retry budget ----------------------------------------------------------------------------


def test_a_full_bucket_pays_for_its_burst() -> None:
    bucket = RetryBudget(Retry(ratio=0.1, burst=3))
    assert [bucket.withdraw() for _ in range(4)] == [True, True, True, False]


def test_ten_decisions_pay_for_one_extra_attempt() -> None:
    bucket = RetryBudget(Retry(ratio=0.1, burst=1))
    assert bucket.withdraw()
    for _ in range(9):
        bucket.deposit()
    assert not bucket.withdraw()
    bucket.deposit()
    assert bucket.withdraw()


@given(st.lists(st.booleans(), max_size=200), st.floats(0, 1), st.integers(0, 20))
def test_extra_attempts_are_at_most_the_burst_and_the_share(
    steps: list[bool], ratio: float, burst: int
) -> None:
    bucket = RetryBudget(Retry(ratio=ratio, burst=burst))
    deposits = spent = 0
    for is_deposit in steps:
        if is_deposit:
            bucket.deposit()
            deposits += 1
        else:
            spent += bucket.withdraw()
    assert spent <= burst + deposits * ratio + 1e-6


def test_a_smaller_burst_takes_tokens_away() -> None:
    bucket = RetryBudget(Retry(burst=10))
    bucket.obey(Retry(burst=1))
    assert [bucket.withdraw() for _ in range(2)] == [True, False]
