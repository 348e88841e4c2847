"""A small vocabulary and a model that rolls dice: constrained answers without any weights."""

from __future__ import annotations

import numpy as np
from llguidance import LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

END = 0
WORDS = [
    b"true", b"false", b"null", b'{"', b'":', b'","', b'"}', b'": ', b", ", b"[]", b"{}", b"12",
    b"name", b"the ", b"\n ", b"<tool", b"_call>", b"</", b'{"name": "', "é".encode(), b"ab", b"}]",
]  # fmt: skip


class _Inner:
    """What `TokenizerWrapper` asks for: greedy, longest first."""

    def __init__(self, tokens: list[bytes]) -> None:
        self.tokens = tokens
        self.eos_token_id = END
        self.bos_token_id = None
        self.special_token_ids = [END]

    def __call__(self, text: bytes | str) -> list[int]:
        raw = text.encode() if isinstance(text, str) else text
        ids = []
        while raw:
            best = max(
                (n for n, token in enumerate(self.tokens) if n != END and raw.startswith(token)),
                key=lambda n: len(self.tokens[n]),
            )
            ids.append(best)
            raw = raw[len(self.tokens[best]) :]
        return ids


class Vocabulary:
    """Every byte and some words; token 0 ends an answer. As `Gguf`, as far as samplers see."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = [b"", *(bytes([n]) for n in range(256)), *WORDS]
        self.tokens = len(self.pieces)
        self.ends = frozenset([END])
        self.ids = np.arange(self.tokens, dtype=np.int32)

    def guided(self) -> LLTokenizer:
        """See `Gguf.guided`."""
        spelled = [b"<end>", *self.pieces[1:]]
        return LLTokenizer(TokenizerWrapper(_Inner(spelled)), eos_token=[END])

    def tokenise(self, text: str) -> list[int]:
        """Greedy, longest first."""
        return _Inner([b"<end>", *self.pieces[1:]])(text)

    def logits(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """Of a model that knows nothing; it likes to end a little more than anything else."""
        drawn = rng.normal(scale=3, size=self.tokens).astype(np.float32)
        drawn[END] += 4
        return drawn

    def wanting(self, token: int) -> NDArray[np.float32]:
        """Of a model that is sure of one token."""
        made = np.zeros(self.tokens, dtype=np.float32)
        made[token] = 50
        return made
