"""The Open Inference Protocol, version 2: metadata, health and tensors, JSON and binary."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from exclave_agent.decide.calls import InferCall
from exclave_agent.decide.pipeline import Pipeline
from exclave_agent.errors import BadRequest, UnknownModel
from exclave_agent.ports import ModelInfo, Releases, Tensor, TensorInfo

from . import headers
from .exchange import Exchange, encode_json
from .parse import parse
from .tensors import from_bytes, from_json, to_json

JSON_LENGTH = b"inference-header-content-length"
"""Bytes of JSON before the binary tensors; the binary tensor extension's header."""
EXTENSIONS = ["binary_tensor_data"]
_PLATFORMS = {"onnx": "onnxruntime_onnx", "llama": "llama_cpp_gguf"}
_MAX_TENSORS = 256

Parameters = dict[str, Any]
Name = Annotated[str, Meta(min_length=1, max_length=256)]


class Input(msgspec.Struct, forbid_unknown_fields=True):
    """A tensor as sent."""

    name: Name
    shape: list[int]
    datatype: str
    parameters: Parameters | None = None
    data: Any = None


class Output(msgspec.Struct, forbid_unknown_fields=True):
    """A tensor as wanted."""

    name: Name
    parameters: Parameters | None = None


class InferBody(msgspec.Struct, forbid_unknown_fields=True):
    """POST /v2/models/{model}/infer."""

    inputs: Annotated[list[Input], Meta(min_length=1, max_length=_MAX_TENSORS)]
    id: Annotated[str, Meta(max_length=256)] | None = None
    parameters: Parameters | None = None
    outputs: Annotated[list[Output], Meta(max_length=_MAX_TENSORS)] | None = None


_BODY = msgspec.json.Decoder(InferBody)


class InferenceV2:
    """The handlers."""

    def __init__(self, pipeline: Pipeline, releases: Releases) -> None:
        self._pipeline = pipeline
        self._releases = releases
        self._server = {
            "name": "exclave-agent",
            "version": version("exclave"),
            "extensions": EXTENSIONS,
        }

    async def server(self, exchange: Exchange) -> None:
        """GET /v2."""
        await exchange.respond_json(200, self._server)

    async def live(self, exchange: Exchange) -> None:
        """GET /v2/health/live."""
        await exchange.respond_json(200, {"live": True})

    async def ready(self, exchange: Exchange) -> None:
        """GET /v2/health/ready. Raises: NoRelease."""
        with self._releases.lease():
            pass
        await exchange.respond_json(200, {"ready": True})

    async def model(self, exchange: Exchange) -> None:
        """GET /v2/models/{model}[/versions/{version}]."""
        info, release_version = self._find(exchange)
        await exchange.respond_json(
            200,
            {
                "name": info.name,
                "versions": [release_version],
                "platform": _PLATFORMS.get(info.runtime, info.runtime),
                "inputs": [_tensor_info(each) for each in info.inputs],
                "outputs": [_tensor_info(each) for each in info.outputs],
            },
        )

    async def model_ready(self, exchange: Exchange) -> None:
        """GET /v2/models/{model}[/versions/{version}]/ready."""
        info, _ = self._find(exchange)
        await exchange.respond_json(200, {"name": info.name, "ready": True})

    async def infer(self, exchange: Exchange) -> None:
        """POST /v2/models/{model}[/versions/{version}]/infer."""
        assert exchange.caller is not None, "the route requires a key"
        treatment = headers.read(exchange.headers).only_common()
        body = await exchange.body()
        request, inputs = read_request(body, exchange.headers.get(JSON_LENGTH))
        if "version" in exchange.path_params:
            self._find(exchange)  # a version that is not served is refused before it is decided
        binary = wanted(request)
        call = InferCall(
            decision=exchange.request_id,
            model=exchange.path_params["model"],
            caller=exchange.caller,
            subject=exchange.caller.key_id,
            inputs=inputs,
            outputs=tuple(output.name for output in request.outputs or ()),
            data_class=treatment.data_class,
            workflow=treatment.workflow,
            run=treatment.run,
        )
        exchange.decided = True
        await exchange.while_connected(self._answer(exchange, call, request, binary))

    async def _answer(
        self, exchange: Exchange, call: InferCall, request: InferBody, binary: dict[str, bool]
    ) -> None:
        answer = await self._pipeline.infer(call)
        everywhere = bool((request.parameters or {}).get("binary_data_output", False))
        outputs, tail = [], []
        for tensor in answer.outputs:
            described: dict[str, Any] = {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": tensor.shape,
            }
            if binary.get(tensor.name, everywhere):
                described["parameters"] = {"binary_data_size": len(tensor.data)}
                tail.append(tensor.data)
            else:
                described["data"] = to_json(tensor)
            outputs.append(described)
        head: dict[str, Any] = {"model_name": call.model, "model_version": self._version()}
        if request.id is not None:
            head["id"] = request.id
        text = encode_json({**head, "outputs": outputs})
        notices = headers.notice_headers(answer.notices)
        if not tail:
            await exchange.respond(200, b"application/json", text, notices)
            return
        await exchange.respond(
            200,
            b"application/octet-stream",
            b"".join((text, *tail)),
            ((JSON_LENGTH, str(len(text)).encode()), *notices),
        )

    def _version(self) -> str:
        with self._releases.lease() as release:
            return str(release.version)

    def _find(self, exchange: Exchange) -> tuple[ModelInfo, str]:
        """The model that the path names, and the release's version. Raises: UnknownModel."""
        params = exchange.path_params
        with self._releases.lease() as release:
            info = release.models.models().get(params["model"])
            served = str(release.version)
        if info is None:
            raise UnknownModel("the active release has no model of that name")
        if params.get("version", served) != served:
            raise UnknownModel(
                f"that version is not served: the active release is version {served}"
            )
        return info, served


