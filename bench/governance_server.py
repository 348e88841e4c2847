"""The server side of bench/governance.py: the whole HTTP path, with or without governance.

`python governance_server.py governed|bare HOME` prints one JSON line (url, key) when it
listens. Each line on its standard input is answered by one JSON line of figures since the last.

Both kinds run the same application, server, loop and stub model. "governed" has the real key
ring, release, policy, decision path and audit log. "bare" has a pass-through in the pipeline's
place and a key ring that lets everyone in: this file assembles it, the product cannot.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exclave_agent.api.app import build_app
from exclave_agent.api.server import serving
from exclave_agent.audit.append import Log
from exclave_agent.audit.boot import Starting, record_boot
from exclave_agent.audit.epoch import FIRST, Epoch
from exclave_agent.audit.term import Terms
from exclave_agent.decide.calls import Answered, GenerateCall, Receipt
from exclave_agent.decide.pipeline import Pipeline
from exclave_agent.ports import (
    ActiveRelease,
    Appended,
    Caller,
    Delta,
    Embeddings,
    Finished,
    Generate,
    LeafDraft,
    ModelInfo,
    ModelSpec,
    Sampling,
    Tensor,
)
from exclave_agent.releases.activate import Activator
from exclave_agent.releases.prepare import Prepared
from exclave_agent.releases.state import Kept, ReleaseState, StateFile
from exclave_agent.storage.home import Storage
from exclave_agent.storage.keys import create_key
from exclave_agent.system import SystemClock, SystemIds, SystemRng, settle_memory
from exclave_agent.telemetry.metrics import Metrics
from exclave_policy.pack import pack_directory
from exclave_protocol.release import ArtifactRef, ReleaseManifest

STARTER = Path(__file__).parent.parent / "policies" / "packs" / "starter"
MODEL = "stub"
SECONDS = 0.05
"""How long the stub model takes."""
ANSWER = "The meter at the north gate was read at six, and its seal was found intact. " * 4
ORIGIN = "bench.test/bench/agent/e1"


class Stub:
    """A model, its set and its runtime: one piece of text after `SECONDS`."""

    info = ModelInfo(
        name=MODEL,
        runtime="llama",
        sha256="5" * 64,
        actions=frozenset({"chat", "complete"}),
        context_tokens=4096,
        provider="cpu",
        network="none",
    )

    async def load(self, specs: Sequence[ModelSpec]) -> Stub:
        return self

    def models(self) -> Mapping[str, ModelInfo]:
        return {MODEL: self.info}

    async def generate(self, request: Generate) -> AsyncIterator[Delta | Finished]:
        await asyncio.sleep(SECONDS)
        yield Delta(ANSWER)
        yield Finished("stop", 64, 64)

    async def infer(
        self, model: str, inputs: Sequence[Tensor], outputs: Sequence[str] = ()
    ) -> Sequence[Tensor]:
        raise NotImplementedError("this benchmark chats")

    async def embed(self, model: str, texts: Sequence[str]) -> Embeddings:
        raise NotImplementedError("this benchmark chats")

    async def close(self) -> None:
        """Nothing is held."""


class Stopwatch:
    """Seconds and calls by name."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = {}

    def add(self, name: str, seconds: float) -> None:
        self.spent.setdefault(name, []).append(seconds)

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            started = time.perf_counter()
            try:
                return call(*args)
            finally:
                self.add(name, time.perf_counter() - started)

        return run

    def take(self) -> dict[str, float]:
        """Mean milliseconds a call of each, and start again."""
        means = {name: 1000 * sum(each) / len(each) for name, each in self.spent.items() if each}
        self.spent.clear()
        return means


class TimedLog:
    """An AuditLog whose waiting is measured."""

    def __init__(self, log: Log, watch: Stopwatch) -> None:
        self._log = log
        self._watch = watch

    async def append(self, draft: LeafDraft) -> Appended:
        started = time.perf_counter()
        appended = await self._log.append(draft)
        self._watch.add(f"{draft.type} until durable", time.perf_counter() - started)
        return appended


class TimedKeys:
    """A KeyRing whose work is measured."""

    def __init__(self, authenticate: Callable[[str], Caller | None], watch: Stopwatch) -> None:
        self.authenticate = watch.timed("key ring", authenticate)


class Open:
    """A KeyRing that asks nobody."""

    _caller = Caller("00000000", ("analyst",))

    def authenticate(self, secret: str) -> Caller | None:
        return self._caller


