"""A small LoRA adapter for the test's language model, written by hand."""

from __future__ import annotations

from pathlib import Path

WIDTH = 576
"""The model's embedding width; its attention output is as wide."""
RANK = 4


def write_lora(path: Path, strength: float, seed: int = 1) -> Path:
    """An adapter of the first layers' attention output; strength 0 changes nothing."""
    import numpy as np
    from gguf import GGUFWriter

    rng = np.random.default_rng(seed)
    writer = GGUFWriter(str(path), "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(RANK))
    for layer in range(8):
        name = f"blk.{layer}.attn_output.weight"
        down = rng.standard_normal((RANK, WIDTH)).astype(np.float32)
        up = strength * rng.standard_normal((WIDTH, RANK)).astype(np.float32)
        writer.add_tensor(f"{name}.lora_a", down)
        writer.add_tensor(f"{name}.lora_b", up)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
