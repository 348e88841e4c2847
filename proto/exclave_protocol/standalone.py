"""The verifier as one file, for an auditor who has Python and `cryptography` and nothing of ours.

A zip that Python runs (PEP 441): the sources of `exclave-verify` as they are, stored uncompressed
and without dates, so that one version has one SHA-256 wherever it is made.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from importlib.resources import files

MODULES = (
    *("__init__", "__main__", "approval", "archive", "byhand", "canonical", "checkpoint"),
    *("chosen", "disclosure", "dsse", "epoch", "errors", "evidence", "extends", "fields"),
    *("index", "layout", "leaf", "listings", "logcheck", "note", "opened", "page", "proof"),
    *("recorded", "report", "reviews", "summary", "tally", "term", "tree", "walk", "whole"),
    "witness",
)
"""All that `exclave-verify` imports of this package."""
_PACKAGE = "exclave_protocol"
_MAIN = f"""\
import sys

from {_PACKAGE}.__main__ import main

sys.exit(main())
"""
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can state


def verifier() -> bytes:
    """The file. Raises: OSError where the package's sources are not there."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, data in _members():
            info = zipfile.ZipInfo(name, _DATE)
            info.create_system = 3  # Unix, wherever this runs
            info.external_attr = 0o100644 << 16
            archive.writestr(info, data)
    return out.getvalue()


def _members() -> Iterator[tuple[str, bytes]]:
    yield "__main__.py", _MAIN.encode()
    for module in MODULES:
        yield f"{_PACKAGE}/{module}.py", (files(_PACKAGE) / f"{module}.py").read_bytes()
