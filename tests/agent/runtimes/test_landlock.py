"""A confined worker reads its model and its code, and nothing else of its user's."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from exclave_agent.runtimes import frames
from exclave_agent.runtimes.process import Worker
from exclave_testing.models import double_and_total_onnx

PROBE = """
import json, os, sys
from pathlib import Path
from exclave_agent.runtimes.isolate import isolate
from exclave_agent.runtimes.landlock import confine

model, secret, parent = Path(sys.argv[1]), Path(sys.argv[2]), os.getppid()

def tried(act, *arguments):
    try:
        act(*arguments)
    except OSError as error:
        return type(error).__name__
    return "done"

def read(path):
    with open(path, "rb") as file:
        file.read(1)

def all_of_them():
    return {
        "model": tried(read, model),
        "secret": tried(read, secret),
        "list": tried(os.listdir, secret.parent),
        "overwrite": tried(os.open, model, os.O_RDWR),
        "make": tried(os.mkdir, secret.parent / "made"),
        "environment of the agent": tried(read, f"/proc/{parent}/environ"),
    }

before = all_of_them()
os.rmdir(secret.parent / "made")
isolate(parent)
walls = confine(model)
import numpy, onnxruntime  # what an engine needs is still there
print(json.dumps({"before": before, "stands": walls, "after": all_of_them()}))
"""

CONFINE = """
import os, sys
from pathlib import Path
from exclave_agent.runtimes.isolate import isolate
from exclave_agent.runtimes.landlock import confine
isolate(os.getppid())
print(confine(Path(sys.argv[1])))
"""


def test_what_was_readable_no_longer_is(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    model, secret = home / "model", home / "vault.key"
    model.write_bytes(b"m")
    secret.write_bytes(b"s")
    done = subprocess.run(
        [sys.executable, "-I", "-c", PROBE, model, secret],
        capture_output=True,
        timeout=60,
        check=True,
        env={"PATH": os.environ["PATH"], "ORT_DISABLE_TELEMETRY": "1"},
    )
    seen = json.loads(done.stdout)
    assert set(seen["before"].values()) == {"done"}
    if not seen["stands"]:
        pytest.skip("this kernel has no Landlock")
    closed = dict.fromkeys(seen["before"], "PermissionError")
    assert seen["after"] == {**closed, "model": "done"}


async def test_a_real_worker_is_confined_before_it_opens_its_model(tmp_path: Path) -> None:
    path = double_and_total_onnx(tmp_path / "double.onnx")
    worker = await Worker.spawn(frames.Load("onnx", str(path), {}))
    try:
        walls = (await asyncio.wait_for(asyncio.shield(worker.loaded), 30)).isolation
    finally:
        worker.kill()
        await worker.reap()
    ours = subprocess.run(
        [sys.executable, "-I", "-c", CONFINE, path], capture_output=True, timeout=30, check=True
    )
    assert ("landlock" in walls) == (ours.stdout == b"True\n")
