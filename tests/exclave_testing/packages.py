"""Little package files for tests: .deb written by hand, .rpm by rpmbuild where it is installed."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import shutil
import subprocess
import tarfile
from pathlib import Path

from exclave_protocol.packages import AGENT, Label, Package


def deb(
    version: str = "0.2.0",
    *,
    name: str = AGENT,
    architecture: str = "amd64",
    packed: str = "gz",
    scripts: dict[str, str] | None = None,
    files: dict[str, bytes] | None = None,
    programs: dict[str, bytes] | None = None,
    fields: str = "",
) -> bytes:
    """A .deb that dpkg installs: `files` and `programs` by absolute path, `scripts` by name."""
    control = (
        f"Package: {name}\nVersion: {version}\nArchitecture: {architecture}\n"
        "Maintainer: Tests <tests@exclave.invalid>\nDescription: a package of a test\n"
        f" with a long description\n{fields}"
    )
    members = {"./control": (control.encode(), 0o644)}
    for script, text in (scripts or {}).items():
        members[f"./{script}"] = (text.encode(), 0o755)
    content = {f".{path}": (data, 0o644) for path, data in (files or {}).items()}
    content |= {f".{path}": (data, 0o755) for path, data in (programs or {}).items()}
    suffix = f".{packed}" if packed else ""
    return _ar(
        [
            ("debian-binary", b"2.0\n"),
            (f"control.tar{suffix}", _pack(_tar(members), packed)),
            ("data.tar.gz", gzip.compress(_tar(content), mtime=0)),
        ]
    )


def package_of(data: bytes, version: str = "0.2.0", *, architecture: str = "amd64") -> Package:
    """How the signed targets describe a .deb of `deb`."""
    label = Label(AGENT, version, architecture, "deb")
    return Package(label, hashlib.sha256(data).hexdigest(), len(data))


def _pack(data: bytes, how: str) -> bytes:
    if how == "gz":
        return gzip.compress(data, mtime=0)
    return lzma.compress(data) if how == "xz" else data


def _ar(members: list[tuple[str, bytes]]) -> bytes:
    out = b"!<arch>\n"
    for name, data in members:
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode()
        out += data + b"\n" * (len(data) % 2)
    return out


def _tar(members: dict[str, tuple[bytes, int]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        folders: set[str] = set()
        for name in members:
            for parent in reversed(Path(name).parents):
                path = f"./{parent}" if str(parent) != "." else "./"
                if path not in folders:
                    folders.add(path)
                    folder = tarfile.TarInfo(path)
                    folder.type, folder.mode = tarfile.DIRTYPE, 0o755
                    archive.addfile(folder)
        for name, (data, mode) in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), mode
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


RPMBUILD = shutil.which("rpmbuild")


def rpm(folder: Path, version: str = "0.2.0", *, post: str = "", epoch: int = 0) -> Path:
    """An .rpm of one file, built by rpmbuild in `folder`."""
    assert RPMBUILD is not None
    folder.mkdir(parents=True, exist_ok=True)
    number, _, release = version.partition("-")
    spec = folder / "test.spec"
    spec.write_text(
        f"Name: {AGENT}\nVersion: {number}\nRelease: {release or 1}\nSummary: a test\n"
        f"License: none\n" + (f"Epoch: {epoch}\n" if epoch else "") + "%description\na test\n"
        f"%install\nmkdir -p %{{buildroot}}/opt/x\necho {number} > %{{buildroot}}/opt/x/version\n"
        f"%files\n/opt/x/version\n" + (f"%post -p /bin/sh\n{post}\n" if post else "")
    )
    subprocess.run(
        [RPMBUILD, "-bb", "--quiet", "--define", f"_topdir {folder}", "--nodeps", str(spec)],
        check=True,
        capture_output=True,
        timeout=60,
    )
    (built,) = (folder / "RPMS").rglob(f"*-{number}-*.rpm")
    return built
