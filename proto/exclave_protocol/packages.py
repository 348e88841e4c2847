"""Packages of our own daemons as signed targets: their names, descriptions and versions.

A package is a TUF target `packages/<sha256>.deb|.rpm`. What it is stands in the target's `custom`
field, signed with it; whoever installs it compares that with what the file says of itself
(package_files).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cmp_to_key
from typing import TYPE_CHECKING, Any, Final

from exclave_protocol.errors import PackageError

if TYPE_CHECKING:
    from tuf.api.metadata import Targets

AGENT: Final = "exclave-agent"
"""Name of the package that an agent upgrades itself to."""
PREFIX: Final = "packages/"
FORMATS: Final = ("deb", "rpm")
KIND: Final = "package"
CUSTOM: Final = "exclave"
"""Our part of a target's `custom` field."""
MAX_PACKAGE: Final = 4 << 30
"""Most bytes of one package."""
ANY_ARCHITECTURE: Final = {"deb": "all", "rpm": "noarch"}
"""What each format calls a package for every machine."""

_HEX64: Final = re.compile(r"[0-9a-f]{64}")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9+.-]{1,63}")
_VERSION: Final = re.compile(r"([0-9]{1,9}:)?[0-9][0-9A-Za-z.+~^_-]{0,99}")
_ARCHITECTURE: Final = re.compile(r"[a-z0-9][a-z0-9_-]{1,31}")


@dataclass(frozen=True, slots=True)
class Label:
    """What a package file says of itself."""

    name: str
    version: str
    """As its format writes it: [epoch:]upstream[-revision]."""
    architecture: str
    """In the format's own words: amd64 or x86_64."""
    format: str
    """One of FORMATS."""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise PackageError(f"package: format must be one of {', '.join(FORMATS)}")
        for what, shape, value in (
            ("name", _NAME, self.name),
            ("version", _VERSION, self.version),
            ("architecture", _ARCHITECTURE, self.architecture),
        ):
            if not shape.fullmatch(value):
                raise PackageError(f"package: {what} is not one of a {self.format} package")


@dataclass(frozen=True, slots=True)
class Package:
    """One package file, by digest."""

    label: Label
    sha256: str
    length: int
    """Bytes."""

    def __post_init__(self) -> None:
        if not _HEX64.fullmatch(self.sha256):
            raise PackageError("package: sha256 must be 64 lower-case hex digits")
        if not 0 < self.length <= MAX_PACKAGE:
            raise PackageError(f"package: length must be from 1 to {MAX_PACKAGE} bytes")

    @property
    def version(self) -> str:
        """The label's."""
        return self.label.version

    @property
    def file_name(self) -> str:
        """`<sha256>.deb` or `.rpm`."""
        return f"{self.sha256}.{self.label.format}"

    @property
    def path(self) -> str:
        """TUF target path."""
        return PREFIX + self.file_name

    def custom(self) -> dict[str, Any]:
        """The target's `custom` field."""
        return {CUSTOM: {"kind": KIND, **asdict(self.label)}}

    def to_json(self) -> dict[str, Any]:
        """For files of our own; `from_json` reads it."""
        return {**asdict(self.label), "sha256": self.sha256, "length": self.length}

    @classmethod
    def from_json(cls, value: object) -> Package:
        """Raises: PackageError."""
        if not isinstance(value, dict):
            raise PackageError("package: must be an object")
        length = value.get("length")
        if not isinstance(length, int) or isinstance(length, bool):
            raise PackageError("package: length must be an integer")
        return cls(_label(value), _string(value, "sha256"), length)


def packages_in(targets: Targets) -> list[Package]:
    """The packages that targets metadata names, oldest version first; formats that this
    version does not know are left out. Raises: PackageError.
    """
    found = []
    for path, target in targets.targets.items():
        custom = target.custom.get(CUSTOM) if isinstance(target.custom, Mapping) else None
        described = isinstance(custom, Mapping) and custom.get("kind") == KIND
        if not described:
            if path.startswith(PREFIX):
                raise PackageError(f"target {path} is a package without its description")
            continue
        assert isinstance(custom, Mapping)
        if custom.get("format") not in FORMATS:
            continue
        package = Package(_label(custom), target.hashes.get("sha256", ""), target.length)
        if path != package.path:
            raise PackageError(f"target {path} describes a package that is not named so")
        found.append(package)
    return sorted(found, key=lambda p: (p.label.name, p.label.format, version_key(p.label)))


