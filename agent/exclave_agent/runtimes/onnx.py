"""An ONNX model in onnxruntime: checks tensors against its signature, runs requests in batches."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from exclave_agent.runtimes import frames
from exclave_agent.runtimes.engine import Emit, LoadError, Refused, Request
from exclave_agent.runtimes.parameters import OnnxParameters

_TYPES: dict[str, tuple[str, Any]] = {
    "tensor(bool)": ("BOOL", np.dtype("?")),
    "tensor(uint8)": ("UINT8", np.dtype("u1")),
    "tensor(uint16)": ("UINT16", np.dtype("<u2")),
    "tensor(uint32)": ("UINT32", np.dtype("<u4")),
    "tensor(uint64)": ("UINT64", np.dtype("<u8")),
    "tensor(int8)": ("INT8", np.dtype("i1")),
    "tensor(int16)": ("INT16", np.dtype("<i2")),
    "tensor(int32)": ("INT32", np.dtype("<i4")),
    "tensor(int64)": ("INT64", np.dtype("<i8")),
    "tensor(float16)": ("FP16", np.dtype("<f2")),
    "tensor(float)": ("FP32", np.dtype("<f4")),
    "tensor(double)": ("FP64", np.dtype("<f8")),
    "tensor(string)": ("BYTES", np.dtype(object)),
}
"""onnxruntime's names -> Open Inference Protocol datatype, numpy dtype."""

_DTYPES = dict(_TYPES.values())

Array = NDArray[Any]


class _Job:
    """One request, its arrays checked."""

    __slots__ = ("arrays", "id", "outputs", "rows", "shapes")

    def __init__(self, request: int, arrays: dict[str, Array], outputs: list[str]) -> None:
        self.id = request
        self.arrays = arrays
        self.outputs = outputs
        first = next(iter(arrays.values()), None)
        self.rows = int(first.shape[0]) if first is not None and first.ndim else 1
        self.shapes = tuple(array.shape[1:] for array in arrays.values())
        """What must be equal for two jobs to be run together."""


