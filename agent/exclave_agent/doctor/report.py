"""What a check says, and the report that all of them make."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

SCHEMA: Final = "exclave.doctor/v1"


class Result(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"
    """The agent works; something will stop it, or weakens it."""
    FAIL = "fail"
    """The agent does not work, or not for long."""
    SKIP = "skip"
    """Not looked at; the detail says why."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report."""

    name: str
    result: Result
    detail: str
    remedy: str = ""
    """What to do; there for every warning and every failure."""


def ok(name: str, detail: str) -> Check:
    """All well."""
    return Check(name, Result.OK, detail)


def warn(name: str, detail: str, remedy: str) -> Check:
    """Works, for now."""
    return Check(name, Result.WARN, detail, remedy)


def fail(name: str, detail: str, remedy: str) -> Check:
    """Does not work."""
    return Check(name, Result.FAIL, detail, remedy)


def skip(name: str, why: str, remedy: str = "") -> Check:
    """Not looked at; `remedy` says how it could be."""
    return Check(name, Result.SKIP, why, remedy)


@dataclass(frozen=True, slots=True)
class Report:
    """All checks of one run, in their order."""

    version: str
    """Of the agent."""
    at: int
    """Seconds since the epoch, by this machine's clock."""
    checks: tuple[Check, ...]

    def worst(self) -> Result:
        """The verdict: fail, warn or ok."""
        found = {check.result for check in self.checks}
        return next((one for one in (Result.FAIL, Result.WARN) if one in found), Result.OK)

    def exit_code(self, *, strict: bool) -> int:
        """0: all well; 1: something fails, or warns where `strict`."""
        bad = (Result.FAIL, Result.WARN) if strict else (Result.FAIL,)
        return int(self.worst() in bad)

    def value(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "schema": SCHEMA,
            "version": self.version,
            "at": self.at,
            "verdict": str(self.worst()),
            "checks": [asdict(check) for check in self.checks],
        }

    def lines(self) -> Iterator[str]:
        """For people."""
        for check in self.checks:
            yield f"{check.result.value if check.result is not Result.FAIL else 'FAIL':4} " + (
                f"{check.name}: {check.detail}"
            )
            if check.remedy:
                yield f"     remedy: {check.remedy}"
        yield _sum(self.checks)


def _sum(checks: Iterable[Check]) -> str:
    results = [check.result for check in checks]
    return ", ".join(f"{results.count(one)} {one}" for one in Result if one in results)


def size(count: float) -> str:
    """Bytes for people, decimal units as `df -H` and disks' labels have them."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count:.0f} B"


def duration(seconds: float) -> str:
    """A time for people: its two largest units."""
    whole = int(abs(seconds))
    parts = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
    for at, (unit, length) in enumerate(parts):
        if whole >= length or unit == "s":
            text = f"{whole // length} {unit}"
            if at + 1 < len(parts):
                small, step = parts[at + 1]
                rest = whole % length // step
                text += f" {rest} {small}" if rest else ""
            return text
    raise AssertionError("seconds always match")
