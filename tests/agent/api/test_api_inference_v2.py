"""The Open Inference Protocol v2: metadata, JSON tensors, and the binary tensor extension."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave_agent.api import tensors
from exclave_agent.api.inference_v2 import read_request
from exclave_agent.errors import BadRequest
from exclave_agent.ports import Tensor, TensorInfo
from exclave_testing.local_api import LocalApi
from exclave_testing.runtimes import FakeRuntimes

INFER = "/v2/models/score/infer"


@pytest.fixture
async def api() -> AsyncIterator[LocalApi]:
    async with LocalApi().open() as opened:
        yield opened


@pytest.fixture
async def http(api: LocalApi) -> AsyncIterator[httpx.AsyncClient]:
    async with api.client() as client:
        yield client


def x(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 4], "data": [1, 2, 3, 4, 5, 6, 7, 8.5]}
    return {key: value for key, value in (tensor | changes).items() if value is not ...}


async def test_metadata_and_health(http: httpx.AsyncClient, api: LocalApi) -> None:
    server = (await http.get("/v2")).json()
    assert (server["name"], server["extensions"]) == ("exclave-agent", ["binary_tensor_data"])
    assert (await http.get("/v2/health/live")).status_code == 200
    assert (await http.get("/v2/health/ready")).status_code == 200
    model = (await http.get("/v2/models/score")).json()
    assert model == {
        "name": "score",
        "versions": ["7"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [-1, 4]},
            {"name": "total", "datatype": "FP32", "shape": [-1, 1]},
        ],
    }
    assert (await http.get("/v2/models/score/versions/7")).json() == model
    assert (await http.get("/v2/models/score/ready")).json() == {"name": "score", "ready": True}
    assert (await http.get("/v2/models/score/versions/7/ready")).status_code == 200
    for path in ("absent", "absent/ready", "score/versions/8", "score/versions/8/ready"):
        assert (await http.get(f"/v2/models/{path}")).status_code == 404
    api.releases.active = None
    assert (await http.get("/v2/health/live")).status_code == 200
    assert (await http.get("/v2/health/ready")).status_code == 503


@pytest.mark.parametrize("path", [INFER, "/v2/models/score/versions/7/infer"])
@pytest.mark.parametrize("data", [..., [[1, 2, 3, 4], [5, 6, 7, 8.5]]])
async def test_json_tensors_flat_and_nested(
    http: httpx.AsyncClient, path: str, data: Any, api: LocalApi
) -> None:
    tensor = x() if data is ... else x(data=data)
    response = await http.post(path, json={"id": "r1", "inputs": [tensor]})
    assert response.status_code == 200
    assert response.json() == {
        "model_name": "score",
        "model_version": "7",
        "id": "r1",
        "outputs": [
            {
                "name": "y",
                "datatype": "FP32",
                "shape": [2, 4],
                "data": [2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 17.0],
            },
            {"name": "total", "datatype": "FP32", "shape": [2, 1], "data": [10.0, 26.5]},
        ],
    }
    assert response.headers["x-exclave-decision"] == api.results()[0].body["decision"]


def binary(
    inputs: Sequence[dict[str, Any]], raw: bytes, **more: Any
) -> tuple[bytes, dict[str, str]]:
    head = json.dumps({"inputs": list(inputs), **more}).encode()
    return head + raw, {"inference-header-content-length": str(len(head))}


async def test_binary_tensors_in_and_out(http: httpx.AsyncClient) -> None:
    raw = struct.pack("<4f", 1, 2, 3, 4)
    sent = x(shape=[1, 4], data=..., parameters={"binary_data_size": 16})
    content, headers = binary(
        [sent],
        raw,
        outputs=[{"name": "total"}, {"name": "y", "parameters": {"binary_data": False}}],
        parameters={"binary_data_output": True},
    )
    response = await http.post(INFER, content=content, headers=headers)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/octet-stream"
    size = int(response.headers["inference-header-content-length"])
    described = json.loads(response.content[:size])["outputs"]
    assert described == [
        {"name": "total", "datatype": "FP32", "shape": [1, 1],
         "parameters": {"binary_data_size": 4}},
        {"name": "y", "datatype": "FP32", "shape": [1, 4], "data": [2.0, 4.0, 6.0, 8.0]},
    ]  # fmt: skip
    assert struct.unpack("<f", response.content[size:]) == (10.0,)


def test_binary_tensors_are_views_into_the_request() -> None:
    raw = struct.pack("<4f", 1, 2, 3, 4)
    content, headers = binary([x(shape=[1, 4], data=..., parameters={"binary_data_size": 16})], raw)
    _, (tensor,) = read_request(content, headers["inference-header-content-length"].encode())
    assert isinstance(tensor.data, memoryview)
    assert tensor.data.obj is content
    assert bytes(tensor.data) == raw


BAD: list[tuple[dict[str, Any], str]] = [
    ({"inputs": []}, "inputs"),
    ({}, "inputs"),
    ({"inputs": [x(name=...)]}, "inputs[0].name"),
    ({"inputs": [x(name="other")]}, "x is missing"),
    ({"inputs": [x(), x(name="z")]}, "unknown"),
    ({"inputs": [x(datatype="FP8")]}, "inputs[0].datatype"),
    ({"inputs": [x(datatype="INT32", data=[1] * 8)]}, "datatype INT32"),
    ({"inputs": [x(shape=[8])]}, "shape"),
    ({"inputs": [x(shape=[2, -4])]}, "inputs[0].shape"),
    ({"inputs": [x(shape=[1] * 17)]}, "inputs[0].shape"),
    ({"inputs": [x(shape=[2, 5])]}, "8 elements"),
    ({"inputs": [x(shape=[2**30, 2**30])]}, "8 elements"),
    ({"inputs": [x(shape=[2**60, 0], data=[])]}, "inputs[0].shape"),
    ({"inputs": [x(data="zebra")]}, "not an array"),
    ({"inputs": [x(data=...)]}, "not an array"),
    ({"inputs": [x(data=[[1, 2, 3], [4, 5, 6, 7, 8]])]}, "not nested"),
    ({"inputs": [x(data=[[1, 2, 3, 4]] * 3)]}, "not nested"),
    ({"inputs": [x(data=["zebra"] * 8)]}, "not of datatype"),
    ({"inputs": [x(data=[1e300] * 8)]}, "range"),
    ({"inputs": [x(data=[10**400] * 8)]}, "range"),
    ({"inputs": [x()], "outputs": [{"name": "zebra"}]}, "outputs"),
    ({"inputs": [x()], "outputs": [{"name": "y", "parameters": {"classification": 2}}]},
     "classification"),
    ({"inputs": [x()], "parameters": {"sequence_id": 5}}, "parameters"),
    ({"inputs": [x(parameters={"shared_memory_region": "zebra"})]}, "inputs[0].parameters"),
    ({"inputs": [x(parameters={"binary_data_size": 32})]}, "binary_data_size"),
    ({"inputs": [x()], "zebra and prose": 1}, "unknown parameter"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "text"), BAD, ids=lambda value: str(value)[:60])
async def test_bad_tensors_are_refused_by_place(
    http: httpx.AsyncClient, body: dict[str, Any], text: str
) -> None:
    response = await http.post(INFER, json=body)
    assert response.status_code == 400, response.text
    assert list(response.json()) == ["error"]
    assert text in response.json()["error"]
    assert "zebra" not in response.text


@pytest.mark.parametrize(
    ("size", "raw", "header"),
    [
        (16, bytes(15), None),
        (16, bytes(17), None),
        (12, bytes(12), None),
        (-1, b"", None),
        (True, b"x", None),
        ("16", bytes(16), None),
        (16, bytes(16), "9999999"),
        (16, bytes(16), "-1"),
        (16, bytes(16), "x"),
        (16, bytes(16), "9" * 5000),
    ],
)
async def test_bad_binary_sizes(
    http: httpx.AsyncClient, size: Any, raw: bytes, header: str | None
) -> None:
    sent = x(shape=[1, 4], data=..., parameters={"binary_data_size": size})
    content, headers = binary([sent], raw)
    if header is not None:
        headers = {"inference-header-content-length": header}
    response = await http.post(INFER, content=content, headers=headers)
    assert response.status_code == 400, response.text


async def test_refusals_have_their_statuses(http: httpx.AsyncClient, api: LocalApi) -> None:
    body = {"inputs": [x()]}
    assert (await http.post("/v2/models/absent/infer", json=body)).status_code == 404
    assert (await http.post("/v2/models/small/infer", json=body)).status_code == 404
    assert (await http.post("/v2/models/forbidden/infer", json=body)).status_code == 403
    assert (await http.post("/v2/models/score/versions/8/infer", json=body)).status_code == 404
    denied = await http.post(INFER, json=body, headers={"x-exclave-data-class": "restricted"})
    assert denied.status_code == 403
    assert "not-restricted" in denied.json()["error"]
    assert [outcome for outcome, _ in api.outcomes()] == ["failed", "failed", "denied", "denied"]


async def test_strings_and_booleans_travel_both_ways() -> None:
    def echo(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return inputs

    infos = (TensorInfo("s", "BYTES", (-1,)), TensorInfo("b", "BOOL", (-1,)))
    runtimes = FakeRuntimes(infer=echo, inputs=infos, outputs=infos)
    async with LocalApi(runtimes).open() as api, api.client() as http:
        inputs = [
            {"name": "s", "datatype": "BYTES", "shape": [2], "data": ["Käse", ""]},
            {"name": "b", "datatype": "BOOL", "shape": [2], "data": [True, False]},
        ]
        response = await http.post(INFER, json={"inputs": inputs})
        assert [each["data"] for each in response.json()["outputs"]] == [
            ["Käse", ""],
            [True, False],
        ]
        raw = b"\x02\0\0\0\xff\xfe"
        sent = {"name": "s", "datatype": "BYTES", "shape": [1],
                "parameters": {"binary_data_size": 6}}  # fmt: skip
        flag = {"name": "b", "datatype": "BOOL", "shape": [1], "data": [True]}
        content, headers = binary([sent, flag], raw)
        response = await http.post(INFER, content=content, headers=headers)
        assert response.status_code == 400  # not UTF-8: JSON cannot carry it
        assert "binary_data" in response.json()["error"]
        content, headers = binary([sent, flag], raw, parameters={"binary_data_output": True})
        response = await http.post(INFER, content=content, headers=headers)
        assert response.content.endswith(raw + b"\1")
        cut = sent | {"parameters": {"binary_data_size": 5}}
        content, headers = binary([cut, flag], raw[:5])
        assert (await http.post(INFER, content=content, headers=headers)).status_code == 400


VALUES = {
    "BOOL": st.booleans(),
    "BYTES": st.text(),
    "FP16": st.floats(width=16, allow_nan=False),
    "FP32": st.floats(width=32, allow_nan=False),
    "FP64": st.floats(allow_nan=False),
} | {
    f"{sign}INT{bits}": st.integers(*bounds)
    for bits in (8, 16, 32, 64)
    for sign, bounds in (("", (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)), ("U", (0, 2**bits - 1)))
}


@pytest.mark.parametrize("datatype", sorted(VALUES))
@given(data=st.data())
def test_every_datatype_survives_the_way_to_bytes_and_back(datatype: str, data: Any) -> None:
    values = data.draw(st.lists(VALUES[datatype], max_size=6))
    tensor = tensors.from_json("t", datatype, [len(values)], values, "inputs[0]")
    assert tensors.to_json(tensor) == values
    again = tensors.from_bytes("t", datatype, [len(values)], tensor.data, "inputs[0]")
    assert again == tensor


@pytest.mark.parametrize(
    ("datatype", "value"),
    [("UINT8", 256), ("INT8", -129), ("UINT64", -1), ("INT64", 2**63), ("INT32", 1.0),
     ("INT32", True), ("BOOL", 1), ("FP16", 1e6), ("FP32", None), ("BYTES", 5), ("FP32", [])],
)  # fmt: skip
def test_values_outside_their_datatype(datatype: str, value: Any) -> None:
    with pytest.raises(BadRequest):
        tensors.from_json("t", datatype, [1], [value], "inputs[0]")
