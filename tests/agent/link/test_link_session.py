"""The session over real mutual TLS on loopback; only its waits are virtual."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from exclave_agent.identity import IdentityStore, join
from exclave_agent.link.channel import Channels
from exclave_agent.link.session import Counts, Greeting, LinkState, Session
from exclave_agent.releases.report import Desired, Observed, Phase
from exclave_agent.slots import Latest
from exclave_protocol.pb import fleet_pb2 as pb
from exclave_testing.clock import FakeClock
from exclave_testing.coordinator_fake import FakeCoordinator, FakeStream
from exclave_testing.desk import Desk

REASON = pb.Ended


class Ceiling:
    """Draws the longest delay that the backoff allows, and remembers it."""

    def __init__(self) -> None:
        self.drawn: list[float] = []

    def token(self, size: int) -> bytes:
        return bytes(size)

    def uniform(self, low: float, high: float) -> float:
        self.drawn.append(high)
        return high


@dataclass
class World:
    """An enrolled agent's session against a coordinator that a test scripts."""

    coordinator: FakeCoordinator
    store: IdentityStore
    clock: FakeClock = field(default_factory=FakeClock)
    rng: Ceiling = field(default_factory=Ceiling)
    expired: int = 0
    connected: int = 0

    def __post_init__(self) -> None:
        self.desired, self.observed = Latest[Desired](), Latest[Observed]()
        self.counts = Latest[Counts]()
        self.channels = Channels(self.store)
        self.tell: Callable[[Counts], Counts | None] = lambda counts: counts
        self.session = Session(
            self.channels,
            Greeting("1.2.3", "b" * 32, ("llama", "onnx")),
            desired=self.desired,
            observed=self.observed,
            counts=self.counts,
            clock=self.clock,
            rng=self.rng,
            audit_position=lambda: (1, 42),
            tell=lambda counts: self.tell(counts),
            on_expired=self._count_expired,
            on_connected=self._count_connected,
        )
        self.task = asyncio.create_task(self.session.run())

    def _count_expired(self) -> None:
        self.expired += 1

    def _count_connected(self) -> None:
        self.connected += 1

    async def until(self, condition: Callable[[], Any], what: str = "") -> None:
        deadline = time.monotonic() + 15
        while not condition():
            assert time.monotonic() < deadline, what or self.session.status()
            await asyncio.sleep(0.002)

    async def waiting(self, times: int) -> None:
        """Until the session has chosen its `times`-th delay and sleeps."""
        await self.until(lambda: len(self.rng.drawn) >= times and self.clock.sleepers > 0)

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.channels.close()
        await self.coordinator.stop()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    coordinator = FakeCoordinator(Desk(time.time))
    await coordinator.start()
    await join(tmp_path, coordinator.desk.token, coordinator.desk)
    world = World(coordinator, IdentityStore(tmp_path))
    yield world
    await world.close()


def ending(reason: Any, retry_after: int = 0) -> Callable[..., AsyncIterator[Any]]:
    """A script that ends the session at once."""

    async def script(stream: FakeStream, owner: FakeCoordinator) -> AsyncIterator[Any]:
        yield pb.CoordinatorMessage(ended=pb.Ended(reason=reason, retry_after=retry_after))
        await stream.context.abort(grpc.StatusCode.UNAVAILABLE, "ended")

    return script


def hang_up(status: grpc.StatusCode) -> Callable[..., AsyncIterator[Any]]:
    """A script that aborts right after the welcome."""

    async def script(stream: FakeStream, owner: FakeCoordinator) -> AsyncIterator[Any]:
        await stream.context.abort(status, "no")
        yield

    return script


async def test_hello_comes_first_and_says_who_we_are(world: World) -> None:
    await world.until(lambda: world.session.status().state is LinkState.CONNECTED)
    hello = world.coordinator.streams[0].hello
    assert hello is not None
    assert (hello.version, hello.boot_id, list(hello.runtimes)) == (
        "1.2.3",
        "b" * 32,
        ["llama", "onnx"],
    )
    assert world.coordinator.peers[0].startswith(b"-----BEGIN CERTIFICATE")
    assert world.connected == 1


async def test_desired_comes_down(world: World) -> None:
    await world.until(lambda: world.coordinator.streams)
    message = pb.CoordinatorMessage(desired=pb.Desired(generation=7, assignment=b"signed"))
    await world.coordinator.streams[0].outgoing.put(message)
    await world.until(lambda: world.desired.value == Desired(7, b"signed"))


