"""The ONNX host: every datatype, every misfit named, rows of several requests in one run."""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from exclave_agent.runtimes import frames
from exclave_agent.runtimes.engine import LoadError, Refused
from exclave_agent.runtimes.onnx import OnnxHost
from exclave_agent.runtimes.parameters import OnnxParameters
from exclave_testing.models import double_and_total_onnx, write_onnx

TYPES = {
    "BOOL": (onnx.TensorProto.BOOL, "?"),
    "UINT8": (onnx.TensorProto.UINT8, "u1"),
    "INT8": (onnx.TensorProto.INT8, "i1"),
    "INT32": (onnx.TensorProto.INT32, "<i4"),
    "INT64": (onnx.TensorProto.INT64, "<i8"),
    "UINT64": (onnx.TensorProto.UINT64, "<u8"),
    "FP16": (onnx.TensorProto.FLOAT16, "<f2"),
    "FP32": (onnx.TensorProto.FLOAT, "<f4"),
    "FP64": (onnx.TensorProto.DOUBLE, "<f8"),
}


class Served:
    """A host with its loop in a thread (which dies with the process, as the worker's does)."""

    def __init__(self, path: Path, **parameters: int | bool) -> None:
        self.frames: list[frames.ToAgent] = []
        self.writes: list[int] = []
        """Frames of each write to the agent."""
        self._arrived = threading.Condition()
        self.host = OnnxHost(str(path), OnnxParameters(**parameters), 1, self._emit)
        self.runs: list[int] = []
        inner = self.host._run

        def counted(arrays: dict[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
            self.runs.append(len(next(iter(arrays.values()))))
            return inner(arrays, rows)

        self.host._run = counted  # type: ignore[method-assign]  # counts engine runs

    def _emit(self, *sent: frames.ToAgent) -> None:
        with self._arrived:
            self.frames += sent
            self.writes.append(len(sent))
            self._arrived.notify_all()

    def start(self) -> None:
        threading.Thread(target=self.host.run, daemon=True).start()

    def wait(self, count: int) -> dict[int, frames.ToAgent]:
        """The first `count` answers, by request."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.frames) >= count, 20)
        return {one.id: one for one in self.frames}  # type: ignore[union-attr]


def floats(request: int, *rows: float, outputs: tuple[str, ...] = ()) -> frames.Infer:
    """x of [len(rows), 4], each row one value four times."""
    data = array("f", [value for value in rows for _ in range(4)]).tobytes()
    tensor = frames.TensorFrame("x", "FP32", [len(rows), 4], memoryview(data))
    return frames.Infer(request, [tensor], list(outputs))


def totals(frame: frames.ToAgent) -> list[float]:
    assert isinstance(frame, frames.InferResult)
    (total,) = [one for one in frame.outputs if one.name == "total"]
    return array("f", bytes(total.data)).tolist()


@pytest.fixture
def double(tmp_path: Path) -> Path:
    return double_and_total_onnx(tmp_path / "double.onnx")


def test_the_signature_is_the_models(double: Path) -> None:
    host = Served(double).host
    assert host.inputs == [frames.SignatureFrame("x", "FP32", [-1, 4])]
    assert host.provider in ("cpu", "cuda")


@pytest.mark.parametrize("datatype", TYPES)
def test_every_datatype_passes_unchanged(tmp_path: Path, datatype: str) -> None:
    kind, dtype = TYPES[datatype]
    path = write_onnx(
        tmp_path / "same.onnx",
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        {"x": (kind, [2, 3])},
        {"y": (kind, [2, 3])},
    )
    data = np.array([[0, 1, 1], [1, 0, 1]], dtype=dtype).tobytes()
    served = Served(path)
    served.host.submit(
        frames.Infer(1, [frames.TensorFrame("x", datatype, [2, 3], memoryview(data))], [])
    )
    served.start()
    answer = served.wait(1)[1]
    assert isinstance(answer, frames.InferResult)
    (y,) = answer.outputs
    assert (y.datatype, y.shape, bytes(y.data)) == (datatype, [2, 3], data)


def test_strings_pass_as_bytes(tmp_path: Path) -> None:
    text = onnx.TensorProto.STRING
    path = write_onnx(
        tmp_path / "text.onnx",
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        {"x": (text, ["n"])},
        {"y": (text, ["n"])},
    )
    data = b"\x05\0\0\0hello\0\0\0\0\x03\0\0\0\xe2\x82\xac"
    served = Served(path)
    served.host.submit(
        frames.Infer(1, [frames.TensorFrame("x", "BYTES", [3], memoryview(data))], [])
    )
    served.start()
    answer = served.wait(1)[1]
    assert isinstance(answer, frames.InferResult)
    assert bytes(answer.outputs[0].data) == data
    for bad, count in ((data, 2), (data[:-1], 3), (data + b"\1", 4), (b"\1\0\0\0\xff", 1)):
        tensor = frames.TensorFrame("x", "BYTES", [count], memoryview(bad))
        with pytest.raises(Refused) as caught:
            served.host.submit(frames.Infer(2, [tensor], []))
        assert caught.value.param == "inputs.x"


def test_data_of_the_wrong_size_and_odd_booleans(double: Path, tmp_path: Path) -> None:
    host = Served(double).host
    short = frames.TensorFrame("x", "FP32", [1, 4], memoryview(bytes(15)))
    with pytest.raises(Refused, match="15 bytes"):
        host.submit(frames.Infer(1, [short], []))
    huge = frames.TensorFrame("x", "FP32", [1 << 40, 4], memoryview(bytes(16)))
    with pytest.raises(Refused, match="16 bytes"):
        host.submit(frames.Infer(1, [huge], []))
    twice = frames.TensorFrame("x", "FP32", [1, 4], memoryview(bytes(16)))
    with pytest.raises(Refused, match="twice"):
        host.submit(frames.Infer(1, [twice, twice], []))
    path = write_onnx(
        tmp_path / "not.onnx",
        [onnx.helper.make_node("Not", ["x"], ["y"])],
        {"x": (onnx.TensorProto.BOOL, [2])},
        {"y": (onnx.TensorProto.BOOL, [2])},
    )
    odd = frames.TensorFrame("x", "BOOL", [2], memoryview(b"\1\2"))
    with pytest.raises(Refused, match="neither 0 nor 1"):
        Served(path).host.submit(frames.Infer(1, [odd], []))


def test_waiting_requests_run_as_one_batch_and_keep_their_rows(double: Path) -> None:
    served = Served(double, max_batch=8)
    for request in range(1, 6):
        served.host.submit(floats(request, request, outputs=("total",)))
    served.host.submit(floats(6, 10, 20, 30, outputs=("total",)))
    served.start()
    answers = served.wait(6)
    assert served.runs == [8]
    assert [totals(answers[request]) for request in range(1, 6)] == [[4.0 * n] for n in range(1, 6)]
    assert totals(answers[6]) == [40, 80, 120]


def test_a_batch_is_answered_in_one_write_and_counted(double: Path) -> None:
    served = Served(double, max_batch=8)
    for request in range(1, 7):
        served.host.submit(floats(request, request))
    served.host.submit(floats(7, 7, 8))
    served.host.submit(floats(8, 9))
    assert served.host.progress() == (0, 8)
    assert served.host.stats().waiting == 8
    served.start()
    served.wait(8)
    assert served.writes == [7, 1]
    stats = served.host.stats()
    assert (served.host.progress()[0], stats.batch_tokens, stats.batch_sequences) == (2, 9, 8)
    assert stats.busy_us > 0
    assert stats.waiting == 0


def test_requests_of_other_shapes_gather_for_themselves(tmp_path: Path) -> None:
    kind = onnx.TensorProto.FLOAT
    path = write_onnx(
        tmp_path / "add.onnx",
        [onnx.helper.make_node("Add", ["x", "x"], ["y"])],
        {"x": (kind, ["n", "m"])},
        {"y": (kind, ["n", "m"])},
    )
    served = Served(path, max_batch=8)
    wide = frames.TensorFrame("x", "FP32", [1, 8], memoryview(bytes(32)))
    for request in range(1, 9):
        served.host.submit(
            floats(request, request) if request % 2 else frames.Infer(request, [wide], [])
        )
    served.start()
    answers = served.wait(8)
    assert served.runs == [4, 4]
    for request, answer in answers.items():
        assert isinstance(answer, frames.InferResult)
        assert answer.outputs[0].shape == ([1, 4] if request % 2 else [1, 8])


def test_a_request_alone_is_run_from_its_own_bytes(double: Path) -> None:
    served = Served(double, max_batch=1)
    data = bytearray(np.ones(4, dtype="<f4").tobytes())
    served.host.submit(
        frames.Infer(1, [frames.TensorFrame("x", "FP32", [1, 4], memoryview(data))], ["total"])
    )
    # It waits as a view: what is written into the frame's bytes now is what the model sees.
    data[:] = np.full(4, 5, dtype="<f4").tobytes()
    served.start()
    assert totals(served.wait(1)[1]) == [20]


def test_a_gpu_that_was_counted_on_and_is_absent_is_reported(double: Path) -> None:
    served = Served(double, expect_gpu=True)
    if served.host.provider == "cuda":
        assert served.host.degraded == ""
        assert served.host.vram_bytes > 0
    else:
        assert "asks for a GPU" in served.host.degraded
        assert served.host.ram_bytes >= double.stat().st_size
    assert Served(double).host.degraded == ""


def test_a_batch_never_exceeds_its_limit(double: Path) -> None:
    served = Served(double, max_batch=4)
    for request in range(1, 11):
        served.host.submit(floats(request, request))
    served.start()
    answers = served.wait(10)
    assert served.runs == [4, 4, 2]
    assert totals(answers[10]) == [40]


def test_without_a_signed_max_batch_rows_of_callers_never_meet(double: Path) -> None:
    served = Served(double)
    for request in range(1, 4):
        served.host.submit(floats(request, request))
    served.start()
    served.wait(3)
    assert served.runs == [1, 1, 1]


def test_the_first_of_a_batch_waits_for_others_at_most_max_wait(double: Path) -> None:
    served = Served(double, max_batch=64, max_wait_us=50_000)
    served.start()
    started = time.monotonic()
    served.host.submit(floats(1, 1))
    served.host.submit(floats(2, 2))
    served.wait(2)
    assert served.runs == [2]
    assert time.monotonic() - started >= 0.05


def test_a_model_that_does_not_keep_rows_is_run_one_by_one(tmp_path: Path) -> None:
    kind = onnx.TensorProto.FLOAT
    node = onnx.helper.make_node
    path = write_onnx(
        tmp_path / "filter.onnx",
        [
            node("Gather", ["x", "first"], ["head"], axis=1),
            node("Greater", ["head", "limit"], ["keep"]),
            node("Compress", ["x", "keep"], ["total"], axis=0),
        ],
        {"x": (kind, ["n", 4])},
        {"total": (kind, ["m", 4])},
        [
            onnx.helper.make_tensor("first", onnx.TensorProto.INT64, [], [0]),
            onnx.helper.make_tensor("limit", kind, [], [1.5]),
        ],
    )
    served = Served(path, max_batch=8)
    served.host.submit(floats(1, 1))
    served.host.submit(floats(2, 2))
    served.start()
    answers = served.wait(2)
    assert totals(answers[1]) == []
    assert totals(answers[2]) == [2.0] * 4
    assert served.runs == [2, 1, 1]


def gather_onnx(path: Path) -> Path:
    """Looks rows up in a table of three: an index of three and more fails in the engine."""
    table = onnx.helper.make_tensor("table", onnx.TensorProto.FLOAT, [3, 1], [10, 20, 30])
    return write_onnx(
        path,
        [onnx.helper.make_node("Gather", ["table", "x"], ["y"])],
        {"x": (onnx.TensorProto.INT64, ["n"])},
        {"y": (onnx.TensorProto.FLOAT, ["n", 1])},
        [table],
    )


def test_values_that_the_model_fails_on_fail_their_request_alone(tmp_path: Path) -> None:
    served = Served(gather_onnx(tmp_path / "gather.onnx"), max_batch=8)
    for request, index in ((1, 1), (2, 987654), (3, 2)):
        data = index.to_bytes(8, "little")
        served.host.submit(
            frames.Infer(request, [frames.TensorFrame("x", "INT64", [1], memoryview(data))], [])
        )
    served.start()
    answers = served.wait(3)
    failed = answers[2]
    assert isinstance(failed, frames.Failed)
    assert (failed.code, failed.param) == ("invalid_value", "inputs")
    assert "987654" not in failed.message, "a value of the request is quoted"
    assert isinstance(answers[1], frames.InferResult)
    assert isinstance(answers[3], frames.InferResult)
    assert array("f", bytes(answers[3].outputs[0].data)).tolist() == [30]


def test_a_full_queue_and_a_cancelled_request(double: Path) -> None:
    served = Served(double, max_queue=2)
    for request in (1, 2, 3):
        served.host.submit(floats(request, request))
    with pytest.raises(Refused) as caught:
        served.host.submit(floats(4, 4))
    assert caught.value.code == "overloaded"
    served.host.cancel(2)
    served.host.submit(floats(5, 5))
    served.start()
    assert set(served.wait(3)) == {1, 3, 5}


def test_a_datatype_that_the_protocol_lacks_does_not_load(tmp_path: Path) -> None:
    kind = onnx.TensorProto.BFLOAT16
    path = write_onnx(
        tmp_path / "brain.onnx",
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        {"x": (kind, [1])},
        {"y": (kind, [1])},
    )
    with pytest.raises(LoadError, match="bfloat16"):
        Served(path)


def test_other_requests_are_refused(double: Path) -> None:
    call: Callable[[], None] = lambda: Served(double).host.submit(frames.Embed(1, ["x"]))  # noqa: E731
    with pytest.raises(Refused):
        call()
