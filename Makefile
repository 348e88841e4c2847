# Two commands matter: `make demo` and `make test`. Both set up everything they need.
.DEFAULT_GOAL := help
SHELL := /bin/bash
# The demo and the benchmarks share the process harness in tests/exclave_testing.
PY := PYTHONPATH=tests .venv/bin/python
# Packages may be fetched while setting up; nothing else here uses the network.

.PHONY: help setup demo test faults fuzz test-service test-service-trixie packages packages-twice check lint \
        format types imports proto bench bench-governance bench-inference bench-audit bench-fleet \
        bench-guards bench-idle bench-onnx bench-policy bench-redaction bench-service clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

setup:  ## create .venv, build the llama wheel once, fetch the model, train the classifier
	@bash packaging/bootstrap.sh

demo: setup  ## the main job, end to end, narrated (writes demo-summary.json)
	@$(PY) tests/demo/main.py

test: setup  ## everything a machine without a GPU can test
	@$(PY) -m pytest -q

test-service: setup  ## the packaged services alone, in a real systemd (Debian 12)
	@$(PY) -m pytest -q tests/service

test-service-trixie: setup  ## the same in Debian 13: weekly
	@EXCLAVE_TEST_SUITE=trixie $(PY) -m pytest -q tests/service

packages: setup  ## .deb and .rpm of agent, coordinator, CLI and CPU runtime, into build/packages
	@$(PY) packaging/packages/build.py

packages-twice: setup  ## build every package twice: the same bits, or a failure
	@$(PY) packaging/packages/build.py --check-reproducible

faults: setup  ## the long run: thousands of kills at commits and of power cuts (minutes)
	@EXCLAVE_KILL_RUNS=2000 EXCLAVE_POWER_CUTS=5000 EXCLAVE_KILL_ROUNDS=200 \
	  EXCLAVE_UPLOAD_SCHEDULES=2000 EXCLAVE_BUNDLE_RECORDS=1000000 $(PY) -m pytest -q \
	  tests/faults/test_kill_at_commits.py tests/faults/test_power_loss.py \
	  tests/faults/test_kill_agent_log.py tests/faults/test_kill_agent_budget.py \
	  tests/faults/test_attacks_interrupted.py tests/faults/test_large_bundle.py

FUZZ_SECONDS ?= 120

fuzz: setup  ## fuzz the readers of policies for FUZZ_SECONDS (120)
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check \
	  -c packaging/constraints.txt -e '.[fuzz]'
	@$(PY) tests/fuzz/policy.py $(FUZZ_SECONDS)

check: setup lint types imports  ## every gate: ruff, mypy --strict, import-linter, generated code
	@$(PY) proto/generate.py --check

lint: setup
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .

format: setup  ## format and fix what can be fixed
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

types: setup
	@.venv/bin/mypy

imports: setup
	@.venv/bin/lint-imports

proto: setup  ## regenerate exclave_protocol/pb from proto/exclave/v1
	@$(PY) proto/generate.py

bench: bench-governance bench-audit bench-fleet bench-guards bench-inference bench-onnx bench-policy bench-redaction bench-idle bench-service  ## all benchmarks

# Peers live in their own environment, so that they never shape ours.
.venv-bench/ready: packaging/bench-requirements.txt packaging/build_llama_wheel.py | setup
	@bash packaging/bench_env.sh

bench-governance: setup  ## what governance adds to a request
	@$(PY) bench/governance.py

bench-audit: .venv-bench/ready  ## durable appends and verification against witness-log
	@$(PY) bench/audit.py --peers-venv .venv-bench

bench-fleet: setup  ## 500 and 2,000 agents against one coordinator
	@$(PY) bench/fleet.py

bench-inference: .venv-bench/ready  ## tokens per second against llama.cpp's servers
	@$(PY) bench/inference.py --peers-venv .venv-bench

bench-onnx: setup  ## dynamic batching of the shipped classifier at 32 callers
	@$(PY) bench/onnx_batching.py

bench-redaction: setup  ## precision and recall of the recognisers of personal data
	@$(PY) bench/redaction.py

bench-guards: setup  ## recall and false positives of the score of injections
	@$(PY) bench/guards.py

bench-policy: .venv-bench/ready  ## one policy decision against cedarpy, regopy, cel-python
	@$(PY) bench/policy.py --peers-venv .venv-bench

bench-idle: setup  ## idle memory and start-up time
	@$(PY) bench/idle.py

bench-service: setup  ## the system service: exposure, size, time to ready, idle cost
	@$(PY) bench/service.py

clean:  ## remove what was built here (the shared cache of wheels and models stays)
	rm -rf .venv .venv-bench build bench/results demo-summary.json .mypy_cache .ruff_cache .pytest_cache
