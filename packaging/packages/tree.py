"""The files of one package, laid out as they will be installed, the same in every build."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from packages import cpython, elf, pages, service, wheels
from packages.catalogue import Command, Package, project, source_files, source_folder
from packages.cpython import VERSION as PYTHON
from packages.cpython import Deb
from packages.tools import Refusal, run
from packages.wheels import Wheel

OPT: Final = "opt/exclave"
RUNTIMES: Final = ("cuda", "cpu")
"""Site folders that the agent also looks into, the first first."""
LAUNCHER: Final = """\
#!/{opt}/{folder}/runtime/bin/python3 -I
import sys

from {module} import main

sys.exit(main())
"""
# Isolated like -I, but for the seed of hashes, without which compiling is not reproducible.
_PYTHON: Final = ("-B", "-P", "-s")


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be built: a package, its version, its moment, its parts."""

    package: Package
    version: str
    epoch: int
    """Every file's modification time, seconds since 1970."""
    debs: tuple[Deb, ...]
    wheels: tuple[Wheel, ...]


def build(order: Order, stage: Path) -> elf.Needs:
    """Lay out a package below `stage`; returns what it needs of the system. Raises: Refusal."""
    package = order.package
    interpreter = cpython.interpreter(order.debs)
    home = stage / OPT / package.folder
    home.mkdir(parents=True)
    site = home
    if package.interpreter:
        shutil.copytree(interpreter / "runtime", home / "runtime", symlinks=True)
        site = home / "runtime" / "lib" / f"python{PYTHON}" / "dist-packages"
        site.mkdir()
    for wheel in order.wheels:
        wheels.unpack(wheel, site)
    elf.strip(elf.objects(site))
    elf.link_twins(site)
    if package.interpreter:
        _own(order, home, site)
        pages.write(order.package, order.version, order.epoch, home, stage / "usr" / "share")
    service.install(package, stage)
    _contents(order, home)
    _copyright(order, interpreter / "licences", stage)
    python = (home if package.interpreter else interpreter) / "runtime" / "bin" / "python3"
    _compile(python, home, stage)
    normalise(stage, order.epoch)
    return elf.needs(home, beside=_beside(package, python))


def _beside(package: Package, python: Path) -> frozenset[str]:
    """Libraries that are there already when a runtime is imported: the interpreter's own."""
    if package.interpreter:
        return frozenset()
    loaded = elf.needed([python])[python]
    return loaded | elf.CUDA if package.variant == "cuda" else loaded


def _own(order: Order, home: Path, site: Path) -> None:
    """Our own packages, their metadata, and the launchers."""
    package = order.package
    for name in package.sources:
        root = source_folder(name)
        for path in source_files(root):
            target = site / name / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    info = site / f"exclave-{order.version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(metadata(order.version), encoding="utf-8")
    if package.name == "exclave-agent":
        lines = "".join(f"/{OPT}/runtimes/{name}\n" for name in RUNTIMES)
        (site / "exclave-runtimes.pth").write_text(lines, encoding="ascii")
    (home / "bin").mkdir()
    for command in package.commands:
        path = home / "bin" / command.name
        path.write_text(launcher(package, command), encoding="ascii")
        path.chmod(0o755)


def metadata(version: str) -> str:
    """What importlib.metadata tells of this distribution."""
    table = project()["project"]
    return (
        "Metadata-Version: 2.4\n"
        f"Name: {table['name']}\n"
        f"Version: {version}\n"
        f"Summary: {table['description']}\n"
        f"License-Expression: {table['license']}\n"
        f"Requires-Python: {table['requires-python']}\n"
    )


def launcher(package: Package, command: Command) -> str:
    """A command: Python straight away, no shell in between."""
    return LAUNCHER.format(opt=OPT, folder=package.folder, module=command.module)


def _contents(order: Order, home: Path) -> None:
    """An inventory of what others made: which versions, by which digests."""
    debs = [{"name": d.name, "sha256": d.sha256, "version": d.version} for d in order.debs]
    inventory: dict[str, Any] = {
        "package": order.package.name,
        "python": PYTHON,
        "version": order.version,
        "wheels": wheels.listing(list(order.wheels)),
    }
    folder = home
    if order.package.interpreter:
        inventory["debian"] = debs
        folder = home / "share"
        folder.mkdir(exist_ok=True)
    text = json.dumps(inventory, indent=2, sort_keys=True) + "\n"
    (folder / "contents.json").write_text(text, encoding="ascii")


def _copyright(order: Order, licences: Path, stage: Path) -> None:
    """Every licence once, under the names of what it covers."""
    parts: list[tuple[str, list[str]]] = []
    if order.package.interpreter:
        for deb in order.debs:
            path = licences / deb.name
            texts = [path.read_text(encoding="utf-8", errors="replace")] if path.exists() else []
            parts.append((f"{deb.name} {deb.version} (Debian)", texts))
    for wheel in order.wheels:
        title = f"{wheel.name} {wheel.version}: {wheel.licence}"
        parts.append((title, wheels.licence_texts(wheel)))
    covered: dict[str, list[str]] = {}
    for title, texts in parts:
        for text in texts:
            covered.setdefault(text.strip(), []).append(title)
    rule = "=" * 78
    lines = [order.package.name, "", f"Exclave: {project()['project']['license']}", ""]
    lines += ["It holds:", *(f"  {title}" for title, _ in parts)]
    for text, titles in covered.items():
        lines += ["", rule, *titles, rule, "", text]
    folder = stage / "usr" / "share" / "doc" / order.package.name
    folder.mkdir(parents=True)
    (folder / "copyright").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _compile(python: Path, home: Path, stage: Path) -> None:
    """Byte code for every module, which names the files where they will be installed."""
    command: list[str | Path] = [python, *_PYTHON, "-m", "compileall", "-q", "-f", "-j1"]
    command += ["--invalidation-mode", "unchecked-hash", "-s", stage, "-p", "/"]
    folder = home / "runtime" / "lib" / f"python{PYTHON}"
    run([*command, folder if folder.exists() else home])


def normalise(stage: Path, epoch: int) -> None:
    """The same modes and times in every build. Raises: Refusal for what is no file of ours."""
    stage.chmod(0o755)
    for path in sorted(stage.rglob("*")):
        if path.is_symlink():
            if not path.resolve().is_relative_to(stage.resolve()):
                raise Refusal(f"{path.relative_to(stage)} links out of the package")
        elif path.is_dir() or path.parent.name == "bin":
            path.chmod(0o755)
        else:
            path.chmod(0o644)
    for path in (stage, *stage.rglob("*")):
        os.utime(path, (epoch, epoch), follow_symlinks=False)