class OnnxHost:
    """See `hosts.Host`."""

    def __init__(self, path: str, parameters: OnnxParameters, threads: int, emit: Emit) -> None:
        """Raises: LoadError."""
        self._session = _open(path, threads)
        self._emit = emit
        self._parameters = parameters
        self.actions = ["infer"]
        self.context_tokens = 0
        self.inputs = [_signature(one) for one in self._session.get_inputs()]
        self.outputs = [_signature(one) for one in self._session.get_outputs()]
        used = self._session.get_providers()[0]
        self.provider = "cuda" if used == "CUDAExecutionProvider" else "cpu"
        # Only a signed max_batch says that rows do not influence each other, and only then may
        # rows of different callers meet in one tensor.
        self._batches = parameters.max_batch > 1 and all(
            one.shape and one.shape[0] == -1 for one in (*self.inputs, *self.outputs)
        )
        self._changed = threading.Condition()
        self._waiting: deque[_Job] = deque()
        self._running = 0
        self._steps = 0

    # --- the reader's thread ---------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """See `hosts.Host`."""
        if not isinstance(request, frames.Infer):
            raise Refused("model_not_found", "the model does not offer this action")
        job = self._check(request)
        with self._changed:
            if len(self._waiting) > self._parameters.max_queue:
                raise Refused(
                    "overloaded",
                    f"{len(self._waiting)} requests wait for this model already",
                    retry_after=1.0,
                )
            self._waiting.append(job)
            self._changed.notify()

    def cancel(self, request: int) -> None:
        """See `hosts.Host`."""
        with self._changed:
            for job in [one for one in self._waiting if one.id == request]:
                self._waiting.remove(job)

    def progress(self) -> tuple[int, int]:
        """See `hosts.Host`."""
        return self._steps, len(self._waiting) + self._running

    def _check(self, request: frames.Infer) -> _Job:
        given = {tensor.name: tensor for tensor in request.inputs}
        if len(given) != len(request.inputs):
            raise Refused("invalid_value", "inputs: a name is given twice", param="inputs")
        arrays: dict[str, Array] = {}
        for expected in self.inputs:
            tensor = given.pop(expected.name, None)
            if tensor is None:
                raise Refused(
                    "invalid_value", f"inputs: {expected.name} is missing", param="inputs"
                )
            arrays[expected.name] = to_array(tensor, expected)
        if given:
            known = ", ".join(one.name for one in self.inputs)
            raise Refused(
                "invalid_value", f"inputs: the model has only {known}"[:400], param="inputs"
            )
        known_outputs = {one.name for one in self.outputs}
        if not known_outputs.issuperset(request.outputs):
            known = ", ".join(one.name for one in self.outputs)
            raise Refused(
                "invalid_value", f"outputs: the model has only {known}"[:400], param="outputs"
            )
        wanted = list(request.outputs) or [one.name for one in self.outputs]
        job = _Job(request.id, arrays, wanted)
        if self._batches and any(len(array) != job.rows for array in arrays.values()):
            raise Refused("invalid_value", "inputs: their first dimensions differ", param="inputs")
        return job

    # --- the engine's thread -----------------------------------------------------------------

    def run(self) -> None:
        """See `hosts.Host`."""
        while True:
            jobs = self._gather()
            self._answer(jobs)
            self._running = 0
            self._steps += 1

    def _gather(self) -> list[_Job]:
        """The next batch: waits for a first job, then up to max_wait_us for more like it."""
        with self._changed:
            while not self._waiting:
                self._changed.wait()
            jobs = [self._waiting.popleft()]
            self._running = 1
            if not self._batches:
                return jobs
            rows = jobs[0].rows
            deadline = time.monotonic() + self._parameters.max_wait_us / 1e6
            while True:
                rows = self._join(jobs, rows)
                left = deadline - time.monotonic()
                if rows >= self._parameters.max_batch or left <= 0:
                    break
                if not self._waiting:
                    self._changed.wait(left)
                elif not self._fits(jobs[0], rows, self._waiting[0]):
                    break
            self._running = len(jobs)
            return jobs

    def _join(self, jobs: list[_Job], rows: int) -> int:
        """Move what fits from the queue's head to `jobs`; returns the rows held."""
        while self._waiting and self._fits(jobs[0], rows, self._waiting[0]):
            job = self._waiting.popleft()
            jobs.append(job)
            rows += job.rows
        return rows

    def _fits(self, first: _Job, rows: int, job: _Job) -> bool:
        return job.shapes == first.shapes and rows + job.rows <= self._parameters.max_batch

    def _answer(self, jobs: list[_Job]) -> None:
        """Run the jobs together; when that fails, each alone, so that one cannot fail others."""
        results: list[dict[str, Array]] | None = None
        if len(jobs) > 1:
            results = self._together(jobs)
        for at, job in enumerate(jobs):
            try:
                outputs = results[at] if results is not None else self._run(job.arrays)
            except Refused as refusal:
                self._emit(refusal.frame(job.id))
                continue
            datatypes = {one.name: one.datatype for one in self.outputs}
            tensors = [to_tensor(name, datatypes[name], outputs[name]) for name in job.outputs]
            self._emit(frames.InferResult(job.id, tensors))

    def _together(self, jobs: list[_Job]) -> list[dict[str, Array]] | None:
        merged = {
            name: np.concatenate([job.arrays[name] for job in jobs]) for name in jobs[0].arrays
        }
        total = sum(job.rows for job in jobs)
        try:
            outputs = self._run(merged)
        except Refused:
            return None
        if any(len(array) != total for array in outputs.values()):
            # The model does not keep one row for one row: it is not one to batch.
            self._batches = False
            return None
        ends = np.cumsum([job.rows for job in jobs])
        return [
            {name: array[end - job.rows : end] for name, array in outputs.items()}
            for job, end in zip(jobs, ends, strict=True)
        ]

    def _run(self, arrays: dict[str, Array]) -> dict[str, Array]:
        names = [one.name for one in self.outputs]
        try:
            return dict(zip(names, self._session.run(names, arrays), strict=True))
        except Exception as error:  # noqa: BLE001 - onnxruntime raises types of its own
            # Its message may quote values of the tensors.
            raise Refused(
                "invalid_value",
                f"inputs: the model fails on these values ({type(error).__name__})",
                param="inputs",
            ) from None


