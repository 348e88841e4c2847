"""The session: one level-triggered stream to the coordinator, for as long as the agent runs.

Desired comes down, observed and counts go up, each through one latest-only slot. Losing the
stream loses nothing: both sides say everything again on the next one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import grpc

from exclave_agent.errors import IdentityError, LinkError
from exclave_agent.link.channel import Channels
from exclave_agent.link.status import identity_error, retry_after
from exclave_agent.ports import Clock, Rng
from exclave_agent.releases.report import Desired, Observed
from exclave_agent.slots import Backoff, Latest, pause
from exclave_protocol.pb import fleet_pb2 as pb
from exclave_protocol.pb import telemetry_pb2
from exclave_protocol.pb.fleet_pb2_grpc import FleetStub

log = logging.getLogger(__name__)

# What `read` returns at the end of a stream; the type stubs do not have it.
_EOF: Any = vars(grpc.aio)["EOF"]

STABLE: Final = 60.0
"""Seconds after which a session counts as good and the backoff begins anew."""
WELCOME_TIMEOUT: Final = 30.0
"""Seconds for connection, handshake and the first message."""
MAX_ASSIGNMENT: Final = 65_535
REPLACED_FLOOR: Final = 30.0
"""Least seconds before answering a takeover: two copies of one identity must not fight fast."""


class LinkState(StrEnum):
    """Where the link stands, as `exclave-agent status` shows it."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    WAITING = "waiting"
    EVICTED = "evicted"
    EXPIRED = "expired"
    BANNED = "banned"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """One look at the link."""

    state: LinkState
    since_ns: int
    """Wall time of the last change of state."""
    error: str
    """Why the last stream ended; empty while all is well."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Counters since boot (exclave.v1.Counts)."""

    answered: int = 0
    denied: int = 0
    failed: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    worker_crashes: int = 0


@dataclass(frozen=True, slots=True)
class Greeting:
    """What the agent says of itself at the start of every stream."""

    version: str
    boot_id: str
    """32 hex digits, new in every process."""
    runtimes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _End:
    """How a stream ended, and what that asks of us."""

    state: LinkState
    reason: str
    retry_after: float = 0.0
    at_once: bool = False


