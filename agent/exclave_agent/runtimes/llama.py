"""A GGUF model in llama.cpp through its low-level binding: load, tokenise, decode, embed."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as C
from numpy.typing import NDArray

from exclave_agent.runtimes import frames
from exclave_agent.runtimes.chat import Template
from exclave_agent.runtimes.engine import EmbedJob, LoadError, Refused, Running, Work
from exclave_agent.runtimes.parameters import DEFAULT_CONTEXT, LlamaParameters
from exclave_agent.runtimes.sampling import LlamaSampler, Vocabulary
from exclave_agent.runtimes.text import StopFilter

_WARN, _ERROR = 3, 4
"""ggml_log_level."""


class EngineLog:
    """Takes llama.cpp's log: warnings and errors of the load, nothing afterwards.

    Messages of the load speak of the file; later ones may quote a request.
    """

    def __init__(self) -> None:
        self.last_error = ""
        self._loading = True
        self._callback = C.llama_log_callback(self._write)
        C.llama_log_set(self._callback, ctypes.c_void_p(0))

    def loaded(self) -> None:
        """From now on, silence."""
        self._loading = False

    def _write(self, level: int, text: bytes, _: object) -> None:
        if not self._loading or level < _WARN or level > _ERROR:
            return
        line = text.decode("utf-8", "replace").strip()[:300]
        if level == _ERROR and line and not line.startswith("llama_model_load_from_file"):
            self.last_error = line
        sys.stderr.write(line + "\n")


class LlamaEngine:
    """The `engine.Engine` over llama.cpp. `prepare` is safe from any thread, the rest is not."""

    def __init__(self, path: str, parameters: LlamaParameters, threads: int) -> None:
        """Raises: LoadError."""
        self._log = EngineLog()
        C.llama_backend_init()
        self._model = self._load(path, parameters)
        self._vocab = C.llama_model_get_vocab(self._model)
        self.slots = parameters.n_parallel
        self.step_tokens = max(parameters.n_batch, self.slots)
        self.gpu = bool(C.llama_supports_gpu_offload()) and parameters.n_gpu_layers != 0
        self.generates = self._meta(f"{self._meta('general.architecture')}.attention.causal") != (
            "false"
        )
        trained = int(C.llama_model_n_ctx_train(self._model))
        self.context_tokens = parameters.n_ctx or min(trained or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
        if 0 < trained < self.context_tokens:
            raise LoadError(
                f"parameters: n_ctx is {self.context_tokens}, the model was trained for {trained}"
            )
        self._read_vocabulary()
        self.template = self._read_template()
        # Caches of other kinds can be cut and copied only as a whole, if at all.
        self._positional = not (
            C.llama_model_is_recurrent(self._model) or C.llama_model_is_hybrid(self._model)
        )
        self._reuse_prefix = parameters.reuse_prefix and self._positional
        if self.generates:
            self._make_context(threads)
        self.embeds = parameters.embeddings or not self.generates
        if self.embeds:
            self._make_embedder(threads)
        self._log.loaded()

    # --- loading -------------------------------------------------------------------------

    def _load(self, path: str, parameters: LlamaParameters) -> Any:
        if not os.path.isfile(path):
            raise LoadError("the file does not exist")
        options = C.llama_model_default_params()
        options.n_gpu_layers = parameters.n_gpu_layers
        options.load_mode = C.LLAMA_LOAD_MODE_MMAP
        model = C.llama_model_load_from_file(os.fsencode(path), options)
        if not model:
            raise LoadError(self._log.last_error or "llama.cpp refuses the file")
        return model

    def _make_context(self, threads: int) -> None:
        options = C.llama_context_default_params()
        # Not unified: each sequence has its own cache of n_ctx tokens, 1.2 times as fast for
        # prompts that share nothing.
        options.kv_unified = False
        options.n_ctx = self.context_tokens * self.slots
        options.n_seq_max = self.slots
        options.n_batch = self.step_tokens
        options.n_ubatch = min(self.step_tokens, 512)
        options.n_threads = options.n_threads_batch = threads
        self._context = C.llama_init_from_model(self._model, options)
        if not self._context:
            raise LoadError(
                f"no memory for {self.slots} sequences of {self.context_tokens} tokens: "
                + (self._log.last_error or "llama.cpp gives no reason")
            )
        if C.llama_n_ctx_seq(self._context) < self.context_tokens:
            raise LoadError(f"llama.cpp does not grant {self.context_tokens} tokens a sequence")
        self._memory = C.llama_get_memory(self._context)
        self.moving_pays = self._moving_pays()
        self._batch = _Batch(self.step_tokens)
        self._logits = np.empty((0, 0), dtype=np.float32)
        self._logits_at = 0

    def _moving_pays(self) -> bool:
        """Slots that are not neighbours are decoded apart, and each part reads all weights.

        A move copies a whole slot's cache (read and written): it pays when that is no more
        than the weights.
        """
        model = self._model
        if not self._positional:
            return False
        heads = int(C.llama_model_n_head(model)) or 1
        width = int(C.llama_model_n_embd(model)) // heads * int(C.llama_model_n_head_kv(model))
        token = 2 * 2 * width * int(C.llama_model_n_layer(model))
        return 2 * token * self.context_tokens <= int(C.llama_model_size(model))

    def _make_embedder(self, threads: int) -> None:
        options = C.llama_context_default_params()
        options.embeddings = True
        options.kv_unified = True
        # A pooled text is decoded in one piece, so the step is as large as the longest text.
        self.embed_tokens = self.context_tokens
        self.embed_texts = self.slots
        options.n_ctx = options.n_batch = options.n_ubatch = self.embed_tokens
        options.n_seq_max = self.embed_texts
        options.n_threads = options.n_threads_batch = threads
        pooled = f"{self._meta('general.architecture')}.pooling_type"
        if self._meta(pooled) in ("", "0"):
            options.pooling_type = C.LLAMA_POOLING_TYPE_MEAN
        self._embedder = C.llama_init_from_model(self._model, options)
        if not self._embedder:
            raise LoadError(self._log.last_error or "no memory for the embedding context")
        self._embed_batch = _Batch(self.embed_tokens)
        self._width = int(C.llama_model_n_embd(self._model))

    def _meta(self, key: str) -> str:
        """A string of the GGUF's metadata; "" when absent."""
        size = 256
        while True:
            buffer = ctypes.create_string_buffer(size)
            got = int(C.llama_model_meta_val_str(self._model, key.encode(), buffer, size))
            if got < size:
                return buffer.value.decode("utf-8", "replace") if got > 0 else ""
            size = got + 1

    def _read_vocabulary(self) -> None:
        size = int(C.llama_vocab_n_tokens(self._vocab))
        self.vocabulary = Vocabulary(self._vocab, size)
        self._pieces = [self._render(token, special=False) for token in range(size)]
        self._longest = max(map(len, self._pieces))
        self._ends = frozenset(
            token for token in range(size) if C.llama_vocab_is_eog(self._vocab, token)
        )
        self._controls = [
            self._render(token, special=True).decode("utf-8", "replace")
            for token in range(size)
            if C.llama_vocab_get_attr(self._vocab, token)
            & (C.LLAMA_TOKEN_ATTR_CONTROL | C.LLAMA_TOKEN_ATTR_UNKNOWN)
        ]

    def _render(self, token: int, *, special: bool) -> bytes:
        buffer = ctypes.create_string_buffer(64)
        size = int(C.llama_token_to_piece(self._vocab, token, buffer, 64, 0, special))
        if size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = int(C.llama_token_to_piece(self._vocab, token, buffer, -size, 0, special))
        return buffer.raw[:size]

    def _read_template(self) -> Template | None:
        source = self._meta("tokenizer.chat_template")
        if not source or not self.generates:
            return None
        try:
            return Template(
                source,
                bos=self._special(C.llama_vocab_bos(self._vocab)),
                eos=self._special(C.llama_vocab_eos(self._vocab)),
                adds_bos=bool(C.llama_vocab_get_add_bos(self._vocab)),
                controls=self._controls,
                tokenise=self._tokenise_text,
            )
        except ValueError as error:
            raise LoadError(str(error)[:300]) from error

    def _special(self, token: int) -> str:
        return self._render(token, special=True).decode("utf-8", "replace") if token >= 0 else ""

    # --- from any thread -------------------------------------------------------------------

    def prepare(self, request: frames.Generate) -> Running:
        """Tokenise and make the sampler. Raises: Refused."""
        sampling = request.sampling
        texts = [message.content for message in request.messages]
        self._bound(sum(map(len, texts)) + len(request.prompt or ""), sampling.max_tokens)
        shareable = 0
        if request.prompt is not None:
            prompt = self._tokenise_text(request.prompt, True, False)
        elif self.template is None:
            raise Refused("model_not_found", "the model has no chat template")
        else:
            prompt, before_user = self.template.tokens(request.messages)
            shareable = before_user if self._reuse_prefix else 0
        if not prompt:
            raise Refused("invalid_value", "prompt: empty", param="prompt")
        if len(prompt) + sampling.max_tokens > self.context_tokens:
            raise self._too_many(f"{len(prompt)}", sampling.max_tokens)
        sampler = LlamaSampler(self.vocabulary, sampling, self.context_tokens)
        text = StopFilter(sampling.stop)
        return Running(request.id, prompt, sampling.max_tokens, sampler, text, shareable)

    def prepare_embed(self, request: frames.Embed) -> EmbedJob:
        """Tokenise the texts. Raises: Refused."""
        texts: list[list[int]] = []
        for at, text in enumerate(request.texts):
            self._bound(len(text), 0)
            tokens = self._tokenise_text(text, True, False)
            if not tokens:
                raise Refused("invalid_value", f"input[{at}]: empty", param="input")
            if len(tokens) > self.embed_tokens:
                raise self._too_many(f"{len(tokens)}", 0)
            texts.append(tokens)
        if not texts:
            raise Refused("invalid_value", "input: empty", param="input")
        return EmbedJob(request.id, texts)

    def _bound(self, characters: int, max_tokens: int) -> None:
        """Refuse what cannot fit before spending time on tokenising it."""
        if characters > self.context_tokens * self._longest:
            raise self._too_many(f"at least {characters // self._longest}", max_tokens)

    def _too_many(self, prompt: str, max_tokens: int) -> Refused:
        return Refused(
            "context_length_exceeded",
            f"the prompt has {prompt} tokens and max_tokens is {max_tokens}: together more than "
            f"the context of {self.context_tokens} tokens",
        )

    def _tokenise_text(self, text: str, begin: bool, controls: bool) -> list[int]:
        raw = text.encode("utf-8", "replace")
        room = len(raw) + 8
        while True:
            tokens = np.empty(room, dtype=np.int32)
            target = tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
            count = int(C.llama_tokenize(self._vocab, raw, len(raw), target, room, begin, controls))
            if count >= 0:
                return tokens[:count].tolist()  # type: ignore[no-any-return]  # numpy says Any
            room = -count

    # --- the engine's thread -----------------------------------------------------------------

    def decode(self, plan: Sequence[Work]) -> list[int]:
        """See `engine.Engine`. Raises: RuntimeError when llama.cpp fails: the worker must go."""
        batch = self._batch
        wanted = batch.fill(plan)
        code = C.llama_decode(self._context, batch.native)
        if code != 0:
            raise RuntimeError(f"llama_decode answers {code}")
        if not wanted:
            return []
        logits = self._view(len(wanted))
        context = self._context
        return [
            sequence.sampler.sample(context, index, logits[row])
            for row, (index, sequence) in enumerate(wanted)
        ]

    def _view(self, rows: int) -> NDArray[np.float32]:
        """The step's logits, one row for each entry that asked, in the batch's order."""
        address = ctypes.cast(C.llama_get_logits(self._context), ctypes.c_void_p).value or 0
        if address != self._logits_at or rows > len(self._logits):
            pointer = ctypes.cast(address, ctypes.POINTER(ctypes.c_float))
            shape = (rows, self.vocabulary.size)
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

    def is_end(self, token: int) -> bool:
        """See `engine.Engine`."""
        return token in self._ends

    def piece(self, token: int) -> bytes:
        """See `engine.Engine`."""
        return self._pieces[token]

    def embed(self, texts: Sequence[Sequence[int]]) -> list[bytes]:
        """See `engine.Engine`. Raises: RuntimeError as `decode`."""
        batch = self._embed_batch
        batch.fill_texts(texts)
        memory = C.llama_get_memory(self._embedder)
        if memory:
            C.llama_memory_clear(memory, True)
        code = C.llama_decode(self._embedder, batch.native)
        if code != 0:
            raise RuntimeError(f"llama_decode answers {code}")
        vectors = []
        for at in range(len(texts)):
            native = C.llama_get_embeddings_seq(self._embedder, at)
            vector = np.ctypeslib.as_array(native, shape=(self._width,)).astype("<f4")
            norm = float(np.linalg.norm(vector))
            vectors.append((vector / norm if norm > 0 else vector).tobytes())
        return vectors


