"""Bundles with a spoilt zip."""

import io
import warnings
import zipfile
from collections.abc import Callable

from stranger.build import entry, pack
from stranger.tampers import Files, packed


@packed("INVALID")
def a_byte_behind_the_end(data: bytes, files: Files) -> bytes:
    del files
    return data + b"\0"


@packed("INVALID")
def a_byte_before_the_beginning(data: bytes, files: Files) -> bytes:
    del files
    return b"\0" + data


@packed("INVALID")
def a_comment(data: bytes, files: Files) -> bytes:
    del files
    return data[:-2] + b"\2\0hi"


@packed("INVALID")
def an_entry_twice(data: bytes, files: Files) -> bytes:
    out = io.BytesIO(data)
    with warnings.catch_warnings(), zipfile.ZipFile(out, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr(entry("VERIFY.md"), files["VERIFY.md"])
    return out.getvalue()


def _repacked(files: Files, change: Callable[[zipfile.ZipInfo], None], level: int = 6) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            info = entry(name)
            change(info)
            archive.writestr(info, data, compresslevel=level)
    return out.getvalue()


def _dated(info: zipfile.ZipInfo) -> None:
    info.date_time = (2027, 1, 1, 0, 0, 0)


def _stored(info: zipfile.ZipInfo) -> None:
    info.compress_type = zipfile.ZIP_STORED


def _deflated(info: zipfile.ZipInfo) -> None:
    info.compress_type = zipfile.ZIP_DEFLATED


def _executable(info: zipfile.ZipInfo) -> None:
    info.external_attr = 0o100755 << 16


def _of_another_system(info: zipfile.ZipInfo) -> None:
    info.create_system = 0


def _of_another_version(info: zipfile.ZipInfo) -> None:
    info.create_version = info.extract_version = 20


def _with_extra(info: zipfile.ZipInfo) -> None:
    info.extra = b"\xfe\xca\2\0hi"


def _noted(info: zipfile.ZipInfo) -> None:
    info.comment = b"hi"


@packed("INVALID")
def entries_with_a_date(data: bytes, files: Files) -> bytes:
    del data
    return _repacked(files, _dated)


@packed("WITNESSED")
def entries_stored(data: bytes, files: Files) -> bytes:
    del data
    return _repacked(files, _stored)


@packed("WITNESSED")
def entries_deflated(data: bytes, files: Files) -> bytes:
    del data
    return _repacked(files, _deflated)


@packed("WITNESSED")
def entries_deflated_better(data: bytes, files: Files) -> bytes:
    del data
    return _repacked(files, lambda info: None, 1)


@packed("INVALID")
def entries_with_another_mode(data: bytes, files: Files) -> bytes:
    del data
    return _repacked(files, _executable)


@packed("INVALID")
def entries_of_another_system(data: bytes, files: Files) -> bytes:
    del data
    return _repacked(files, _of_another_system)


@packed("WITNESSED")
def entries_of_another_version(data: bytes, files: Files) -> bytes:
    del data
    return _repacked(files, _of_another_version)


@packed("INVALID")
def entries_with_extra_fields(data: bytes, files: Files) -> bytes:
    del data
    return _repacked(files, _with_extra)


@packed("INVALID")
def entries_with_comments(data: bytes, files: Files) -> bytes:
    del data
    return _repacked(files, _noted)


@packed("WITNESSED")
def files_in_another_order(data: bytes, files: Files) -> bytes:
    del data
    return pack(dict(reversed(files.items())))


@packed("INVALID")
def something_between_the_files(data: bytes, files: Files) -> bytes:
    del files
    start = int.from_bytes(data[-6:-2], "little")
    end = data[-22:-6] + (start + 2).to_bytes(4, "little") + data[-2:]
    return data[:start] + b"hi" + data[start:-22] + end


@packed("INVALID")
def cut_in_half(data: bytes, files: Files) -> bytes:
    del files
    return data[: len(data) // 2]
