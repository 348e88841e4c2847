"""A tiny cross-encoder with random weights: ranks without meaning, but always the same."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

WORDS = ["cat", "dog", "sea", "moon", "bread", "the", "is", "what"]
_WIDTH, _FEED, _LAYERS, _HEADS, CONTEXT = 32, 64, 2, 4, 64


def write_ranker(path: Path, *, template: str = "") -> Path:
    """A BERT of two layers with a head for one score. `template`: its own for pairs."""
    rng = np.random.default_rng(5)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"\u2581{word}" for word in WORDS)]
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(_WIDTH)
    writer.add_feed_forward_length(_FEED)
    writer.add_block_count(_LAYERS)
    writer.add_head_count(_HEADS)
    writer.add_layer_norm_eps(1e-6)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.RANK)
    writer.add_tokenizer_model("bert")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    special = [gguf.TokenType.CONTROL] * 5
    writer.add_token_types([*special, *([gguf.TokenType.NORMAL] * len(WORDS))])
    writer.add_token_type_count(2)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_sep_token_id(3)
    writer.add_eos_token_id(3)
    writer.add_mask_token_id(4)
    if template:
        writer.add_chat_template([{"name": "rerank", "template": template}])

    def add(name: str, *shape: int) -> None:
        ones = "norm.weight" in name
        values = np.ones(shape) if ones else rng.normal(scale=0.4, size=shape)
        writer.add_tensor(name, values.astype(np.float32))

    def dense(name: str, out: int, into: int) -> None:
        add(f"{name}.weight", out, into)
        add(f"{name}.bias", out)

    add("token_embd.weight", len(tokens), _WIDTH)
    add("token_types.weight", 2, _WIDTH)
    add("position_embd.weight", CONTEXT, _WIDTH)
    add("token_embd_norm.weight", _WIDTH)
    add("token_embd_norm.bias", _WIDTH)
    for layer in range(_LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            dense(f"blk.{layer}.{name}", _WIDTH, _WIDTH)
        dense(f"blk.{layer}.ffn_up", _FEED, _WIDTH)
        dense(f"blk.{layer}.ffn_down", _WIDTH, _FEED)
        for name in ("attn_output_norm", "layer_output_norm"):
            add(f"blk.{layer}.{name}.weight", _WIDTH)
            add(f"blk.{layer}.{name}.bias", _WIDTH)
    dense("cls", _WIDTH, _WIDTH)
    dense("cls.output", 1, _WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
