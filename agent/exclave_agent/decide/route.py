"""Route: find the model of the active release that answers this call."""

from __future__ import annotations

from exclave_agent.errors import TooManyTokens, UnknownModel
from exclave_agent.ports import ActiveRelease, Generate, ModelInfo, Sampling

from .authorize import action_of
from .budget import default_tokens
from .calls import Call, GenerateCall


def route(release: ActiveRelease, call: Call) -> ModelInfo:
    """The model that answers. Raises: UnknownModel; its text never repeats the name, which
    is the caller's."""
    action = action_of(call)
    info = release.models.models().get(call.model)
    if info is None:
        raise UnknownModel("the active release has no model of that name: see GET /v1/models")
    if action not in info.actions:
        raise UnknownModel(
            f'the model does not serve "{action}": it serves {", ".join(sorted(info.actions))}'
        )
    return info


def request_for(
    call: GenerateCall, info: ModelInfo, granted: int | None, cap: int | None
) -> Generate:
    """What the runtime is asked.

    Raises: TooManyTokens when the answer alone would overflow the model's context; the
    runtime counts the prompt as well.
    """
    tokens = default_tokens(cap, info.context_tokens) if granted is None else granted
    if info.context_tokens and tokens > info.context_tokens:
        raise TooManyTokens(
            f"max_tokens is {tokens}, and the model's context is {info.context_tokens} tokens, "
            "prompt included: ask for less"
        )
    return Generate(
        model=call.model,
        messages=call.messages,
        prompt=call.prompt,
        sampling=Sampling(
            max_tokens=tokens,
            temperature=call.temperature,
            top_p=call.top_p,
            top_k=call.top_k,
            min_p=call.min_p,
            frequency_penalty=call.frequency_penalty,
            presence_penalty=call.presence_penalty,
            seed=call.seed,
            stop=call.stop,
            json_schema=call.response_schema,
        ),
    )
