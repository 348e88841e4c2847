"""Asks a model of the release which words of a text are persons and addresses."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from exclave_agent.errors import BadRequest, UnknownModel
from exclave_agent.ports import ModelInfo, ModelSet, Tensor
from exclave_policy.guards.entities import Word, entities, words
from exclave_policy.guards.personal import Finding

from .texts import packed, strings

PIECE = 512
"""Words of one question."""
CONTEXT = 32
"""Words beside a piece that the model is shown too: a name at its edge is not judged alone."""
_QUICK = 32 * 1024
"""Characters that are cut into words without leaving the event loop."""


async def found(models: ModelSet, model: str, text: str) -> tuple[Finding, ...]:
    """What `model` finds in `text`.

    Raises: TooLong; what `ModelSet.infer` raises, but for BadRequest; ValueError where the model
    does not take words and give one label for each. Whoever redacts must then not send the text.
    """
    info = models.models().get(model)
    if info is None:
        raise UnknownModel(f"no model {model} for infer")
    name = _input(info)
    cut = words(text) if len(text) <= _QUICK else await asyncio.to_thread(words, text)
    labels: list[str] = []
    for start in range(0, len(cut), PIECE):
        first = max(0, start - CONTEXT)
        asked = cut[first : start + PIECE + CONTEXT]
        answer = await _labels(models, model, name, asked)
        labels += answer[start - first : start - first + PIECE]
    return entities(cut, labels)


def _input(info: ModelInfo) -> str:
    """The name of its only input. Raises: ValueError."""
    taken = [(one.datatype, one.shape) for one in info.inputs]
    given = [(one.datatype, one.shape) for one in info.outputs]
    if taken != [("BYTES", (-1,))] or given != [("BYTES", (-1,))]:
        raise ValueError("the model must have one input and one output, BYTES of shape [-1] each")
    return info.inputs[0].name


async def _labels(models: ModelSet, model: str, name: str, asked: Sequence[Word]) -> list[str]:
    """One for each of the words. Raises: ValueError, and what the model set raises."""
    given = Tensor(name, "BYTES", (len(asked),), _packed([word.text for word in asked]))
    try:
        answer = await models.infer(model, [given])
    except BadRequest:
        # The caller's request was another one: what was wrong here is the model.
        raise ValueError("the model refused the words") from None
    labels = list(strings(answer[0])) if len(answer) == 1 else []
    if (
        len(labels) != len(asked)
        or tuple(answer[0].shape) != (len(asked),)
        or _packed(labels) != bytes(answer[0].data)  # cut, or no UTF-8
    ):
        raise ValueError("the model did not answer one label for each word")
    return labels


def _packed(values: Sequence[str]) -> bytes:
    """A lone surrogate has no UTF-8: its word keeps its place."""
    return packed(value.encode("utf-8", "replace") for value in values)
