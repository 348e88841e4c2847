"""The servers that bench/inference.py measures: a governed agent, and llama.cpp's own two."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from inference_load import await_http

from exclave_agent.runtimes.births import worker_environment
from exclave_testing.mainjob import one_agent_world
from exclave_testing.processes import free_port

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Setting:
    """What all servers get alike."""

    model: Path
    threads: int
    slots: int
    context: int
    """Tokens of one slot."""


@contextlib.contextmanager
def governed_agent(folder: Path, setting: Setting) -> Iterator[tuple[str, dict[str, str]]]:
    """A real agent with a signed release; its base URL and the keys of two callers."""
    model = (
        f"smollm2={setting.model},runtime=llama,n_ctx={setting.context},"
        f"n_parallel={setting.slots},threads={setting.threads}"
    )
    with one_agent_world(folder, "starter", [model], keys=2) as (url, (key, other)):
        yield url, {"": key, "other": other}


@contextlib.contextmanager
def _peer(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A peer's process, which ends when its stdin does; it gets our workers' environment."""
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=worker_environment(os.environ),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def xllamacpp(python: Path, setting: Setting) -> Iterator[str]:
    """llama.cpp's own server at its best (see inference_peer.py); its base URL."""
    command = [str(python), str(HERE / "inference_peer.py"), str(setting.model)]
    numbers = [str(n) for n in (setting.threads, setting.slots, setting.context)]
    with _peer([*command, *numbers]) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError("xllamacpp did not start")
        yield json.loads(line)["url"]


@contextlib.contextmanager
def llama_cpp_server(python: Path, setting: Setting) -> Iterator[str]:
    """`python -m llama_cpp.server`; its base URL. It answers one request at a time."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    options = {
        "model": str(setting.model),
        "n_ctx": str(setting.context),
        "n_threads": str(setting.threads),
        "n_threads_batch": str(setting.threads),
        "host": "127.0.0.1",
        "port": str(port),
        # By default a new request breaks the answer that another caller is reading.
        "interrupt_requests": "false",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    with _peer([str(python), "-m", "llama_cpp.server", *words]) as process:
        await_http(f"{url}/v1/models", 60, process)
        yield url


def peer_version(venv: Path, package: str) -> str:
    """A package's version in the peers' environment."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    done = subprocess.run(
        [venv / "bin" / "python", "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