def _tensor_info(info: TensorInfo) -> dict[str, Any]:
    return {"name": info.name, "datatype": info.datatype, "shape": info.shape}


def read_request(body: bytes, json_length: bytes | None) -> tuple[InferBody, tuple[Tensor, ...]]:
    """The request and its input tensors, whether they came as JSON or behind it as bytes; the
    latter are views into `body`: nothing is copied before the frame to the worker.

    Raises: BadRequest naming what does not fit.
    """
    text, binary = memoryview(body), memoryview(b"")
    if json_length is not None:
        if not json_length.isdigit() or int(json_length[:20]) > len(body):
            raise BadRequest("inference-header-content-length: not a size within the body")
        text, binary = text[: int(json_length)], text[int(json_length) :]
    request = parse(_BODY, text)
    _only(request.parameters, ("binary_data_output",), "parameters")
    at, tensors = 0, []
    for index, each in enumerate(request.inputs):
        place = f"inputs[{index}]"
        _only(each.parameters, ("binary_data_size",), f"{place}.parameters")
        size = (each.parameters or {}).get("binary_data_size")
        if size is None:
            tensors.append(from_json(each.name, each.datatype, each.shape, each.data, place))
            continue
        if type(size) is not int or not 0 <= size <= len(binary) - at:
            raise BadRequest(
                f"{place}.parameters.binary_data_size: not a size within the bytes sent",
                param=f"{place}.parameters.binary_data_size",
            )
        if each.data is not None:
            raise BadRequest(f"{place}: data and binary_data_size exclude each other", param=place)
        raw = binary[at : at + size]
        tensors.append(from_bytes(each.name, each.datatype, each.shape, raw, place))
        at += size
    if at != len(binary):
        raise BadRequest(f"{len(binary) - at} bytes follow the last tensor")
    return request, tuple(tensors)


def wanted(request: InferBody) -> dict[str, bool]:
    """Output name -> whether it was asked for as bytes; only those that say so themselves."""
    binary = {}
    for index, output in enumerate(request.outputs or ()):
        place = f"outputs[{index}].parameters"
        _only(output.parameters, ("binary_data", "classification"), place)
        parameters = output.parameters or {}
        if parameters.get("classification"):
            raise BadRequest(f"{place}.classification: not supported", param=place)
        if "binary_data" in parameters:
            binary[output.name] = bool(parameters["binary_data"])
    return binary


def _only(parameters: Parameters | None, known: tuple[str, ...], place: str) -> None:
    """Refuse parameters that would be without effect: sequences, shared memory, priorities."""
    for name in parameters or ():
        if name not in known:
            raise BadRequest(
                f"{place}: one of them is not supported; these are: {', '.join(known)}",
                param=place,
                code="unsupported_parameter",
            )
