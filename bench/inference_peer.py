"""Runs in the peers' environment: llama.cpp's own server (PyPI xllamacpp) until stdin closes.

    python inference_peer.py MODEL THREADS PARALLEL CONTEXT

Prints {"url": ...} when it listens. It gets what makes it fastest at this load: continuous
batching, a cache of its own for each slot (a shared one is slower for unrelated prompts), its
prompt cache with reuse of chunks that moved, slots chosen by how alike the prompts are, idle
slots' caches kept in main memory, flash attention where it judges that it pays. Its own
defaults stand for everything else.
"""

from __future__ import annotations

import json
import sys

import xllamacpp


def main() -> None:
    model, threads, parallel, context = sys.argv[1], *map(int, sys.argv[2:5])
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx = context * parallel
    params.n_parallel = parallel
    params.cont_batching = True
    params.kv_unified = False
    params.cache_prompt = True
    params.n_cache_reuse = 256
    params.cache_ram_mib = 8192
    params.cache_idle_slots = True
    params.slot_prompt_similarity = 0.1
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_AUTO
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.endpoint_metrics = False
    server = xllamacpp.Server(params)
    print(json.dumps({"url": server.listening_address}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
