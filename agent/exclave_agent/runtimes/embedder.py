"""Texts to vectors or ranks: llama.cpp's pooled embeddings, many texts to a step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from llama_cpp import llama_cpp as C

from exclave_agent.runtimes.batch import Batch
from exclave_agent.runtimes.engine import LoadError
from exclave_agent.runtimes.gguf import Gguf


class Embedder:
    """A second context over the same weights; for the engine's thread alone."""

    def __init__(self, gguf: Gguf, context_tokens: int, texts: int, threads: int) -> None:
        """`texts`: most of one step. Raises: LoadError."""
        options = C.llama_context_default_params()
        options.embeddings = True
        options.kv_unified = True
        # A pooled text is decoded in one piece, so the step is as large as the longest text.
        self.tokens = context_tokens
        self.texts = texts
        options.n_ctx = options.n_batch = options.n_ubatch = self.tokens
        options.n_seq_max = self.texts
        options.n_threads = options.n_threads_batch = threads
        if gguf.meta(f"{gguf.architecture}.pooling_type") in ("", "0"):
            options.pooling_type = C.LLAMA_POOLING_TYPE_MEAN
        self._context = C.llama_init_from_model(gguf.model, options)
        if not self._context:
            raise LoadError(gguf.log.last_error or "no memory for the embedding context")
        self._batch = Batch(self.tokens)
        self._ranks = gguf.ranks
        outputs = C.llama_model_n_cls_out if gguf.ranks else C.llama_model_n_embd
        self._width = int(outputs(gguf.model))

    def embed(self, texts: Sequence[Sequence[int]]) -> list[bytes]:
        """See `engine.Engine`. Raises: RuntimeError when llama.cpp fails: the worker must go."""
        batch = self._batch
        batch.fill_texts(texts)
        memory = C.llama_get_memory(self._context)
        if memory:
            C.llama_memory_clear(memory, True)
        code = C.llama_decode(self._context, batch.native)
        if code != 0:
            raise RuntimeError(f"llama_decode answers {code}")
        vectors = []
        for at in range(len(texts)):
            native = C.llama_get_embeddings_seq(self._context, at)
            vector = np.ctypeslib.as_array(native, shape=(self._width,)).astype("<f4")
            if self._ranks:
                vectors.append(vector[:1].tobytes())
                continue
            norm = float(np.linalg.norm(vector))
            vectors.append((vector / norm if norm > 0 else vector).tobytes())
        return vectors
