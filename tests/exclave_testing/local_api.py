"""The agent's HTTP interface over fakes: one object a test can call, break and look into."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
from starlette.applications import Starlette

from exclave_agent.api.app import build_app
from exclave_agent.api.exchange import Limits
from exclave_agent.api.server import Listening, serving
from exclave_agent.decide.budget import Budgets
from exclave_agent.decide.pipeline import Pipeline
from exclave_agent.errors import NoRelease
from exclave_agent.ports import ActiveRelease, Caller, ModelSpec
from exclave_agent.telemetry.metrics import Metrics
from exclave_policy.compile import compile_pack
from exclave_policy.evaluate import CompiledPolicy
from exclave_policy.pack import pack_files, unpack
from exclave_protocol.leaf import Leaf

from .audit import FakeAuditLog
from .clock import FakeClock, SequentialIds
from .referrals import FakeReferrals
from .runtimes import FakeModelSet, FakeRuntimes
from .storage import FakeKeyRing

ANALYST = "exk_analyst"
GUEST = "exk_guest"
CAP = 64
"""Tokens that the test policy grants at most."""

POLICY = f"""
apiVersion: exclave.dev/v1
kind: Policy
metadata: {{name: test, version: "1.0.0"}}
spec:
  rules:
    - id: not-restricted
      effect: deny
      when: request.data_class == "restricted"
    - id: not-forbidden
      effect: deny
      models: [forbidden]
    - id: analysts
      effect: allow
      subjects: {{roles: [analyst]}}
      actions: [chat, complete]
      models: ["*"]
      limits: {{max_tokens: {CAP}}}
    - id: analysts-tools
      effect: allow
      subjects: {{roles: [analyst]}}
      actions: [call_tool, use_endpoint, use_secret]
      tools: ["*"]
      endpoints: ["*"]
      secrets: ["*"]
    - id: analysts-tensors
      effect: allow
      subjects: {{roles: [analyst]}}
      actions: [embed, rerank, infer]
      models: ["*"]
"""


def compile_policy(
    text: str = POLICY, *others: str, files: Mapping[str, str] = MappingProxyType({})
) -> CompiledPolicy:
    """A policy document as the agent runs it, and `others`: documents of other kinds. `files`:
    what those name, by path."""
    packed = {f"policy-{i}.yaml": other.encode() for i, other in enumerate(others)}
    packed |= {path: each.encode() for path, each in files.items()}
    return compile_pack(unpack(pack_files({"policy.yaml": text.encode(), **packed})))


class FakeReleases:
    """A Releases that holds one release or none; `held` counts the leases out now."""

    def __init__(self, active: ActiveRelease | None = None) -> None:
        self.active = active
        self.held = 0

    @contextmanager
    def lease(self) -> Iterator[ActiveRelease]:
        if self.active is None:
            raise NoRelease("no verified release is active")
        self.held += 1
        try:
            yield self.active
        finally:
            self.held -= 1


SPECS = (
    ModelSpec("small", "llama", Path("small.gguf"), "5" * 64, {"n_ctx": 256, "embeddings": True}),
    ModelSpec("forbidden", "llama", Path("f.gguf"), "6" * 64, {"n_ctx": 256}),
    ModelSpec("score", "onnx", Path("score.onnx"), "7" * 64),
)


class LocalApi:
    """Everything between a request and its record."""

    def __init__(
        self,
        runtimes: FakeRuntimes | None = None,
        limits: Limits | None = None,
        *,
        documents: Sequence[str] = (),
    ) -> None:
        """`documents`: of the policy pack beside the policy, of other kinds."""
        self._documents = documents
        self.clock = FakeClock()
        self.runtimes = runtimes or FakeRuntimes()
        self.log = FakeAuditLog()
        self.releases = FakeReleases()
        self.metrics = Metrics()
        self.keys = FakeKeyRing(
            {ANALYST: Caller("11111111", ("analyst",)), GUEST: Caller("22222222", ("guest",))}
        )
        self.budgets = Budgets(self.log.ledger, self.clock)
        self.referrals = FakeReferrals()
        self.pipeline = Pipeline(
            self.releases,
            self.log,
            self.clock,
            SequentialIds(),
            self.metrics,
            budgets=self.budgets,
            referrals=self.referrals,
        )
        self.app: Starlette = build_app(
            self.pipeline, self.releases, self.keys, self.clock, self.metrics, limits
        )
        self.models: FakeModelSet

    @asynccontextmanager
    async def open(self) -> AsyncIterator[LocalApi]:
        """Load the models and take requests until the block ends."""
        await self.budgets.load()
        self.models = await self.runtimes.load(SPECS)
        self.releases.active = ActiveRelease(
            digest="a" * 64,
            version=7,
            generation=3,
            policy=compile_policy(POLICY, *self._documents),
            policy_digest="b" * 64,
            models=self.models,
        )
        async with self.pipeline:
            yield self

    def client(self, key: str | None = ANALYST) -> httpx.AsyncClient:
        """A client without a network in between; errors of the application come out of it."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app), base_url="http://agent", headers=headers
        )

    def set_policy(self, text: str, *others: str) -> None:
        """Activate another policy, and documents of other kinds, as a new release would."""
        assert self.releases.active is not None
        policy = compile_policy(text, *others)
        self.releases.active = replace(self.releases.active, policy=policy)

    def results(self) -> list[Leaf]:
        """The RESULT leaves so far."""
        return self.log.of_type("RESULT")

    def outcomes(self) -> list[tuple[object, object]]:
        """Outcome and reason code of each RESULT."""
        return [(leaf.body["outcome"], leaf.body["reason"]) for leaf in self.results()]

    def public_bytes(self) -> bytes:
        """Everything that would leave the machine."""
        return b"".join(self.log.leaves)


@asynccontextmanager
async def served(
    api: LocalApi | None = None, **settings: Any
) -> AsyncIterator[tuple[LocalApi, Listening]]:
    """The interface behind its real server, on a port of its own."""
    api = api or LocalApi()
    async with api.open(), serving(api.app, port=0, **settings) as listening:
        yield api, listening


async def until(condition: Callable[[], bool], deadline: float = 10.0) -> None:
    """Wait for what happens elsewhere on the loop. Raises: TimeoutError."""
    async with asyncio.timeout(deadline):
        while not condition():
            await asyncio.sleep(0.001)
