"""Packs: the policy documents of one use case, their cases and their words, as one signed file.

A packed pack is canonical JSON (RFC 8785, strings only):
{"files":{path:text},"name":...,"schema":"exclave.pack/v1","version":...}.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from exclave_policy.errors import PolicyInvalid, refuse
from exclave_policy.fields import NAME, VERSION
from exclave_policy.heading import header, metadata
from exclave_policy.source import Report, parse, read_text

SCHEMA = "exclave.pack/v1"
MAX_PACK = 1024 * 1024
"""Most bytes of a packed pack."""
MAX_FILES = 256
"""Of several packs together, too."""

_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}"
_PATH = re.compile(rf"(?:{_PART}/){{0,3}}{_PART}")
_POLICY = re.compile(r"(?:.*/)?(?:policy[^/]*|policies/[^/]+)\.ya?ml")
_CASES = re.compile(r"(?:.*/)?(?:cases[^/]*|cases/[^/]+)\.ya?ml")
# What of a folder belongs into a pack; everything else (training scripts, data) stays behind.
_SHIPPED = re.compile(
    r"pack\.yaml|README\.md|(?:policy|cases)[^/]*\.ya?ml"
    r"|(?:policies|cases|prompts|schemas|workflows)/[^/]+\.(?:ya?ml|json|md|txt|jinja)"
)


@dataclass(frozen=True, slots=True)
class Pack:
    """A pack's name, version and files. Not yet checked: `compile.compile_pack` does that."""

    name: str
    version: str
    files: Mapping[str, str]
    """Text by path; paths are relative, with "/"."""

    def policies(self) -> list[str]:
        """Paths of its policy documents: `policy*.yaml` and everything in `policies/`."""
        return sorted(path for path in self.files if _POLICY.fullmatch(path))

    def cases(self) -> list[str]:
        """Paths of its cases: `cases*.yaml` and everything in `cases/`."""
        return sorted(path for path in self.files if _CASES.fullmatch(path))


def load_directory(path: Path | str) -> Pack:
    """Read a pack from a folder. Links are not followed; other files are left behind.

    Raises: PolicyInvalid; OSError when the folder cannot be read.
    """
    root = Path(path)
    files: dict[str, bytes] = {}
    folders = ("policies", "cases", "prompts", "schemas", "workflows")
    for folder in (root, *(root / name for name in folders)):
        if folder.is_symlink() or not folder.is_dir():
            continue
        for entry in sorted(folder.iterdir()):
            name = entry.relative_to(root).as_posix()
            if not _SHIPPED.fullmatch(name) or entry.is_symlink() or not entry.is_file():
                continue
            if entry.stat().st_size > MAX_PACK:
                raise refuse("the file is too large", f"at most {MAX_PACK} bytes", file=name)
            files[name] = entry.read_bytes()
    if not files:
        raise refuse("the folder holds no pack", "it needs a policy.yaml")
    return _from_files(files)


def pack_directory(path: Path | str) -> bytes:
    """Pack a folder. Raises: as `load_directory`."""
    return encode(load_directory(path))


def pack_files(files: Mapping[str, bytes]) -> bytes:
    """Pack files by path. Name and version come from `pack.yaml`, else from
    `policy.yaml`, else from the only policy document.

    Raises: PolicyInvalid.
    """
    return encode(_from_files(files))


def combine(packs: Sequence[Pack], name: str, version: str | None = None) -> Pack:
    """One pack with the files of several, each under its own pack's name.

    The rules of all of them apply together: a deny of one overrides an allow of another.
    `version` defaults to the packs' names and versions joined with "+".

    Raises: PolicyInvalid when two packs share a name.
    """
    names = [pack.name for pack in packs]
    if not packs or len(set(names)) != len(names):
        raise refuse("packs to combine must have distinct names", "name each pack once")
    files = {f"{pack.name}/{path}": text for pack in packs for path, text in pack.files.items()}
    joined = "+".join(f"{pack.name}-{pack.version}" for pack in packs)
    return _checked(Pack(name, joined if version is None else version, files))


