"""Underway: one decision on its way."""

from __future__ import annotations

from dataclasses import dataclass

from exclave_agent.ports import ActiveRelease

from .authorize import UNSEEN, Seen
from .calls import Call
from .entry import Entry
from .jobs import Answer
from .overlap import IntentTask
from .plan import Choice


@dataclass(slots=True)
class Underway:
    """What is known of it so far."""

    release: ActiveRelease
    call: Call
    entry: Entry
    deadline: float | None
    """The loop's time."""
    seen: Seen = UNSEEN
    intent: IntentTask | None = None
    """Once it is being written."""
    answer: Answer | None = None
    """Once it is complete."""
    choice: Choice | None = None
    """Who gave it."""

    @property
    def notices(self) -> tuple[str, ...]:
        """What the caller is to show beside the answer."""
        if self.choice is not None:
            return self.choice.obligations.notices
        verdict = self.entry.verdict
        return () if verdict is None else verdict.obligations.notices
