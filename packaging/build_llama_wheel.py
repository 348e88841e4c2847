"""Build the llama-cpp-python wheel once, into a cache keyed by version and flags.

Prints the wheel's path. The project ships no wheel of its own for Linux, and a plain build
takes about ten minutes; these flags build only the library, portable (AVX2, no code that is
specific to this CPU: a native build crashes in AMX kernels on some virtual machines), in
about three. They add our own matrix product for Q4_1: docs/adr/0018.
"""

from __future__ import annotations

import argparse
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
KERNELS = HERE / "llama"
"""Sources of ours that the include adds to llama.cpp's."""
FLAGS = [
    "-DGGML_NATIVE=OFF",
    # The hook that our kernels go in by.
    "-DGGML_LLAMAFILE=ON",
    "-DLLAVA_BUILD=OFF",
    "-DLLAMA_BUILD_TOOLS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
]


def cache_folder() -> Path:
    """Where the wheel of this version, these flags and this machine type lives."""
    sources = [INCLUDE, *sorted(KERNELS.iterdir())]
    texts = [f"{path.name}\n{path.read_text(encoding='utf-8')}" for path in sources]
    key = hashlib.sha256(
        "\n".join([VERSION, *FLAGS, *texts, platform.machine()]).encode()
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
    parser = argparse.ArgumentParser(description="build the llama-cpp-python wheel once")
    parser.add_argument(
        "--cuda", action="store_true", help="for NVIDIA GPUs; needs nvcc and cuBLAS"
    )
    parser.add_argument(
        "--arch", help="of the GPUs, e.g. 90 or 86;90; default: all that nvcc knows"
    )
    options = parser.parse_args()
    if options.arch and not options.cuda:
        parser.error("--arch goes with --cuda")
    if options.cuda:
        FLAGS.append("-DGGML_CUDA=ON")
        # CUDA's static libraries bring symbols of a C++ library of their own, which libllama
        # would otherwise find first when Python loads it, and crash in its tokeniser.
        FLAGS.append("-DCMAKE_SHARED_LINKER_FLAGS=-Wl,--exclude-libs,ALL")
        if options.arch:
            # A list for cmake, and CMAKE_ARGS is split at blanks: semicolons stay.
            FLAGS.append(f"-DCMAKE_CUDA_ARCHITECTURES={options.arch}")
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
