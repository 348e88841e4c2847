"""A worker that its model has subverted: what it says is checked, bounded and never believed."""

from __future__ import annotations

import asyncio
import math
import socket
from array import array
from collections.abc import AsyncIterator

import pytest

from exclave_agent.errors import AgentError, Overloaded, WorkerCrashed
from exclave_agent.ports import Delta, Finished, Price
from exclave_agent.runtimes import believed, frames, streams
from exclave_agent.runtimes.births import Body
from exclave_agent.runtimes.process import Worker, refusal
from exclave_agent.runtimes.streams import TextStream, finished

HUGE = (1 << 53) - 1
LOAD = frames.Load("llama", "/model", {})


class NoBody:
    """A process that there is none of."""

    pid: int | None = None

    async def drain(self) -> None: ...

    def kill(self) -> None: ...

    def limit_data(self, size: int) -> None: ...

    async def ended(self) -> str:
        return "ended"

    def last_line(self) -> str:
        return ""


class Peer:
    """A worker of the agent's, and the far end of its socket."""

    def __init__(self, worker: Worker, sock: socket.socket) -> None:
        self.worker = worker
        self.socket = sock

    async def says(self, *said: frames.ToAgent) -> None:
        for frame in said:
            self.socket.sendall(frames.encode(frame))
        for _ in range(5):
            await asyncio.sleep(0.001)

    def asked(self) -> list[frames.ToWorker]:
        """What the agent has sent since the last call."""
        self.socket.settimeout(0)
        try:
            bodies = frames.Splitter().feed(self.socket.recv(1 << 20))
        except BlockingIOError:
            return []
        finally:
            self.socket.settimeout(1)
        return [frames.decode_for_worker(body) for body in bodies]


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    ours, theirs = socket.socketpair()

    async def birth(_: frames.Load) -> tuple[socket.socket, Body]:
        return ours, NoBody()

    worker = await Worker.spawn(LOAD, birth)
    yield Peer(worker, theirs)
    worker.kill()
    await worker.gone.wait()
    theirs.close()


def generate(request: int, max_tokens: int = 4) -> frames.Generate:
    sampling = frames.SamplingFrame(max_tokens, 1.0, 1.0, 0, 0.0, 0.0, 0.0, 1, [], None)
    return frames.Generate(request, [], "text", sampling)


async def read(worker: Worker, request: frames.Generate) -> list[Delta | Finished]:
    return [event async for event in worker.stream(request, lambda: "call_1")]


async def answer(
    peer: Peer, *said: frames.ToAgent, max_tokens: int = 4
) -> list[Delta | Finished] | AgentError:
    """What the caller of request 1 gets of it."""
    reading = asyncio.create_task(read(peer.worker, generate(1, max_tokens)))
    await asyncio.sleep(0)
    await peer.says(*said)
    try:
        return await asyncio.wait_for(reading, 5)
    except AgentError as error:
        return error


def ended(**fields: int) -> frames.Ended:
    return frames.Ended(1, "stop", **({"prompt_tokens": 1, "completion_tokens": 1} | fields))


# --- counts, which are paid for --------------------------------------------------------------


def test_counts_that_cannot_be_are_not_paid_for() -> None:
    end = finished(ended(prompt_tokens=HUGE, completion_tokens=HUGE, cached_tokens=HUGE), 7)
    assert end.completion_tokens == 7
    assert end.prompt_tokens == end.cached_tokens == streams.MOST_PROMPT
    price = Price("EUR", 10**15, 10**15, 0)
    assert price.cost_micro(end.prompt_tokens, end.completion_tokens) < 1 << 63


def test_more_cached_than_read_gives_no_money_back() -> None:
    end = finished(ended(prompt_tokens=3, cached_tokens=1_000_000), 7)
    price = Price("EUR", 1_000_000, 1_000_000, 0)
    assert price.cost_micro(end.prompt_tokens, end.completion_tokens, end.cached_tokens) > 0


# --- streams ---------------------------------------------------------------------------------


async def test_what_is_of_nobodys_request_is_ignored(peer: Peer) -> None:
    said = frames.Step(
        [frames.Text(HUGE, "x"), frames.Text(1, "ok")],
        [frames.Ended(HUGE, "stop", 1, 1), ended()],
        [frames.Extra(HUGE, [frames.LogprobFrame(b"x", math.nan)])],
    )
    assert await answer(peer, frames.Failed(HUGE, "overloaded", "x"), said) == [
        Delta("ok"),
        Finished("stop", 1, 1),
    ]


