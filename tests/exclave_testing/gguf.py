"""Broken model files: what a loader meets when a release names the wrong bytes."""

from __future__ import annotations

import struct
from pathlib import Path

_STRING, _UINT32, _FLOAT32 = 8, 4, 6


def _entry(key: str, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + value


def crashing_gguf(path: Path) -> Path:
    """A well-formed GGUF of no layers: llama.cpp's loader aborts the process on it.

    (GGML_ASSERT on the number of layers in llama_model_base::load_hparams.)
    """
    entries = [
        _entry("general.architecture", _STRING, struct.pack("<Q", 5) + b"llama"),
        _entry("llama.block_count", _UINT32, struct.pack("<I", 0)),
        _entry("llama.context_length", _UINT32, struct.pack("<I", 64)),
        _entry("llama.embedding_length", _UINT32, struct.pack("<I", 8)),
        _entry("llama.feed_forward_length", _UINT32, struct.pack("<I", 8)),
        _entry("llama.attention.head_count", _UINT32, struct.pack("<I", 1)),
        _entry("llama.attention.layer_norm_rms_epsilon", _FLOAT32, struct.pack("<f", 1e-5)),
    ]
    data = b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries)) + b"".join(entries)
    path.write_bytes(data + bytes(-len(data) % 32))
    return path