def encode(pack: Pack) -> bytes:
    """The pack's canonical bytes: what is hashed and signed. Raises: PolicyInvalid."""
    _checked(pack)
    value = {
        "schema": SCHEMA,
        "name": pack.name,
        "version": pack.version,
        "files": dict(pack.files),
    }
    # Keys are ASCII, so code point order is RFC 8785's UTF-16 order; there are no numbers.
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    raw = text.encode("utf-8")
    if len(raw) > MAX_PACK:
        raise refuse(f"the pack has {len(raw)} bytes", f"at most {MAX_PACK} bytes")
    return raw


def unpack(raw: bytes) -> Pack:
    """Read a packed pack; only canonical bytes are taken.

    Raises: PolicyInvalid.
    """
    if len(raw) > MAX_PACK:
        raise refuse(f"the pack has {len(raw)} bytes", f"at most {MAX_PACK} bytes")
    damaged = refuse("this is not a pack, or it is damaged", "pack the folder again")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise damaged from None
    # A pack is two objects deep: brackets outside strings are counted before json recurses.
    outside = re.sub(r'"(?:[^"\\]|\\.)*"', "", text)
    if outside.count("{") != 2 or "[" in outside:
        raise damaged
    try:
        value = json.loads(text)
    except ValueError:
        raise damaged from None
    fields = ("schema", "name", "version", "files")
    if not isinstance(value, dict) or set(value) != set(fields) or value["schema"] != SCHEMA:
        raise damaged
    name, version, files = value["name"], value["version"], value["files"]
    if not (isinstance(name, str) and isinstance(version, str) and isinstance(files, dict)):
        raise damaged
    if not all(isinstance(text, str) for text in files.values()):
        raise damaged
    pack = _checked(Pack(name, version, files))
    if encode(pack) != raw:
        raise damaged
    return pack


def _checked(pack: Pack) -> Pack:
    """The pack, its shape checked and its files frozen."""
    if NAME.fullmatch(pack.name) is None:
        raise refuse("the pack's name is not valid", "1 to 63 lower-case letters, digits, hyphens")
    if VERSION.fullmatch(pack.version) is None:
        raise refuse("the pack's version is not valid", "1 to 64 letters, digits and .+-")
    if len(pack.files) > MAX_FILES:
        raise refuse(f"the pack has {len(pack.files)} files", f"at most {MAX_FILES}")
    for path, text in pack.files.items():
        if _PATH.fullmatch(path) is None:
            raise refuse("a file's path is not valid", "up to 4 plain ASCII names joined with '/'")
        if not _encodable(text):
            raise refuse("the file is not UTF-8", "save the file as UTF-8", file=path)
    return Pack(pack.name, pack.version, MappingProxyType(dict(sorted(pack.files.items()))))


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _from_files(files: Mapping[str, bytes]) -> Pack:
    texts: dict[str, str] = {}
    for path, raw in files.items():
        try:
            texts[path] = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            message = f"byte {error.start} is not UTF-8"
            raise refuse(message, "save the file as UTF-8", file=path) from None
    name, version = _title(texts)
    texts.pop("pack.yaml", None)  # the packed form carries its name and version itself
    return _checked(Pack(name, version, texts))


def _title(texts: Mapping[str, str]) -> tuple[str, str]:
    """Name and version: of pack.yaml, else of policy.yaml, else of the only policy document."""
    policies = [path for path in sorted(texts) if _POLICY.fullmatch(path)]
    if "pack.yaml" in texts:
        path, kind = "pack.yaml", "Pack"
    elif "policy.yaml" in texts or len(policies) == 1:
        path, kind = "policy.yaml" if "policy.yaml" in texts else policies[0], "Policy"
    elif policies:
        fix = "add a pack.yaml of kind Pack with its name and version"
        raise refuse("several policy documents, and nothing names the pack", fix)
    else:
        raise refuse("the pack holds no policy document", "add a policy.yaml")
    report = Report(path)
    text = read_text(texts[path].encode("utf-8", "replace"), report)
    root = None if text is None else parse(text, report)
    name = version = ""
    if root is not None:
        name, version, _ = metadata(header(root, (kind,), report)[0])
    if kind == "Policy" and name and version:
        return name, version  # its other faults are listed when the pack is compiled
    if report.problems:
        raise PolicyInvalid(report.all())
    return name, version
