"""Fleet.Session: the stream between one agent and the coordinator (fleet.proto)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc

from exclave_coordinator.api.auth import AgentCaller, calling_agent
from exclave_coordinator.api.convert import counts_of, observed_of, text
from exclave_coordinator.errors import (
    Denied,
    Invalid,
    Refused,
    Replaced,
    TooMuch,
    Unauthenticated,
    Unavailable,
)
from exclave_coordinator.fleet import sessions
from exclave_coordinator.fleet.director import Director
from exclave_coordinator.fleet.registry import Registry
from exclave_coordinator.fleet.sessions import Ended, Sessions
from exclave_coordinator.fleet.sessions import Session as Stream
from exclave_coordinator.ports import BANNED, EVICTED, Clock, Desired
from exclave_protocol.pb import fleet_pb2 as pb
from exclave_protocol.pb.fleet_pb2_grpc import FleetServicer

HELLO_SECONDS: Final = 10.0
"""How long a new stream may stay silent."""
EVICTED_RETRY: Final = 60
"""Seconds after which an evicted agent may ask again; it needs a new token anyway."""
MAX_RUNTIMES: Final = 16


class FleetService(FleetServicer):
    """Two tasks a stream: this one writes, the other reads into the latest-only slots."""

    def __init__(
        self,
        live: Sessions,
        registry: Registry,
        director: Director,
        *,
        counts_interval: int,
        clock: Clock,
    ) -> None:
        """`counts_interval`: seconds between two Counts."""
        self._live = live
        self._registry = registry
        self._director = director
        self._interval = counts_interval
        self._clock = clock

    async def Session(
        self, request_iterator: AsyncIterator[pb.AgentMessage], _context: Any
    ) -> AsyncIterator[pb.CoordinatorMessage]:
        """See fleet.proto."""
        caller = calling_agent()
        barred = _barred(caller)
        if barred is not None:
            yield _ended(barred)
            raise refusal(barred)
        # A key that was replaced has no business here, whatever the agent's state.
        self._registry.admit(caller.member.key, caller.peer.key)
        hello = _words(await _hello(request_iterator))
        # Again: a ban or a new key that came while we waited for hello found no session to end.
        self._registry.admit(caller.member.key, caller.peer.key)
        try:
            session = self._live.open(caller.member, caller.peer.not_after)
        except TooMuch as error:
            yield _ended(Ended(sessions.DRAINING, error.retry_after or 0))
            raise
        self._live.hello(caller.member, *hello)
        # Owned here and awaited below: it ends with this stream, whichever way that ends.
        reader = asyncio.create_task(self._read(request_iterator, session))
        try:
            yield pb.CoordinatorMessage(
                welcome=pb.Welcome(time=self._clock.now(), counts_interval=self._interval)
            )
            while (item := await session.next()) is not None:
                if isinstance(item, Ended):
                    yield _ended(item)
                    raise refusal(item)
                yield self._desired(session, item)
        finally:
            self._live.leave(session)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
        if session.fault is not None:
            raise session.fault

    def _desired(self, session: Stream, desired: Desired) -> pb.CoordinatorMessage:
        assignment = self._director.assignment(session.member.key, desired)
        generation = desired.generation if assignment else 0
        return pb.CoordinatorMessage(
            desired=pb.Desired(generation=generation, assignment=assignment)
        )

    async def _read(self, incoming: AsyncIterator[pb.AgentMessage], session: Stream) -> None:
        try:
            async for message in incoming:
                kind = message.WhichOneof("kind")
                if kind == "observed":
                    self._live.observe(session.member, observed_of(message.observed))
                elif kind == "counts":
                    self._live.count(session.member, counts_of(message.counts))
                else:
                    raise Invalid("kind: only observed and counts may follow hello")
        except Refused as error:
            session.fault = error
        except grpc.RpcError:
            # The connection broke: to us the same as a hang-up.
            pass
        finally:
            session.close()


async def _hello(incoming: AsyncIterator[pb.AgentMessage]) -> pb.Hello:
    try:
        first = await asyncio.wait_for(anext(incoming), HELLO_SECONDS)
    except (TimeoutError, StopAsyncIteration) as error:
        raise Invalid("kind: the first message must be hello, within 10 s") from error
    if first.WhichOneof("kind") != "hello":
        raise Invalid("kind: the first message must be hello")
    return first.hello


def _words(hello: pb.Hello) -> tuple[str, str, str]:
    """Version, boot id and runtimes. Raises: Invalid."""
    return (
        text(hello.version, 64, "version"),
        text(hello.boot_id, 64, "boot_id"),
        text(",".join(hello.runtimes[:MAX_RUNTIMES]), 256, "runtimes"),
    )


def _barred(caller: AgentCaller) -> Ended | None:
    if caller.member.state == BANNED:
        return Ended(sessions.BANNED)
    if caller.member.state == EVICTED:
        return Ended(sessions.EVICTED, EVICTED_RETRY)
    return None


def refusal(ended: Ended) -> Refused:
    """The status that follows an Ended."""
    if ended.reason == sessions.BANNED:
        return Denied("the agent is banned and may not come back", code="banned")
    if ended.reason == sessions.EVICTED:
        return Denied("the agent was evicted: join again with a new token", code="evicted")
    if ended.reason == sessions.EXPIRED:
        return Unauthenticated("certificate: expired: renew or recover", code="certificate_expired")
    if ended.reason == sessions.REPLACED:
        return Replaced("another stream of this agent took over")
    return Unavailable("the coordinator is stopping: come back later", code="draining")


def _ended(ended: Ended) -> pb.CoordinatorMessage:
    # The numbers are the enum's own; protobuf's stub knows them by another type.
    reason = pb.Ended.Reason.Name(ended.reason)
    return pb.CoordinatorMessage(ended=pb.Ended(reason=reason, retry_after=ended.retry_after))
