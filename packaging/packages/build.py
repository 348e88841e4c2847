"""Build our packages: `python packaging/packages/build.py [--only NAME ...] [--version V]`.

Idempotent: what is there and would come out the same is left alone. Two builds of the same
sources are the same, bit for bit; --check-reproducible proves it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

# Started as a file: its own folder is first on the path, and not the one that it is imported from.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from packages import cpython, nfpm, stamp, tools, tree, wheels
from packages.catalogue import PACKAGES, Package, named, project
from packages.tools import ROOT, Refusal, say
from packages.tree import Order


@dataclass(frozen=True, slots=True)
class Wish:
    """What the command line asks for."""

    packages: tuple[Package, ...]
    version: str
    out: Path
    check_reproducible: bool


def parse(arguments: Sequence[str] | None = None) -> Wish:
    """Raises: Refusal."""
    parser = argparse.ArgumentParser(description="Build Exclave's .deb and .rpm packages.")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="build these packages only")
    parser.add_argument("--version", help="call it this version  [default: pyproject.toml's]")
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "build" / "packages",
        help="folder for the packages  [default: build/packages]",
    )
    parser.add_argument(
        "--variant",
        choices=["cpu", "cuda"],
        default="cpu",
        help="cpu: everything but the CUDA runtime; cuda: the CUDA runtime alone (needs nvcc)",
    )
    parser.add_argument(
        "--check-reproducible",
        action="store_true",
        help="build everything twice, and fail unless both are the same bit for bit",
    )
    given = parser.parse_args(arguments)
    version = given.version or str(project()["project"]["version"])
    nfpm.check_version(version)
    chosen = tuple(one for one in PACKAGES if one.variant == given.variant)
    if given.only:
        chosen = tuple(named(name) for name in dict.fromkeys(given.only))
    return Wish(chosen, version, given.out.resolve(), given.check_reproducible)


def order(package: Package, version: str, debs: tuple[cpython.Deb, ...]) -> Order:
    """Everything that a package is made of, fetched. Raises: Refusal."""
    llama = None if package.interpreter else wheels.llama_wheel(package.variant)
    found = tuple(wheels.resolve(package, llama))
    return Order(package, version, stamp.epoch(package), debs, found)


def build(wanted: Order, out: Path) -> list[Path]:
    """Lay out and pack one package, in a folder that is gone afterwards. Raises: Refusal."""
    with tempfile.TemporaryDirectory(prefix="exclave-packages-") as scratch:
        stage = Path(scratch) / "stage"
        stage.mkdir()
        needs = tree.build(wanted, stage)
        description = nfpm.describe(wanted.package, wanted.version, wanted.epoch, stage, needs)
        return nfpm.pack(wanted.package, description, Path(scratch), out)


def make(wanted: Order, out: Path, *, check: bool) -> None:
    """Build one package unless it is there, and tell. Raises: Refusal."""
    package = wanted.package
    digests = [wheel.sha256 for wheel in wanted.wheels]
    key = stamp.key(package, wanted.version, wanted.epoch, wanted.debs, digests)
    files = stamp.fresh(out, package, wanted.version, key)
    if files and not check:
        say(f"{package.name} {wanted.version}: nothing has changed")
        return
    started = time.monotonic()
    files = build(wanted, out)
    stamp.write(out, package, wanted.version, key, files)
    for path in files:
        say(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")
    say(f"{package.name} took {time.monotonic() - started:.0f} s")
    if check:
        compare(wanted, files)


def make_all(orders: Sequence[Order], out: Path, *, check: bool) -> None:
    """Build two packages at a time: half of the work has one thread only. Raises: Refusal."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        for running in [pool.submit(make, one, out, check=check) for one in orders]:
            running.result()


def compare(wanted: Order, files: Sequence[Path]) -> None:
    """Build a package once more, elsewhere. Raises: Refusal unless it is the same."""
    with tempfile.TemporaryDirectory(prefix="exclave-again-") as scratch:
        for path, again in zip(files, build(wanted, Path(scratch)), strict=True):
            if path.read_bytes() != again.read_bytes():
                kept = path.with_suffix(path.suffix + ".other")
                again.replace(kept)
                raise Refusal(
                    f"{path.name} came out differently the second time",
                    f"compare it with {kept.name}, for example with diffoscope",
                )
            say(f"{path.name}: the same both times, {tools.digest(path)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    try:
        wish = parse(arguments)
        tools.need()
        tools.nfpm()
        with tools.alone(wish.out):
            debs = cpython.candidates()
            cpython.interpreter(debs)
            orders = [order(package, wish.version, debs) for package in wish.packages]
            make_all(orders, wish.out, check=wish.check_reproducible)
    except Refusal as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        if refusal.hint:
            print(f"hint: {refusal.hint}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
