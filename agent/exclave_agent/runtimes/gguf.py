"""A GGUF file opened by llama.cpp: its metadata, its vocabulary, its log while it loads."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as C
from llguidance import LLTokenizer

from exclave_agent.runtimes.chat import Template
from exclave_agent.runtimes.engine import LoadError
from exclave_agent.runtimes.parameters import LlamaParameters

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


class Gguf:
    """The open file: weights, metadata, vocabulary, chat template. Reading is thread-safe."""

    def __init__(self, path: str, parameters: LlamaParameters) -> None:
        """Raises: LoadError."""
        self.log = EngineLog()
        C.llama_backend_init()
        self.model = self._load(path, parameters)
        self.vocab = C.llama_model_get_vocab(self.model)
        self.architecture = self.meta("general.architecture")
        self.ranks = self.meta(f"{self.architecture}.pooling_type") == str(
            C.LLAMA_POOLING_TYPE_RANK
        )
        """A cross-encoder: it gives a query with a document one score, not a vector."""
        self.causal = not self.ranks and (
            self.meta(f"{self.architecture}.attention.causal") != "false"
        )
        """It continues text."""
        # Caches of other kinds can be cut and copied only as a whole, if at all.
        self.positional = not (
            C.llama_model_is_recurrent(self.model) or C.llama_model_is_hybrid(self.model)
        )
        self.trained_tokens = int(C.llama_model_n_ctx_train(self.model))
        self.bytes = int(C.llama_model_size(self.model))
        self._read_vocabulary()

    def _load(self, path: str, parameters: LlamaParameters) -> Any:
        if not os.path.isfile(path):
            raise LoadError("the file does not exist")
        options = C.llama_model_default_params()
        options.n_gpu_layers = parameters.n_gpu_layers
        options.load_mode = C.LLAMA_LOAD_MODE_MMAP
        model = C.llama_model_load_from_file(os.fsencode(path), options)
        if not model:
            raise LoadError(self.log.last_error or "llama.cpp refuses the file")
        return model

    def meta(self, key: str) -> str:
        """A string of the GGUF's metadata; "" when absent."""
        size = 256
        while True:
            buffer = ctypes.create_string_buffer(size)
            got = int(C.llama_model_meta_val_str(self.model, key.encode(), buffer, size))
            if got < size:
                return buffer.value.decode("utf-8", "replace") if got > 0 else ""
            size = got + 1

    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values (16 bits each) that one token takes in all layers."""
        heads = int(C.llama_model_n_head(self.model)) or 1
        usual = int(C.llama_model_n_embd(self.model)) // heads
        widths = 0
        for name in ("key_length", "value_length"):
            given = self.meta(f"{self.architecture}.attention.{name}")
            widths += int(given) if given.isdigit() else usual
        heads = int(C.llama_model_n_head_kv(self.model))
        return 2 * widths * heads * int(C.llama_model_n_layer(self.model))

    # --- vocabulary ------------------------------------------------------------------------

    def _read_vocabulary(self) -> None:
        size = int(C.llama_vocab_n_tokens(self.vocab))
        self.tokens = size
        self.ids = np.arange(size, dtype=np.int32)
        self.pieces = [self.render(token, special=False) for token in range(size)]
        self.longest_piece = max(map(len, self.pieces))
        self.ends = frozenset(
            token for token in range(size) if C.llama_vocab_is_eog(self.vocab, token)
        )
        self.control_ids = {
            self.render(token, special=True).decode("utf-8", "replace"): token
            for token in range(size)
            if C.llama_vocab_get_attr(self.vocab, token)
            & (C.LLAMA_TOKEN_ATTR_CONTROL | C.LLAMA_TOKEN_ATTR_UNKNOWN)
        }
        """Control tokens by their spelling."""

    def reveal(self, text: str) -> int | None:
        """Let the pieces show this control token, which an answer's reader waits for; None:
        the vocabulary has no such control token."""
        token = self.control_ids.get(text)
        if token is not None:
            self.pieces[token] = text.encode()
        return token

    def guided(self) -> LLTokenizer:
        """The vocabulary as llguidance sees it; takes about a second to make."""
        tokens = list(self.pieces)
        for text, token in self.control_ids.items():
            # An 0xFF, which is in no UTF-8, marks what no text of an answer can match.
            tokens[token] = b"\xff" + text.encode()
        tokenise = ctypes.cast(C._lib.llama_tokenize, ctypes.c_void_p).value
        vocabulary = ctypes.cast(self.vocab, ctypes.c_void_p).value
        return LLTokenizer.from_llamacpp(  # type: ignore[attr-defined,no-any-return]  # not in its stubs
            tokens=tokens,
            vocab_ptr=vocabulary,
            tokenize_fptr=tokenise,
            eos_token=sorted(self.ends),
        )

    def render(self, token: int, *, special: bool) -> bytes:
        """A token's bytes; control tokens have some only when `special`."""
        buffer = ctypes.create_string_buffer(64)
        size = int(C.llama_token_to_piece(self.vocab, token, buffer, 64, 0, special))
        if size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = int(C.llama_token_to_piece(self.vocab, token, buffer, -size, 0, special))
        return buffer.raw[:size]

    def tokenise(self, text: str, begin: bool, controls: bool) -> list[int]:
        """Tokens of `text`; `begin`: with the model's begin token; `controls`: control tokens
        spelled in it are read as such."""
        raw = text.encode("utf-8", "replace")
        room = len(raw) + 8
        while True:
            tokens = np.empty(room, dtype=np.int32)
            target = tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
            count = int(C.llama_tokenize(self.vocab, raw, len(raw), target, room, begin, controls))
            if count >= 0:
                return tokens[:count].tolist()  # type: ignore[no-any-return]  # numpy says Any
            room = -count

    def pair(self, query: str, document: str) -> list[int]:
        """A query with a document as a model that ranks was trained to see them: by its own
        template, else begin, query, end, separator, document, end, as far as it has them."""
        if template := self.meta("tokenizer.chat_template.rerank"):
            return self._templated_pair(template, query, document)
        vocab = self.vocab
        end, separator = int(C.llama_vocab_eos(vocab)), int(C.llama_vocab_sep(vocab))
        if end < 0:
            end = separator
        begins = bool(C.llama_vocab_get_add_bos(vocab))
        ends = [end] if C.llama_vocab_get_add_eos(vocab) and end >= 0 else []
        between = [separator] if C.llama_vocab_get_add_sep(vocab) and separator >= 0 else []
        begin = [int(C.llama_vocab_bos(vocab))] if begins else []
        texts = [self.tokenise(text, False, False) for text in (query, document)]
        # BERT's vocabularies have no end of their own: there the separator is that too.
        return [*begin, *texts[0], *ends, *between, *texts[1], *(ends or between)]

    def _templated_pair(self, template: str, query: str, document: str) -> list[int]:
        """Only the template's own words may be control tokens; between two of them words of both
        are one text, for tokens reach across where the template's end and the caller's begin."""
        words = {"{query}": query, "{document}": document}
        longest_first = sorted(filter(None, self.control_ids), key=len, reverse=True)
        control = "|".join(map(re.escape, longest_first)) or "(?!)"
        tokens: list[int] = []
        for part in re.split(f"({control})", template):
            if part in self.control_ids:
                tokens.append(self.control_ids[part])
            elif part:
                text = re.sub(r"\{query\}|\{document\}", lambda found: words[found[0]], part)
                tokens += self.tokenise(text, False, False)
        return tokens

    def template(self) -> Template | None:
        """The model's chat template; None: it has none. Raises: LoadError."""
        source = self.meta("tokenizer.chat_template")
        if not source:
            return None
        try:
            return Template(
                source,
                bos=self._special(C.llama_vocab_bos(self.vocab)),
                eos=self._special(C.llama_vocab_eos(self.vocab)),
                adds_bos=bool(C.llama_vocab_get_add_bos(self.vocab)),
                controls=list(self.control_ids),
                tokenise=self.tokenise,
            )
        except ValueError as error:
            raise LoadError(str(error)[:300]) from error

    def _special(self, token: int) -> str:
        return self.render(token, special=True).decode("utf-8", "replace") if token >= 0 else ""
