"""A llama_batch over numpy arrays that are made once and filled at every step."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as C
from numpy.typing import NDArray

from exclave_agent.runtimes.engine import Work


class Batch:
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

    def fill(self, plan: Sequence[Work]) -> list[tuple[int, Work]]:
        """Returns (entry, work) of those whose logits are wanted, in the batch's order; the
        entry is the first of its draft's rows."""
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
                self._wanted[end - 1 - work.draft : end] = work.sample
            if work.sample:
                wanted.append((end - 1 - work.draft, work))
            at = end
        self.native.n_tokens = at
        return wanted

    def fill_trial(self, sequences: int, tokens: int, logits: bool) -> None:
        """Arbitrary tokens at the beginning of the first slots, to see how long they take."""
        for slot in range(sequences):
            at, end = slot * tokens, (slot + 1) * tokens
            self._put(at, end, [1] * tokens, 0, slot)
            self._wanted[end - 1] = 1
            if logits:
                self._wanted[at:end] = 1
        self.native.n_tokens = sequences * tokens

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
