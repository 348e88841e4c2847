"""Other people's distributions: resolved by pip from our pins, unpacked by us.

Unpacking is a dozen lines, and pip's own leaves paths of the builder's machine behind.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from email.parser import HeaderParser
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Final

from packages import tools
from packages.catalogue import LEFT_OUT, Package, canonical, named, requirements
from packages.tools import ROOT, Refusal, run, say

CONSTRAINTS: Final = ROOT / "packaging" / "constraints.txt"
TAGS: Final = (
    *(f"manylinux_2_{minor}_x86_64" for minor in range(36, 4, -1)),
    *("manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"),
)
"""Debian 12's C library is 2.36; the last is for llama-cpp-python, which is built here."""
NOT_INSTALLED: Final = (
    # Sources and headers of what is compiled, types for checkers, tests and their data.
    *("*.pyi", "*.pyx", "*.pxd", "*.pxi", "*.c", "*.h", "*.hpp", "*.cpp", "*.a", "*/py.typed"),
    *("*/tests/*", "*/test_data/*", "*/conftest.py"),
    # What an installer would use; false once something is left out.
    *("*.dist-info/RECORD", "*.dist-info/WHEEL", "*.dist-info/top_level.txt"),
)
NOT_ASKED: Final = (
    *("ad", "al", "ar", "az", "bg", "by", "cl", "cn", "co", "cr", "cu", "cy", "cz", "do", "dz"),
    *("ec", "ee", "eg", "fo", "gh", "gn", "gr", "gt", "hr", "hu", "id", "ie", "il", "is_", "jp"),
    *("ke", "kr", "li", "lt", "lu", "lv", "ma", "mc", "md", "me", "mk", "mt", "mu", "mx", "my"),
    *("mz", "no", "nz", "pe", "pk", "py", "ro", "rs", "ru", "sg", "si", "sk", "sm", "sn", "sv"),
    *("th", "tn", "tr", "tw", "ua", "uy", "ve", "vn", "za"),
)
"""Countries of python-stdnum that exclave_policy.guards.national does not look for."""
UNUSED: Final = {
    # 27 MB: extensions of the language that a policy cannot ask for.
    "cel-expr-python": ("cel_expr_python/ext/*",),
    # Copies of llama_cpp/lib for C programs; an HTTP server with needs of its own.
    "llama-cpp-python": ("bin/*", "lib/*", "include/*", "llama_cpp/server/*"),
    "numpy": ("numpy/distutils/*", "numpy/f2py/*"),
    # 45 MB: the engine once more for C programs; tools that make models, not run them.
    "onnxruntime": (
        "onnxruntime/capi/libonnxruntime.so.*",
        *(f"onnxruntime/{name}/*" for name in ("backend", "datasets", "quantization", "tools")),
        "onnxruntime/transformers/*",
    ),
    # 21 MB: where a number is from, and who carries it. Only whether it is one is asked.
    "phonenumbers": tuple(
        f"phonenumbers/{name}/*" for name in ("geodata", "carrierdata", "tzdata")
    ),
    # 22 MB: names of countries in other languages; languages, parts of countries.
    "pycountry": (
        *("pycountry/locales/*", "pycountry/tests/*"),
        *(f"pycountry/databases/iso{name}*" for name in ("15924", "3166-2", "4217", "639-")),
    ),
    # 5 MB: the banks of each country. An IBAN is judged by its own checksum.
    "schwifty": ("schwifty/bank_registry/*",),
    # Makers of network cards, mobile networks, post codes, trades: none of them a person's.
    "python-stdnum": (
        *("stdnum/oui.dat", "stdnum/imsi.dat", "stdnum/cn/loc.dat", "stdnum/eu/nace*.dat"),
        *("stdnum/at/postleitzahl.dat", "stdnum/nz/banks.dat", "stdnum/isil.dat"),
        "stdnum/be/banks.dat",
        *(f"stdnum/{country}/*" for country in NOT_ASKED),
    ),
}


@dataclass(frozen=True, slots=True)
class Wheel:
    """One file to be unpacked."""

    path: Path
    name: str
    version: str
    sha256: str
    licence: str

    @classmethod
    def read(cls, path: Path) -> Wheel:
        """What the wheel says of itself."""
        with zipfile.ZipFile(path) as archive:
            (inside,) = (
                name
                for name in archive.namelist()
                if name.endswith(".dist-info/METADATA") and name.count("/") == 1
            )
            headers = HeaderParser().parsestr(archive.read(inside).decode("utf-8", "replace"))
        licence = headers["License-Expression"] or ""
        if not licence:
            found = [line for line in headers.get_all("Classifier", []) if "License ::" in line]
            licence = ", ".join(line.rsplit(" :: ", 1)[1] for line in found)
        if not licence:
            licence = (headers["License"] or "see its text").splitlines()[0]
        return cls(
            path, canonical(headers["Name"]), headers["Version"], tools.digest(path), licence
        )


def resolve(package: Package, llama: Path | None = None) -> list[Wheel]:
    """The wheels of a package, sorted by name. `llama`: the wheel that was built here.

    Raises: Refusal, also for a distribution that constraints.txt does not pin.
    """
    asked = requirements(package)
    folder = _download(asked, llama)
    wheels = sorted((Wheel.read(path) for path in folder.glob("*.whl")), key=lambda one: one.name)
    elsewhere = set(LEFT_OUT) | set(package.without)
    if package.beyond:
        elsewhere |= {wheel.name for wheel in resolve(named(package.beyond))}
    chosen = [wheel for wheel in wheels if wheel.name not in elsewhere]
    _check_pins([wheel for wheel in chosen if llama is None or wheel.path.name != llama.name])
    return chosen


