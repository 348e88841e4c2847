"""The decision path over scripted models: one object that a test can route, break and look into."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from exclave_agent.decide.budget import Budgets
from exclave_agent.decide.cache import Cache
from exclave_agent.decide.calls import Answered, GenerateCall
from exclave_agent.decide.pipeline import Pipeline
from exclave_agent.ports import (
    ActiveRelease,
    Caller,
    Decided,
    Delta,
    Message,
    ModelInfo,
    RedactionKeys,
    Tracer,
)
from exclave_policy.evaluate import CompiledPolicy
from exclave_protocol.canonical import JsonValue
from exclave_protocol.leaf import Leaf

from .audit import FakeAuditLog
from .clock import FakeClock, SequentialIds
from .local_api import FakeReleases, compile_policy
from .referrals import FakeReferrals
from .scripted import ScriptedModels, model

ANALYST = Caller("11111111", ("analyst",))

ALLOW_ALL = """
apiVersion: exclave.dev/v1
kind: Policy
metadata: {name: test, version: "1.0.0"}
spec:
  rules:
    - id: analysts
      effect: allow
      subjects: {roles: [analyst]}
      actions: [chat, complete, embed, rerank, infer]
      models: ["*"]
    - id: analysts-reach
      effect: allow
      subjects: {roles: [analyst]}
      actions: [call_tool, use_endpoint, use_secret]
      tools: ["*"]
      endpoints: ["*"]
      secrets: ["*"]
    - id: not-forbidden
      effect: deny
      models: [forbidden]
"""


def route_text(*targets: str | Mapping[str, Any], name: str = "best", **spec: Any) -> str:
    """A document of kind Route; a target is a model's name, or its fields."""
    listed = [{"model": each} if isinstance(each, str) else each for each in targets]
    return json.dumps(
        {
            "apiVersion": "exclave.dev/v1",
            "kind": "Route",
            "metadata": {"name": name, "version": "1"},
            "spec": {"actions": ["chat", "complete"], "targets": listed} | spec,
        }
    )


def budget_text(tokens: int) -> str:
    """A document of kind Budget that gives the tenant so many tokens a day."""
    return json.dumps(
        {
            "apiVersion": "exclave.dev/v1",
            "kind": "Budget",
            "metadata": {"name": "spend", "version": "1"},
            "spec": {"tenant": {"tokens": tokens, "per": "day"}},
        }
    )


def chat(**changes: Any) -> GenerateCall:
    """A call of the route "best", in one piece."""
    fields: dict[str, Any] = {
        "decision": "d1",
        "action": "chat",
        "model": "best",
        "caller": ANALYST,
        "subject": "patient-7",
        "messages": (Message("user", "zebra"),),
        "max_tokens": 16,
    }
    return GenerateCall(**(fields | changes))


class Gathered:
    """A DecisionMetrics that keeps what it is told."""

    def __init__(self) -> None:
        self.all: list[Decided] = []

    def decided(self, decided: Decided) -> None:
        """See `ports.DecisionMetrics`."""
        self.all.append(decided)


class Desk:
    """A pipeline under test."""

    def __init__(
        self,
        *documents: str,
        policy: str = ALLOW_ALL,
        models: tuple[ModelInfo, ...] = (model("big"), model("small"), model("forbidden")),
        cache: Cache | None = None,
        referrals: FakeReferrals | None = None,
        tracer: Tracer | None = None,
        files: Mapping[str, str] | None = None,
        keys: RedactionKeys | None = None,
    ) -> None:
        """`files`: what documents name, by path in the pack."""
        self.clock = FakeClock()
        self.log = FakeAuditLog(clock=self.clock)
        self.metrics = Gathered()
        self.models = ScriptedModels(*models)
        self.referrals = FakeReferrals() if referrals is None else referrals
        self.budgets = Budgets(self.log.ledger, self.clock)
        self.releases = FakeReleases()
        self.activate(compile_policy(policy, *documents, files=files or {}))
        self.pipeline = Pipeline(
            self.releases,
            self.log,
            self.clock,
            SequentialIds(),
            self.metrics,
            budgets=self.budgets,
            cache=cache,
            referrals=self.referrals,
            tracer=tracer,
            keys=keys,
        )

    def activate(self, policy: CompiledPolicy) -> None:
        """Answer under this policy from now on."""
        self.releases.active = ActiveRelease("a" * 64, 7, 3, policy, "b" * 64, self.models)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Desk]:
        """Take calls until the block ends."""
        await self.budgets.load()
        async with self.pipeline:
            yield self

    async def ask(self, call: GenerateCall) -> tuple[list[str], Answered]:
        """Everything a call is answered with: texts, and the end."""
        events = [event async for event in self.pipeline.stream(call)]
        end = events.pop()
        assert isinstance(end, Answered)
        return [event.text for event in events if isinstance(event, Delta)], end

    async def text(self, **changes: Any) -> str:
        """What a call is answered with."""
        return "".join((await self.ask(chat(**changes)))[0])

    def intent(self) -> Leaf:
        """The last INTENT."""
        return self.log.of_type("INTENT")[-1]

    def result(self) -> Leaf:
        """The last RESULT."""
        return self.log.of_type("RESULT")[-1]

    def attempts(self) -> list[tuple[JsonValue, JsonValue]]:
        """Model and outcome of the last decision's attempts."""
        made = self.result().body["attempts"]
        assert isinstance(made, list)
        return [(each["model"], each["outcome"]) for each in made if isinstance(each, dict)]

    def spent(self) -> int:
        """Tokens in the durable ledger."""
        return sum(tokens for tokens, _ in self.log.ledger.sums.values())

    def held(self) -> int:
        """Tokens that are reserved now."""
        return sum(view.tokens_reserved for view in self.budgets.views())
