"""The interpreter that every product carries: Debian's CPython 3.11, made relocatable.

Debian builds it, signs it and mends it; we take its packages through apt, which verifies them,
leave out what a service never needs, and make each object find its libraries beside itself.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from packages import elf, tools
from packages.tools import Refusal, run, say

VERSION: Final = "3.11"
DEBS: Final = (
    "libbz2-1.0",
    "libexpat1",
    "libffi8",
    "liblzma5",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libsqlite3-0",
    "libssl3",
    "libuuid1",
    "python3.11-minimal",
    "zlib1g",
)
LIBRARIES: Final = (
    "libbz2.so.1.0",
    "libcrypto.so.3",
    "libexpat.so.1",
    "libffi.so.8",
    "liblzma.so.5",
    "libsqlite3.so.0",
    "libssl.so.3",
    "libuuid.so.1",
    "libz.so.1",
)
DROPPED: Final = (
    # Tools for people who develop, and their data.
    *("ensurepip", "idlelib", "lib2to3", "pydoc_data", "test", "tkinter", "turtle.py"),
    *("turtledemo", "unittest", "venv", "config-3.11-x86_64-linux-gnu", "distutils"),
    *("_distutils_system_mod.py", "antigravity.py", "this.py", "__phello__", "__hello__.py"),
    # Of the distribution: they look outside of the product.
    *("EXTERNALLY-MANAGED", "sitecustomize.py"),
    *("doctest.py", "pyclbr.py", "tabnanny.py", "trace.py", "zipapp.py"),
    # They need libraries that no service of ours uses.
    *("curses", "dbm", "crypt.py"),
    # Formats and protocols that nothing here speaks.
    *("aifc.py", "asynchat.py", "asyncore.py", "cgitb.py", "chunk.py", "imaplib.py", "imghdr.py"),
    *("mailbox.py", "mailcap.py", "nntplib.py", "poplib.py", "smtpd.py", "sndhdr.py", "sunau.py"),
    *("telnetlib.py", "wave.py", "xdrlib.py", "xmlrpc"),
    *(
        f"lib-dynload/{name}.cpython-311-x86_64-linux-gnu.so"
        for name in (
            *(
                "audioop",
                "_crypt",
                "_curses",
                "_curses_panel",
                "_dbm",
                "nis",
                "ossaudiodev",
                "readline",
            ),
            *("_ctypes_test", "_testbuffer", "_testcapi", "_testclinic", "_testimportmultiple"),
            *("_testinternalcapi", "_testmultiphase", "_xxtestfuzz", "xxlimited", "xxlimited_35"),
        )
    ),
)
"""Below lib/python3.11; a name that Debian's packages do not have is an error: see `_trim`."""


@dataclass(frozen=True, slots=True)
class Deb:
    """One package of Debian's archive, as apt's signed index describes it."""

    name: str
    version: str
    sha256: str

    @property
    def filename(self) -> str:
        """As `apt-get download` calls it."""
        return f"{self.name}_{self.version.replace(':', '%3a')}_amd64.deb"


def candidates() -> tuple[Deb, ...]:
    """What the archive offers now, security updates included. Raises: Refusal."""
    versions = _versions()
    if len(versions) < len(DEBS):
        if os.geteuid() != 0:
            raise Refusal("apt knows no such packages yet", "sudo apt-get update")
        say("apt has no lists of packages; running as root on Debian, so: apt-get update")
        run(["apt-get", "update", "-qq"])
        versions = _versions()
    digests = _digests(versions)
    for name in DEBS:
        if (name, versions.get(name)) not in digests:
            raise Refusal(f"apt's lists do not have {name}", "sudo apt-get update")
    return tuple(Deb(name, versions[name], digests[name, versions[name]]) for name in DEBS)


def _versions() -> dict[str, str]:
    """The candidate of each package, by name."""
    found = {}
    name = ""
    for line in run(["apt-cache", "policy", *DEBS]).splitlines():
        if not line.startswith(" "):
            name = line.rstrip(":").removesuffix(":amd64")
        elif line.startswith("  Candidate:") and "(none)" not in line:
            found[name] = line.split(None, 1)[1].strip()
    return found