class _Batch:
    """A llama_batch over numpy arrays that are made once and filled at every step."""

    def __init__(self, size: int) -> None:
        self._token = np.zeros(size, dtype=np.int32)
        self._pos = np.zeros(size, dtype=np.int32)
        self._ones = np.ones(size, dtype=np.int32)
        self._seq = np.zeros(size, dtype=np.int32)
        self._wanted = np.zeros(size, dtype=np.int8)
        self._steps = np.arange(size, dtype=np.int32)
        # llama.cpp wants a pointer to each entry's list of sequences: here each list is one
        # element of `_seq`.
        self._lists = self._seq.ctypes.data + 4 * np.arange(size, dtype=np.uintp)
        self.native = C.llama_batch()
        self.native.token = self._pointer(self._token, ctypes.c_int32)
        self.native.pos = self._pointer(self._pos, ctypes.c_int32)
        self.native.n_seq_id = self._pointer(self._ones, ctypes.c_int32)
        self.native.seq_id = self._pointer(self._lists, ctypes.POINTER(ctypes.c_int32))
        self.native.logits = self._pointer(self._wanted, ctypes.c_int8)

    @staticmethod
    def _pointer(array: NDArray[Any], kind: Any) -> Any:
        return array.ctypes.data_as(ctypes.POINTER(kind))

    def fill(self, plan: Sequence[Work]) -> list[tuple[int, Running]]:
        """Returns (entry, sequence) of those whose logits are wanted, in the batch's order."""
        at = 0
        wanted = []
        for work in plan:
            size = len(work.tokens)
            end = at + size
            if size == 1:
                self._token[at] = work.tokens[0]
                self._pos[at] = work.position
                self._seq[at] = work.slot
                self._wanted[at] = work.sample
            else:
                self._put(at, end, work.tokens, work.position, work.slot)
                self._wanted[end - 1] = work.sample
            if work.sample:
                wanted.append((end - 1, work.sequence))
            at = end
        self.native.n_tokens = at
        return wanted

    def fill_texts(self, texts: Sequence[Sequence[int]]) -> None:
        """Each text its own sequence, every token an output, as pooling wants them."""
        at = 0
        for slot, text in enumerate(texts):
            end = at + len(text)
            self._put(at, end, text, 0, slot)
            self._wanted[at:end] = 1
            at = end
        self.native.n_tokens = at

    def _put(self, at: int, end: int, tokens: Sequence[int], position: int, slot: int) -> None:
        self._token[at:end] = tokens
        self._pos[at:end] = self._steps[: end - at] + position
        self._seq[at:end] = slot
        self._wanted[at:end] = 0
