"""An audit log and a coordinator in memory, which check what they are given as the real ones do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from exclave_agent.audit.chain import Chain, Prepared, prepare
from exclave_agent.errors import StorageError
from exclave_agent.ports import Appended, Clock, LeafDraft, Rng
from exclave_protocol.leaf import Leaf, LeafType, decode_leaf

from .clock import FakeClock, SeededRng

ORIGIN = "example.test/acme/edge-1/e1"


class FakeAuditLog:
    """An AuditLog in a list.

    `drafts`: what was asked to be recorded, in order; `leaves`: the exact bytes. Set
    `failure` to have appends refused (nothing is recorded then). Clear `gate` to hold
    every append back until it is set again: durable, but not before.
    """

    def __init__(
        self, origin: str = ORIGIN, *, clock: Clock | None = None, rng: Rng | None = None
    ) -> None:
        self._chain = Chain(origin, epoch=1)
        self._clock = clock or FakeClock()
        self._rng = rng or SeededRng()
        self.drafts: list[LeafDraft] = []
        self.leaves: list[bytes] = []
        self.prepared: list[Prepared] = []
        self.failure: StorageError | None = None
        self.fail_on: Callable[[LeafDraft], StorageError | None] = lambda draft: None
        self.gate = asyncio.Event()
        self.gate.set()
        genesis = LeafDraft("GENESIS", {"software": "test"})
        self._record(genesis, prepare(genesis, time_ns=self._clock.now_ns(), rng=self._rng))
        self.drafts.clear()

    async def append(self, draft: LeafDraft) -> Appended:
        prepared = prepare(draft, time_ns=self._clock.now_ns(), rng=self._rng)
        await asyncio.sleep(0)
        await self.gate.wait()
        failure = self.failure or self.fail_on(draft)
        if failure is not None:
            raise failure
        return self._record(draft, prepared)

    def _record(self, draft: LeafDraft, prepared: Prepared) -> Appended:
        sealed = self._chain.seal(prepared)
        self.drafts.append(draft)
        self.leaves.append(sealed.data)
        self.prepared.append(prepared)
        return Appended(self._chain.epoch, sealed.seq, sealed.hash)

    def of_type(self, name: str) -> list[Leaf]:
        """The recorded leaves of one type, decoded."""
        return [leaf for leaf in map(decode_leaf, self.leaves) if leaf.type == LeafType(name)]