async def test_observed_goes_up_newest_first_and_again_after_reconnecting(world: World) -> None:
    seen: list[list[Any]] = []

    async def script(stream: FakeStream, owner: FakeCoordinator) -> AsyncIterator[Any]:
        seen.append(stream.received)
        async for message in stream.incoming:
            stream.received.append(message)
            if message.observed.generation == 3:
                return
        yield

    for generation in (1, 2):
        world.observed.put(Observed(generation, Phase.VERIFYING))
    world.coordinator.script = script
    await world.until(lambda: seen and seen[0])
    first = seen[0][0].observed
    assert (first.generation, first.phase) == (2, pb.PHASE_VERIFYING)
    assert (first.audit_epoch, first.audit_size) == (1, 42)
    world.observed.put(Observed(3, Phase.FAILED, "d" * 64, "tampered", "a sentence"))
    await world.waiting(1)
    assert seen[0][-1].observed.error_code == "tampered"
    await world.clock.advance(1)
    await world.until(lambda: len(seen) > 1 and seen[1])
    assert seen[1][0].observed.generation == 3


async def test_counts_go_up_no_faster_than_asked(world: World) -> None:
    got: list[int] = []

    async def script(stream: FakeStream, owner: FakeCoordinator) -> AsyncIterator[Any]:
        async for message in stream.incoming:
            got.append(message.counts.answered)
        yield

    world.coordinator.script = script
    world.counts.put(Counts(answered=1))
    await world.until(lambda: got == [1])
    for answered in (2, 3, 4):
        world.counts.put(Counts(answered=answered))
    await world.clock.until_sleepers(1)
    await world.clock.advance(9)
    assert got == [1]
    await world.clock.advance(1)
    await world.until(lambda: got == [1, 4])


async def test_counts_are_told_as_they_may_be_at_that_moment(world: World) -> None:
    """What was counted under another policy does not go up as it was, on no new stream either."""
    got: list[int] = []

    async def script(stream: FakeStream, owner: FakeCoordinator) -> AsyncIterator[Any]:
        async for message in stream.incoming:
            got.append(message.counts.answered)
        yield

    world.coordinator.script = script
    world.tell = lambda counts: None
    world.counts.put(Counts(answered=7))
    world.counts.put(Counts(answered=8))
    await world.clock.until_sleepers(0)
    for _ in range(50):
        await asyncio.sleep(0)
    assert got == []
    world.tell = lambda counts: Counts(answered=counts.answered - counts.answered % 5)
    world.counts.put(Counts(answered=9))
    await world.until(lambda: got == [5])


async def test_backoff_doubles_to_five_minutes(world: World) -> None:
    world.coordinator.abort = (grpc.StatusCode.UNAVAILABLE, "", "down")
    for times in range(1, 12):
        await world.waiting(times)
        assert world.session.status().state is LinkState.WAITING
        await world.clock.advance(world.rng.drawn[-1])
    assert world.rng.drawn[:10] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]


async def test_a_minute_of_peace_resets_the_backoff(world: World) -> None:
    world.coordinator.script = hang_up(grpc.StatusCode.UNAVAILABLE)
    for times in range(1, 4):
        await world.waiting(times)
        if times == 3:
            world.coordinator.script = None
        await world.clock.advance(world.rng.drawn[-1])
    await world.until(lambda: world.session.status().state is LinkState.CONNECTED)
    await world.clock.advance(61)
    world.coordinator.script = hang_up(grpc.StatusCode.UNAVAILABLE)
    await world.coordinator.streams[-1].outgoing.put(
        pb.CoordinatorMessage(ended=pb.Ended(reason=REASON.DRAINING))
    )
    await world.waiting(4)
    assert world.rng.drawn == [1, 2, 4, 1]


async def test_a_short_session_does_not_reset_the_backoff(world: World) -> None:
    world.coordinator.script = hang_up(grpc.StatusCode.UNAVAILABLE)
    for times in range(1, 4):
        await world.waiting(times)
        await world.clock.advance(world.rng.drawn[-1])
    assert world.rng.drawn[:3] == [1, 2, 4]


async def test_retry_after_is_honoured(world: World) -> None:
    world.coordinator.script = ending(REASON.DRAINING, retry_after=40)
    await world.waiting(1)
    streams = len(world.coordinator.streams)
    await world.clock.advance(40)
    await asyncio.sleep(0.05)
    assert len(world.coordinator.streams) == streams
    await world.clock.advance(1)
    await world.until(lambda: len(world.coordinator.streams) > streams)


async def test_retry_after_of_a_refused_stream_is_honoured(world: World) -> None:
    async def script(stream: FakeStream, owner: FakeCoordinator) -> AsyncIterator[Any]:
        await stream.context.abort(
            grpc.StatusCode.RESOURCE_EXHAUSTED, "full", (("retry-after", "25"),)
        )
        yield

    world.coordinator.script = script
    await world.waiting(1)
    streams = len(world.coordinator.streams)
    await world.clock.advance(25)
    await asyncio.sleep(0.05)
    assert len(world.coordinator.streams) == streams


