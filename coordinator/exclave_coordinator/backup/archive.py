"""The archive's format: a plain tar whose first member says what it is and whose last lists it all.

    exclave-backup.json   format, schema version of the database, program's version, time
    coordinator.toml, coordinator.db, ca/*, keys/*, operators/*/*, artifacts/*/sha256/*
    manifest.json         SHA-256 and length of every member before it

It is written and read in one pass, so it may be larger than memory. Without the last member it is
not whole. Names are matched against one pattern; whatever else a tar can hold (links, devices,
absolute names) is refused.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import IO, Any, Final, Protocol, cast

from exclave_coordinator.errors import SetupError

FORMAT: Final = "exclave.coordinator-backup/v1"
HEAD: Final = "exclave-backup.json"
MANIFEST: Final = "manifest.json"
MAX_SMALL: Final = 1 << 20
"""Most bytes of any member but the database, an artifact and the manifest."""
MAX_MANIFEST: Final = 256 << 20
PIECE: Final = 1 << 20

_VERSION: Final = re.compile(r"[0-9A-Za-z.+-]{1,64}")
"""It is shown to people: nothing that a terminal would act on."""
_NAME = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_SMALL: Final = re.compile(
    r"coordinator\.toml"
    r"|ca/ca\.(?:key|pem)"
    r"|keys/(?:director|witness|operators)\.key"
    rf"|keys/tenants/{_NAME}/(?:snapshot|timestamp)\.key"
    rf"|operators/{_NAME}/(?:key\.pem|cert\.pem|ca\.pem|profile\.json)"
)
ARTIFACT: Final = re.compile(rf"artifacts/{_NAME}/sha256/([0-9a-f]{{64}})")
DATABASE: Final = "coordinator.db"
NEEDED: Final = frozenset(
    {DATABASE, "coordinator.toml", "ca/ca.key", "ca/ca.pem"}
    | {f"keys/{name}.key" for name in ("director", "witness", "operators")}
)
"""Without these no coordinator starts."""


def belongs(name: str) -> bool:
    """Whether a file of this name, relative to the home, is part of a backup."""
    return name == DATABASE or bool(_SMALL.fullmatch(name) or ARTIFACT.fullmatch(name))


@dataclass(frozen=True, slots=True)
class Head:
    """What an archive says of itself before anything else."""

    schema: int
    """Of the database."""
    version: str
    """Of the program that wrote it."""
    created: int
    """Seconds since the epoch: the database's moment."""


