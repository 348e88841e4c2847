"""Chooses tokens from logits with llama.cpp's sampler chains, constrained by a grammar if asked."""

from __future__ import annotations

import ctypes
import json
import math
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as C
from llama_cpp.llama_grammar import json_schema_to_gbnf
from numpy.typing import NDArray

from exclave_agent.runtimes.engine import NO_TOKEN, Refused
from exclave_agent.runtimes.frames import SamplingFrame

MAX_SCHEMA = 64 << 10
"""Characters of a JSON Schema that constrains sampling."""

MAX_GRAMMAR = 1 << 20
"""Characters of the grammar made of it."""

_CANDIDATE = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])
"""llama_token_data."""


class Vocabulary:
    """What sampling needs of the model's vocabulary."""

    def __init__(self, handle: Any, size: int) -> None:
        self.handle = handle
        self.size = size
        self.ids = np.arange(size, dtype=np.int32)


class LlamaSampler:
    """One sequence's chain and grammar; `greedy` when the largest logit is all that counts."""

    __slots__ = ("_chain", "_grammar", "_vocabulary", "greedy")

    def __init__(self, vocabulary: Vocabulary, sampling: SamplingFrame, window: int) -> None:
        """`window`: tokens back that penalties count; the answer's, as OpenAI defines them.

        Raises: Refused naming the parameter that is out of range, or the schema.
        """
        _check(sampling)
        self._vocabulary = vocabulary
        self._chain: Any = None
        self._grammar: Any = None
        penalised = sampling.frequency_penalty != 0 or sampling.presence_penalty != 0
        self.greedy = sampling.temperature == 0 and not penalised and sampling.json_schema is None
        if self.greedy:
            return
        if sampling.json_schema is not None:
            grammar = schema_grammar(sampling.json_schema)
            self._grammar = C.llama_sampler_init_grammar(
                vocabulary.handle, grammar.encode(), b"root"
            )
            if not self._grammar:
                raise _schema_refused("cannot be turned into a grammar")
        self._chain = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        if penalised:
            self._add(
                C.llama_sampler_init_penalties(
                    vocabulary.size,
                    window,
                    1.0,
                    sampling.frequency_penalty,
                    sampling.presence_penalty,
                )
            )
        if sampling.temperature == 0:
            self._add(C.llama_sampler_init_greedy())
            return
        if sampling.top_k > 0:
            self._add(C.llama_sampler_init_top_k(min(sampling.top_k, vocabulary.size)))
        if sampling.top_p < 1:
            self._add(C.llama_sampler_init_top_p(sampling.top_p, 1))
        if sampling.min_p > 0:
            self._add(C.llama_sampler_init_min_p(sampling.min_p, 1))
        self._add(C.llama_sampler_init_temp(sampling.temperature))
        # 0xFFFFFFFF means "draw one" to llama.cpp; a given seed must stay given.
        self._add(C.llama_sampler_init_dist(sampling.seed % 0xFFFFFFFF))

    def sample(self, context: Any, index: int, logits: NDArray[np.float32]) -> int:
        """The next token of batch entry `index`, whose logits are given too.

        `NO_TOKEN` when the grammar allows none.
        """
        if self.greedy:
            return int(logits.argmax())
        if self._grammar is None:
            return int(C.llama_sampler_sample(self._chain, context, index))
        # Checking one token against the grammar is cheap, filtering the vocabulary is not:
        # sample freely first, and only filter when the grammar refuses the choice.
        token = self._draw(logits, constrained=False)
        if not self._allows(token):
            token = self._draw(logits, constrained=True)
            if not self._allows(token):
                return NO_TOKEN
        C.llama_sampler_accept(self._grammar, token)
        C.llama_sampler_accept(self._chain, token)
        return token

    def close(self) -> None:
        """Free the native samplers. Idempotent."""
        chain, self._chain = self._chain, None
        grammar, self._grammar = self._grammar, None
        if chain:
            C.llama_sampler_free(chain)
        if grammar:
            C.llama_sampler_free(grammar)

    def __del__(self) -> None:
        # A request that is refused after its sampler was made never reaches the scheduler.
        self.close()

    def _add(self, sampler: Any) -> None:
        C.llama_sampler_chain_add(self._chain, sampler)

    def _draw(self, logits: NDArray[np.float32], *, constrained: bool) -> int:
        candidates = np.empty(self._vocabulary.size, dtype=_CANDIDATE)
        candidates["id"] = self._vocabulary.ids
        candidates["logit"] = logits
        candidates["p"] = 0
        array = _array(candidates)
        if constrained:
            C.llama_sampler_apply(self._grammar, ctypes.byref(array))
        C.llama_sampler_apply(self._chain, ctypes.byref(array))
        return int(array.data[array.selected].id)

    def _allows(self, token: int) -> bool:
        single = np.array([(token, 0.0, 0.0)], dtype=_CANDIDATE)
        array = _array(single)
        C.llama_sampler_apply(self._grammar, ctypes.byref(array))
        return not math.isinf(float(array.data[0].logit))


def _array(candidates: NDArray[Any]) -> Any:
    """A llama_token_data_array over `candidates`, which must outlive it."""
    data = candidates.ctypes.data_as(ctypes.POINTER(C.llama_token_data))
    return C.llama_token_data_array(data, len(candidates), -1, False)


def schema_grammar(schema: str) -> str:
    """A GBNF grammar of JSON texts of the schema's shape.

    Shape, names, types and enumerations are enforced; numeric bounds, `format` and some
    combinators are not, so the answer is still to be validated.

    Raises: Refused("invalid_value", param="response_format") for what is no JSON Schema, or
    one too large or too deep to enforce.
    """
    if len(schema) > MAX_SCHEMA:
        raise _schema_refused(f"has {len(schema)} characters, over the limit of {MAX_SCHEMA}")
    try:
        parsed = json.loads(schema)
    except (ValueError, RecursionError):
        raise _schema_refused("is not JSON") from None
    if not isinstance(parsed, dict):
        raise _schema_refused("is not an object")
    try:
        grammar = str(json_schema_to_gbnf(schema))
    except Exception as error:  # noqa: BLE001 - the converter raises whatever a bad schema hits
        raise _schema_refused(f"cannot be turned into a grammar ({type(error).__name__})") from None
    if len(grammar) > MAX_GRAMMAR:
        raise _schema_refused(f"makes a grammar over the limit of {MAX_GRAMMAR} characters")
    return grammar


def _schema_refused(why: str) -> Refused:
    return Refused("invalid_value", f"json_schema: {why}", param="response_format")


def _check(sampling: SamplingFrame) -> None:
    """Refuse what no sampler understands; tighter limits are the API's and the policy's."""
    bounds = {
        "temperature": (sampling.temperature, 0.0, 100.0),
        "top_p": (sampling.top_p, 0.0, 1.0),
        "min_p": (sampling.min_p, 0.0, 1.0),
        "frequency_penalty": (sampling.frequency_penalty, -100.0, 100.0),
        "presence_penalty": (sampling.presence_penalty, -100.0, 100.0),
    }
    for name, (value, low, high) in bounds.items():
        if not low <= value <= high:
            raise Refused("invalid_value", f"{name}: not within {low:g} to {high:g}", param=name)
    if sampling.max_tokens < 1:
        raise Refused("invalid_value", "max_tokens: at least 1", param="max_tokens")
