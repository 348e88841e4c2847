"""witness-log's side of bench/audit.py; runs in the peers' environment, prints one JSON object.

`audit_peer.py appends FOLDER PRODUCERS COUNT` or `audit_peer.py verify FOLDER COUNT`.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import threading
import time
from typing import Any

import witness_log

RECORD = {
    "decision": "0123456789abcdef" * 2,
    "action": "chat",
    "actor": {"key": "12345678", "roles": ["analyst"]},
    "model": {"name": "smollm2", "digest": "a" * 64, "runtime": "llama"},
    "policy": {"digest": "b" * 64, "rule": "allow-chat"},
    "release": {"digest": "c" * 64, "version": 3},
    "params": {"max_tokens": 64, "temperature": "0.7"},
    "received": "2026-11-22T21:30:00.123456789Z",
    "prompt": [{"role": "user", "content": "x" * 300}],
    "context": [],
}


def appends(folder: str, producers: int, count: int) -> dict[str, Any]:
    """`count` appends by each producer, each followed by the sync that makes it durable."""
    log = witness_log.open(os.path.join(folder, "peer.jsonl"))
    latencies: list[float] = []

    def produce() -> None:
        for _ in range(count):
            started = time.perf_counter()
            log.append_intent(witness_log.canonical_json(RECORD))
            log.sync()
            latencies.append(time.perf_counter() - started)

    threads = [threading.Thread(target=produce) for _ in range(producers)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = time.perf_counter() - started
    return {
        "per_second": producers * count / spent,
        "p50_ms": statistics.median(latencies) * 1e3,
        "p99_ms": statistics.quantiles(latencies, n=100)[98] * 1e3,
    }


def verify(folder: str, count: int) -> dict[str, Any]:
    """Its own verifier over a dossier of `count` leaves; the best of three."""
    log = witness_log.open(os.path.join(folder, "peer.jsonl"))
    payload = witness_log.canonical_json(RECORD)
    for _ in range(count):
        log.append_intent(payload)
    dossier = log.to_dossier_json()
    best = 0.0
    for _ in range(3):
        started = time.perf_counter()
        report = json.loads(witness_log.verify_dossier_json(dossier, 0.66))
        best = max(best, count / (time.perf_counter() - started))
        assert report["internally_consistent"], report
    return {"per_second": best, "version": witness_log.__version__}


if __name__ == "__main__":
    if sys.argv[1] == "appends":
        print(json.dumps(appends(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
    else:
        print(json.dumps(verify(sys.argv[2], int(sys.argv[3]))))
