"""What stands between an agent and its coordinator in a test: answers changed, calls broken off."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

from exclave_agent.errors import LinkError
from exclave_agent.ports import AuditHead, AuditSink, TermClaim

T = TypeVar("T")

BEFORE: Final = "before"
"""The request never arrives."""
AFTER: Final = "after"
"""It is carried out, and its answer never arrives."""
KILLED: Final = "killed"
"""As `AFTER`, and whoever waited for the answer is gone."""
MOMENTS: Final = (BEFORE, AFTER, KILLED)


class Killed(BaseException):
    """The process that made the call is no more."""


class Liar:
    """An `AuditSink` whose answers a test changes on their way to the agent."""

    def __init__(self, sink: AuditSink) -> None:
        self.sink = sink
        self.on_head: Callable[[AuditHead], AuditHead] = lambda head: head
        self.on_append: Callable[[int], int] = lambda size: size
        self.on_witness: Callable[[bytes, bytes], bytes] = lambda checkpoint, line: line

    async def head(self, epoch: int) -> AuditHead:
        """See `ports.AuditSink`."""
        return self.on_head(await self.sink.head(epoch))

    async def recorded(self, epoch: int) -> bytes:
        """See `ports.AuditSink`."""
        return await self.sink.recorded(epoch)

    async def begin_term(self, claim: TermClaim) -> bytes:
        """See `ports.AuditSink`."""
        return await self.sink.begin_term(claim)

    async def append(
        self, epoch: int, first_seq: int, leaves: Sequence[bytes], *, term: int
    ) -> int:
        """See `ports.AuditSink`."""
        return self.on_append(await self.sink.append(epoch, first_seq, leaves, term=term))

    async def witness(
        self, epoch: int, old_size: int, proof: Sequence[bytes], checkpoint: bytes
    ) -> bytes:
        """See `ports.AuditSink`."""
        line = await self.sink.witness(epoch, old_size, proof, checkpoint)
        return self.on_witness(checkpoint, line)


class Breaking:
    """An `AuditSink` that breaks off the calls of a schedule; `names`: every call that was made."""

    def __init__(self, sink: AuditSink, schedule: Mapping[int, str]) -> None:
        """`schedule`: number of the call, from 0, and one of `MOMENTS`."""
        self.sink = sink
        self.schedule = schedule
        self.names: list[str] = []

    async def head(self, epoch: int) -> AuditHead:
        """See `ports.AuditSink`."""
        return await self._through("head", lambda: self.sink.head(epoch))

    async def recorded(self, epoch: int) -> bytes:
        """See `ports.AuditSink`."""
        return await self._through("recorded", lambda: self.sink.recorded(epoch))

    async def begin_term(self, claim: TermClaim) -> bytes:
        """See `ports.AuditSink`."""
        return await self._through("begin_term", lambda: self.sink.begin_term(claim))

    async def append(
        self, epoch: int, first_seq: int, leaves: Sequence[bytes], *, term: int
    ) -> int:
        """See `ports.AuditSink`."""
        return await self._through(
            "append", lambda: self.sink.append(epoch, first_seq, leaves, term=term)
        )

    async def witness(
        self, epoch: int, old_size: int, proof: Sequence[bytes], checkpoint: bytes
    ) -> bytes:
        """See `ports.AuditSink`."""
        return await self._through(
            "witness", lambda: self.sink.witness(epoch, old_size, proof, checkpoint)
        )

    async def _through(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        moment = self.schedule.get(len(self.names), "")
        self.names.append(name)
        if moment == BEFORE:
            raise LinkError("the coordinator cannot be reached", code="unreachable")
        answer = await call()
        if moment == AFTER:
            raise LinkError("the answer did not come", code="timeout")
        if moment == KILLED:
            raise Killed
        return answer