def _digests(versions: dict[str, str]) -> dict[tuple[str, str | None], str]:
    """SHA-256 by name and version, as the index says; an installed package's stanza has none."""
    asked = [f"{name}={version}" for name, version in versions.items()]
    found: dict[tuple[str, str | None], str] = {}
    for stanza in run(["apt-cache", "show", *asked]).split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line)
        if "SHA256" in fields:
            found[fields["Package"], fields["Version"]] = fields["SHA256"]
    return found


def fetch(debs: tuple[Deb, ...]) -> list[Path]:
    """The packages' files, from the cache or the archive, each checked. Raises: Refusal."""
    folder = tools.cache() / "debs"
    folder.mkdir(exist_ok=True)
    missing = [deb for deb in debs if not (folder / deb.filename).exists()]
    if missing:
        say(f"downloading {len(missing)} Debian packages")
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            run(
                ["apt-get", "download", *(f"{deb.name}={deb.version}" for deb in missing)],
                cwd=Path(scratch),
            )
            for deb in missing:
                (Path(scratch) / deb.filename).replace(folder / deb.filename)
    for deb in debs:
        path = folder / deb.filename
        if tools.digest(path) != deb.sha256:
            path.unlink()
            raise Refusal(
                f"{deb.filename} was not what apt's signed list says; it was removed",
                "build again: it is downloaded anew",
            )
    return [folder / deb.filename for deb in debs]


def interpreter(debs: tuple[Deb, ...]) -> Path:
    """A folder with runtime/ (bin, lib) and licences/, made once per set of packages."""
    key = sha256()
    for part in (*(f"{deb.name} {deb.version} {deb.sha256}" for deb in debs), *_recipe()):
        key.update(part.encode() + b"\0")
    folder = tools.cache() / f"cpython-{key.hexdigest()[:16]}"
    with tools.alone(tools.cache()):
        if not folder.exists():
            say("making the interpreter, once for these Debian packages")
            _unpack_and_make(debs, folder)
    return folder


def _unpack_and_make(debs: tuple[Deb, ...], folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=tools.cache()) as scratch:
        unpacked = Path(scratch) / "unpacked"
        for path in fetch(debs):
            run(["dpkg-deb", "-x", path, unpacked])
        made = Path(scratch) / "made"
        _make(unpacked, made)
        made.rename(folder)


def _recipe() -> list[str]:
    here = Path(__file__).parent
    return [(here / name).read_text(encoding="utf-8") for name in ("cpython.py", "elf.py")]


def _make(unpacked: Path, made: Path) -> None:
    libraries = made / "runtime" / "lib"
    library = libraries / f"python{VERSION}"
    (made / "runtime" / "bin").mkdir(parents=True)
    libraries.mkdir()
    shutil.copytree(unpacked / "usr" / "lib" / f"python{VERSION}", library, symlinks=True)
    _trim(library)
    program = made / "runtime" / "bin" / "python3"
    shutil.copyfile(unpacked / "usr" / "bin" / f"python{VERSION}", program)
    program.chmod(0o755)
    for name in LIBRARIES:
        elf.copy_library(name, unpacked, libraries)
    elf.strip(elf.objects(made))
    elf.set_rpath(program, "$ORIGIN/../lib")
    for name in LIBRARIES:
        elf.set_rpath(libraries / name, "$ORIGIN")
    for path in elf.objects(library):
        elf.set_rpath(path, "$ORIGIN/../..")
    outside = elf.needs(made / "runtime")
    if outside.sonames:
        raise Refusal(f"the interpreter needs what is not bundled: {', '.join(outside.sonames)}")
    _licences(unpacked, made / "licences")


def _trim(library: Path) -> None:
    """Raises: Refusal for links out of the tree that were not dropped by name."""
    for name in DROPPED:
        path = library / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for path in sorted(library.rglob("*")):
        if path.is_symlink() and not path.resolve().is_relative_to(library.resolve()):
            raise Refusal(f"the interpreter's {path.name} is a link out of its folder")
        if path.name == "__pycache__":
            shutil.rmtree(path)


def _licences(unpacked: Path, folder: Path) -> None:
    folder.mkdir()
    for name in DEBS:
        path = unpacked / "usr" / "share" / "doc" / name / "copyright"
        if path.is_file():
            shutil.copyfile(path, folder / name)