def _check_pins(wheels: list[Wheel]) -> None:
    pins = {}
    for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines():
        if "==" in line:
            pins[canonical(line)] = line.split("==", 1)[1].strip()
    loose = [f"{one.name}=={one.version}" for one in wheels if pins.get(one.name) != one.version]
    if loose:
        raise Refusal(
            f"packaging/constraints.txt does not pin what would be packaged: {', '.join(loose)}",
            "pin it: the same sources must give the same package tomorrow",
        )


def _download(asked: list[str], llama: Path | None) -> Path:
    """A folder with the wheels for these requirements, made once."""
    parts = [*asked, *TAGS, CONSTRAINTS.read_text(encoding="utf-8")]
    if llama is not None:
        parts.append(tools.digest(llama))
    key = sha256("\n".join(parts).encode()).hexdigest()[:16]
    folder = tools.cache() / f"wheels-{key}"
    with tools.alone(tools.cache()):
        if not folder.exists():
            say(f"downloading wheels for {len(asked)} requirements")
            _pip(asked, llama, folder)
    return folder


def _pip(asked: list[str], llama: Path | None, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--only-binary=:all:", "--implementation=cp", "--python-version=3.11"]
    command += ["--abi=cp311", "--abi=abi3", "--abi=none"]
    command += [f"--platform={tag}" for tag in TAGS]
    command += [f"--constraint={CONSTRAINTS}"]
    if llama is not None:
        command.append(f"--find-links={llama.parent}")
    with tempfile.TemporaryDirectory(dir=tools.cache()) as scratch:
        made = Path(scratch) / "made"
        run([*command, f"--dest={made}", *asked])
        made.rename(folder)


def unpack(wheel: Wheel, site: Path) -> None:
    """Put a wheel's files into a site folder, without what nobody needs there."""
    patterns = (*NOT_INSTALLED, *UNUSED.get(wheel.name, ()))
    with zipfile.ZipFile(wheel.path) as archive:
        for name in sorted(archive.namelist()):
            place = _place(name)
            if place is None or any(fnmatchcase(place, pattern) for pattern in patterns):
                continue
            target = site / place
            if target.exists() and not target.samefile(site):
                raise Refusal(f"{wheel.name} brings {place}, which another wheel has brought")
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file)


def _place(name: str) -> str | None:
    """Where a wheel's member belongs below the site folder; None: nowhere. Raises: Refusal."""
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts:
        raise Refusal(f"a wheel holds the path {name}")
    if name.endswith("/"):
        return None
    if parts[0].endswith(".data"):
        if parts[1] not in ("purelib", "platlib"):
            return None  # scripts, headers, data: for people at a prompt
        parts = parts[2:]
    return str(PurePosixPath(*parts))


def licence_texts(wheel: Wheel) -> list[str]:
    """The texts that a wheel's licence obliges us to pass on."""
    with zipfile.ZipFile(wheel.path) as archive:
        return [
            archive.read(name).decode("utf-8", "replace")
            for name in sorted(archive.namelist())
            if _is_licence(PurePosixPath(name))
        ]


def _is_licence(path: PurePosixPath) -> bool:
    if not path.parts[0].endswith(".dist-info"):
        return path.name in ("LICENSE", "ThirdPartyNotices.txt") and len(path.parts) == 2
    if "licenses" in path.parts or "license_files" in path.parts:
        return not str(path).endswith("/")
    return path.name.upper().startswith(("LICEN", "COPYING", "NOTICE", "AUTHORS"))


def llama_wheel(variant: str) -> Path:
    """The llama-cpp-python wheel of a variant, built once by packaging/build_llama_wheel.py."""
    code = "import build_llama_wheel as build\n"
    if variant == "cuda":
        _check_cuda()
        code += "build.FLAGS += ['-DGGML_CUDA=ON']\n"
    code += "build.main()\n"
    paths = {"PYTHONPATH": str(ROOT / "packaging")}
    printed = run([sys.executable, "-c", code], env=paths, talks=True)
    return Path(printed.strip().splitlines()[-1])


def _check_cuda() -> None:
    """Raises: Refusal, unless the toolkit that compiles llama.cpp for CUDA is here."""
    hint = "install the CUDA toolkit (12 or 13) with cuBLAS and build there; no GPU is needed"
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise Refusal("exclave-runtime-cuda needs NVIDIA's compiler, and nvcc is not on PATH", hint)
    # nvcc may be a link or a wrapper: the toolkit's usual place counts as well.
    homes = (Path(nvcc).resolve().parents[1], Path("/usr/local/cuda"), Path("/usr"))
    header = "include/cublas_v2.h"
    if not any((home / header).exists() for home in homes):
        raise Refusal(
            f"exclave-runtime-cuda needs cuBLAS, and the toolkit of {nvcc} has no cublas_v2.h", hint
        )


def listing(wheels: list[Wheel]) -> list[dict[str, str]]:
    """For contents.json."""
    return [
        {"file": one.path.name, "name": one.name, "sha256": one.sha256, "version": one.version}
        for one in sorted(wheels, key=lambda one: one.name)
    ]
