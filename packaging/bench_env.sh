#!/usr/bin/env bash
# Create .venv-bench: the peers' environment, with the same llama wheel as ours.
set -euo pipefail
cd "$(dirname "$0")/.."
echo "[setup] creating .venv-bench for the benchmarks' peers"
[ -x .venv-bench/bin/python ] || .venv/bin/python -m venv .venv-bench
wheel=$(.venv/bin/python packaging/build_llama_wheel.py)
.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check \
  -r packaging/bench-requirements.txt "$wheel"
touch .venv-bench/ready
