"""LoRA adapters over one model: loaded beside it, one (or none) in force for a whole step."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import Any

from llama_cpp import llama_cpp as C

from exclave_agent.runtimes import frames
from exclave_agent.runtimes.engine import LoadError, Refused
from exclave_agent.runtimes.gguf import Gguf


class Adapters:
    """By digest; `check` is safe from any thread, `use` is for the engine's."""

    def __init__(self, gguf: Gguf, wanted: Sequence[frames.AdapterFrame]) -> None:
        """Raises: LoadError naming the adapter by its digest."""
        self._loaded: dict[str, tuple[Any, float]] = {}
        self._in_force = ""
        for one in wanted:
            name = f"adapter {one.sha256[:12]}"
            if not os.path.isfile(one.path):
                raise LoadError(f"{name}: the file does not exist")
            handle = C.llama_adapter_lora_init(gguf.model, os.fsencode(one.path))
            if not handle:
                raise LoadError(f"{name}: {gguf.log.last_error or 'llama.cpp refuses the file'}")
            self._loaded[one.sha256] = (handle, one.scale)

    def check(self, digest: str) -> None:
        """Raises: Refused when a request names an adapter that this model has not."""
        if digest and digest not in self._loaded:
            raise Refused("model_not_found", "the model has no such adapter")

    def use(self, context: Any, digest: str) -> None:
        """Put one in force, "" for none, if it is not. Raises: RuntimeError, llama.cpp fails."""
        if digest == self._in_force:
            return
        chosen = [self._loaded[digest]] if digest else []
        handles = (C.llama_adapter_lora_p_ctypes * 1)()
        scales = (ctypes.c_float * 1)()
        for at, (handle, scale) in enumerate(chosen):
            handles[at] = ctypes.cast(handle, C.llama_adapter_lora_p_ctypes)
            scales[at] = scale
        code = C.llama_set_adapters_lora(context, handles, len(chosen), scales)
        if code != 0:
            raise RuntimeError(f"llama_set_adapters_lora answers {code}")
        self._in_force = digest
