"""What the leaves of a decision say: bodies that may leave the machine, values that never do.

Bodies hold digests, names from the signed release, ids, counts and times. Everything that a
caller wrote is private, and the body carries its commitment only.
"""

from __future__ import annotations

import sys
from array import array
from base64 import b64encode
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from exclave_agent.ports import ActiveRelease, Generate, Message, Tensor, ToolCall
from exclave_policy.evaluate import CompiledPolicy
from exclave_policy.model import Decision
from exclave_protocol.canonical import JsonValue
from exclave_protocol.leaf import format_time

from .authorize import action_of, prompt_bytes
from .calls import Call, EmbedCall, GenerateCall, InferCall, RerankCall

if TYPE_CHECKING:
    from .jobs import Answer
    from .plan import Attempt, Choice, Plan


@dataclass(frozen=True, slots=True)
class Constants:
    """What is the same in every leaf of one release, made once."""

    release: ActiveRelease | None
    policy_digest: str
    release_body: dict[str, JsonValue]
    models: Mapping[str, dict[str, JsonValue]]
    routes: Collection[str]
    policy: CompiledPolicy | None

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
            release.policy.routes.keys(),
            release.policy,
        )

    @staticmethod
    def none() -> Constants:
        """Before the first release."""
        return Constants(None, "", {}, {}, (), None)


def intent(
    constants: Constants,
    call: Call,
    plan: Plan,
    verdict: Decision | None,
    params: dict[str, JsonValue],
    received_ns: int,
) -> dict[str, JsonValue]:
    """The body of an INTENT: who is asked first, and who may be asked after."""
    targets: list[JsonValue] = [constants.models[each.info.name] for each in plan.choices]
    body: dict[str, JsonValue] = {
        "decision": call.decision,
        "action": action_of(call),
        "actor": {"key": call.caller.key_id, "roles": list(call.caller.roles)},
        "model": targets[0] if targets else {"name": None},
        "route": plan.name or None,
        "targets": targets,
        "policy": ruled(constants, verdict),
        "grants": [granted(choice) for choice in plan.choices if choice.grants],
        "redacted": [hidden(choice) for choice in plan.choices if choice.redacted is not None],
        "release": constants.release_body,
        "params": params,
        "data_class": call.data_class,
        "received": format_time(received_ns),
    }
    return body | named(call)


def named(call: Call) -> dict[str, JsonValue]:
    """The workflow, where the caller named one: a label of 64 characters, which is public."""
    return {"workflow": call.workflow} if call.workflow else {}


def ruled(constants: Constants, verdict: Decision | None) -> JsonValue:
    """The policy's word, by the ids of its rules; what made them match is in the vault."""
    if verdict is None:
        return {"digest": constants.policy_digest, "rule": ""}
    would = verdict.would
    return {
        "digest": constants.policy_digest,
        "rule": verdict.rule,
        "matched": list(verdict.matched),
        "would": None
        if would is None
        else {"allowed": would.allowed, "rule": would.rule, "matched": list(would.matched)},
    }


def granted(choice: Choice) -> JsonValue:
    """What one target may use besides itself. A tool's name is the caller's text, and told only
    where a rule names it."""
    return {
        "model": choice.info.name,
        "grants": [
            {"action": each.action, "name": each.name or None, "rule": each.rule}
            for each in choice.grants
        ],
    }


def hidden(choice: Choice) -> JsonValue:
    """What one target is not shown: how many different values of each kind."""
    assert choice.redacted is not None
    found = choice.redacted
    return {
        "model": choice.info.name,
        "redactions": list(found.names),
        "values": dict(sorted(found.counts.items())),
    }


def sent(plan: Plan) -> dict[str, JsonValue]:
    """The private values of what is sent in place of the call: each writing of it, once."""
    made = {id(each.redacted): each.redacted for each in plan.choices if each.redacted is not None}
    if not made:
        return {}
    writings: list[JsonValue] = [
        {
            "redactions": list(each.names),
            "asked": asked(each.call),
            "tokens": dict(each.tokens),
        }
        for each in made.values()
    ]
    return {"sent": writings}


