#!/usr/bin/env bash
# Make .venv ready: interpreter, packages, llama wheel, language model, classifier.
# Idempotent: a second run with nothing changed takes under a second.
#   packaging/bootstrap.sh            everything that demo, tests and checks need
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\033[1m[setup]\033[0m %s\n' "$*"; }
die() { printf 'error: %s\nhint: %s\n' "$1" "$2" >&2; exit 1; }

# --- what must be on the machine ------------------------------------------------------
find_python() {
  for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return 0
    fi
  done
  return 1
}
has_venv() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }
has_headers() { "$1" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' 2>/dev/null; }

missing=()
python=$(find_python) || missing+=(python3)
if [ -n "${python:-}" ]; then
  has_venv "$python" || missing+=(python3-venv)
  has_headers "$python" || missing+=(python3-dev)
else
  missing+=(python3-venv python3-dev)
fi
command -v c++ >/dev/null 2>&1 || missing+=(g++)
if [ ${#missing[@]} -gt 0 ]; then
  install="apt-get install -y --no-install-recommends ${missing[*]}"
  if [ "$(id -u)" = 0 ] && [ -f /etc/debian_version ]; then
    say "missing: ${missing[*]}; running as root on Debian, so installing: $install"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $install
    python=$(find_python) || die "Python 3.11 or newer is not available from this Debian release" \
      "install Python 3.11+ and run again with PYTHON=/path/to/python3 make ..."
  else
    die "this machine lacks: ${missing[*]} (Python 3.11+ with venv and headers, and a C++ compiler, are needed)" \
      "sudo apt-get update && sudo $install"
  fi
fi

# --- the environment --------------------------------------------------------------------
want=$(cat pyproject.toml packaging/constraints.txt packaging/bootstrap.sh packaging/build_llama_wheel.py \
  packaging/llama_fast_build.cmake packaging/llama/* | sha256sum | cut -d' ' -f1)
stamp=.venv/exclave-stamp
if [ ! -x .venv/bin/python ]; then
  say "creating .venv with $("$python" --version)"
  "$python" -m venv .venv
fi
if [ "$(cat "$stamp" 2>/dev/null || true)" != "$want" ]; then
  say "installing packages into .venv (a minute or two)"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --upgrade \
    -c packaging/constraints.txt pip hatchling editables
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation \
    -c packaging/constraints.txt -e '.[agent,remote,otel,coordinator,learn,dev]'
  wheel=$(.venv/bin/python packaging/build_llama_wheel.py)
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -c packaging/constraints.txt \
    --force-reinstall --no-deps "$wheel"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -c packaging/constraints.txt diskcache
  echo "$want" >"$stamp"
fi

# --- models for the demo and the tests ------------------------------------------------------
.venv/bin/python packaging/fetch_model.py
[ -f build/fraud/model.onnx ] || { say "training the fraud classifier"; .venv/bin/python policies/packs/fraud/train.py build/fraud; }
