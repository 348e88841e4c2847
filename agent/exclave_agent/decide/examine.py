"""Examine: hold a complete answer to the validators that the policy obliges to."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from exclave_agent.errors import AgentError, DeadlineExceeded, OutputInvalid
from exclave_agent.ports import (
    Delta,
    Generate,
    Message,
    Sampling,
    Tensor,
    TokenLogprob,
    ToolCall,
)
from exclave_policy.guards.checks import (
    JUDGE_SCHEMA,
    CompiledValidator,
    Failure,
    Material,
    judge_prompt,
    judged,
)
from exclave_policy.kinds.validators import JudgeCheck, Otherwise, Validator
from exclave_policy.schema import activation

from .authorize import request_of
from .calls import GenerateCall
from .guards import Failed, Guards, strictest, unseen
from .infer import generate
from .plan import Choice
from .texts import asked, least_certain, values

if TYPE_CHECKING:
    from .underway import Underway

JUDGE_SECONDS = 60.0
"""A judge that takes longer has not judged."""
_JUDGE_TOKENS = 32


class GuardFailed(OutputInvalid):
    """A validator of the policy did not let an answer out, and what happens now."""

    def __init__(self, failed: Sequence[Failed], decision: str) -> None:
        worst = strictest(failed)
        assert worst is not None, "something failed"
        validator: Validator = worst.validator
        super().__init__(
            f"the answer {worst.words}",
            decision_id=decision,
            guard=validator.name,
        )
        self.validator = validator
        """The strictest of those that failed."""
        self.otherwise: Otherwise = validator.otherwise
        self.repair = all(each.validator.repair for each in failed)
        """Whether the model may be asked once more."""
        self.reasons = tuple(each.failure.reason for each in failed)


class Said:
    """A complete answer, as validators look at it."""

    __slots__ = ("confidences", "text")

    def __init__(self, text: str, confidences: dict[str, float]) -> None:
        self.text = text
        self.confidences = confidences


def spoken(text: str, calls: Sequence[ToolCall], logprobs: Sequence[TokenLogprob]) -> Said:
    """A generated answer. What it asks of tools is said as well."""
    parts = (text, *(part for call in calls for part in (call.name, call.arguments)))
    known = {"": sureness(logprobs)} if logprobs else {}
    return Said("\n".join(part for part in parts if part), known)


def computed(tensors: Sequence[Tensor]) -> Said:
    """Output tensors: an object of JSON with each one's values in order. One that has too many
    to be written out leaves nothing to look at, and every check of the text fails."""
    known: dict[str, float] = {}
    found: dict[str, Sequence[object]] = {}
    try:
        for tensor in tensors:
            found[tensor.name] = values(tensor)
            known[tensor.name] = least_certain(tensor)
    except ValueError:
        return Said("", known)
    return Said(json.dumps(found), known)


def sureness(logprobs: Sequence[TokenLogprob]) -> float:
    """The geometric mean of the tokens' probabilities; 0 when nobody told them."""
    if not logprobs:
        return 0.0
    return math.exp(sum(each.logprob for each in logprobs) / len(logprobs))


class Examiner:
    """Of one decision."""

    def __init__(self, guards: Guards, decision: Underway) -> None:
        self._guards = guards
        self._decision = decision

    async def examine(self, choice: Choice, said: Said) -> None:
        """MUST have returned before anything of an answer that is held leaves.

        Raises: GuardFailed, DeadlineExceeded, Overloaded.
        """
        failed: list[Failed] = []
        notes = self._decision.entry.notes
        for compiled in choice.validators:
            validator = compiled.validator
            try:
                failure = await self._failure(compiled, choice, said)
            except AgentError as error:
                failure = unseen(validator, error)
            if failure is None:
                notes.passed(validator)
                continue
            notes.failed(validator, failure, choice.info.name)
            if validator.mode == "enforce":
                failed.append(Failed(validator, failure))
        if failed:
            raise GuardFailed(failed, self._decision.call.decision)

    async def _failure(
        self, compiled: CompiledValidator, choice: Choice, said: Said
    ) -> Failure | None:
        decision = self._decision
        call = decision.call
        request = request_of(call, decision.entry.received_ns, decision.seen, choice.info)
        material = Material(
            said.text,
            asked=asked(call),
            values=activation(request, compiled.names),
            confidences=said.confidences,
        )
        failure = await self._guards.failure(compiled, material)
        for place, check in compiled.judges:
            if failure is not None:
                break
            failure = await self._judgement(compiled.validator.name, place, check, said.text)
        return failure

    async def _judgement(
        self, name: str, place: int, check: JudgeCheck, text: str
    ) -> Failure | None:
        """A judge that fails, or is late, has not found the answer good."""
        limit = asyncio.get_running_loop().time() + JUDGE_SECONDS
        try:
            async with asyncio.timeout_at(
                limit if self._decision.deadline is None else min(limit, self._decision.deadline)
            ):
                reply = await self._ask(check, text)
        except TimeoutError:
            if self._decision.deadline is not None and self._decision.deadline <= limit:
                raise DeadlineExceeded(
                    "the time that the caller gave ran out before the answer was judged"
                ) from None
            return Failure(name, "judge", place, "the judge did not answer within its time")
        except AgentError as error:
            return Failure(name, "judge", place, f"the judge did not answer ({error.code})")
        return judged(name, place, check, reply)

    async def _ask(self, check: JudgeCheck, text: str) -> str:
        call = self._decision.call
        request = Generate(
            model=check.model,
            messages=(Message("user", judge_prompt(check, asked(call), text)),),
            sampling=Sampling(max_tokens=_JUDGE_TOKENS, temperature=0.0, json_schema=JUDGE_SCHEMA),
            caller=call.caller.key_id,
            priority=call.priority if isinstance(call, GenerateCall) else "interactive",
        )
        pieces: list[str] = []
        async with aclosing(generate(self._decision.release.models, request)) as events:
            async for event in events:
                if isinstance(event, Delta):
                    pieces.append(event.text)
        return "".join(pieces)