class Source(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes: ...


class Sink(Protocol):
    """What bytes are written to."""

    def write(self, data: bytes, /) -> object: ...


class Digesting:
    """A source that knows what has been read from it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._hash = hashlib.sha256()
        self.length = 0

    def read(self, size: int) -> bytes:
        """The next bytes."""
        data = self._source.read(size)
        self._hash.update(data)
        self.length += len(data)
        return data

    @property
    def sha256(self) -> str:
        """Of everything read so far, hex."""
        return self._hash.hexdigest()


class Writer:
    """Adds members, then the manifest. Use through `writing`."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self.members: dict[str, dict[str, Any]] = {}

    @property
    def count(self) -> int:
        """Members that came from the home."""
        return len(self.members.keys() - {HEAD, MANIFEST})

    def add(self, name: str, file: Source, length: int, modified: int) -> str:
        """`length` bytes of a file as a member; returns their SHA-256. Raises: OSError."""
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = length, 0o600, modified
        source = Digesting(file)
        self._tar.addfile(info, _file(source))
        self.members[name] = {"sha256": source.sha256, "length": length}
        return source.sha256


@contextmanager
def writing(sink: Sink, head: Head) -> Iterator[Writer]:
    """An archive that is whole when the block has ended well. Raises: OSError."""
    # "w|" only ever writes, so that what is behind it may be a cipher.
    with tarfile.open(
        fileobj=_file(sink), mode="w|", format=tarfile.PAX_FORMAT, bufsize=PIECE
    ) as tar:
        writer = Writer(tar)
        _add_json(writer, HEAD, {"format": FORMAT, **asdict(head)}, head.created)
        yield writer
        _add_json(writer, MANIFEST, {"members": writer.members}, head.created)


def _add_json(writer: Writer, name: str, value: Mapping[str, Any], modified: int) -> None:
    data = json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"
    writer.add(name, io.BytesIO(data), len(data), modified)


class Receiver(Protocol):
    """What takes the members of an archive that is read."""

    def begin(self, head: Head) -> None:
        """First. Raises: SetupError to read no further."""
        ...

    def member(self, name: str, file: Digesting) -> None:
        """One member, to be read to its end."""
        ...


def read(source: Source, receiver: Receiver) -> str:
    """Hand every member over; returns the manifest's SHA-256 once all were as it says.

    MUST: until this returns nothing that was handed over may be believed.
    Raises: SetupError (not ours, newer, not whole, changed, or with anything foreign in it).
    """
    try:
        with tarfile.open(fileobj=_file(source), mode="r|", bufsize=PIECE) as tar:
            members = _members(tar)
            name, file = next(members, ("", None))
            if name != HEAD or file is None:
                raise SetupError("not a backup of a coordinator: its first member is another")
            found = {HEAD: Digesting(file)}
            receiver.begin(_head(found[HEAD]))
            for name, file in members:
                if name == MANIFEST:
                    digest = _compare(file, found)
                    if next(members, None) is not None:
                        raise SetupError("the backup goes on after its manifest")
                    return digest
                if not belongs(name):
                    raise SetupError(f"the backup holds {name[:100]!r}, which is no part of one")
                if name in found:
                    raise SetupError(f"the backup holds {name} twice")
                found[name] = Digesting(file)
                receiver.member(name, found[name])
    except tarfile.TarError as error:
        raise SetupError(f"the backup is damaged or not whole: {error}") from error
    raise SetupError("the backup is not whole: its manifest is missing")


def _file(end: Source | Sink) -> IO[bytes]:
    """For tarfile, which calls nothing but read(size) or write(data) of a stream."""
    return cast(IO[bytes], end)


def _members(tar: tarfile.TarFile) -> Iterator[tuple[str, Source]]:
    while (info := _next(tar)) is not None:
        if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or info.issparse():
            raise SetupError(f"the backup holds {info.name[:100]!r}, which is not a plain file")
        most = MAX_MANIFEST if info.name == MANIFEST else MAX_SMALL
        large = info.name == DATABASE or ARTIFACT.fullmatch(info.name)
        if info.size > most and not large:
            raise SetupError(f"the backup holds {info.name[:100]!r} of {info.size} bytes")
        file = tar.extractfile(info)
        assert file is not None, "a regular member has bytes"
        yield info.name, file


def _next(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    try:
        return tar.next()
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
        # tarfile lets some of what it meets in a broken header pass as it is.
        raise SetupError(f"the backup is damaged or not whole: {error}") from error


def _head(file: Source) -> Head:
    value = _json(file, HEAD, MAX_SMALL)
    if value.get("format") != FORMAT:
        raise SetupError(
            f"the backup's format is {str(value.get('format'))[:60]!r}, this program reads "
            f"{FORMAT}: restore it with the version that wrote it"
        )
    schema, version, created = (value.get(name) for name in ("schema", "version", "created"))
    if (
        not isinstance(schema, int)
        or not isinstance(created, int)
        or not isinstance(version, str)
        or not _VERSION.fullmatch(version)
    ):
        raise SetupError(f"the backup's {HEAD} lacks a field or has a wrong one")
    return Head(schema, version, created)


def _compare(file: Source, found: Mapping[str, Digesting]) -> str:
    manifest = Digesting(file)
    listed = _json(manifest, MANIFEST, MAX_MANIFEST).get("members")
    if not isinstance(listed, dict):
        raise SetupError(f"the backup's {MANIFEST} lists no members")
    for name in sorted(listed.keys() | found.keys()):
        if name not in found:
            raise SetupError(f"the backup lacks {str(name)[:100]}, which its manifest lists")
        there = {"sha256": found[name].sha256, "length": found[name].length}
        if listed.get(name) != there:
            raise SetupError(f"the backup's {name} is not what its manifest says")
    if missing := NEEDED - found.keys():
        raise SetupError(f"the backup lacks {min(missing)}")
    return manifest.sha256


def _json(file: Source, name: str, most: int) -> dict[str, Any]:
    try:
        value = json.loads(file.read(most))
    except (ValueError, RecursionError) as error:
        raise SetupError(f"the backup's {name} is not readable JSON") from error
    if not isinstance(value, dict):
        raise SetupError(f"the backup's {name} is not a JSON object")
    return value
