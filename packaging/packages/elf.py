"""Shared objects: stripped, made to find each other by relative paths, and their needs told."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packages.tools import Refusal, run

GLIBC: Final = frozenset(
    {
        "ld-linux-x86-64.so.2",
        "libc.so.6",
        "libdl.so.2",
        "libm.so.6",
        "libpthread.so.0",
        "libresolv.so.2",
        "librt.so.1",
        "libutil.so.1",
    }
)
SYSTEM: Final = {
    "libgcc_s.so.1": "libgcc-s1",
    "libgomp.so.1": "libgomp1",
    "libstdc++.so.6": "libstdc++6",
}
"""The only libraries that a package may want from the system: soname to Debian package."""
CUDA: Final = frozenset(
    {
        *("libcuda.so.1", "libcudart.so.12", "libcudart.so.13", "libcudnn.so.9"),
        *("libcublas.so.12", "libcublas.so.13", "libcublasLt.so.12", "libcublasLt.so.13"),
        *("libcufft.so.11", "libcufft.so.12", "libcurand.so.10"),
        *("libnvrtc.so.12", "libnvrtc.so.13"),
        # Of a provider that onnxruntime-gpu loads only when it is asked for.
        *("libnvinfer.so.10", "libnvonnxparser.so.10"),
    }
)
"""What the CUDA runtime wants from the operator's driver and toolkit; no package is named."""
_PT_LOAD: Final = 1


@dataclass(frozen=True, slots=True)
class Needs:
    """Names that a tree's objects want from outside of it."""

    debs: tuple[str, ...]
    sonames: tuple[str, ...]
    """The same for RPM, whose dependencies name libraries, not packages."""


def objects(folder: Path) -> list[Path]:
    """Every ELF file below a folder, links aside, sorted."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and _elf(path)
    )


def _elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def strip(paths: Iterable[Path]) -> None:
    """Take out symbols that nothing links against; what that would break stays as it was."""
    for path in paths:
        slim = path.with_name(path.name + ".slim")
        run(["strip", "--strip-unneeded", "-o", slim, path])
        if sound(slim):
            slim.chmod(path.stat().st_mode)
            slim.replace(path)
        else:
            slim.unlink()


def sound(path: Path) -> bool:
    """Whether the loader can map every segment.

    `strip` moves segments of files whose tables were rewritten by patchelf (auditwheel does
    that) to offsets that no page size fits.
    """
    data = path.read_bytes()
    offset, size, count = _program_headers(data)
    for index in range(count):
        kind, _, at, address, _, _, _, align = struct.unpack_from(
            "<IIQQQQQQ", data, offset + index * size
        )
        if kind == _PT_LOAD and align > 1 and at % align != address % align:
            return False
    return True


def _program_headers(data: bytes) -> tuple[int, int, int]:
    """Where they are, how long one is, and how many; of a 64-bit little-endian file."""
    (offset,) = struct.unpack_from("<Q", data, 0x20)
    size, count = struct.unpack_from("<HH", data, 0x36)
    return offset, size, count


def set_rpath(path: Path, rpath: str) -> None:
    """Where this object looks for the libraries that it needs."""
    run(["patchelf", "--set-rpath", rpath, path])


def needed(paths: Iterable[Path]) -> dict[Path, frozenset[str]]:
    """The sonames that each object wants."""
    found = {}
    for path in paths:
        lines = run(["readelf", "-dW", path]).splitlines()
        found[path] = frozenset(
            line.split("[", 1)[1].split("]", 1)[0] for line in lines if "(NEEDED)" in line
        )
    return found


def needs(folder: Path, *, beside: frozenset[str] = frozenset()) -> Needs:
    """What the system must have for the objects below `folder`.

    `beside`: further names that it must have, but for which no package is named.
    Raises: Refusal, naming the file, for anything that is neither here, nor of the C library,
    nor in SYSTEM: it would be missing on another machine.
    """
    names = {path.name for path in folder.rglob("*.so*")}
    wanted: Mapping[Path, frozenset[str]] = needed(objects(folder))
    outside = set()
    for path, sonames in wanted.items():
        for soname in sorted(sonames - names - GLIBC - beside):
            if soname not in SYSTEM:
                raise Refusal(
                    f"{path.relative_to(folder)} needs {soname}, which is not in the package",
                    "bundle it, or add it to SYSTEM in packaging/packages/elf.py",
                )
            outside.add(soname)
    ordered = sorted(outside)
    return Needs(
        tuple(SYSTEM[soname] for soname in ordered),
        tuple(f"{soname}()(64bit)" for soname in ordered),
    )


def link_twins(folder: Path) -> None:
    """Libraries that were unpacked once per name of theirs become links to one file.

    A wheel cannot carry links: libx.so, libx.so.0 and libx.so.0.5 are three copies in it.
    """
    seen: dict[tuple[Path, int, bytes], Path] = {}
    for path in objects(folder):
        key = (path.parent, path.stat().st_size, path.read_bytes()[-4096:])
        first = seen.setdefault(key, path)
        if first is not path and first.read_bytes() == path.read_bytes():
            path.unlink()
            os.symlink(first.name, path)


def copy_library(name: str, unpacked: Path, into: Path) -> None:
    """Copy the library of this soname out of unpacked Debian packages. Raises: Refusal."""
    for path in sorted(unpacked.rglob(name)):
        shutil.copyfile(path.resolve(), into / name)
        return
    raise Refusal(f"the Debian packages hold no {name}")
