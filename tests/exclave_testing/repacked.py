"""Another version of a built package, in seconds: the same files under another number."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

SITE = "opt/exclave/agent/runtime/lib/python3.11/dist-packages"


def repack(
    deb: Path, version: str, folder: Path, *, appended: Mapping[str, str] | None = None
) -> Path:
    """exclave-agent of another `version` in `folder`; `appended` adds code to modules of
    exclave_agent, by path."""
    made = folder / f"exclave-agent_{version}_amd64.deb"
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        tree = Path(scratch) / "tree"
        _run("dpkg-deb", "-R", str(deb), str(tree))
        control = tree / "DEBIAN" / "control"
        text = control.read_text()
        former = re.search(r"^Version: (.*)$", text, re.MULTILINE)
        assert former is not None
        control.write_text(text.replace(former[0], f"Version: {version}"))
        (tree / "DEBIAN" / "md5sums").unlink(missing_ok=True)
        shown = tree / "opt" / "exclave" / "agent" / "share" / "package.json"
        shown.write_text(json.dumps({**json.loads(shown.read_text()), "version": version}))
        own = tree / SITE / "exclave_agent"
        _append(own, "__init__.py", f'\n__version__ = "{version}"\n')
        for path, code in (appended or {}).items():
            _append(own, path, code)
        _run("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b", str(tree), str(made))
    return made


def _append(package: Path, path: str, code: str) -> None:
    """Change a module, and drop its compiled form, which would be believed unchecked."""
    module = package / path
    module.write_text(module.read_text() + code)
    for compiled in (module.parent / "__pycache__").glob(f"{module.stem}.*.pyc"):
        compiled.unlink()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