def refused(
    constants: Constants, call: Call, route: str | None, received_ns: int
) -> dict[str, JsonValue]:
    """What a RESULT without an INTENT says besides: who asked for what. A name that the release
    does not have is the caller's text, and stays private."""
    body: dict[str, JsonValue] = {
        "action": action_of(call),
        "actor": {"key": call.caller.key_id, "roles": list(call.caller.roles)},
        "model": constants.models.get(call.model, {"name": None}),
        "route": route,
        "release": constants.release_body,
        "data_class": call.data_class,
        "received": format_time(received_ns),
    }
    return body | named(call)


def attempts(made: Sequence[Attempt]) -> list[JsonValue]:
    """Every target that was asked, or skipped, in that order; names are the signed ones."""
    return [{"model": each.model, "outcome": each.outcome, "us": each.us} for each in made]


def answered_by(
    constants: Constants, answer: Answer | None, attempts_made: Sequence[Attempt]
) -> dict[str, JsonValue]:
    """Who answered in the end, and what became of the others."""
    found: dict[str, JsonValue] = {"attempts": attempts(attempts_made)}
    if answer is None:
        return found
    info = answer.info
    found["model"] = {"name": None} if info is None else constants.models[info.name]
    found["degraded"] = answer.degraded
    found["cache"] = answer.cache
    if answer.similarity:
        found["similarity"] = answer.similarity
    found["cached_tokens"] = answer.cached_tokens
    return found


def asked(call: Call) -> dict[str, JsonValue]:
    """The private values of a request: exactly what the model is asked."""
    if isinstance(call, InferCall):
        return {"prompt": tensors(call.inputs), "context": []}
    if isinstance(call, EmbedCall):
        return {"prompt": list(call.texts), "context": []}
    if isinstance(call, RerankCall):
        return {"prompt": [call.query, *call.documents], "context": []}
    prompt: JsonValue = call.prompt
    if prompt is None:
        prompt = [_message(each) for each in call.messages]
    private: dict[str, JsonValue] = {"prompt": prompt, "context": []}
    options = _options(call)
    if options:
        private["options"] = options
    return private


def _message(message: Message) -> JsonValue:
    told: dict[str, JsonValue] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        told["tool_calls"] = tool_calls(message.tool_calls)
    if message.tool_call_id:
        told["tool_call_id"] = message.tool_call_id
    if message.name:
        told["name"] = message.name
    return told


def _options(call: GenerateCall) -> dict[str, JsonValue]:
    """What else of a request is the caller's own text."""
    options: dict[str, JsonValue] = {}
    if call.stop or call.response_schema is not None:
        options = {"stop": list(call.stop), "response_schema": call.response_schema}
    if call.grammar is not None:
        options["grammar"] = call.grammar
    if call.logit_bias:
        options["logit_bias"] = [[token, decimal(bias)] for token, bias in call.logit_bias]
    if call.tools:
        options["tools"] = [
            {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
            for tool in call.tools
        ]
        options["tool_choice"] = {"mode": call.tool_choice, "name": call.tool_name}
    if call.workflow or call.run:
        options["workflow"], options["run"] = call.workflow, call.run
    return options


def tool_calls(made: Sequence[ToolCall]) -> list[JsonValue]:
    """Calls that a model asked for."""
    return [{"id": each.id, "name": each.name, "arguments": each.arguments} for each in made]


def spoken(text: str, made: Sequence[ToolCall]) -> JsonValue:
    """An answer that asks for calls."""
    return {"content": text, "tool_calls": tool_calls(made)}


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
        "repeat_penalty": decimal(sampling.repeat_penalty),
        "biases": len(sampling.logit_bias),
        "stops": len(sampling.stop),
        "schema": sampling.json_schema is not None,
        "grammar": sampling.grammar is not None,
        "tools": len(request.tools),
        "stream": call.stream,
        "priority": call.priority,
    }


def size_params(call: Call) -> dict[str, JsonValue]:
    """How much was sent: the names of tensors are the caller's until the model accepts them."""
    if isinstance(call, RerankCall):
        count = len(call.documents)
    elif isinstance(call, EmbedCall):
        count = len(call.texts)
    else:
        count = len(call.inputs) if isinstance(call, InferCall) else len(call.messages)
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
