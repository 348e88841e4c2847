"""ONNX models on CUDA, in their worker behind all walls; and what is said where there is none."""

from __future__ import annotations

import asyncio
from array import array
from pathlib import Path

import pytest

from exclave_agent.ports import ModelSpec, Placement, Tensor
from exclave_agent.runtimes.supervisor import Supervisor
from exclave_testing.gpu import no_cuda_onnx
from exclave_testing.models import double_and_total_onnx, sha256_of

pytestmark = pytest.mark.gpu


def spec(path: Path, **parameters: int | bool) -> ModelSpec:
    return ModelSpec("m", "onnx", path, sha256_of(path), parameters)


def placed(supervisor: Supervisor) -> Placement:
    (found,) = supervisor.plan().models
    return found


def row(value: float) -> Tensor:
    return Tensor("x", "FP32", (1, 4), array("f", [value] * 4).tobytes())


@pytest.mark.usefixtures("cuda_onnx")
async def test_batches_run_on_the_gpu_and_everyone_gets_their_rows(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    path = double_and_total_onnx(tmp_path / "double.onnx")
    wanted = spec(path, max_batch=8, max_wait_us=20_000, expect_gpu=True)
    models = await supervisor.load([wanted])
    found = placed(supervisor)
    assert (found.device, found.degraded) == ("cuda", "")
    assert found.vram_bytes > 0
    answers = await asyncio.gather(*(models.infer("m", [row(n)], ["total"]) for n in range(8)))
    totals = [array("f", bytes(tensors[0].data)).tolist() for tensors in answers]
    assert totals == [[4.0 * n] for n in range(8)]
    await models.close()


async def test_an_expected_gpu_that_is_absent_is_reported_and_the_model_served(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    if not no_cuda_onnx():
        pytest.skip("this machine has the GPU")
    path = double_and_total_onnx(tmp_path / "double.onnx")
    models = await supervisor.load([spec(path, expect_gpu=True)])
    found = placed(supervisor)
    assert found.device == "cpu"
    assert "asks for a GPU" in found.degraded
    (total,) = await models.infer("m", [row(3)], ["total"])
    assert array("f", bytes(total.data)).tolist() == [12.0]
    await models.close()
