"""What a .deb or .rpm file says of itself, read with bounds and without the tools that made it.

Only the few fields that we compare with what was signed are read. Neither the payload nor any
script is looked at: the digest vouches for those.
"""

from __future__ import annotations

import hashlib
import lzma
import zlib
from pathlib import Path
from typing import BinaryIO, Final

from exclave_protocol.errors import PackageError
from exclave_protocol.packages import Label, Package

MAX_CONTROL: Final = 4 << 20
"""Most bytes of a .deb's control archive, packed or unpacked."""
MAX_FIELDS: Final = 64 << 10
"""Most bytes of its control file."""
MAX_HEADER: Final = 32 << 20
"""Most bytes of an .rpm's header data."""
MAX_INDEX: Final = 1 << 16
"""Most entries of an .rpm's header."""

_AR: Final = b"!<arch>\n"
_RPM: Final = b"\xed\xab\xee\xdb"
_RPM_HEADER: Final = b"\x8e\xad\xe8\x01"
_LZMA_MEMORY: Final = 128 << 20


def read_package(path: Path) -> Package:
    """A package file's label, digest and length. Raises: PackageError, OSError."""
    with path.open("rb") as file:
        label = read_label(file)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Package(label, digest, file.tell())


def read_label(file: BinaryIO) -> Label:
    """What the package says of itself; `file` stands at its beginning. Raises: PackageError."""
    magic = file.read(len(_AR))
    if magic == _AR:
        return _read_deb(file)
    if magic[:4] == _RPM:
        if magic[6:] != b"\0\0":
            raise PackageError("package: the .rpm is a source package")
        return _read_rpm(file)
    raise PackageError("package: the file is neither a .deb nor an .rpm")


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise PackageError("package: the file is cut off")
    return data


# --- deb(5) ---------------------------------------------------------------------------------


def _read_deb(file: BinaryIO) -> Label:
    """Members debian-binary and control.tar*, in this order; the rest is not looked at."""
    name, size = _member(file)
    if name != "debian-binary" or size > 64 or not _body(file, size).startswith(b"2."):
        raise PackageError("package: the .deb does not begin with format version 2")
    name, size = _member(file)
    if not name.startswith("control.tar") or size > MAX_CONTROL:
        raise PackageError("package: the .deb has no control archive where it must be")
    control = _control_file(_unpack(name, _body(file, size)))
    fields = _fields(control)
    try:
        return Label(fields["package"], fields["version"], fields["architecture"], "deb")
    except KeyError as error:
        raise PackageError(f"package: the .deb's control file lacks {error.args[0]}") from error


def _member(file: BinaryIO) -> tuple[str, int]:
    header = _exactly(file, 60)
    size = header[48:58].strip()
    if header[58:] != b"`\n" or not size.isdigit():
        raise PackageError("package: the .deb is not an ar archive")
    return header[:16].decode("ascii", "replace").strip().rstrip("/"), int(size)


def _body(file: BinaryIO, size: int) -> bytes:
    data = _exactly(file, size)
    file.read(size % 2)  # members begin at even offsets
    return data


def _unpack(name: str, data: bytes) -> bytes:
    try:
        if name == "control.tar":
            return data
        if name == "control.tar.gz":
            unpacker = zlib.decompressobj(wbits=31)
            out, ended = unpacker.decompress(data, MAX_CONTROL), unpacker.eof
        elif name == "control.tar.xz":
            decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY)
            out, ended = decoder.decompress(data, MAX_CONTROL), decoder.eof
        else:
            raise PackageError(
                "package: the .deb's control archive must be packed with gzip, xz or not at all"
            )
    except (zlib.error, lzma.LZMAError) as error:
        raise PackageError("package: the .deb's control archive is damaged") from error
    if not ended:
        raise PackageError("package: the .deb's control archive is cut off or too large")
    return out


def _control_file(tar: bytes) -> bytes:
    """The file `control` of a tar archive (ustar, GNU or pax)."""
    at = 0
    while at + 512 <= len(tar) and tar[at]:
        header = tar[at : at + 512]
        digits = header[124:136].strip(b" \0")
        if not digits.isdigit() or digits.strip(b"01234567"):
            raise PackageError("package: the .deb's control archive is not a tar archive")
        size = int(digits, 8)
        name = header[:100].partition(b"\0")[0]
        if name in (b"control", b"./control") and header[156:157] in (b"0", b"\0"):
            if size > MAX_FIELDS or at + 512 + size > len(tar):
                raise PackageError("package: the .deb's control file is cut off or too large")
            return tar[at + 512 : at + 512 + size]
        at += 512 + (size + 511) // 512 * 512
    raise PackageError("package: the .deb has no control file")


def _fields(control: bytes) -> dict[str, str]:
    """The fields of the first paragraph, names in lower case; continuations are left out."""
    fields: dict[str, str] = {}
    for line in control.decode("utf-8", "replace").splitlines():
        if not line.strip():
            break
        key, colon, value = line.partition(":")
        if colon and not line[0].isspace():
            if key.lower() in fields:
                raise PackageError("package: the .deb's control file says a field twice")
            fields[key.lower()] = value.strip()
    return fields


# --- rpm-format(5) --------------------------------------------------------------------------

_NAME, _VERSION, _RELEASE, _EPOCH, _ARCH = 1000, 1001, 1002, 1003, 1022
_WANTED: Final = frozenset({_NAME, _VERSION, _RELEASE, _EPOCH, _ARCH})
_INT32, _STRING = 4, 6


def _read_rpm(file: BinaryIO) -> Label:
    """Lead, signature header (padded to 8 bytes), header; 8 bytes of the lead are read already."""
    _exactly(file, 88)
    signatures = _header(file)[1]
    _exactly(file, -len(signatures) % 8)
    tags = _tags(*_header(file))
    try:
        version = f"{tags[_VERSION]}-{tags[_RELEASE]}"
        epoch = tags.get(_EPOCH, "0")
        full = version if epoch == "0" else f"{epoch}:{version}"
        return Label(tags[_NAME], full, tags[_ARCH], "rpm")
    except KeyError as error:
        raise PackageError(f"package: the .rpm's header lacks tag {error.args[0]}") from error


def _header(file: BinaryIO) -> tuple[bytes, bytes]:
    """(index, data) of one header."""
    intro = _exactly(file, 16)
    entries, size = (int.from_bytes(intro[at : at + 4], "big") for at in (8, 12))
    if intro[:4] != _RPM_HEADER or entries > MAX_INDEX or size > MAX_HEADER:
        raise PackageError("package: the .rpm's header is malformed or too large")
    return _exactly(file, 16 * entries), _exactly(file, size)


def _tags(index: bytes, data: bytes) -> dict[int, str]:
    found: dict[int, str] = {}
    for at in range(0, len(index), 16):
        tag, kind, offset, count = (
            int.from_bytes(index[at + n : at + n + 4], "big") for n in (0, 4, 8, 12)
        )
        if tag not in _WANTED:
            continue
        if tag in found or count != 1 or offset >= len(data):
            raise PackageError("package: the .rpm's header is malformed")
        if kind == _STRING:
            end = data.find(b"\0", offset, offset + MAX_FIELDS)
            if end < 0:
                raise PackageError("package: the .rpm's header is malformed")
            found[tag] = data[offset:end].decode("utf-8", "replace")
        elif kind == _INT32 and tag == _EPOCH:
            found[tag] = str(int.from_bytes(data[offset : offset + 4], "big"))
    return found
