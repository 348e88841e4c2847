"""The .deb's data, packed better than nfpm packs it: a third less time to fetch than with gzip.

nfpm offers zstd at its quickest setting, or a slow xz of its own. The archive of a .deb is a
few lines to rewrite, and dpkg reads whatever xz writes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from packages.tools import Refusal, run

MAGIC: Final = b"!<arch>\n"
HEADER: Final = 60
XZ: Final = ("xz", "--threads=2", "--check=crc64", "--x86", "--lzma2=preset=1")
"""Two threads on any machine: how many there are has a say in the bytes. `--x86` makes jumps
and calls in machine code alike wherever they stand: 4 % less."""


def members(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Each member's header and size; `file` then stands at its data. Raises: Refusal."""
    if file.read(len(MAGIC)) != MAGIC:
        raise Refusal("nfpm wrote something that is no .deb")
    while header := file.read(HEADER):
        size = int(header[48:58])
        after = file.tell() + size + size % 2
        yield header, size
        file.seek(after)


def repack(path: Path, scratch: Path) -> None:
    """Pack `data.tar` of a .deb with xz; `scratch` is a folder for it. Raises: Refusal."""
    data = scratch / "data.tar"
    kept: list[tuple[bytes, bytes]] = []
    with path.open("rb") as file:
        for header, size in members(file):
            if header.startswith(b"data.tar "):
                with data.open("wb") as target:
                    _copy(file, target, size)
                moment = header[16:28]
            else:
                kept.append((header, file.read(size)))
    run([*XZ, "--force", data])
    packed = data.with_name("data.tar.xz")
    with path.open("wb") as file:
        file.write(MAGIC)
        for header, body in kept:
            file.write(header + body + b"\n" * (len(body) % 2))
        size = packed.stat().st_size
        file.write(b"%-16s%b%-6d%-6d%-8s%-10d`\n" % (b"data.tar.xz", moment, 0, 0, b"100644", size))
        with packed.open("rb") as source:
            shutil.copyfileobj(source, file)
        file.write(b"\n" * (size % 2))
    packed.unlink()


def _copy(source: BinaryIO, target: BinaryIO, size: int) -> None:
    while size:
        part = source.read(min(size, 1 << 20))
        if not part:
            raise Refusal("nfpm wrote a .deb that is cut off")
        target.write(part)
        size -= len(part)
