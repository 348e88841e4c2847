"""The real language model on CUDA: in its worker, behind all walls, with the CPU's answers."""

from __future__ import annotations

import pytest

from exclave_agent.ports import (
    Delta,
    Finished,
    Generate,
    Message,
    ModelSet,
    ModelSpec,
    Placement,
    Sampling,
    TokenLogprob,
)
from exclave_agent.runtimes.supervisor import Supervisor
from exclave_testing.gpu import no_cuda_llama
from exclave_testing.models import sha256_of, smollm2_path

pytestmark = [pytest.mark.gpu, pytest.mark.model]

PROMPTS = (
    "What is the capital of France?",
    "Name three colours.",
    "Write one sentence about the sea.",
    "What do bees make?",
    "How many days has a week?",
    "Write one sentence about bread.",
)


async def load(supervisor: Supervisor, name: str, **parameters: int | str | bool) -> ModelSet:
    path = smollm2_path()
    # Drafts and kept prefixes change the order of sums, as a batch of another size does.
    chosen = {"n_ctx": 512, "draft_tokens": 0, "reuse_prefix": False, **parameters}
    return await supervisor.load([ModelSpec(name, "llama", path, sha256_of(path), chosen)])


def placed(supervisor: Supervisor, name: str) -> Placement:
    (found,) = [one for one in supervisor.plan().models if one.name == name]
    return found


async def answer(models: ModelSet, name: str, text: str) -> tuple[str, Finished]:
    out, _, ended = await follow(models, name, text)
    return out, ended


async def follow(
    models: ModelSet, name: str, text: str
) -> tuple[str, list[TokenLogprob], Finished]:
    sampling = Sampling(max_tokens=16, temperature=0, top_logprobs=5)
    request = Generate(name, sampling, messages=(Message("user", text),))
    out, likely = "", []
    async for event in models.generate(request):
        if isinstance(event, Finished):
            return out, likely, event
        assert isinstance(event, Delta)
        out += event.text
        likely += event.logprobs
    raise AssertionError("no Finished")


@pytest.mark.usefixtures("cuda_llama")
async def test_a_model_on_the_gpu_answers_as_on_the_cpu(supervisor: Supervisor) -> None:
    gpu = await load(supervisor, "gpu", expect_gpu=True)
    cpu = await load(supervisor, "cpu", n_gpu_layers=0)
    there, here = placed(supervisor, "gpu"), placed(supervisor, "cpu")
    assert (there.device, there.degraded) == ("cuda", "")
    assert there.vram_bytes > smollm2_path().stat().st_size
    assert (here.device, here.vram_bytes) == ("cpu", 0)
    for prompt in PROMPTS:
        (ours, on_gpu, ended), (_, on_cpu, _) = (
            await follow(gpu, "gpu", prompt),
            await follow(cpu, "cpu", prompt),
        )
        assert ours.strip()
        assert ended.completion_tokens > 0
        # Sums in another order, of activations rounded otherwise: tokens that are nearly equally
        # likely change places. What is likely at all stays so.
        there_top, here_top = dict(on_gpu[0].top), dict(on_cpu[0].top)
        common = there_top.keys() & here_top.keys()
        assert len(common) >= 3
        assert all(abs(there_top[token] - here_top[token]) < 1.0 for token in common)
    for models in (gpu, cpu):
        await models.close()


@pytest.mark.usefixtures("cuda_llama")
async def test_no_layers_on_the_gpu_is_degraded_when_one_is_expected(
    supervisor: Supervisor,
) -> None:
    models = await load(supervisor, "m", n_gpu_layers=0, expect_gpu=True)
    assert "asks for a GPU" in placed(supervisor, "m").degraded
    await models.close()


async def test_an_expected_gpu_that_is_absent_is_reported_and_the_model_served(
    supervisor: Supervisor,
) -> None:
    if not no_cuda_llama():
        pytest.skip("this machine has the GPU")
    models = await load(supervisor, "m", expect_gpu=True)
    found = placed(supervisor, "m")
    assert found.device == "cpu"
    assert "asks for a GPU" in found.degraded
    assert (await answer(models, "m", PROMPTS[0]))[0].strip()
    await models.close()
