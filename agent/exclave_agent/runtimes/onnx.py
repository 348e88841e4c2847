"""An ONNX model in onnxruntime: checks tensors against its signature, runs requests in batches."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime

from exclave_agent.runtimes import frames
from exclave_agent.runtimes.engine import Emit, Refused, Request
from exclave_agent.runtimes.onnx_batching import Batch, Batches
from exclave_agent.runtimes.onnx_tensors import Array, signature, split, to_array, to_tensor
from exclave_agent.runtimes.parameters import OnnxParameters

NO_GPU = "the release asks for a GPU and onnxruntime finds none it can use"
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


class _Job:
    """One request, its arrays checked. See `onnx_batching.Batchable`."""

    __slots__ = ("arrays", "arrived", "id", "outputs", "rows", "shape")

    def __init__(
        self, request: int, arrays: dict[str, Array], outputs: list[str], arrived: float
    ) -> None:
        self.id = request
        self.arrays = arrays
        self.outputs = outputs
        self.arrived = arrived
        first = next(iter(arrays.values()), None)
        self.rows = int(first.shape[0]) if first is not None and first.ndim else 1
        self.shape: object = tuple([array.shape[1:] for array in arrays.values()])


class OnnxHost:
    """See `hosts.Host`."""

    def __init__(
        self,
        path: str,
        parameters: OnnxParameters,
        threads: int,
        emit: Emit,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises: LoadError."""
        self._session, cuda_failure = _open(path, threads)
        self._emit = emit
        self._parameters = parameters
        self._monotonic = monotonic
        self.actions = ["infer"]
        self.context_tokens = 0
        self.inputs = [signature(one) for one in self._session.get_inputs()]
        self.outputs = [signature(one) for one in self._session.get_outputs()]
        self._names = [one.name for one in self.outputs]
        self._datatypes = {one.name: one.datatype for one in self.outputs}
        on_gpu = self._session.get_providers()[0] == CUDA
        self.provider = "cuda" if on_gpu else "cpu"
        # Weights, and about as much again for what is computed; a GPU's copy leaves main memory.
        size = 2 * os.path.getsize(path)
        self.ram_bytes, self.vram_bytes = (0, size) if on_gpu else (size, 0)
        self.degraded = NO_GPU + cuda_failure if parameters.expect_gpu and not on_gpu else ""
        # Only a signed max_batch says that rows do not influence each other, and only then may
        # rows of different callers meet in one tensor.
        self._batches = parameters.max_batch > 1 and all(
            one.shape and one.shape[0] == -1 for one in (*self.inputs, *self.outputs)
        )
        self._changed = threading.Condition()
        self._waiting: Batches[_Job] = Batches(
            parameters.max_batch if self._batches else 1, parameters.max_wait_us / 1e6
        )
        self._asleep = False
        """The engine's thread waits for a first request."""
        self._running = 0
        self._steps = self._rows = self._requests = 0
        self._busy_seconds = 0.0

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
            # Stamped in the queue's own order, whoever held the lock before.
            job.arrived = self._monotonic()
            full = self._waiting.push(job)
            # A batch that gathers has a time to end at: more of it wakes nobody.
            if full or self._asleep:
                self._changed.notify()

    def cancel(self, request: int) -> None:
        """See `hosts.Host`. What runs already is answered all the same."""
        with self._changed:
            self._waiting.remove(request)

    def progress(self) -> tuple[int, int]:
        """See `hosts.Host`."""
        return self._steps, len(self._waiting) + self._running

    def stats(self) -> frames.StatsFrame:
        """See `hosts.Host`: rows count as tokens, requests as sequences."""
        return frames.StatsFrame(
            waiting=len(self._waiting),
            batch_tokens=self._rows,
            batch_sequences=self._requests,
            busy_us=int(self._busy_seconds * 1e6),
        )

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
        if request.outputs and not self._datatypes.keys() >= set(request.outputs):
            known = ", ".join(self._names)
            raise Refused(
                "invalid_value", f"outputs: the model has only {known}"[:400], param="outputs"
            )
        job = _Job(request.id, arrays, list(request.outputs) or self._names, 0.0)
        if self._batches and len({len(array) for array in arrays.values()}) > 1:
            raise Refused("invalid_value", "inputs: their first dimensions differ", param="inputs")
        return job

    # --- the engine's thread -----------------------------------------------------------------

    def run(self) -> None:
        """See `hosts.Host`."""
        while True:
            batch = self._gather()
            self._answer(batch)
            self._running = 0

    def _gather(self) -> Batch[_Job]:
        """Wait for the next batch to close."""
        with self._changed:
            while True:
                now = self._monotonic()
                if (batch := self._waiting.take(now)) is not None:
                    self._running = len(batch.jobs)
                    return batch
                due = self._waiting.due()
                self._asleep = due is None
                self._changed.wait(None if due is None else due - now)
                self._asleep = False

    def _answer(self, batch: Batch[_Job]) -> None:
        """Run the jobs together; when that fails, each alone, so that one cannot fail others."""
        jobs = batch.jobs
        self._requests += len(jobs)
        answers = self._together(batch) if len(jobs) > 1 else None
        if answers is None:
            for job in jobs:
                self._emit(self._alone(job))
        else:
            self._emit(*answers)

    def _alone(self, job: _Job) -> frames.ToAgent:
        """The input is the request's own bytes, the answer's the engine's own: no copies."""
        try:
            outputs = self._run(job.arrays, job.rows)
        except Refused as refusal:
            return refusal.frame(job.id)
        tensors = [to_tensor(name, self._datatypes[name], outputs[name]) for name in job.outputs]
        return frames.InferResult(job.id, tensors)

    def _together(self, batch: Batch[_Job]) -> Sequence[frames.ToAgent] | None:
        jobs = batch.jobs
        merged = {
            name: np.concatenate([job.arrays[name] for job in jobs]) for name in jobs[0].arrays
        }
        try:
            outputs = self._run(merged, batch.rows)
        except Refused:
            return None
        if any(len(array) != batch.rows for array in outputs.values()):
            # The model does not keep one row for one row: it is not one to batch.
            with self._changed:
                self._batches = False
                self._waiting.alone()
            return None
        rows = [job.rows for job in jobs]
        wanted = {name for job in jobs for name in job.outputs}
        cut = {name: split(name, self._datatypes[name], outputs[name], rows) for name in wanted}
        return [
            frames.InferResult(job.id, [cut[name][at] for name in job.outputs])
            for at, job in enumerate(jobs)
        ]

    def _run(self, arrays: dict[str, Array], rows: int) -> dict[str, Array]:
        started = self._monotonic()
        try:
            return dict(zip(self._names, self._session.run(self._names, arrays), strict=True))
        except Exception as error:  # noqa: BLE001 - onnxruntime raises types of its own
            # Its message may quote values of the tensors.
            raise Refused(
                "invalid_value",
                f"inputs: the model fails on these values ({type(error).__name__})",
                param="inputs",
            ) from None
        finally:
            self._busy_seconds += self._monotonic() - started
            self._rows += rows
            self._steps += 1


def _open(path: str, threads: int) -> tuple[Any, str]:
    """A session on the GPU where this build and machine have one, else on the CPU; why CUDA
    failed, as the end of a sentence."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Waiting threads must not spin on a machine that others use too.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    onnxruntime.disable_telemetry_events()
    failure = ""
    if CUDA in onnxruntime.get_available_providers():
        try:
            return onnxruntime.InferenceSession(path, options, providers=[CUDA, CPU]), ""
        except Exception as error:  # noqa: BLE001 - onnxruntime raises types of its own
            # The driver may be older than the build, the card full or gone: the CPU serves.
            failure = f": {str(error)[:300]}"
    return onnxruntime.InferenceSession(path, options, providers=[CPU]), failure
