"""Reads a zip that may have been made to harm its reader: nothing is unpacked to disk.

Only what our writer writes is accepted: known names, no duplicates, no overlaps, stored or
deflated, every size as declared. Each refusal names the file and the reason.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import islice, takewhile
from typing import BinaryIO

from .errors import EvidenceError
from .layout import shown

MAX_ENTRIES = 1_000_000
MAX_TOTAL = 64 * 1024**3
"""Bytes of all files together, unpacked."""
MAX_RATIO = 200
"""Unpacked over packed, per file, beyond `FREE_UNPACKED`; our records reach about 10."""
FREE_UNPACKED = 1024**2

_CHUNK = 65_536
_LOCAL = struct.Struct("<4s5H3I2H")  # PKWARE APPNOTE 4.3.7
_ENCRYPTED = 0x0001


class Archive:
    """An open bundle. Its names and sizes were checked; contents are as the zip has them."""

    def __init__(self, file: BinaryIO, known: Callable[[str], object]) -> None:
        """Read the directory. Raises: EvidenceError with the first reason to refuse.

        `known` says (truthy) whether a name is one of the layout's.
        """
        try:
            directory = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, EOFError):
            raise EvidenceError("not a zip, or its directory is damaged") from None
        self._file = file
        self._entries = {info.filename: info for info in directory.infolist()}
        self._check(directory, known)
        self._names = sorted(self._entries)

    def _check(self, directory: zipfile.ZipFile, known: Callable[[str], object]) -> None:
        infos = directory.infolist()
        if len(infos) > MAX_ENTRIES:
            raise EvidenceError(f"{len(infos)} files: the limit is {MAX_ENTRIES}")
        seen: set[str] = set()
        for info in infos:
            name = shown(info.filename)
            # zipfile cuts names at NUL and turns backslashes on some systems: look at the original.
            if info.orig_filename != info.filename or not known(info.filename):
                raise EvidenceError(f"{name}: not a file of an audit bundle")
            if info.filename in seen:
                raise EvidenceError(f"{name}: stands twice in the zip")
            seen.add(info.filename)
            self._check_entry(info, name)
        if sum(info.file_size for info in infos) > MAX_TOTAL:
            raise EvidenceError(f"unpacks to more than {MAX_TOTAL} bytes")
        self._check_places(infos, directory.start_dir)
        if directory.comment:
            raise EvidenceError("the zip carries a comment: nothing of ours writes one")

    @staticmethod
    def _check_entry(info: zipfile.ZipInfo, name: str) -> None:
        if info.flag_bits & _ENCRYPTED:
            raise EvidenceError(f"{name}: encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise EvidenceError(f"{name}: compression method {info.compress_type} is not accepted")
        if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
            raise EvidenceError(f"{name}: stored, but its two sizes differ")
        if info.file_size > FREE_UNPACKED and info.file_size > MAX_RATIO * info.compress_size:
            raise EvidenceError(
                f"{name}: unpacks to more than {MAX_RATIO} times its size (a zip bomb)"
            )

    @staticmethod
    def _check_places(infos: list[zipfile.ZipInfo], end: int) -> None:
        """Files lie one after the other: none inside another, nothing before the first."""
        position = 0
        for info in sorted(infos, key=lambda info: info.header_offset):
            if info.header_offset < position or (position == 0 and info.header_offset != 0):
                raise EvidenceError(f"{shown(info.filename)}: overlaps another file, or misplaced")
            position = info.header_offset + _LOCAL.size + info.compress_size
        if position > end:
            raise EvidenceError("the files run into the zip's directory")

    @property
    def names(self) -> list[str]:
        """Every file, sorted."""
        return self._names

    def under(self, prefix: str) -> list[str]:
        """The files whose names begin so, sorted; cheap among many."""
        start = bisect_left(self._names, prefix)
        return list(
            takewhile(lambda name: name.startswith(prefix), islice(self._names, start, None))
        )

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def size(self, name: str) -> int:
        """Declared bytes of a file, unpacked; reading more than that raises."""
        return self._entries[name].file_size

    def read(self, name: str, limit: int) -> bytes:
        """A whole small file. Raises: EvidenceError when absent, over `limit`, or damaged."""
        if name not in self._entries:
            raise EvidenceError(f"{name}: missing")
        if self.size(name) > limit:
            raise EvidenceError(f"{name}: {self.size(name)} bytes, the limit is {limit}")
        return b"".join(self.chunks(name))

    def chunks(self, name: str) -> Iterator[bytes]:
        """A file's bytes in pieces. Raises: EvidenceError at the place of the damage.

        Pieces before the damage are yielded first; a wrong CRC shows after the last one.
        """
        info = self._entries.get(name)
        if info is None:
            raise EvidenceError(f"{name}: missing")
        total, crc = 0, 0
        for chunk in self._unpacked(info):
            total += len(chunk)
            if total > info.file_size:
                raise EvidenceError(f"{name}: longer than the zip says")
            crc = zlib.crc32(chunk, crc)
            yield chunk
        if total != info.file_size:
            raise EvidenceError(f"{name}: shorter than the zip says")
        if crc != info.CRC:
            raise EvidenceError(f"{name}: altered (its CRC-32 does not match)")

    def lines(self, name: str, limit: int) -> Iterator[bytes]:
        """A file's lines without their newline, each at most `limit` bytes.

        Raises: EvidenceError; also when the last line has no newline.
        """
        rest = b""
        for chunk in self.chunks(name):
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                if len(line) > limit:
                    raise EvidenceError(f"{name}: a line of {len(line)} bytes, limit {limit}")
                yield line
            if len(rest) > limit:
                raise EvidenceError(f"{name}: a line of more than {limit} bytes")
        if rest:
            raise EvidenceError(f"{name}: the last line has no newline")

    def blocks(self, name: str, size: int) -> Iterator[bytes]:
        """A file's bytes in blocks of exactly `size`. Raises: EvidenceError on a remainder."""
        rest = b""
        for chunk in self.chunks(name):
            data = rest + chunk
            whole = len(data) - len(data) % size
            for start in range(0, whole, size):
                yield data[start : start + size]
            rest = data[whole:]
        if rest:
            raise EvidenceError(f"{name}: {len(rest)} bytes beyond a multiple of {size}")

    def _unpacked(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        if info.compress_type == zipfile.ZIP_STORED:
            yield from self._packed(info)
            return
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            for chunk in self._packed(info):
                while chunk:
                    data = inflate.decompress(chunk, _CHUNK)
                    if data:
                        yield data
                    chunk = inflate.unconsumed_tail
                    if inflate.unused_data:
                        raise EvidenceError(f"{info.filename}: bytes after its compressed data")
            yield inflate.flush()
        except zlib.error:
            raise EvidenceError(f"{info.filename}: altered (does not decompress)") from None
        if not inflate.eof:
            raise EvidenceError(f"{info.filename}: cut short")

    def _packed(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        self._file.seek(info.header_offset)
        header = self._file.read(_LOCAL.size)
        if len(header) != _LOCAL.size:
            raise EvidenceError(f"{info.filename}: cut short")
        magic, _, flags, method, *_, name_size, extra_size = _LOCAL.unpack(header)
        name = self._file.read(name_size)
        if magic != b"PK\3\4" or name != info.filename.encode():
            raise EvidenceError(f"{info.filename}: its header in the zip is altered")
        if flags & _ENCRYPTED or method != info.compress_type:
            raise EvidenceError(f"{info.filename}: header and directory of the zip disagree")
        place, left = self._file.tell() + extra_size, info.compress_size
        while left:
            # Several files may be read in turns over one handle.
            self._file.seek(place)
            chunk = self._file.read(min(left, _CHUNK))
            if not chunk:
                raise EvidenceError(f"{info.filename}: cut short")
            place += len(chunk)
            left -= len(chunk)
            yield chunk