async def test_a_ban_ends_the_session_for_good(world: World) -> None:
    await world.until(lambda: world.session.status().state is LinkState.CONNECTED)
    await world.coordinator.streams[0].outgoing.put(
        pb.CoordinatorMessage(ended=pb.Ended(reason=REASON.BANNED))
    )
    async with asyncio.timeout(15):
        await world.task
    assert world.session.status().state is LinkState.BANNED
    assert world.rng.drawn == []
    assert len(world.coordinator.streams) == 1


async def test_a_ban_told_by_status_alone_ends_it_too(world: World) -> None:
    await world.until(lambda: world.session.status().state is LinkState.CONNECTED)
    world.coordinator.abort = (grpc.StatusCode.PERMISSION_DENIED, "banned", "no")
    await world.coordinator.streams[0].outgoing.put(
        pb.CoordinatorMessage(ended=pb.Ended(reason=REASON.DRAINING))
    )
    await world.waiting(1)
    await world.clock.advance(1)
    async with asyncio.timeout(15):
        await world.task
    assert world.session.status().state is LinkState.BANNED


async def test_an_evicted_agent_comes_back_later(world: World) -> None:
    world.coordinator.script = ending(REASON.EVICTED, retry_after=60)
    await world.waiting(1)
    assert world.session.status().state is LinkState.EVICTED
    world.coordinator.script = None
    await world.clock.advance(61)
    await world.until(lambda: world.session.status().state is LinkState.CONNECTED)


async def test_a_replaced_session_does_not_fight(world: World) -> None:
    world.coordinator.script = ending(REASON.REPLACED)
    await world.waiting(1)
    streams = len(world.coordinator.streams)
    await world.clock.advance(30)
    await asyncio.sleep(0.05)
    assert len(world.coordinator.streams) == streams


async def test_an_expired_certificate_asks_for_recovery(world: World) -> None:
    world.coordinator.script = ending(REASON.EXPIRED)
    await world.waiting(1)
    assert world.expired == 1
    assert world.session.status().state is LinkState.EXPIRED


async def test_a_renewed_certificate_reconnects_at_once(world: World) -> None:
    await world.until(lambda: world.session.status().state is LinkState.CONNECTED)
    desk = world.coordinator.desk
    world.store.accept(await desk.renew(_csr(world.store)))
    await world.until(lambda: len(world.coordinator.streams) == 2)
    await world.until(lambda: world.session.status().state is LinkState.CONNECTED)
    assert world.coordinator.peers[0] != world.coordinator.peers[1]
    assert world.rng.drawn == []


async def test_a_renewed_certificate_ends_a_wait(world: World) -> None:
    world.coordinator.script = ending(REASON.EXPIRED, retry_after=3600)
    await world.waiting(1)
    world.coordinator.script = None
    world.store.accept(await world.coordinator.desk.renew(_csr(world.store)))
    await world.until(lambda: world.session.status().state is LinkState.CONNECTED)


async def test_a_coordinator_that_breaks_the_protocol(world: World) -> None:
    world.coordinator.welcome = False

    async def script(stream: FakeStream, owner: FakeCoordinator) -> AsyncIterator[Any]:
        yield pb.CoordinatorMessage(desired=pb.Desired(generation=1))

    world.coordinator.script = script
    await world.waiting(1)
    assert "not a welcome" in world.session.status().error
    assert world.desired.value is None


async def test_the_coordinator_comes_back(world: World) -> None:
    await world.until(lambda: world.session.status().state is LinkState.CONNECTED)
    await world.coordinator.stop()
    await world.waiting(1)
    assert world.session.status().state is LinkState.WAITING
    await world.coordinator.start()
    for times in range(1, 20):
        if world.session.status().state is LinkState.CONNECTED:
            break
        await world.waiting(times)
        await world.clock.advance(world.rng.drawn[-1])
        await world.until(lambda: world.session.status().state is not LinkState.CONNECTING)
    assert world.session.status().state is LinkState.CONNECTED
    assert world.connected == 2


async def test_cancelling_closes_the_stream(world: World) -> None:
    ended = asyncio.Event()

    async def script(stream: FakeStream, owner: FakeCoordinator) -> AsyncIterator[Any]:
        stream.context.add_done_callback(lambda _: ended.set())
        await asyncio.Event().wait()
        yield

    world.coordinator.script = script
    await world.until(lambda: world.session.status().state is LinkState.CONNECTED)
    world.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await world.task
    async with asyncio.timeout(15):
        await ended.wait()
    assert world.session.status().state is LinkState.STOPPED


def _csr(store: IdentityStore) -> bytes:
    from exclave_agent.identity import keys

    return keys.certificate_request(keys.load_identity_key(store.current.key_pem))