def _label(value: Mapping[str, Any]) -> Label:
    return Label(*(_string(value, key) for key in ("name", "version", "architecture", "format")))


def _string(value: Mapping[str, Any], key: str) -> str:
    text = value.get(key)
    if not isinstance(text, str):
        raise PackageError(f"package: {key} must be a string")
    return text


# --- choosing -------------------------------------------------------------------------------


def fitting(
    packages: Iterable[Package], *, name: str, form: str, architecture: str
) -> list[Package]:
    """Those that a machine may install, oldest version first."""
    fits = (architecture, ANY_ARCHITECTURE[form])
    found = [
        p
        for p in packages
        if (p.label.name, p.label.format) == (name, form) and p.label.architecture in fits
    ]
    return sorted(found, key=lambda p: version_key(p.label))


def named(packages: Iterable[Package], version: str) -> Package | None:
    """The package of a version; where none has it to the letter, the newest one that has it
    but for its epoch and revision. `packages` come oldest first."""
    candidates = list(packages)
    exact = [p for p in candidates if p.version == version]
    close = [p for p in candidates if upstream(p.version) == version]
    found = exact or close
    return found[-1] if found else None


def newest_of_each(packages: Iterable[Package], keep: int) -> list[Package]:
    """Of each name, format and architecture the `keep` newest versions."""
    groups: dict[tuple[str, str, str], list[Package]] = {}
    for package in packages:
        label = package.label
        groups.setdefault((label.name, label.format, label.architecture), []).append(package)
    return [
        package
        for group in groups.values()
        for package in sorted(group, key=lambda p: version_key(p.label))[-keep:]
    ]


# --- versions -------------------------------------------------------------------------------


def upstream(version: str) -> str:
    """The software's own version: without epoch and packaging revision, as it says it itself."""
    text = version.partition(":")[2] or version
    return (text.rpartition("-")[0] or text).replace("~", "")


def compare(form: str, a: str, b: str) -> int:
    """Below 0 when `a` is older than `b`, by the rules of dpkg or rpm; 0: equal."""
    part = _compare_deb if form == "deb" else _compare_rpm
    for x, y in zip(_parts(a), _parts(b), strict=True):
        if order := part(x, y):
            return order
    return 0


def version_key(label: Label) -> Any:
    """For sorting labels of one format."""
    return cmp_to_key(lambda a, b: compare(label.format, str(a), str(b)))(label.version)


def _parts(version: str) -> tuple[str, str, str]:
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    body, dash, revision = rest.rpartition("-")
    return (epoch, body, revision) if dash else (epoch, rest, "")


def _compare_deb(a: str, b: str) -> int:
    """deb-version(7): runs of non-digits by an order in which ~ comes before the end, then
    runs of digits as numbers."""

    def weight(text: str, at: int) -> int:
        if at >= len(text) or text[at].isdigit():
            return 0
        char = text[at]
        return -1 if char == "~" else ord(char) if char.isalpha() else ord(char) + 256

    i = j = 0
    while i < len(a) or j < len(b):
        while (i < len(a) and not a[i].isdigit()) or (j < len(b) and not b[j].isdigit()):
            if order := weight(a, i) - weight(b, j):
                return order
            i, j = i + 1, j + 1
        (x, i), (y, j) = _digits(a, i), _digits(b, j)
        if x != y:
            return x - y
    return 0


def _digits(text: str, at: int) -> tuple[int, int]:
    end = at
    while end < len(text) and text[end].isdigit():
        end += 1
    return int(text[at:end] or 0), max(end, at)


_SEGMENT: Final = re.compile(r"[0-9]+|[A-Za-z]+|~|\^")


def _compare_rpm(a: str, b: str) -> int:
    """rpm-version(7): segments of digits or letters; ~ sorts before the end, ^ just after it."""
    left, right = _SEGMENT.findall(a), _SEGMENT.findall(b)
    for at in range(max(len(left), len(right))):
        x = left[at] if at < len(left) else ""
        y = right[at] if at < len(right) else ""
        if x != y and (order := _segments(x, y)):
            return order
    return 0


def _segments(x: str, y: str) -> int:
    if order := _rank(x) - _rank(y):
        return order
    if x.isdigit():
        return int(x) - int(y)
    return (x > y) - (x < y)


def _rank(segment: str) -> int:
    return {"~": 0, "": 1, "^": 2}.get(segment, 4 if segment.isdigit() else 3)
