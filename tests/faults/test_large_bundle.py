"""A bundle of a million records is written and verified in memory that does not grow with it.

The run of every day is shorter; `make faults` sets EXCLAVE_BUNDLE_RECORDS to 1,000,000.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RECORDS = int(os.environ.get("EXCLAVE_BUNDLE_RECORDS", "20000"))
TESTS = Path(__file__).parents[1]
SMALL = 2_000
MEGABYTE = 1 << 20
GROWTH = 64 * MEGABYTE
"""By which a process may be larger with all of them than with `SMALL`: lists that are bounded fill
up (names, events, ranges), and a few dozen MiB of open decisions are not many."""

WRITE = """
import resource, sys
from pathlib import Path
from exclave_testing.large import write
write(Path(sys.argv[1]), int(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
VERIFY = """
import json, resource, sys
from exclave_protocol.evidence import verify_bundle
report = verify_bundle(sys.argv[1], witness_vkey=sys.argv[2])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"verdict": report.verdict, "peak": peak, "text": report.to_text()[:2000]}))
"""


def run(script: str, *words: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(1800)
def test_memory_does_not_grow_with_the_records(tmp_path: Path) -> None:
    from exclave_testing.bundles import witness_key

    peaks: dict[int, tuple[int, int]] = {}
    for size in (SMALL, RECORDS):
        path = tmp_path / f"{size}.zip"
        written = int(run(WRITE, path, size))
        found = json.loads(run(VERIFY, path, witness_key().vkey))
        assert found["verdict"] == "WITNESSED", found["text"]
        assert f"{size} leaves" in found["text"]
        peaks[size] = written, found["peak"]
    for small, large in zip(peaks[SMALL], peaks[RECORDS], strict=True):
        assert large - small < GROWTH, f"{small / MEGABYTE:.0f} to {large / MEGABYTE:.0f} MiB"