async def test_an_answer_longer_than_was_asked_for_is_cut_and_cancelled(peer: Peer) -> None:
    step = frames.Step([frames.Text(1, "x" * 60_000)], [])
    got = await answer(peer, step, step)
    assert isinstance(got, WorkerCrashed)
    assert got.code == "engine_failed"
    await asyncio.sleep(0.01)
    assert frames.Cancel(1) in peer.asked()


async def test_what_nobody_reads_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MOST_UNREAD", 10_000)
    stream = TextStream(lambda: "", 1 << 20)
    lie = frames.Extra(1, [frames.LogprobFrame(b"x" * 100, -1.0, [(b"y", -1.0)] * 20)] * 10)
    for _ in range(1000):
        stream.push("x" * 100)
        stream.add(lie)
    assert sum(map(len, stream._texts)) + len(stream._logprobs) == 0
    assert not stream.ended, "the worker has to be told"
    with pytest.raises(Overloaded, match="not read as fast"):
        await anext(stream.events())


async def test_a_reader_that_keeps_up_gets_more_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MOST_UNREAD", 1000)
    stream = TextStream(lambda: "", 1 << 20)
    events = stream.events()
    for _ in range(10):
        stream.push("x" * 900)
        assert await anext(events) == Delta("x" * 900)


async def test_a_call_of_a_function_that_was_not_offered(peer: Peer) -> None:
    lie = frames.Extra(1, tool_calls=[frames.ToolCallFrame("", "rm", "{}")])
    got = await answer(peer, frames.Step([], [ended()], [lie]))
    assert isinstance(got, WorkerCrashed)


async def test_log_probabilities_are_numbers_that_json_has(peer: Peer) -> None:
    values = (math.nan, math.inf, -math.inf, 1e300, -0.5)
    said = frames.Extra(1, [frames.LogprobFrame(b"x", one, [(b"y", one)]) for one in values])
    got = await answer(peer, frames.Step([frames.Text(1, "x")], [ended()], [said]))
    assert isinstance(got, list)
    assert isinstance(got[0], Delta)
    told = [(one.logprob, one.top[0][1]) for one in got[0].logprobs]
    assert told == [(one, one) for one in (-9999.0, 0.0, -9999.0, 0.0, -0.5)]


@pytest.mark.parametrize("reason", ["stop\n", "", "content_filter", "length\nx"])
async def test_a_reason_that_there_is_not_ends_the_worker(peer: Peer, reason: str) -> None:
    got = await answer(peer, frames.Step([], [frames.Ended(1, reason, 1, 1)]))
    assert isinstance(got, WorkerCrashed)
    assert peer.worker.gone.is_set()


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -1.0, 1e300])
def test_a_wait_that_nobody_can_wait_is_not_told(seconds: float) -> None:
    error = refusal(frames.Failed(1, "overloaded", "full", retry_after=seconds))
    assert isinstance(error, Overloaded)
    assert error.retry_after is None


# --- answers in one piece --------------------------------------------------------------------


def floats(*values: float) -> bytes:
    return array("f", values).tobytes()


TEXTS = ("a", "bc")


@pytest.mark.parametrize(
    "said",
    [
        frames.EmbedResult(1, [floats(1.0)], 2),
        frames.EmbedResult(1, [floats(1.0)] * 3, 2),
        frames.EmbedResult(1, [floats(1.0), floats(1.0, 2.0)], 2),
        frames.EmbedResult(1, [b"abc", b"abc"], 2),
        frames.EmbedResult(1, [floats(math.nan), floats(1.0)], 2),
        frames.EmbedResult(1, [floats(1.0), floats(math.inf)], 2),
        frames.RerankResult(1, [1.0, 2.0], 2),
    ],
)
def test_vectors_that_are_none(said: object) -> None:
    with pytest.raises(WorkerCrashed) as caught:
        believed.embeddings(said, TEXTS)
    assert caught.value.code == "engine_failed"


@pytest.mark.parametrize(
    "said",
    [
        frames.RerankResult(1, [1.0], 2),
        frames.RerankResult(1, [1.0, math.nan], 2),
        frames.RerankResult(1, [1.0, -math.inf], 2),
        frames.EmbedResult(1, [], 2),
    ],
)
def test_scores_that_are_none(said: object) -> None:
    with pytest.raises(WorkerCrashed):
        believed.scores(said, "q", TEXTS)


