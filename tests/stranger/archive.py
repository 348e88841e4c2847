"""Section 5 of the page, step 1: a zip in which no message rides along."""

import struct
import zlib

from stranger.wire import Refused

END, ENTRY, LOCAL = b"PK\5\6", b"PK\1\2", b"PK\3\4"
STORED, DEFLATED = 0, 8
MOST = 1 << 30
UNIX = 3


def _inflate(data: bytes, method: int, size: int) -> bytes:
    if method == STORED:
        return data
    if method != DEFLATED:
        raise Refused("neither stored nor deflated")
    engine = zlib.decompressobj(-15)
    try:
        out = engine.decompress(data, min(size, MOST) + 1)
        out += engine.flush() if engine.eof else b""
    except zlib.error as error:
        raise Refused(f"not deflated: {error}") from None
    if not engine.eof or engine.unused_data or engine.unconsumed_tail:
        raise Refused("something behind the end of a deflated file")
    return out


EARLIEST = 1 << 5 | 1
"""The first of January of 1980, as a zip has it."""


def _directory(data: bytes) -> tuple[int, int, int]:
    """Where the directory begins, its length, and how many entries it has."""
    if len(data) < 22 or data[-22:-18] != END:
        raise Refused("not a zip, or something behind its end")
    disk, first, here, count, length, start, comment = struct.unpack("<4H2IH", data[-18:])
    if disk or first or comment or here != count or start + length != len(data) - 22:
        raise Refused("an end of the directory that says something else")
    return start, length, count


def _header(data: bytes, place: int, shared: tuple[int, ...], name: bytes) -> int:
    """The length of a file's own header, which repeats the entry, its sizes perhaps in 64 bits."""
    *begin, packed, size, length, extra = shared
    narrow = LOCAL + struct.pack("<5H3I2H", *shared) + name
    wide = LOCAL + struct.pack("<5H3I2H", *begin, *(2**32 - 1,) * 2, length, extra + 20)
    wide += name + struct.pack("<2H2Q", 1, 16, size, packed)
    for header in (narrow, wide):
        if data[place : place + len(header)] == header:
            return len(header)
    raise Refused("a header that does not repeat its entry")


def _entry(data: bytes, at: int, place: int) -> tuple[str, bytes, int, int]:
    """Name and content of an entry, and where the next entry and the next file begin."""
    if data[at : at + 4] != ENTRY or len(data) < at + 46:
        raise Refused("not an entry")
    shared = struct.unpack("<5H3I2H", data[at + 6 : at + 32])
    comment, disk, internal, attributes, start = struct.unpack("<3H2I", data[at + 32 : at + 46])
    _, flags, method, time, date, crc, packed, size, name_length, extra = shared
    if data[at + 5] != UNIX or attributes != 0o100644 << 16:
        raise Refused("an entry that is not a plain file of mode 0644")
    if comment or disk or internal or start != place or flags or extra:
        raise Refused("an entry with a comment, flags, extra fields, or a gap before its file")
    if (time, date) != (0, EARLIEST):
        raise Refused("an entry with a date")
    name = data[at + 46 : at + 46 + name_length]
    body = place + _header(data, place, shared, name)
    content = _inflate(data[body : body + packed], method, size)
    if len(content) != size or zlib.crc32(content) != crc:
        raise Refused("a file of another length or checksum")
    try:
        return name.decode("ascii"), content, at + 46 + name_length, body + packed
    except UnicodeDecodeError:
        raise Refused("a name that is not ASCII") from None


def read_zip(data: bytes) -> dict[str, bytes]:
    """All files, by name."""
    start, length, count = _directory(data)
    files: dict[str, bytes] = {}
    at, place = start, 0
    for _ in range(count):
        name, content, at, place = _entry(data, at, place)
        if name in files:
            raise Refused(f"{name}: twice")
        files[name] = content
    if place != start or at != start + length:
        raise Refused("something between the files, or behind them")
    return files
