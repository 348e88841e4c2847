"""A decision path that says what a test wrote down: for the API's wording alone."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

import httpx

from exclave_agent.api.app import build_app
from exclave_agent.decide.calls import (
    Answered,
    Call,
    EmbedAnswer,
    EmbedCall,
    GenerateCall,
    InferAnswer,
    InferCall,
    Receipt,
    RerankAnswer,
    RerankCall,
)
from exclave_agent.decide.pipeline import Pipeline
from exclave_agent.ports import ActiveRelease, Caller, Delta, ModelInfo, ModelSet
from exclave_agent.telemetry.metrics import Metrics
from exclave_policy.compile import compile_pack
from exclave_policy.evaluate import CompiledPolicy
from exclave_policy.pack import pack_files, unpack

from .clock import FakeClock, SequentialIds
from .local_api import ANALYST, POLICY, FakeReleases
from .storage import FakeKeyRing

RECEIPT = Receipt("", 1, 1, 2)
END = Answered(RECEIPT, "stop", 7, 3, "5" * 64)
T = TypeVar("T", bound=Call)


class FakePipeline:
    """Stands for the `Pipeline`, below the real API; `calls` is what it was asked."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.events: Sequence[Delta | Answered | Exception] = (Delta("hi"), END)
        """What `stream` says."""
        self.scores: tuple[float, ...] = (1.0,)
        """What `rerank` says."""
        self.releases = FakeReleases()
        self._ids = SequentialIds()
        keys = FakeKeyRing({ANALYST: Caller("11111111", ("analyst",))})
        clock = FakeClock()
        self.app = build_app(cast("Pipeline", self), self.releases, keys, clock, Metrics())

    def activate(self, *models: ModelInfo, route: str = "") -> None:
        """A release that lists these models, and a Route document; nobody will ask them."""
        self.releases.active = ActiveRelease(
            digest="a" * 64,
            version=7,
            generation=3,
            policy=_policy(route),
            policy_digest="b" * 64,
            models=cast("ModelSet", _Listed({each.name: each for each in models})),
        )

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client without a network in between."""
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app),
            base_url="http://agent",
            headers={"authorization": f"Bearer {ANALYST}"},
        ) as http:
            yield http

    def asked(self, kind: type[T]) -> T:
        """The latest call."""
        call = self.calls[-1]
        assert isinstance(call, kind)
        return call

    # --- what the API calls ------------------------------------------------------------------

    def new_id(self) -> str:
        """See `Pipeline.new_id`."""
        return self._ids.new()

    async def stream(self, call: GenerateCall) -> AsyncGenerator[Delta | Answered, None]:
        """See `Pipeline.stream`."""
        self.calls.append(call)
        for event in self.events:
            if isinstance(event, Exception):
                raise event
            yield event

    async def embed(self, call: EmbedCall) -> EmbedAnswer:
        """See `Pipeline.embed`."""
        self.calls.append(call)
        return EmbedAnswer(RECEIPT, tuple((1.0, 0.0) for _ in call.texts), 4)

    async def rerank(self, call: RerankCall) -> RerankAnswer:
        """See `Pipeline.rerank`."""
        self.calls.append(call)
        return RerankAnswer(RECEIPT, self.scores, 9)

    async def infer(self, call: InferCall) -> InferAnswer:
        """See `Pipeline.infer`: the inputs come back."""
        self.calls.append(call)
        return InferAnswer(RECEIPT, call.inputs)


def _policy(route: str) -> CompiledPolicy:
    files = {"policy.yaml": POLICY} | ({"policies/route.yaml": route} if route else {})
    return compile_pack(unpack(pack_files({name: text.encode() for name, text in files.items()})))


class _Listed:
    """As much of a ModelSet as listing needs."""

    def __init__(self, models: dict[str, ModelInfo]) -> None:
        self._models = models

    def models(self) -> dict[str, ModelInfo]:
        """By name."""
        return self._models


def model(name: str, **fields: Any) -> ModelInfo:
    """A local language model, with changes."""
    plain = {"runtime": "llama", "sha256": "5" * 64, "actions": frozenset({"chat", "complete"})}
    return ModelInfo(name=name, **{**plain, **fields})