@pytest.mark.parametrize(
    ("datatype", "shape", "size"),
    [
        ("FP32", [2, 2], 15),
        ("FP32", [HUGE, HUGE], 4),
        ("INT8", [1], 0),
        ("WHAT", [1], 1),
        ("", [], 1),
    ],
)
def test_tensors_that_are_none(datatype: str, shape: list[int], size: int) -> None:
    lie = frames.TensorFrame("y", datatype, shape, memoryview(bytes(size)))
    with pytest.raises(WorkerCrashed):
        believed.tensors(frames.InferResult(1, [lie]))


def test_honest_ones_pass_with_counts_that_can_be() -> None:
    found = believed.embeddings(frames.EmbedResult(1, [floats(1.0), floats(0.5)], HUGE), TEXTS)
    assert found.vectors == ((1.0,), (0.5,))
    assert found.prompt_tokens == 3 + 2 * believed.OVERHEAD
    assert believed.embeddings(frames.EmbedResult(1, [], 0), ()).vectors == ()
    scored = believed.scores(frames.RerankResult(1, [-1.0, 2.0], 9), "q", TEXTS)
    assert (scored.scores, scored.prompt_tokens) == ((-1.0, 2.0), 9)
    honest = frames.TensorFrame("y", "FP32", [1, 2], memoryview(bytes(8)))
    words = frames.TensorFrame("z", "BYTES", [1], memoryview(b"\1\0\0\0a"))
    assert [one.shape for one in believed.tensors(frames.InferResult(1, [honest, words]))] == [
        (1, 2),
        (1,),
    ]


# --- what it says of itself ------------------------------------------------------------------


def test_what_operators_are_shown_obeys_no_terminal() -> None:
    said = frames.Loaded(
        ["chat", "root", "infer"], 1, [], [], "cuda\x1b]0;x\x07", "none", [], "a\x1b[2J\nb"
    )
    told = believed.loaded(said, "llama")
    assert (told.actions, told.provider, told.degraded) == (["chat"], "unknown", "a [2J b")
    assert believed.loaded(said, "onnx").actions == ["infer"]


async def test_why_a_load_failed_is_one_line(peer: Peer) -> None:
    await peer.says(frames.LoadFailed("no\x1b[31m\nERROR exclave: all is lost" + "x" * 3000))
    told = peer.worker.load_failure("ended")
    assert told.isprintable()
    assert len(told) <= believed.MOST_NOTE


# --- who is to blame -------------------------------------------------------------------------


async def test_nothing_is_written_to_one_that_has_gone(peer: Peer) -> None:
    peer.socket.close()
    await peer.worker.gone.wait()
    for frame in (frames.Ping(1), generate(1)):
        with pytest.raises(WorkerCrashed):
            peer.worker.send(frame)


class Asked:
    """A request, as its worker's suspects know it."""

    caller = "c"

    def fingerprint(self) -> bytes:
        return b"f"


def gave_up(worker: Worker) -> None:
    request = Asked()
    worker.suspects.take(request)
    worker.suspects.give_up(request)


async def served(peer: Peer, *active: int) -> None:
    """Answer the agent's pings with these counts of requests held."""
    for count in active:
        while not (pings := [one for one in peer.asked() if isinstance(one, frames.Ping)]):
            await asyncio.sleep(0.001)
        await peer.says(frames.Pong(pings[-1].nonce, 1, count))


async def test_what_runs_alone_waits_until_the_process_holds_nothing(peer: Peer) -> None:
    assert await peer.worker.quiet(), "nothing was given up: nothing is asked"
    gave_up(peer.worker)
    pong = peer.worker.pong
    quiet = asyncio.create_task(peer.worker.quiet())
    await served(peer, 2)
    assert not quiet.done()
    await asyncio.sleep(0.05)
    await served(peer, 0)
    assert await quiet
    assert not peer.worker.suspects.lingering
    assert peer.worker.pong is pong, "these pongs are no sign of progress"


async def test_a_death_while_it_waits_is_told_and_stays_the_suspects(peer: Peer) -> None:
    gave_up(peer.worker)
    quiet = asyncio.create_task(peer.worker.quiet())
    await asyncio.sleep(0.01)
    peer.socket.close()
    assert not await quiet
    assert peer.worker.suspects.accused() == {b"f": "c"}


async def test_one_alone_is_not_blamed_while_another_may_linger(peer: Peer) -> None:
    gave_up(peer.worker)
    peer.worker.suspects.alone = True
    asking = asyncio.create_task(peer.worker.ask(frames.Embed(1, ["x"])))
    await asyncio.sleep(0.01)
    peer.socket.close()
    with pytest.raises(WorkerCrashed) as caught:
        await asking
    assert not getattr(caught.value, "sure", True)
