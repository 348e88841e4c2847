"""`tritonclient[http]`, unchanged, against a real agent and the shipped classifier."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from exclave_testing.clients import TENSOR_MODEL, Service

ROWS = 5


@pytest.fixture
def client(service: Service) -> Iterator[triton.InferenceServerClient]:
    made = triton.InferenceServerClient(service.address, concurrency=4)
    yield made
    made.close()


def key(service: Service) -> dict[str, str]:
    """A fresh dictionary: the client adds headers of its own to the one it is given."""
    return {"authorization": f"Bearer {service.key}"}


def tensors(metadata: dict[str, Any], kind: Any, *, binary: bool) -> list[Any]:
    """One input of every kind that the model has, filled with a pattern."""
    made = []
    for each in metadata["inputs"]:
        shape = [ROWS if size == -1 else size for size in each["shape"]]
        numbers = np.arange(np.prod(shape)) % 7 / 7
        values = numbers.reshape(shape).astype(triton_to_np_dtype(each["datatype"]))
        tensor = kind.InferInput(each["name"], shape, each["datatype"])
        tensor.set_data_from_numpy(values, binary_data=binary)
        made.append(tensor)
    return made


def test_it_is_live_and_describes_itself(
    client: triton.InferenceServerClient, service: Service
) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(TENSOR_MODEL, headers=key(service))
    assert not client.is_model_ready("absent", headers=key(service))
    metadata = client.get_model_metadata(TENSOR_MODEL, headers=key(service))
    assert metadata["inputs"]
    assert metadata["outputs"]


def test_binary_and_json_say_the_same(
    client: triton.InferenceServerClient, service: Service
) -> None:
    metadata = client.get_model_metadata(TENSOR_MODEL, headers=key(service))
    names = [each["name"] for each in metadata["outputs"]]
    answers = []
    for binary in (True, False):
        wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in names]
        result = client.infer(
            TENSOR_MODEL,
            tensors(metadata, triton, binary=binary),
            outputs=wanted,
            request_id="r1",
            headers=key(service),
        )
        assert result.get_response()["id"] == "r1"
        answers.append([result.as_numpy(name) for name in names])
    for one, other in zip(*answers, strict=True):
        assert len(one) == ROWS
        np.testing.assert_allclose(
            one.astype(np.float64), other.reshape(one.shape).astype(np.float64), rtol=1e-6
        )


def test_many_at_once(client: triton.InferenceServerClient, service: Service) -> None:
    metadata = client.get_model_metadata(TENSOR_MODEL, headers=key(service))
    inputs = tensors(metadata, triton, binary=True)
    name = metadata["outputs"][0]["name"]

    def ask(_: int) -> Any:
        other = triton.InferenceServerClient(service.address)
        try:
            return other.infer(TENSOR_MODEL, inputs, headers=key(service)).as_numpy(name)
        finally:
            other.close()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(24)))
    for answer in answers:
        np.testing.assert_array_equal(answer, answers[0])


def test_the_asyncio_client(service: Service) -> None:
    async def main() -> int:
        async with triton_aio.InferenceServerClient(service.address) as client:
            metadata = await client.get_model_metadata(TENSOR_MODEL, headers=key(service))
            result = await client.infer(
                TENSOR_MODEL,
                tensors(metadata, triton_aio, binary=True),
                headers=key(service),
            )
            return len(result.as_numpy(metadata["outputs"][0]["name"]))

    assert asyncio.run(main()) == ROWS


def test_errors_come_through(client: triton.InferenceServerClient, service: Service) -> None:
    metadata = client.get_model_metadata(TENSOR_MODEL, headers=key(service))
    inputs = tensors(metadata, triton, binary=True)
    with pytest.raises(InferenceServerException, match="no API key") as refused:
        client.infer(TENSOR_MODEL, inputs)
    assert refused.value.status() == "401"
    wrong = triton.InferInput(metadata["inputs"][0]["name"], [3], "BYTES")
    wrong.set_data_from_numpy(np.array([b"a", b"b", b"c"], dtype=object))
    with pytest.raises(InferenceServerException, match="inputs") as bad:
        client.infer(TENSOR_MODEL, [wrong, *inputs[1:]], headers=key(service))
    assert bad.value.status() == "400"
    with pytest.raises(InferenceServerException) as denied:
        client.infer("smollm2", inputs, headers=key(service))
    assert denied.value.status() in ("403", "404")
    with pytest.raises(InferenceServerException, match="not supported"):
        client.infer(TENSOR_MODEL, inputs, sequence_id=5, headers=key(service))
