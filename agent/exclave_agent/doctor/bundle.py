"""The support bundle as a file: a gzipped tar whose bytes follow from its pieces and a time."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from exclave_agent import __version__
from exclave_agent.doctor.collect import Piece

MANIFEST: Final = "MANIFEST.txt"
_NEVER: Final = (
    "Never inside: private keys, tokens, API keys, the vault, database rows, prompts, answers,",
    "retrieved texts, reviewers' corrections, model files, environment variables.",
    "Texts that look like a secret are replaced by [redacted <kind>], and counted below.",
)


def manifest(pieces: Iterable[Piece], at: int) -> str:
    """What each file is, its size, and what was taken out of it."""
    taken: Counter[str] = Counter()
    lines = [f"Exclave support bundle of exclave-agent {__version__}", f"Made {_time(at)}", ""]
    for piece in pieces:
        taken.update(piece.redacted)
        lines += [f"{piece.name}  {len(piece.text.encode()):,} bytes", f"    {piece.why}"]
        if piece.redacted:
            lines.append(f"    redacted: {_counted(piece.redacted)}")
    total = f"Redacted in all: {_counted(taken)}" if taken else "Redacted in all: nothing"
    return "\n".join([*lines, "", *_NEVER, "", total, ""])


def listing(pieces: Sequence[Piece]) -> Iterator[str]:
    """The same as lines for a terminal, before anything is written."""
    width = max(len(piece.name) for piece in pieces)
    for piece in pieces:
        note = f" (redacted: {_counted(piece.redacted)})" if piece.redacted else ""
        yield f"{piece.name:{width}} {len(piece.text.encode()):>10,} bytes  {piece.why}{note}"


def pack(pieces: Sequence[Piece], at: int) -> bytes:
    """The archive. Equal pieces and times give equal bytes."""
    out = io.BytesIO()
    folder = f"exclave-support-{datetime.fromtimestamp(at, UTC):%Y%m%d-%H%M%S}"
    files = [(MANIFEST, manifest(pieces, at)), *((one.name, one.text) for one in pieces)]
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=out, mtime=at) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name, text in files:
            data = text.encode()
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.mtime, entry.mode = len(data), at, 0o600
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def write(path: Path, data: bytes) -> None:
    """A new file for its owner alone. Raises: FileExistsError, OSError."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))


def _time(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
