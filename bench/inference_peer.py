"""Runs in the peers' environment: llama.cpp's own server (PyPI xllamacpp) until stdin closes.

    python inference_peer.py MODEL THREADS PARALLEL CONTEXT

Prints {"url": ...} when it listens. Its own defaults stand for everything not given.
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
