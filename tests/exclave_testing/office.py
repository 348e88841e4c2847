"""Reviewers at work: the HTTP interface over a real home, and keys that sign."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exclave_agent.api.app import build_app
from exclave_agent.audit.append import Log
from exclave_agent.decide.budget import Budgets
from exclave_agent.decide.pipeline import Pipeline
from exclave_agent.ports import ActiveRelease, Caller
from exclave_agent.review.desk import Desk
from exclave_agent.review.registry import Registry
from exclave_agent.review.sign import Seen, correction, look
from exclave_agent.telemetry.metrics import Metrics
from exclave_protocol.approval import Act
from exclave_protocol.leaf import Leaf, decode_leaf
from exclave_protocol.note import SigningKey
from exclave_protocol.reviews import Reviews
from exclave_protocol.tree import leaf_hash

from .bundles import private_key
from .clock import FakeClock, SeededRng, SequentialIds
from .homes import Home
from .local_api import SPECS, FakeReleases, compile_policy
from .runtimes import FakeRuntimes
from .storage import FakeKeyRing

ASKER = Caller("aaaaaaaa", ("analyst", "reviewer"))
ANNE = Caller("bbbbbbbb", ("reviewer",))
BEN = Caller("cccccccc", ("reviewer", "lead"))
STRANGER = Caller("dddddddd", ("analyst",))
PEOPLE = {"asker": ASKER, "anne": ANNE, "ben": BEN, "stranger": STRANGER}
CHAT = {"model": "small", "messages": [{"role": "user", "content": "May Mrs Kim be paid?"}]}


def signing(name: str) -> tuple[SigningKey, Ed25519PrivateKey]:
    """A reviewer's own key, the same on every run."""
    private = private_key(f"reviewer {name}")
    return SigningKey(name, private), private


def judged(leaves: Sequence[Leaf], hashes: Sequence[bytes]) -> Reviews:
    """What an auditor's verifier says of a log's acts."""
    reviews = Reviews()
    for leaf in leaves:
        reviews.add(leaf)
    reviews.hold(hashes)
    return reviews


class Office:
    """Everything from a request to its review."""

    def __init__(self, home: Home, documents: Sequence[str]) -> None:
        self.home = home
        assert isinstance(home.clock, FakeClock)
        self.clock = home.clock
        self.releases = FakeReleases()
        self.documents = documents
        storage, self.log = home.storage, home.log
        ring = FakeKeyRing({f"exk_{name}": caller for name, caller in PEOPLE.items()})
        self.pipeline = Pipeline(
            self.releases,
            self.log,
            self.clock,
            SequentialIds(),
            Metrics(),
            budgets=Budgets(storage.ledger, self.clock),
            referrals=storage.referrals,
        )
        self.registry = registry(home, self.log)
        self.desk = Desk(self.log, storage.referrals, self.registry, self.clock, SeededRng(9))
        self.app = build_app(
            self.pipeline, self.releases, ring, self.clock, Metrics(), None, self.desk
        )

    async def call(
        self, name: str, method: str, path: str, body: Any = None
    ) -> tuple[int, dict[str, Any], httpx.Headers]:
        """One request of one of `PEOPLE`."""
        transport = httpx.ASGITransport(self.app)
        headers = {"authorization": f"Bearer exk_{name}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://agent") as client:
            got = await client.request(method, path, json=body, headers=headers)
        return got.status_code, got.json(), got.headers

    async def ask(self, name: str = "asker", **more: Any) -> str:
        """Ask for something that is held back; the decision's id."""
        code, answer, headers = await self.call(
            name, "POST", "/v1/chat/completions", {**CHAT, **more}
        )
        assert code == 200, answer
        assert headers["x-exclave-degraded"] in ("approval", "person")
        return headers["x-exclave-decision"]

    async def look(self, name: str, decision: str) -> Seen:
        """What a reviewer sees, checked."""
        code, view, _ = await self.call(name, "GET", f"/v1/reviews/{decision}")
        assert code == 200, view
        return look(view, decision)

    def signed(
        self, name: str, seen: Seen, act: Act, answer: str | None = None, *, key: str = ""
    ) -> dict[str, Any]:
        """An act as it is posted; `key`: somebody else's."""
        made = None if answer is None else correction(answer, self.home.rng.token(32))
        posted = seen.sign(act, *signing(key or name), time_ns=self.clock.now_ns(), corrected=made)
        return posted | {"envelope": json.loads(posted["envelope"])}

    async def act(
        self, name: str, decision: str, act: Act = Act.APPROVE, answer: str | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Look, sign, post."""
        posted = self.signed(name, await self.look(name, decision), act, answer)
        code, told, _ = await self.call(name, "POST", f"/v1/reviews/{decision}", posted)
        return code, told

    async def answer(self, decision: str, name: str = "asker") -> tuple[int, dict[str, Any]]:
        """What whoever asked gets."""
        code, told, _ = await self.call(name, "GET", f"/v1/reviews/{decision}/answer")
        return code, told

    async def leaves(self) -> list[Leaf]:
        """The log."""
        data = await self.log.store.read(lambda reader: list(reader.scan(0)))
        return [decode_leaf(each.data) for each in data]

    async def judged(self) -> Reviews:
        """As `judged`, of the log so far; every act holds."""
        data = await self.log.store.read(lambda reader: list(reader.scan(0)))
        found = judged(
            [decode_leaf(each.data) for each in data], [leaf_hash(each.data) for each in data]
        )
        assert found.found.problems == []
        return found


def registry(home: Home, log: Log) -> Registry:
    """Of a home, not loaded."""
    roles = {caller.key_id: caller.roles for caller in PEOPLE.values()}
    return Registry(log, home.storage.state, home.epoch, roles.get)


@asynccontextmanager
async def office(
    path: Path, *documents: str, reviewers: Sequence[str] = ("anne", "ben")
) -> AsyncIterator[Office]:
    """Open until the block ends; these reviewers' keys are registered."""
    async with Home(path) as home:
        made = Office(home, documents)
        await made.registry.load()
        models = await FakeRuntimes().load(SPECS)
        policy = compile_policy(*documents)
        made.releases.active = ActiveRelease("a" * 64, 7, 3, policy, "b" * 64, models)
        for name in reviewers:
            await made.registry.add(signing(name)[0].vkey, PEOPLE[name].key_id)
        async with made.pipeline:
            yield made
