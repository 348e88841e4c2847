"""Frames survive the trip; everything else is a FrameError and nothing worse."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave_agent.runtimes import frames

SAMPLING = frames.SamplingFrame(16, 0.5, 0.9, 40, 0.05, 0.1, -0.1, 7, ["\n"], None)

TO_WORKER: list[frames.ToWorker] = [
    frames.Load("llama", "/models/a.gguf", {"n_ctx": 512, "embeddings": True, "note": "x"}),
    frames.Generate(1, [frames.ChatMessage("user", "grüß dich")], None, SAMPLING),
    frames.Generate(2, [], "once", SAMPLING),
    frames.Infer(3, [frames.TensorFrame("x", "FP32", [1, 2], memoryview(bytes(8)))], ["y"]),
    frames.Embed(4, ["a", "b"]),
    frames.Cancel(4),
    frames.Ping(9),
    frames.Shutdown(),
]
TO_AGENT: list[frames.ToAgent] = [
    frames.Loaded(
        ["chat"], 512, [frames.SignatureFrame("x", "FP32", [-1, 4])], [], "cpu", "none", ["netns"]
    ),
    frames.LoadFailed("no"),
    frames.Step([frames.Text(1, "a"), frames.Text(2, "b")], [frames.Ended(1, "stop", 3, 4)]),
    frames.Failed(1, "overloaded", "full", None, 2.5),
    frames.InferResult(3, [frames.TensorFrame("y", "BYTES", [0], memoryview(b""))]),
    frames.EmbedResult(4, [b"\0\0\0\0"], 3),
    frames.Pong(9, 100, 2),
]


def body(frame: frames.ToWorker | frames.ToAgent) -> bytes:
    """Without the prefix."""
    return bytes(frames.encode(frame)[frames.PREFIX.size :])


@pytest.mark.parametrize("frame", TO_WORKER)
def test_frames_to_the_worker_survive(frame: frames.ToWorker) -> None:
    assert frames.decode_for_worker(body(frame)) == frame


@pytest.mark.parametrize("frame", TO_AGENT)
def test_frames_to_the_agent_survive(frame: frames.ToAgent) -> None:
    assert frames.decode_for_agent(body(frame)) == frame


@given(st.data())
def test_any_cut_of_the_stream_gives_the_same_bodies(data: st.DataObject) -> None:
    stream = b"".join(bytes(frames.encode(one)) for one in TO_WORKER)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    splitter = frames.Splitter()
    got: list[bytes] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += splitter.feed(stream[start:end])
    assert got == [body(one) for one in TO_WORKER]


@given(st.binary(max_size=400))
def test_noise_is_a_frame_error_in_both_directions(noise: bytes) -> None:
    for decode in (frames.decode_for_worker, frames.decode_for_agent):
        with contextlib.suppress(frames.FrameError):
            decode(noise)


@given(st.sampled_from(TO_AGENT), st.data())
def test_a_flipped_bit_is_refused_or_another_valid_frame(
    frame: frames.ToAgent, data: st.DataObject
) -> None:
    raw = bytearray(body(frame))
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << bit % 8
    try:
        again = frames.decode_for_agent(bytes(raw))
    except frames.FrameError:
        return
    assert isinstance(again, frames.ToAgent)


def hostile(**fields: object) -> bytes:
    """A body of the sender's own making."""
    return msgspec.msgpack.encode(fields)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xc1",
        b"\x91" * 100_000,
        hostile(),
        hostile(t="generate"),
        hostile(t="nothing", id=1),
        hostile(t="cancel", id=-1),
        hostile(t="cancel", id=1 << 60),
        hostile(t="cancel", id="1"),
        hostile(t="cancel", id=1, more=2),
        hostile(t="shutdown") + b"\x00",
        hostile(t="loaded"),
        hostile(t="embed", id=1, texts=["x"] * (frames.MAX_ITEMS + 1)),
        hostile(t="infer", id=1, inputs=[["x", "FP32", [-1], b""]], outputs=[]),
        hostile(t="infer", id=1, inputs=[["x", "FP32", [1] * 17, b""]], outputs=[]),
    ],
)
def test_hostile_frames_to_the_worker(raw: bytes) -> None:
    with pytest.raises(frames.FrameError) as caught:
        frames.decode_for_worker(raw)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "raw",
    [
        hostile(t="load", runtime="llama", path="x", parameters={}),
        hostile(t="step", texts=[[1]], ended=[]),
        hostile(t="step", texts=[[1, "a", "b"]], ended=[]),
        hostile(t="step", texts=[], ended=[[1, "whatever", 1, 1]]),
        hostile(t="failed", id=1, code="x", message="y" * 5000),
        hostile(t="pong", nonce=1, steps=1.5, active=0),
        hostile(t="failed", id=1, code="x", message=b"\xff\xfe"),
    ],
)
def test_hostile_frames_to_the_agent(raw: bytes) -> None:
    with pytest.raises(frames.FrameError):
        frames.decode_for_agent(raw)


def test_an_announced_size_over_the_limit_is_refused_before_the_body_comes() -> None:
    splitter = frames.Splitter()
    with pytest.raises(frames.FrameError, match="announced"):
        list(splitter.feed(frames.PREFIX.pack(frames.MAX_FRAME + 1)))


def test_a_frame_over_the_limit_is_not_sent() -> None:
    huge = frames.Infer(
        1,
        [frames.TensorFrame("x", "UINT8", [frames.MAX_FRAME], memoryview(bytes(frames.MAX_FRAME)))],
        [],
    )
    with pytest.raises(frames.FrameError, match="over the limit"):
        frames.encode(huge)


def test_tensor_data_is_a_view_into_the_body() -> None:
    raw = body(TO_WORKER[3])
    frame = frames.decode_for_worker(raw)
    assert isinstance(frame, frames.Infer)
    assert frame.inputs[0].data.obj is raw
