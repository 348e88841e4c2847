"""The report: its verdict, its exit code, its words."""

from __future__ import annotations

import pytest

from exclave_agent.doctor.report import Report, duration, fail, ok, size, skip, warn

FINE, MEH = ok("a", "well"), warn("b", "soon", "do it")
BAD, LEFT = fail("c", "broken", "mend it"), skip("d", "not here")


@pytest.mark.parametrize(
    ("checks", "verdict", "code", "strict"),
    [
        ((FINE, LEFT), "ok", 0, 0),
        ((FINE, MEH), "warn", 0, 1),
        ((FINE, MEH, BAD), "fail", 1, 1),
        ((), "ok", 0, 0),
    ],
)
def test_exit_codes(checks: tuple[object, ...], verdict: str, code: int, strict: int) -> None:
    report = Report("1", 0, checks)  # type: ignore[arg-type]  # parametrize widens it
    assert report.value()["verdict"] == verdict
    assert report.exit_code(strict=False) == code
    assert report.exit_code(strict=True) == strict


def test_people_read_results_remedies_and_a_sum() -> None:
    assert list(Report("1", 0, (FINE, MEH, BAD, LEFT)).lines()) == [
        "ok   a: well",
        "warn b: soon",
        "     remedy: do it",
        "FAIL c: broken",
        "     remedy: mend it",
        "skip d: not here",
        "1 ok, 1 warn, 1 fail, 1 skip",
    ]


def test_sizes_and_times() -> None:
    assert [size(one) for one in (0, 999, 1500, 2_500_000, 16e9, 2e12)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "2.5 MB",
        "16.0 GB",
        "2.0 TB",
    ]
    assert [duration(one) for one in (0, 59, 60, 3661, 86_400, 90_000, -7200)] == [
        "0 s",
        "59 s",
        "1 min",
        "1 h 1 min",
        "1 d",
        "1 d 1 h",
        "2 h",
    ]