class OneRelease:
    """A Releases for the bare server: the models and nothing else."""

    def __init__(self, models: Stub) -> None:
        self._release = cast("ActiveRelease", type("Bare", (), {"models": models, "version": 1}))

    def lease(self) -> OneRelease:
        return self

    def __enter__(self) -> ActiveRelease:
        return self._release

    def __exit__(self, *error: object) -> None:
        """Nothing is held."""


class Bare:
    """The pipeline's interface straight onto the model."""

    def __init__(self, models: Stub, ids: SystemIds) -> None:
        self._models = models
        self.new_id = ids.new

    async def stream(self, call: GenerateCall) -> AsyncGenerator[Delta | Answered, None]:
        request = Generate(call.model, Sampling(call.max_tokens or 512), messages=call.messages)
        async for event in self._models.generate(request):
            if isinstance(event, Delta):
                yield event
            else:
                receipt = Receipt(call.decision, 0, 0, 0)
                yield Answered(
                    receipt,
                    event.reason,
                    event.prompt_tokens,
                    event.completion_tokens,
                    self._models.info.sha256,
                )


def release() -> Prepared:
    """The starter pack as a prepared release of one stub model."""
    pack = pack_directory(STARTER)
    policy = ArtifactRef("policy/starter", sha256(pack).hexdigest(), len(pack))
    manifest = ReleaseManifest(
        tenant="bench",
        version=1,
        created="2026-01-01T00:00:00Z",
        minimum_version=0,
        offline_grace_seconds=86400,
        policy=policy,
        models=(),
    )
    kept = Kept("a" * 64, 1, 1, 1, policy.sha256, "b" * 64)
    return Prepared(kept, manifest, pack, (ModelSpec(MODEL, "llama", Path("stub"), "5" * 64),))


async def governed(home: Path, stack: AsyncExitStack, watch: Stopwatch) -> tuple[Any, str]:
    """The application as the agent builds it, and a key for it."""
    clock, rng, ids, metrics = SystemClock(), SystemRng(), SystemIds(), Metrics()
    storage = await stack.enter_async_context(Storage(home, rng))
    terms = Terms(storage.state, Ed25519PrivateKey.generate(), ORIGIN, FIRST, rng)
    log = Log(storage.open_log(ORIGIN, terms.log_key), clock, rng)
    start = Starting(
        agent="spiffe://bench.test/tenant/bench/agent/agent",
        vkey=terms.log_key.vkey,
        version="bench",
        boot_id=ids.new(),
        runtimes=["stub"],
        certificate=await terms.begin(),
        epoch=Epoch(),
        heartbeat=3600,
    )
    await record_boot(log, start, clock.now_ns())
    executor = stack.enter_context(ThreadPoolExecutor(1))
    releases = Activator(Stub(), log, StateFile(storage.state), clock=clock, executor=executor)
    await releases.activate(release(), ReleaseState())
    releases.checked_ns = clock.now_ns()
    active = releases.active
    assert active is not None
    # The policy's time is measured apart: its object is closed to wrapping.
    caller = create_key(home, roles=["analyst"], label="bench", clock=clock, rng=rng)
    pipeline = await stack.enter_async_context(
        Pipeline(releases, TimedLog(log, watch), clock, ids, metrics)
    )
    keys = TimedKeys(storage.keys.authenticate, watch)
    return build_app(pipeline, releases, keys, clock, metrics), caller.secret


def bare(stub: Stub) -> tuple[Any, str]:
    """The same application around a pass-through."""
    pipeline = cast("Pipeline", Bare(stub, SystemIds()))
    return build_app(pipeline, OneRelease(stub), Open(), SystemClock(), Metrics()), "exk_anyone"


async def main(kind: str, home: Path) -> None:
    """Serve until standard input ends."""
    watch = Stopwatch()
    async with AsyncExitStack() as stack:
        if kind == "governed":
            app, key = await governed(home, stack, watch)
        else:
            app, key = bare(Stub())
        settle_memory()
        listening = await stack.enter_async_context(serving(app, port=0, stop_grace=1))
        print(json.dumps({"url": listening.base_url, "key": key}), flush=True)
        cpu = time.process_time()
        while await asyncio.to_thread(sys.stdin.readline):
            used, cpu = time.process_time() - cpu, time.process_time()
            print(json.dumps({"cpu": used, "spent": watch.take()}), flush=True)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], Path(sys.argv[2])))
