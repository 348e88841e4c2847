"""Chooses tokens from logits with llama.cpp's sampler chains, constrained by a grammar if asked."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as C
from numpy.typing import NDArray

from exclave_agent.runtimes import frames
from exclave_agent.runtimes.engine import NO_TOKEN, Refused
from exclave_agent.runtimes.frames import SamplingFrame
from exclave_agent.runtimes.gguf import Gguf
from exclave_agent.runtimes.grammar import Constraint

_CANDIDATE = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])
"""llama_token_data."""
COLDEST = 1e-6
"""Temperatures below it are 0: what is divided by less may overflow, and nothing is left to chance
long before."""


class LlamaSampler:
    """One sequence's chain and grammar; `greedy` when the largest logit is all that counts."""

    __slots__ = ("_alternatives", "_chain", "_constraint", "_vocabulary", "greedy", "logprob")

    def __init__(
        self,
        vocabulary: Gguf,
        sampling: SamplingFrame,
        window: int,
        constraint: Constraint | None = None,
    ) -> None:
        """`window`: tokens back that penalties count; the answer's, as OpenAI defines them.

        Raises: Refused naming the parameter that is out of range.
        """
        check(sampling, vocabulary.tokens)
        self.logprob: frames.LogprobFrame | None = None
        self._alternatives = sampling.top_logprobs
        self._vocabulary = vocabulary
        self._constraint = constraint
        self._chain: Any = None
        penalised = (
            sampling.frequency_penalty != 0
            or sampling.presence_penalty != 0
            or sampling.repeat_penalty != 1
        )
        self.greedy = sampling.temperature < COLDEST and not penalised and not sampling.logit_bias
        if not self.greedy:
            self._make_chain(sampling, window if penalised else 0)

    def _make_chain(self, sampling: SamplingFrame, window: int) -> None:
        """Bias, penalties, cuts, temperature, choice: OpenAI's order, as far as it tells."""
        tokens = self._vocabulary.tokens
        self._chain = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        if sampling.logit_bias:
            each = [C.llama_logit_bias(token, bias) for token, bias in sampling.logit_bias]
            biases = (C.llama_logit_bias * len(each))(*each)
            self._add(C.llama_sampler_init_logit_bias(tokens, len(biases), biases))
        if window:
            self._add(
                C.llama_sampler_init_penalties(
                    tokens,
                    window,
                    sampling.repeat_penalty,
                    sampling.frequency_penalty,
                    sampling.presence_penalty,
                )
            )
        if sampling.temperature < COLDEST:
            self._add(C.llama_sampler_init_greedy())
            return
        if sampling.top_k > 0:
            self._add(C.llama_sampler_init_top_k(min(sampling.top_k, tokens)))
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
        if self._constraint is not None:
            token = self._constrained(self._constraint, logits)
        elif self.greedy:
            token = int(logits.argmax())
        else:
            token = int(C.llama_sampler_sample(self._chain, context, index))
        if self._alternatives is not None and token != NO_TOKEN:
            self.logprob = self._measured(token, logits, self._alternatives)
        return token

    def forced(self) -> Sequence[int]:
        """Tokens that the grammar leaves no choice about: drafts that will be agreed with."""
        return () if self._constraint is None else self._constraint.forced()

    def close(self) -> None:
        """Free the native samplers. Idempotent."""
        chain, self._chain = self._chain, None
        self._constraint = None
        if chain:
            C.llama_sampler_free(chain)

    def __del__(self) -> None:
        # A request that is refused after its sampler was made never reaches the scheduler.
        if getattr(self, "_chain", None):
            self.close()

    def _add(self, sampler: Any) -> None:
        C.llama_sampler_chain_add(self._chain, sampler)

    def _constrained(self, constraint: Constraint, logits: NDArray[np.float32]) -> int:
        if constraint.end >= 0:
            return constraint.end
        # Checking one token against the grammar is cheap, finding all that it allows is not:
        # choose freely first, and only look for the others when the grammar refuses the choice.
        token = self._choose(self._vocabulary.ids, logits)
        if not constraint.take(token):
            allowed = constraint.allowed()
            if not len(allowed):
                return NO_TOKEN
            token = self._choose(allowed, logits[allowed])
            if not constraint.take(token):
                return NO_TOKEN
        if self._chain:
            C.llama_sampler_accept(self._chain, token)
        return token

    def _choose(self, ids: NDArray[Any], logits: NDArray[np.float32]) -> int:
        if self.greedy:
            return int(ids[logits.argmax()])
        candidates = np.empty(len(ids), dtype=_CANDIDATE)
        candidates["id"] = ids
        candidates["logit"] = logits
        candidates["p"] = 0
        data = candidates.ctypes.data_as(ctypes.POINTER(C.llama_token_data))
        array = C.llama_token_data_array(data, len(candidates), -1, False)
        C.llama_sampler_apply(self._chain, ctypes.byref(array))
        return int(array.data[array.selected].id)

    def _measured(
        self, token: int, logits: NDArray[np.float32], alternatives: int
    ) -> frames.LogprobFrame:
        """Of the model's own distribution: before bias, penalties, cuts and temperature."""
        highest = float(logits.max())
        total = highest + float(np.log(np.exp(logits - highest).sum(dtype=np.float64)))
        pieces = self._vocabulary.pieces
        top: list[tuple[bytes, float]] = []
        if alternatives:
            count = min(alternatives, len(logits))
            best = np.argpartition(logits, -count)[-count:]
            best = best[np.argsort(-logits[best], kind="stable")]
            top = [(pieces[one], float(logits[one]) - total) for one in best.tolist()]
        return frames.LogprobFrame(pieces[token], float(logits[token]) - total, top)


def check(sampling: SamplingFrame, tokens: int) -> None:
    """Refuse what no sampler understands; tighter limits are the API's and the policy's.

    `tokens`: of the vocabulary. Raises: Refused naming the parameter.
    """
    bounds = {
        "temperature": (sampling.temperature, 0.0, 100.0),
        "top_p": (sampling.top_p, 0.0, 1.0),
        "min_p": (sampling.min_p, 0.0, 1.0),
        "frequency_penalty": (sampling.frequency_penalty, -100.0, 100.0),
        "presence_penalty": (sampling.presence_penalty, -100.0, 100.0),
        "repeat_penalty": (sampling.repeat_penalty, 0.01, 100.0),
    }
    for name, (value, low, high) in bounds.items():
        if not low <= value <= high:
            raise _refused(name, f"not within {low:g} to {high:g}")
    if sampling.max_tokens < 1:
        raise _refused("max_tokens", "at least 1")
    if len({token for token, _ in sampling.logit_bias}) != len(sampling.logit_bias):
        raise _refused("logit_bias", "a token is named twice")
    for token, bias in sampling.logit_bias:
        if token >= tokens:
            raise _refused(
                "logit_bias", f"a token of a vocabulary of {tokens} is at most {tokens - 1}"
            )
        if not -1000.0 <= bias <= 1000.0:
            raise _refused("logit_bias", "a bias is not within -1000 to 1000")


def _refused(name: str, why: str) -> Refused:
    return Refused("invalid_value", f"{name}: {why}", param=name)
