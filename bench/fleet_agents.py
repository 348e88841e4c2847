"""Hollow agents for the fleet benchmark: real enrolled identities, mTLS channels and sessions.

    python bench/fleet_agents.py PREFIX < tokens.json

Everything of an agent's link is real; only what a release would cost beside the data is left
out: an assignment is answered "applied" as soon as it arrives. Prints one JSON line when all
have enrolled, one when all are connected, and one with the moments of every generation after
standard input is closed. Moments are CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from exclave_agent.identity import Identity, keys
from exclave_agent.identity.certificates import check_issued, pinned_authority, to_pem
from exclave_agent.identity.transport import EnrollQuery
from exclave_agent.link.channel import Channels
from exclave_agent.link.enroll import GrpcJoin
from exclave_agent.link.session import Counts, Greeting, LinkState, Session
from exclave_agent.releases.report import Desired, Observed, Phase
from exclave_agent.slots import Latest
from exclave_agent.system import SystemClock, SystemIds, SystemRng
from exclave_protocol.identity import JoinToken, SpiffeId

AT_ONCE = 32
"""Enrollments under way at the same time in one process."""


@dataclass
class Store:
    """An identity that is never renewed: what Channels needs of an IdentityStore."""

    current: Identity

    def subscribe(self, listener: Any) -> None:
        """Certificates outlast the benchmark."""


async def enroll(token: JoinToken) -> tuple[Identity, float, float]:
    """A real enrollment, on a connection of its own; its identity stays in memory."""
    transport = GrpcJoin()
    key, audit = keys.new_identity_key(), keys.new_audit_key()
    began = time.monotonic()
    ca = pinned_authority(await transport.presented_chain(token.endpoint), token.ca_sha256)
    query = EnrollQuery(
        tenant=token.tenant,
        token_id=token.token_id,
        token_secret=token.secret,
        csr=keys.certificate_request(key),
        agent=token.agent,
        audit_public_key=audit.public_key().public_bytes_raw(),
    )
    issued = await transport.enroll(token.endpoint, ca, query)
    ended = time.monotonic()
    spiffe = SpiffeId.parse(issued.spiffe_id)
    check_issued(issued.chain, [ca], key.public_key(), spiffe)
    identity = Identity(
        folder=Path("/nonexistent"),
        spiffe=spiffe,
        token_id=token.token_id,
        enroll_endpoint=token.endpoint,
        session_endpoint=issued.session_endpoint,
        ca_sha256=token.ca_sha256,
        root_pin=token.root_pin,
        witness_vkey=issued.witness_vkey,
        director_key=issued.director_key,
        key_pem=keys.private_pem(key),
        audit_key=audit,
        cert_pem=to_pem(issued.chain),
        ca_pem=to_pem([ca]),
        not_before=0,
        not_after=0,
    )
    return identity, began, ended


class Hollow:
    """One agent: its session, and a reconciler that applies everything at once."""

    def __init__(self, identity: Identity, digest: str, moments: dict[int, list[float]]) -> None:
        self._desired, self._observed = Latest[Desired](), Latest[Observed]()
        self._digest = digest
        self._moments = moments
        self._channels = Channels(Store(identity))  # type: ignore[arg-type]  # see Store
        self.session = Session(
            self._channels,
            Greeting("0.1.0", SystemIds().new(), ("llama", "onnx")),
            desired=self._desired,
            observed=self._observed,
            counts=Latest[Counts](),
            clock=SystemClock(),
            rng=SystemRng(),
        )
        self._observed.put(Observed(0, Phase.EMPTY))

    async def reconcile(self) -> None:
        """Say "applied" to whatever is desired."""
        version = 0
        while True:
            version, desired = await self._desired.newer(version)
            if desired.generation:
                self._observed.put(Observed(desired.generation, Phase.APPLIED, self._digest))
                self._moments.setdefault(desired.generation, []).append(time.monotonic())

    async def close(self) -> None:
        """Close its channels."""
        await self._channels.close()


async def enroll_all(tokens: list[JoinToken]) -> tuple[list[Identity], float, float]:
    """All of them, AT_ONCE at a time; with when the first began and the last ended."""
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(token: JoinToken) -> tuple[Identity, float, float]:
        async with limit:
            return await enroll(token)

    done = await asyncio.gather(*(one(token) for token in tokens))
    return [i for i, _, _ in done], min(b for _, b, _ in done), max(e for _, _, e in done)


def say(**fields: Any) -> None:
    """One line for the parent."""
    print(json.dumps(fields), flush=True)


async def main() -> None:
    """Enroll, connect, apply until standard input ends, tell."""
    order = json.loads(sys.stdin.readline())
    tokens = [JoinToken.decode(text) for text in order["tokens"]]
    identities, began, ended = await enroll_all(tokens)
    say(enrolled=len(identities), began=began, ended=ended)
    moments: dict[int, list[float]] = {}
    agents = [Hollow(identity, order["digest"], moments) for identity in identities]
    tasks = []
    for number, agent in enumerate(agents):
        tasks += [asyncio.create_task(agent.session.run()), asyncio.create_task(agent.reconcile())]
        if number % 25 == 24:  # a fleet does not start in one instant either
            await asyncio.sleep(0.05)
    while any(agent.session.status().state is not LinkState.CONNECTED for agent in agents):
        await asyncio.sleep(0.05)
    process = psutil.Process(os.getpid())
    say(connected=len(agents), rss=process.memory_info().rss)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    say(moments={str(generation): times for generation, times in moments.items()})
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for agent in agents:
        await agent.close()


if __name__ == "__main__":
    asyncio.run(main())