def _open(path: str, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Waiting threads must not spin on a machine that others use too.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    onnxruntime.disable_telemetry_events()
    here = onnxruntime.get_available_providers()
    wanted = [one for one in ("CUDAExecutionProvider", "CPUExecutionProvider") if one in here]
    return onnxruntime.InferenceSession(path, options, providers=wanted)


def _signature(one: Any) -> frames.SignatureFrame:
    known = _TYPES.get(one.type)
    if known is None:
        raise LoadError(f"{one.name}: {one.type} has no Open Inference Protocol datatype")
    shape = [size if isinstance(size, int) and size >= 0 else -1 for size in one.shape]
    return frames.SignatureFrame(one.name, known[0], shape)


def to_array(tensor: frames.TensorFrame, expected: frames.SignatureFrame) -> Array:
    """A view of the request's bytes as the model wants them.

    Raises: Refused naming the input whose datatype, shape or size is not the signature's.
    """
    where = f"inputs.{tensor.name}"
    if tensor.datatype != expected.datatype:
        raise Refused(
            "invalid_value",
            f"{where}: datatype {tensor.datatype}, the model wants {expected.datatype}",
            param=where,
        )
    if len(tensor.shape) != len(expected.shape) or any(
        want not in (-1, size) for size, want in zip(tensor.shape, expected.shape, strict=True)
    ):
        raise Refused(
            "invalid_value",
            f"{where}: shape {list(tensor.shape)}, the model wants {list(expected.shape)} "
            "(-1: any size)",
            param=where,
        )
    count = math.prod(tensor.shape)
    if tensor.datatype == "BYTES":
        return _strings(tensor.data, count, where).reshape(tensor.shape)
    dtype = _DTYPES[tensor.datatype]
    if len(tensor.data) != count * dtype.itemsize:
        raise Refused(
            "invalid_value",
            f"{where}: {len(tensor.data)} bytes, shape {list(tensor.shape)} of "
            f"{tensor.datatype} takes {count * dtype.itemsize}",
            param=where,
        )
    if tensor.datatype == "BOOL" and (np.frombuffer(tensor.data, dtype=np.uint8) > 1).any():
        raise Refused("invalid_value", f"{where}: a BOOL is neither 0 nor 1", param=where)
    return np.frombuffer(tensor.data, dtype=dtype).reshape(tensor.shape)


def _strings(data: memoryview, count: int, where: str) -> Array:
    """BYTES: each element is its length (u32, little-endian) and its UTF-8."""
    values: list[str] = []
    at = 0
    try:
        while at < len(data):
            size = int.from_bytes(data[at : at + 4], "little")
            raw = bytes(data[at + 4 : at + 4 + size])
            if at + 4 > len(data) or len(raw) != size:
                raise Refused("invalid_value", f"{where}: a BYTES element is cut", param=where)
            values.append(raw.decode("utf-8"))
            at += 4 + size
    except UnicodeDecodeError:
        raise Refused(
            "invalid_value", f"{where}: a BYTES element is not UTF-8", param=where
        ) from None
    if len(values) != count:
        raise Refused(
            "invalid_value",
            f"{where}: {len(values)} BYTES elements, the shape takes {count}",
            param=where,
        )
    array = np.empty(count, dtype=object)
    array[:] = values
    return array


def to_tensor(name: str, datatype: str, array: Array) -> frames.TensorFrame:
    """An output for the wire: little-endian, row-major."""
    shape = list(array.shape)
    if datatype == "BYTES":
        encoded = [_bytes(value) for value in array.reshape(-1)]
        data = b"".join(len(raw).to_bytes(4, "little") + raw for raw in encoded)
        return frames.TensorFrame(name, datatype, shape, memoryview(data))
    flat = np.ascontiguousarray(array, dtype=_DTYPES[datatype]).reshape(-1)
    return frames.TensorFrame(name, datatype, shape, flat.view(np.uint8).data)


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8")
