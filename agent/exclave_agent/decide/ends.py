"""Ends: how a decision ended, in the record's words, and what it cost."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from exclave_agent.errors import (
    AgentError,
    ApprovalNeeded,
    InputRefused,
    OutputInvalid,
    PolicyDenied,
    TooManyTokens,
)
from exclave_agent.ports import Price
from exclave_protocol.canonical import JsonValue

from .jobs import Answer
from .plan import Usage
from .worst import Worst


@dataclass(slots=True)
class End:
    """How a decision ended."""

    outcome: str
    reason: str
    answer: Answer | None
    seconds: float
    first: float | None = None
    """Seconds until the first piece of the answer was there."""
    output: JsonValue | None = None
    held: JsonValue | None = None
    """The answer that waits for approval."""
    cost_micro: int = 0
    currency: str = ""

    def charge(self, price: Price, usage: Usage, worst: Worst | None) -> None:
        """Add what one attempt cost; in one currency, that of the last one that cost something.
        Tokens that nobody counted are charged at the worst case, where that is known."""
        prompt, completion = usage.prompt, usage.completion
        if prompt is None:
            prompt = 0 if worst is None else worst.prompt
        if completion is None:
            completion = 0 if worst is None else worst.completion
        if self.currency != price.currency:
            self.currency, self.cost_micro = price.currency, 0
        self.cost_micro += price.cost_micro(prompt, completion, min(usage.cached, prompt))

    def cost(self) -> JsonValue:
        """For the RESULT; None: nothing that has a price was asked."""
        if not self.currency:
            return None
        return {"micro": str(self.cost_micro), "currency": self.currency}


def outcome_of(error: BaseException, *, intended: bool) -> tuple[str, str]:
    """The RESULT's outcome and reason code for an error that ended a decision."""
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return "cancelled", "client_gone"
    if not isinstance(error, AgentError):
        return "failed", "internal"
    if isinstance(error, OutputInvalid):
        return "invalid", error.code
    if isinstance(error, ApprovalNeeded):
        return "held", error.code
    if isinstance(error, PolicyDenied | InputRefused):
        return "denied", error.code
    if isinstance(error, TooManyTokens) and not intended:
        return "denied", error.code
    return "failed", error.code
