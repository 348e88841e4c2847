"""What a verification says: numbered steps, one verdict, one exit code."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum


class Verdict(StrEnum):
    """What an auditor may conclude. Of several, the first in this order is the bundle's."""

    INVALID = "INVALID"
    """Something was altered, or is not of the format."""
    DIVERGED = "DIVERGED"
    """The log's own key signed two histories that exclude each other: a fork is proven."""
    UNANCHORED = "UNANCHORED"
    """Nothing wrong was found, but no witness vouches for it: the holder of the log's key could
    have written all of it yesterday."""
    INCOMPLETE = "INCOMPLETE"
    """All that is here is witnessed, but records of the range are not here."""
    WITNESSED = "WITNESSED"
    """Complete for its range, unaltered, and cosigned by the witness."""

    @property
    def exit_code(self) -> int:
        """Of `exclave-verify`; 2 is bad usage."""
        return _EXIT_CODES[self]


_EXIT_CODES = {
    Verdict.WITNESSED: 0,
    Verdict.INVALID: 1,
    Verdict.DIVERGED: 3,
    Verdict.UNANCHORED: 4,
    Verdict.INCOMPLETE: 5,
}
_ORDER = list(Verdict)
MAX_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was checked."""

    number: str
    title: str
    verdict: Verdict
    """WITNESSED when the step holds."""
    detail: str
    """What was found; a failed step says where."""
    notes: tuple[str, ...] = ()
    """True and worth knowing, but no reason to doubt."""

    @property
    def ok(self) -> bool:
        """Whether the step holds."""
        return self.verdict is Verdict.WITNESSED


@dataclass(frozen=True, slots=True)
class Report:
    """The whole verification."""

    steps: tuple[Step, ...]
    trust: tuple[str, ...]
    """Which keys were pinned by the auditor and which came from the bundle itself."""

    @property
    def verdict(self) -> Verdict:
        """The worst of the steps."""
        return worst(step.verdict for step in self.steps)

    def to_json(self) -> dict[str, object]:
        """The report as plain JSON values."""
        return {
            "schema": "exclave.verification/v1",
            "verdict": self.verdict.value,
            "exit_code": self.verdict.exit_code,
            "trust": list(self.trust),
            "steps": [
                {
                    "number": step.number,
                    "title": step.title,
                    "ok": step.ok,
                    "verdict": step.verdict.value,
                    "detail": step.detail,
                    "notes": list(step.notes),
                }
                for step in self.steps
            ],
        }

    def to_text(self) -> str:
        """The report for people, one step a paragraph."""
        lines = []
        for step in self.steps:
            mark = "ok" if step.ok else step.verdict.value
            lines.append(f"{step.number:>4}  {step.title}: {mark}")
            lines += [f"      {line}" for line in step.detail.splitlines()]
            lines += [f"      note: {note}" for note in step.notes]
        lines += ["", *(f"trust: {line}" for line in self.trust), f"verdict: {self.verdict}", ""]
        return "\n".join(lines)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict that decides."""
    return min(verdicts, key=_ORDER.index, default=Verdict.WITNESSED)


@dataclass(slots=True)
class Findings:
    """Problems as they are met, the first twenty in words."""

    problems: list[str] = field(default_factory=list)
    count: int = 0
    verdict: Verdict = Verdict.WITNESSED

    def add(self, verdict: Verdict, problem: str) -> None:
        """Take down one problem."""
        self.verdict = worst([self.verdict, verdict])
        self.count += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)

    def step(self, number: str, title: str, good: str, notes: Iterable[str] = ()) -> Step:
        """The step these findings make; `good` is its detail when there are none."""
        detail = "\n".join(self.problems) or good
        if self.count > len(self.problems):
            detail += f"\n... and {self.count - len(self.problems)} more"
        return Step(number, title, self.verdict, detail, tuple(notes))
