"""Work that is done in whole engine calls between decode steps: texts to embed, pairs to rank."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from exclave_agent.runtimes import frames


class EmbedJob:
    """Texts to embed, some of them perhaps done."""

    __slots__ = ("id", "texts", "vectors")

    def __init__(self, request: int, texts: Sequence[Sequence[int]]) -> None:
        self.id = request
        self.texts = texts
        self.vectors: list[bytes] = []
        """One a text that is done, in order, as `Engine.embed` gives them."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all texts."""
        return sum(map(len, self.texts))

    def result(self) -> frames.ToAgent:
        """The answer, once there is a vector for each text."""
        return frames.EmbedResult(self.id, self.vectors, self.prompt_tokens)


class RerankJob(EmbedJob):
    """Documents to score against a query, each pair one text (models that rank), or the query
    and the documents as texts of their own, to be compared."""

    __slots__ = ("_pairs",)

    def __init__(self, request: int, texts: Sequence[Sequence[int]], *, pairs: bool) -> None:
        """`pairs`: a text is a query with its document; else the first text is the query."""
        super().__init__(request, texts)
        self._pairs = pairs

    def result(self) -> frames.ToAgent:
        """One score a document: the model's own, or the cosine of two unit vectors."""
        values = [np.frombuffer(vector, dtype="<f4") for vector in self.vectors]
        if self._pairs:
            scores = [float(value[0]) for value in values]
        else:
            scores = [float(values[0] @ document) for document in values[1:]]
        return frames.RerankResult(self.id, scores, self.prompt_tokens)
