"""Build the llama-cpp-python wheel once, into a cache keyed by version and flags.

Prints the wheel's path. The project ships no wheel of its own for Linux, and a plain build
takes about ten minutes; these flags build only the library, portable (AVX2, no code that is
specific to this CPU: a native build crashes in AMX kernels on some virtual machines), in
about three.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VERSION = "0.3.36"
HERE = Path(__file__).resolve().parent
INCLUDE = HERE / "llama_fast_build.cmake"
FLAGS = [
    "-DGGML_NATIVE=OFF",
    "-DLLAVA_BUILD=OFF",
    "-DLLAMA_BUILD_TOOLS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
]


def cache_folder() -> Path:
    """Where the wheel of this version, these flags and this machine type lives."""
    key = hashlib.sha256(
        "\n".join([VERSION, *FLAGS, INCLUDE.read_text(), platform.machine()]).encode()
    ).hexdigest()[:16]
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "exclave" / "wheels" / f"llama-{VERSION}-{key}"


def build(into: Path) -> None:
    """Compile the wheel, with a sign of life every 15 seconds; the log stays beside it."""
    env = dict(os.environ)
    env["CMAKE_ARGS"] = " ".join([*FLAGS, f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={INCLUDE}"])
    # pip's own wheel cache ignores CMAKE_ARGS, so it could answer with another build.
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-cache-dir"]
    command += ["--no-binary", "llama-cpp-python", f"llama-cpp-python=={VERSION}", "-w", str(into)]
    log_path = into.parent / f"{into.name}.log"
    started = time.monotonic()
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
        while True:
            try:
                code = process.wait(timeout=15)
                break
            except subprocess.TimeoutExpired:
                spent = int(time.monotonic() - started)
                print(f"[setup] compiling llama.cpp: {spent} s so far", file=sys.stderr)
    if code != 0:
        tail = log_path.read_text(errors="replace").splitlines()[-25:]
        print("\n".join(tail), file=sys.stderr)
        raise SystemExit(f"error: llama-cpp-python did not build; whole log: {log_path}")
    log_path.unlink()


def main() -> None:
    """Print the cached wheel's path, building it first if need be."""
    folder = cache_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wheels = sorted(folder.glob("*.whl"))
        if not wheels:
            print(
                f"[setup] building llama-cpp-python {VERSION} once (3 to 6 minutes on two cores)",
                file=sys.stderr,
            )
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                made = Path(scratch) / "wheel"
                made.mkdir()
                build(made)
                made.rename(folder)
            wheels = sorted(folder.glob("*.whl"))
    print(wheels[0])


if __name__ == "__main__":
    main()
