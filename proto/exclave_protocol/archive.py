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
_ZIP64 = struct.Struct("<2H2Q")  # 4.5.3, with both sizes
_DESCRIPTOR = struct.Struct("<4s3I")  # 4.3.9
_DESCRIPTOR64 = struct.Struct("<4sI2Q")
_ENTRY = struct.Struct("<4s4B4H3I5H2I")  # 4.3.12
_END = struct.Struct("<4s4H2IH")  # 4.3.16
_ENCRYPTED = 0x0001
_STREAMED = 0x0008
"""CRC and sizes follow the content, as when the writer could not seek."""
_VERSIONS = (20, 45)
_ATTRIBUTES = (0o100644 << 16, 0o600 << 16)
"""A plain file, as our writer says it and as Python's zipfile does."""
_UNIX = 3
_DATE = (1980, 1, 1, 0, 0, 0)
"""The earliest that a zip can state, which says nothing."""


class Member(zipfile.ZipInfo):
    """A file that our writer adds, always with long sizes; its header is written here.

    Python's own differs: before 3.11.4 it put the short sizes beside the long ones
    (python/cpython#103861), and the bytes of a bundle must not depend on who wrote it.
    """

    def FileHeader(self, zip64: bool | None = None) -> bytes:
        """The header in front of the file; zipfile asks for it, and again at the end."""
        self.extract_version = self.create_version = _VERSIONS[-1]
        return _headers(self, self.filename.encode())[0]


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
            self._check_directory(info, name)
        if sum(info.file_size for info in infos) > MAX_TOTAL:
            raise EvidenceError(f"unpacks to more than {MAX_TOTAL} bytes")
        if directory.comment:
            raise EvidenceError("the zip carries a comment: nothing of ours writes one")
        self._check_places(infos, directory.start_dir)

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
    def _check_directory(info: zipfile.ZipInfo, name: str) -> None:
        """What the directory says beside name, sizes and CRC leaves no room for a message."""
        large = max(info.file_size, info.compress_size, info.header_offset) >= 0xFFFFFFFF
        if (
            info.create_version not in _VERSIONS
            or info.extract_version not in _VERSIONS
            or info.create_system != _UNIX
            or info.reserved
            or info.flag_bits & ~(_ENCRYPTED | _STREAMED)
            or info.volume
            or info.date_time != _DATE
            or info.internal_attr
            or info.external_attr not in _ATTRIBUTES
            or info.comment
            or (info.extra and not large)
        ):
            raise EvidenceError(f"{name}: its entry in the zip's directory is altered")

    def _check_places(self, infos: list[zipfile.ZipInfo], end: int) -> None:
        """Files lie one after the other: nothing before, between or behind them, none inside
        another."""
        position = 0
        for info in sorted(infos, key=lambda info: info.header_offset):
            if info.header_offset != position:
                raise EvidenceError(f"{shown(info.filename)}: overlaps another file, or misplaced")
            position += len(self._header(info)) + info.compress_size + len(self._trailer(info))
        if position != end:
            raise EvidenceError("the files do not end where the zip's directory begins")
        if len(infos) < 0xFFFF and end < 0xFFFFFFFF:
            self._check_end(infos, end)

    def _check_end(self, infos: list[zipfile.ZipInfo], begin: int) -> None:
        """Directory and end record byte by byte. Larger zips have longer forms of both, where
        zipfile's own checks must do."""
        self._file.seek(begin)
        size = 0
        for info in infos:
            entry = _entry(info)
            size += len(entry)
            if self._file.read(len(entry)) != entry:
                raise EvidenceError(f"{shown(info.filename)}: its entry in the zip is altered")
        count = len(infos)
        if self._file.read() != _END.pack(b"PK\5\6", 0, 0, count, count, size, begin, 0):
            raise EvidenceError("the zip's end is altered")

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
        place, left = info.header_offset + len(self._header(info)), info.compress_size
        while left:
            # Several files may be read in turns over one handle.
            self._file.seek(place)
            chunk = self._file.read(min(left, _CHUNK))
            if not chunk:
                raise EvidenceError(f"{info.filename}: cut short")
            place += len(chunk)
            left -= len(chunk)
            yield chunk
        self._check_trailer(info, place)

    def _header(self, info: zipfile.ZipInfo) -> bytes:
        """The header in front of a file. Raises: EvidenceError unless it repeats the directory."""
        self._file.seek(info.header_offset)
        start = self._file.read(_LOCAL.size)
        if len(start) != _LOCAL.size:
            raise EvidenceError(f"{shown(info.filename)}: cut short")
        magic, *_, name_size, extra_size = _LOCAL.unpack(start)
        name = self._file.read(name_size)
        if magic != b"PK\3\4" or name != info.filename.encode():
            raise EvidenceError(f"{shown(info.filename)}: its header in the zip is altered")
        header = start + name + self._file.read(min(extra_size, _ZIP64.size + 1))
        if header not in _headers(info, name):
            raise EvidenceError(f"{shown(info.filename)}: header and directory of the zip disagree")
        return header

    def _trailer(self, info: zipfile.ZipInfo) -> bytes:
        """What must follow a file that was streamed; empty for others."""
        if not info.flag_bits & _STREAMED:
            return b""
        wide = len(self._header(info)) > _LOCAL.size + len(info.filename.encode())
        layout = _DESCRIPTOR64 if wide else _DESCRIPTOR
        return layout.pack(b"PK\7\x08", info.CRC, info.compress_size, info.file_size)

    def _check_trailer(self, info: zipfile.ZipInfo, place: int) -> None:
        wanted = self._trailer(info)
        self._file.seek(place)
        if self._file.read(len(wanted)) != wanted:
            raise EvidenceError(f"{info.filename}: what follows it in the zip is altered")


def _headers(info: zipfile.ZipInfo, name: bytes) -> tuple[bytes, ...]:
    """The headers that fit a file's entry in the directory: with short or with long sizes."""
    crc, packed, size = info.CRC, info.compress_size, info.file_size
    if info.flag_bits & _STREAMED:
        crc, packed, size = 0, 0, 0
    fixed = (info.extract_version, info.flag_bits, info.compress_type, *_time(info), crc)
    long = _LOCAL.pack(b"PK\3\4", *fixed, 0xFFFFFFFF, 0xFFFFFFFF, len(name), _ZIP64.size)
    headers: tuple[bytes, ...] = (long + name + _ZIP64.pack(1, 16, size, packed),)
    if max(packed, size) < 0xFFFFFFFF:
        headers += (_LOCAL.pack(b"PK\3\4", *fixed, packed, size, len(name), 0) + name,)
    return headers


def _entry(info: zipfile.ZipInfo) -> bytes:
    """A file's entry in the directory of a zip below 4 GiB."""
    name = info.filename.encode()
    return (
        _ENTRY.pack(
            b"PK\1\2",
            info.create_version,
            info.create_system,
            info.extract_version,
            0,
            info.flag_bits,
            info.compress_type,
            *_time(info),
            info.CRC,
            info.compress_size,
            info.file_size,
            len(name),
            0,
            0,
            0,
            0,
            info.external_attr,
            info.header_offset,
        )
        + name
    )


def _time(info: zipfile.ZipInfo) -> tuple[int, int]:
    """Time and date as MS-DOS has them."""
    year, month, day, hour, minute, second = info.date_time
    return hour << 11 | minute << 5 | second // 2, (year - 1980) << 9 | month << 5 | day
