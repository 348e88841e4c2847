"""The verifier of `exclave_protocol.standalone`, in a Python that has `cryptography` and nothing
else, asked beside the installed one: what one says the other says too."""

from __future__ import annotations

import atexit
import importlib.util
import json
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from exclave_protocol.standalone import verifier

ALLOWED = ("cryptography", "_cffi_backend", "cffi", "pycparser", "typing_extensions")
SERVER = """
import json, sys
from pathlib import Path
archive, libraries = sys.argv[1:3]
sys.path[:] = [archive, *(p for p in sys.path if "site-packages" not in p), libraries]
from exclave_protocol.evidence import verify_bundle
import exclave_protocol
assert exclave_protocol.__file__.startswith(archive), exclave_protocol.__file__
for line in sys.stdin:
    path, pin = json.loads(line)
    report = verify_bundle(Path(path), witness_vkey=pin)
    ours = sorted({n.partition(".")[0] for n in sys.modules if "msgspec" in n or "grpc" in n})
    print(json.dumps({"verdict": report.verdict, "report": report.to_json(), "foreign": ours}),
          flush=True)
"""


def libraries(folder: Path) -> Path:
    """A folder with what `cryptography` needs, and with nothing else that is installed here."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ALLOWED:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:
            continue
        origin = Path(found.origin)
        source = origin.parent if origin.name == "__init__.py" else origin
        if not (folder / source.name).exists():
            (folder / source.name).symlink_to(source)
    return folder


class Standalone:
    """One process for many bundles."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="exclave-standalone-")
        folder = Path(self._folder.name)
        archive = folder / "exclave-verify.pyz"
        archive.write_bytes(verifier())
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", SERVER, archive, libraries(folder / "libraries")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        atexit.register(self.close)

    def ask(self, bundle: Path, pin: str | None) -> dict[str, Any]:
        """What it says of a bundle."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(bundle), pin]) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        assert answer["foreign"] == []
        return answer

    def close(self) -> None:
        """Idempotent."""
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()


@cache
def standalone() -> Standalone:
    """The one of this run."""
    return Standalone()