class Session:
    """Keeps the stream up; `run` returns only when this agent has been banned."""

    def __init__(
        self,
        channels: Channels,
        greeting: Greeting,
        *,
        desired: Latest[Desired],
        observed: Latest[Observed],
        counts: Latest[Counts],
        clock: Clock,
        rng: Rng,
        audit_position: Callable[[], tuple[int, int]] = lambda: (0, 0),
        tell: Callable[[Counts], Counts | None] = lambda counts: counts,
        on_expired: Callable[[], None] = lambda: None,
        on_connected: Callable[[], None] = lambda: None,
    ) -> None:
        """`desired` is filled here; `observed` and `counts` are read here.

        `audit_position` gives (epoch, size) of the audit log for each observation; `tell` says
        how counts may be told at the moment that they are sent, None: not at all;
        `on_expired` is called when the coordinator finds our certificate expired, and should
        make the Renewer recover; `on_connected` is called after each welcome, so that others
        who wait for the coordinator need not sit out their backoff.
        """
        self._channels = channels
        self._greeting = greeting
        self._desired = desired
        self._observed = observed
        self._counts = counts
        self._clock = clock
        self._rng = rng
        self._audit_position = audit_position
        self._tell = tell
        self._on_expired = on_expired
        self._on_connected = on_connected
        self._wake = asyncio.Event()
        self._reconnect = False
        self._call: Any = None
        self._status = LinkStatus(LinkState.CONNECTING, clock.now_ns(), "")
        channels.on_renewed(self._renewed)

    def status(self) -> LinkStatus:
        """Where the link stands now."""
        return self._status

    async def run(self) -> None:
        """Connect, and connect again, until cancelled or banned."""
        backoff = Backoff()
        try:
            while True:
                self._reconnect = False
                self._set(LinkState.CONNECTING, self._status.error)
                began = self._clock.monotonic()
                end = await self._stream()
                if self._clock.monotonic() - began >= STABLE:
                    backoff.reset()
                self._set(end.state, end.reason)
                log.info("session ended (%s): %s", end.state, end.reason)
                if end.state is LinkState.BANNED:
                    return
                if end.state is LinkState.EXPIRED:
                    self._on_expired()
                if self._reconnect or end.at_once:
                    continue
                delay = end.retry_after + self._rng.uniform(0, backoff.ceiling())
                await pause(self._clock, delay, self._wake)
        finally:
            if self._status.state is not LinkState.BANNED:
                self._set(LinkState.STOPPED, self._status.error)

    def _renewed(self) -> None:
        """New certificate: leave the old connection and any wait at once."""
        self._reconnect = True
        self._wake.set()
        if self._call is not None:
            self._call.cancel()

    def _set(self, state: LinkState, error: str) -> None:
        self._status = LinkStatus(state, self._clock.now_ns(), error)

    # --- one stream ---------------------------------------------------------------------

    async def _stream(self) -> _End:
        self._wake.clear()
        call: Any = FleetStub(self._channels.session()).Session()
        self._call = call
        try:
            async with asyncio.timeout(WELCOME_TIMEOUT):
                await call.write(pb.AgentMessage(hello=self._hello()))
                first = await call.read()
            return await self._converse(call, first)
        except TimeoutError:
            return _End(LinkState.WAITING, f"no welcome within {WELCOME_TIMEOUT:.0f} s")
        except LinkError as error:
            return _End(LinkState.WAITING, error.message)
        except grpc.aio.AioRpcError as error:
            return _broken(error)
        except asyncio.CancelledError:
            # grpc raises it too, when _renewed cancels the call: then our task goes on.
            if self._reconnect and not _being_cancelled():
                return _End(LinkState.WAITING, "the certificate was renewed", at_once=True)
            raise
        finally:
            self._call = None
            call.cancel()

    async def _converse(self, call: Any, first: Any) -> _End:
        end = self._ended(first)
        if end is not None:
            return end
        if first is _EOF or first.WhichOneof("kind") != "welcome":
            if first is _EOF:
                await _raise_status(call)
            raise LinkError("coordinator: the first message is not a welcome")
        self._set(LinkState.CONNECTED, "")
        log.info("session open")
        self._on_connected()
        async with asyncio.TaskGroup() as group:
            senders = [
                group.create_task(self._send_observed(call)),
                group.create_task(self._send_counts(call, first.welcome.counts_interval)),
            ]
            try:
                end = await self._receive(call)
            # Caught here, as a task group would wrap them.
            except grpc.aio.AioRpcError as error:
                end = _broken(error)
            except LinkError as error:
                end = _End(LinkState.WAITING, error.message)
            finally:
                for sender in senders:
                    sender.cancel()
        return end

    async def _receive(self, call: Any) -> _End:
        while True:
            message = await call.read()
            if message is _EOF:
                await _raise_status(call)
                return _End(LinkState.WAITING, "the coordinator closed the session")
            end = self._ended(message)
            if end is not None:
                return end
            if message.WhichOneof("kind") == "desired":
                if len(message.desired.assignment) > MAX_ASSIGNMENT:
                    raise LinkError(f"assignment is longer than {MAX_ASSIGNMENT} bytes")
                self._desired.put(Desired(message.desired.generation, message.desired.assignment))

    def _ended(self, message: Any) -> _End | None:
        if message is _EOF or message.WhichOneof("kind") != "ended":
            return None
        ended = message.ended
        states = {
            pb.Ended.BANNED: (LinkState.BANNED, "an operator banned this agent"),
            pb.Ended.EVICTED: (LinkState.EVICTED, "an operator evicted this agent"),
            pb.Ended.EXPIRED: (LinkState.EXPIRED, "the certificate expired"),
            pb.Ended.DRAINING: (LinkState.WAITING, "the coordinator is shutting down"),
            pb.Ended.REPLACED: (LinkState.WAITING, "another session of this agent took over"),
        }
        state, reason = states.get(ended.reason, (LinkState.WAITING, "ended without a reason"))
        wait = float(ended.retry_after)
        if ended.reason == pb.Ended.REPLACED:
            wait = max(wait, REPLACED_FLOOR)
        return _End(state, reason, wait)

    # --- sending ------------------------------------------------------------------------

    def _hello(self) -> pb.Hello:
        greeting = self._greeting
        return pb.Hello(
            version=greeting.version, boot_id=greeting.boot_id, runtimes=greeting.runtimes
        )

    async def _send_observed(self, call: Any) -> None:
        version = 0
        while True:
            version, observed = await self._observed.newer(version)
            epoch, size = self._audit_position()
            message = pb.Observed(
                generation=observed.generation,
                phase=pb.Phase.Name(observed.phase),
                release_digest=observed.release_digest,
                error_code=observed.error_code,
                error_message=observed.error_message,
                audit_epoch=epoch,
                audit_size=size,
            )
            if not await _write(call, pb.AgentMessage(observed=message)):
                return

    async def _send_counts(self, call: Any, interval: int) -> None:
        version = 0
        while True:
            version, found = await self._counts.newer(version)
            # As it may be told now: what was put under another policy is not told as it was.
            counts = self._tell(found)
            if counts is None:
                continue
            message = telemetry_pb2.Counts(
                answered=counts.answered,
                denied=counts.denied,
                failed=counts.failed,
                tokens_in=counts.tokens_in,
                tokens_out=counts.tokens_out,
                worker_crashes=counts.worker_crashes,
            )
            if not await _write(call, pb.AgentMessage(counts=message)):
                return
            await self._clock.sleep(max(1, interval))


async def _write(call: Any, message: pb.AgentMessage) -> bool:
    """False: the stream has ended; whoever reads it learns why."""
    try:
        await call.write(message)
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return False
    return True


async def _raise_status(call: Any) -> None:
    """Raise the AioRpcError that the stream ended with, unless it ended well."""
    code = await call.code()
    if code is not grpc.StatusCode.OK:
        raise grpc.aio.AioRpcError(
            code,
            await call.initial_metadata(),
            await call.trailing_metadata(),
            await call.details(),
        )


def _broken(error: grpc.aio.AioRpcError) -> _End:
    """A stream that ended with a status instead of an Ended message."""
    meant: Sequence[tuple[str, LinkState]] = (
        ("banned", LinkState.BANNED),
        ("evicted", LinkState.EVICTED),
        ("expired", LinkState.EXPIRED),
    )
    ours: IdentityError | LinkError = identity_error(error, "Session")
    state = dict(meant).get(ours.code, LinkState.WAITING)
    return _End(state, ours.message, retry_after(error))


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
