"""A GGUF model in llama.cpp through its low-level binding: contexts, decoding, slots."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as C
from numpy.typing import NDArray

from exclave_agent.runtimes import frames
from exclave_agent.runtimes.adapters import Adapters
from exclave_agent.runtimes.batch import Batch
from exclave_agent.runtimes.costs import Measured
from exclave_agent.runtimes.costs_probe import probe
from exclave_agent.runtimes.embedder import Embedder
from exclave_agent.runtimes.engine import LoadError, Running, State, Work
from exclave_agent.runtimes.gguf import Gguf
from exclave_agent.runtimes.jobs import EmbedJob, RerankJob
from exclave_agent.runtimes.parameters import DEFAULT_CONTEXT, LlamaParameters
from exclave_agent.runtimes.prepare import Preparer

FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}
"""Our words -> llama_flash_attn_type."""
STATE_OVERHEAD = 1024
"""Bytes of a state beside keys and values, nearly."""


class LlamaEngine:
    """The `engine.Engine` over llama.cpp. `prepare` is safe from any thread, the rest is not."""

    def __init__(
        self,
        path: str,
        parameters: LlamaParameters,
        threads: int,
        adapters: Sequence[frames.AdapterFrame] = (),
    ) -> None:
        """Raises: LoadError."""
        gguf = self._gguf = Gguf(path, parameters)
        self.slots = parameters.n_parallel
        self.step_tokens = max(parameters.n_batch, self.slots)
        self.gpu = bool(C.llama_supports_gpu_offload()) and parameters.n_gpu_layers != 0
        self.generates = gguf.causal
        trained = gguf.trained_tokens
        self.context_tokens = parameters.n_ctx or min(trained or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
        if 0 < trained < self.context_tokens:
            raise LoadError(
                f"parameters: n_ctx is {self.context_tokens}, the model was trained for {trained}"
            )
        self.template = gguf.template() if self.generates else None
        self.reuses = parameters.reuse_prefix and gguf.positional
        self.cuts = gguf.positional
        self._kv_bytes = gguf.kv_bytes_per_token()
        if parameters.cache_type != "f16":
            # 34 bytes hold 32 values.
            self._kv_bytes = self._kv_bytes * 34 // 64
        self.measured = Measured()
        self._adapters = Adapters(gguf, adapters) if self.generates else None
        if self.generates:
            self._make_context(parameters, threads)
            drafts = parameters.draft_tokens if gguf.positional else 0
            self.measured = probe(self, drafts)
        self.embeds = parameters.embeddings or not self.generates
        self.ranks = gguf.ranks
        self.embed_tokens = self.context_tokens
        self.embed_texts = self.slots
        if self.embeds:
            self._embedder = Embedder(gguf, self.embed_tokens, self.embed_texts, threads)
        self._count_bytes()
        self._preparer = Preparer(gguf, self.template, self.context_tokens, self.embed_tokens)
        gguf.log.loaded()

    # --- loading -------------------------------------------------------------------------

    def _make_context(self, parameters: LlamaParameters, threads: int) -> None:
        options = C.llama_context_default_params()
        # Not unified: each sequence has its own cache of n_ctx tokens, 1.2 times as fast for
        # prompts that share nothing.
        options.kv_unified = False
        options.n_ctx = self.context_tokens * self.slots
        options.n_seq_max = self.slots
        options.n_batch = self.step_tokens
        options.n_ubatch = min(self.step_tokens, 512)
        options.n_threads = options.n_threads_batch = threads
        options.flash_attn_type = FLASH_ATTENTION[parameters.flash_attn]
        if parameters.cache_type == "q8_0":
            options.type_k = options.type_v = C.GGML_TYPE_Q8_0
        self._context = C.llama_init_from_model(self._gguf.model, options)
        if not self._context:
            raise LoadError(
                f"no memory for {self.slots} sequences of {self.context_tokens} tokens: "
                + (self._gguf.log.last_error or "llama.cpp gives no reason")
            )
        if C.llama_n_ctx_seq(self._context) < self.context_tokens:
            raise LoadError(f"llama.cpp does not grant {self.context_tokens} tokens a sequence")
        self._memory = C.llama_get_memory(self._context)
        self.moving_pays = self._moving_pays()
        self._batch = Batch(self.step_tokens)
        self._logits = np.empty((0, 0), dtype=np.float32)
        self._logits_at = 0

    def _count_bytes(self) -> None:
        """Weights, caches, and about what a step computes with (llama.cpp does not tell)."""
        gguf = self._gguf
        contexts = int(self.generates) + int(self.embeds)
        width = int(C.llama_model_n_embd(gguf.model))
        compute = contexts * min(self.step_tokens, 512) * 4 * (gguf.tokens + 16 * width)
        self.cache_bytes = 0
        if self.generates:
            self.cache_bytes = self._kv_bytes * self.context_tokens * self.slots
        total = gguf.bytes + self.cache_bytes + compute
        if self.embeds and self.generates:
            total += gguf.kv_bytes_per_token() * self.context_tokens
        self.ram_bytes, self.vram_bytes = (compute, total) if self.gpu else (total, 0)

    def _moving_pays(self) -> bool:
        """Slots that are not neighbours are decoded apart, and each part reads all weights.

        A move copies a whole slot's cache (read and written): it pays when that is no more
        than the weights.
        """
        gguf = self._gguf
        moved = 2 * self._kv_bytes * self.context_tokens
        return gguf.positional and moved <= gguf.bytes

    # --- from any thread -------------------------------------------------------------------

    def prepare(self, request: frames.Generate) -> Running:
        """Tokenise and make the sampler. Raises: Refused."""
        if self._adapters is not None:
            self._adapters.check(request.adapter)
        return self._preparer.generate(request)

    def prepare_embed(self, request: frames.Embed) -> EmbedJob:
        """Tokenise the texts. Raises: Refused."""
        return self._preparer.embed(request)

    def prepare_rerank(self, request: frames.Rerank) -> RerankJob:
        """Tokenise the query with the documents. Raises: Refused."""
        return self._preparer.rerank(request)

    # --- the engine's thread -----------------------------------------------------------------

    def decode(self, plan: Sequence[Work]) -> None:
        """See `engine.Engine`. Raises: RuntimeError when llama.cpp fails: the worker must go."""
        if self._adapters is not None:
            self._adapters.use(self._context, plan[0].sequence.adapter)
        wanted = self._batch.fill(plan)
        self._run()
        if not wanted:
            return
        logits = self._view(sum(1 + work.draft for _, work in wanted))
        context = self._context
        row = 0
        for entry, work in wanted:
            sampler = work.sequence.sampler
            if work.draft:
                self._verify(work, entry, logits[row : row + 1 + work.draft])
                row += 1 + work.draft
                continue
            work.sampled = (sampler.sample(context, entry, logits[row]),)
            if sampler.logprob is not None:
                work.logprobs.append(sampler.logprob)
            row += 1

    def _verify(self, work: Work, entry: int, logits: NDArray[np.float32]) -> None:
        """Sample position by position, as long as the guesses are what falls out."""
        sampler, guesses = work.sequence.sampler, work.tokens[-work.draft :]
        sampled: list[int] = []
        for at in range(1 + work.draft):
            token = sampler.sample(self._context, entry + at, logits[at])
            sampled.append(token)
            if sampler.logprob is not None:
                work.logprobs.append(sampler.logprob)
            if at == work.draft or token != guesses[at] or self.is_end(token):
                break
        work.sampled = sampled

    def _run(self) -> None:
        code = C.llama_decode(self._context, self._batch.native)
        if code != 0:
            raise RuntimeError(f"llama_decode answers {code}")

    def _view(self, rows: int) -> NDArray[np.float32]:
        """The step's logits, one row for each entry that asked, in the batch's order."""
        address = ctypes.cast(C.llama_get_logits(self._context), ctypes.c_void_p).value or 0
        if address != self._logits_at or rows > len(self._logits):
            pointer = ctypes.cast(address, ctypes.POINTER(ctypes.c_float))
            shape = (rows, self._gguf.tokens)
            self._logits = np.ctypeslib.as_array(pointer, shape=shape)
            self._logits_at = address
        return self._logits

    def forget(self, slot: int, keep: int = 0) -> None:
        """See `engine.Engine`."""
        C.llama_memory_seq_rm(self._memory, slot, keep, -1)

    def move(self, slot: int, to: int) -> None:
        """See `engine.Engine`."""
        C.llama_memory_seq_rm(self._memory, to, -1, -1)
        C.llama_memory_seq_cp(self._memory, slot, to, -1, -1)
        C.llama_memory_seq_rm(self._memory, slot, -1, -1)

    def copy(self, slot: int, to: int, tokens: int) -> None:
        """See `engine.Engine`. Through our memory: llama.cpp's own copy takes a slot's whole
        stream, and only at the next decode, when what is put into a slot by then is lost."""
        if not self.restore(to, self.save(slot)):
            raise RuntimeError("llama.cpp does not take back a state of its own")

    def save(self, slot: int) -> NDArray[np.uint8]:
        """See `engine.Engine`. Raises: RuntimeError when llama.cpp fails."""
        size = int(C.llama_state_seq_get_size(self._context, slot))
        state = np.empty(size, dtype=np.uint8)
        got = int(C.llama_state_seq_get_data(self._context, _bytes_of(state), size, slot))
        if got != size:
            raise RuntimeError(f"llama_state_seq_get_data gives {got} of {size} bytes")
        return state

    def restore(self, slot: int, state: State) -> bool:
        """See `engine.Engine`."""
        assert isinstance(state, np.ndarray)
        C.llama_memory_seq_rm(self._memory, slot, -1, -1)
        done = C.llama_state_seq_set_data(self._context, _bytes_of(state), state.nbytes, slot)
        if not done:
            C.llama_memory_seq_rm(self._memory, slot, -1, -1)
        return bool(done)

    def state_bytes(self, tokens: int) -> int:
        """See `engine.Engine`."""
        return self._kv_bytes * tokens + STATE_OVERHEAD

    # --- trials, see `costs_probe` -----------------------------------------------------------

    def try_rows(self, sequences: int, tokens: int, *, logits: bool) -> None:
        """See `costs_probe.Probed`."""
        C.llama_memory_clear(self._memory, True)
        self._batch.fill_trial(sequences, tokens, logits)
        self._run()
        C.llama_synchronize(self._context)
        C.llama_memory_clear(self._memory, True)

    def try_fill(self, tokens: int) -> None:
        """See `costs_probe.Probed`."""
        C.llama_memory_clear(self._memory, True)
        self._batch.fill_trial(1, tokens, logits=False)
        self._run()
        C.llama_synchronize(self._context)

    def is_end(self, token: int) -> bool:
        """See `engine.Engine`."""
        return token in self._gguf.ends

    def piece(self, token: int) -> bytes:
        """See `engine.Engine`."""
        return self._gguf.pieces[token]

    def embed(self, texts: Sequence[Sequence[int]]) -> list[bytes]:
        """See `engine.Engine`. Raises: RuntimeError as `decode`."""
        return self._embedder.embed(texts)


def _bytes_of(state: NDArray[np.uint8]) -> Any:
    return state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
