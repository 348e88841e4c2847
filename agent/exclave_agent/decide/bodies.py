"""What the leaves of a decision say: bodies that may leave the machine, values that never do.

Bodies hold digests, names from the signed release, ids, counts and times. Everything that a
caller wrote is private, and the body carries its commitment only.
"""

from __future__ import annotations

import sys
from array import array
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from exclave_agent.ports import ActiveRelease, Generate, ModelInfo, Tensor
from exclave_protocol.canonical import JsonValue
from exclave_protocol.leaf import format_time

from .authorize import action_of, prompt_bytes
from .calls import Call, EmbedCall, GenerateCall, InferCall


@dataclass(frozen=True, slots=True)
class Constants:
    """What is the same in every leaf of one release, made once."""

    release: ActiveRelease | None
    policy_digest: str
    release_body: dict[str, JsonValue]
    models: Mapping[str, dict[str, JsonValue]]

    @staticmethod
    def of(release: ActiveRelease) -> Constants:
        """The constants of `release`."""
        return Constants(
            release,
            release.policy_digest,
            {"digest": release.digest, "version": str(release.version)},
            {
                name: {"name": name, "digest": info.sha256, "runtime": info.runtime}
                for name, info in release.models.models().items()
            },
        )

    @staticmethod
    def none() -> Constants:
        """Before the first release."""
        return Constants(None, "", {}, {})


def intent(
    constants: Constants,
    call: Call,
    info: ModelInfo,
    rule: str,
    params: dict[str, JsonValue],
    received_ns: int,
) -> dict[str, JsonValue]:
    """The body of an INTENT."""
    return {
        "decision": call.decision,
        "action": action_of(call),
        "actor": {"key": call.caller.key_id, "roles": list(call.caller.roles)},
        "model": constants.models[info.name],
        "policy": {"digest": constants.policy_digest, "rule": rule},
        "release": constants.release_body,
        "params": params,
        "data_class": call.data_class,
        "received": format_time(received_ns),
    }


def refused(
    constants: Constants, call: Call, known: bool, received_ns: int
) -> dict[str, JsonValue]:
    """What a RESULT without an INTENT says besides: who asked for what. The name of a model
    that the release does not have is the caller's text, and stays private."""
    return {
        "action": action_of(call),
        "actor": {"key": call.caller.key_id, "roles": list(call.caller.roles)},
        "model": constants.models[call.model] if known else {"name": None},
        "release": constants.release_body,
        "data_class": call.data_class,
        "received": format_time(received_ns),
    }


def asked(call: Call) -> dict[str, JsonValue]:
    """The private values of a request: exactly what the model is asked."""
    if isinstance(call, InferCall):
        return {"prompt": tensors(call.inputs), "context": []}
    if isinstance(call, EmbedCall):
        return {"prompt": list(call.texts), "context": []}
    prompt: JsonValue = call.prompt
    if prompt is None:
        prompt = [{"role": each.role, "content": each.content} for each in call.messages]
    private: dict[str, JsonValue] = {"prompt": prompt, "context": []}
    if call.stop or call.response_schema is not None:
        private["options"] = {"stop": list(call.stop), "response_schema": call.response_schema}
    return private


def generate_params(request: Generate, call: GenerateCall) -> dict[str, JsonValue]:
    """How tokens were chosen; floats and 64-bit integers as strings."""
    sampling = request.sampling
    return {
        "max_tokens": sampling.max_tokens,
        "temperature": decimal(sampling.temperature),
        "top_p": decimal(sampling.top_p),
        "top_k": sampling.top_k,
        "min_p": decimal(sampling.min_p),
        "frequency_penalty": decimal(sampling.frequency_penalty),
        "presence_penalty": decimal(sampling.presence_penalty),
        "seed": None if sampling.seed is None else str(sampling.seed),
        "stops": len(sampling.stop),
        "schema": sampling.json_schema is not None,
        "stream": call.stream,
    }


def size_params(call: EmbedCall | InferCall) -> dict[str, JsonValue]:
    """How much was sent: the names of tensors are the caller's until the model accepts them."""
    count = len(call.texts) if isinstance(call, EmbedCall) else len(call.inputs)
    return {"inputs": count, "bytes": prompt_bytes(call)}


def tensors(values: Sequence[Tensor]) -> list[JsonValue]:
    """Tensors as canonical JSON: data in base64, little-endian."""
    return [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
            "data": b64encode(tensor.data).decode(),
        }
        for tensor in values
    ]


def vectors(values: Sequence[Sequence[float]]) -> list[JsonValue]:
    """Embeddings as canonical JSON: each vector's 32-bit floats, little-endian, in base64."""
    return [b64encode(float32(vector)).decode() for vector in values]


def float32(vector: Sequence[float]) -> bytes:
    """Little-endian IEEE 754 single precision."""
    packed = array("f", vector)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def decimal(value: float) -> str:
    """The shortest decimal that reads back as `value`, without an exponent."""
    text = repr(float(value))
    return format(Decimal(text), "f") if "e" in text else text
