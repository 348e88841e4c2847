"""The packages themselves: what they hold, that it runs from anywhere, that it is reproducible.

They are built into build/packages first; where they are there and current, that takes seconds.
"""

from __future__ import annotations

import gzip
import json
import marshal
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from exclave_testing.processes import ROOT, run
from packages import tools
from packages.catalogue import AGENT, CLI, COORDINATOR, ENGINES, RUNTIME_CPU, Package

BUILD = ROOT / "packaging" / "packages" / "build.py"
OUT = ROOT / "build" / "packages"
PRODUCTS = (AGENT, COORDINATOR, CLI)
BUILT = (*PRODUCTS, RUNTIME_CPU)
# Ten times what it takes: the machine may be busy, and the cache empty.
BUILD_SECONDS = 900
SHARED = ("exclave_protocol", "exclave_policy", "exclave_service", "exclave_http")
WITH_A_RUNTIME = ("llama_cpp", "openai", "httpx2")
"""What the runtime packages bring besides: engines, and the client of remote models."""
RUNTIME_MODULES = frozenset(f"exclave_agent.runtimes.{name}" for name in ("llama", "onnx"))

pytestmark = [
    pytest.mark.skipif(tools.unsuitable() != "", reason=tools.unsuitable() or "-"),
    pytest.mark.timeout(BUILD_SECONDS),
]

IMPORTER = """
import importlib, json, pkgutil, sys
failed = {}
for name in sys.argv[1:]:
    for found in pkgutil.walk_packages(importlib.import_module(name).__path__, name + "."):
        if found.name.rpartition(".")[2] != "__main__":
            try:
                importlib.import_module(found.name)
            except ModuleNotFoundError as error:
                failed[found.name] = error.name
files = sorted({m.__file__ for m in sys.modules.values() if getattr(m, "__file__", None)})
print(json.dumps({"failed": failed, "files": files, "path": sys.path}))
"""


def build(*arguments: str | Path) -> str:
    return run([sys.executable, BUILD, *arguments], timeout=BUILD_SECONDS).stdout


def names_of(package: Package, version: str = "0.1.0") -> tuple[str, str]:
    return f"{package.name}_{version}_amd64.deb", f"{package.name}-{version}-1.x86_64.rpm"


@pytest.fixture(scope="module")
def built() -> Path:
    build()
    return OUT


@pytest.fixture(scope="module")
def unpacked(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Package], Path]:
    """Where a package's files lie; unpacked once."""
    folder = tmp_path_factory.mktemp("unpacked")

    def unpack(package: Package) -> Path:
        place = folder / package.name
        if not place.exists():
            run(["dpkg-deb", "-x", built / names_of(package)[0], place])
        return place

    return unpack


Unpacked = Callable[[Package], Path]


def home(root: Path, package: Package) -> Path:
    return root / "opt" / "exclave" / package.folder


def python_of(unpacked: Unpacked, package: Package) -> Path:
    return home(unpacked(package), package) / "runtime" / "bin" / "python3"


def test_a_second_build_does_nothing(built: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in built.glob("*.deb")}
    said = build()
    assert said.count("nothing has changed") == len(BUILT), said
    assert {path: path.stat().st_mtime_ns for path in built.glob("*.deb")} == before


def test_the_agent_without_runtimes_is_at_most_35_mb(built: Path) -> None:
    assert (built / names_of(AGENT)[0]).stat().st_size <= 35_000_000


def test_two_builds_in_two_folders_are_the_same_bit_for_bit(tmp_path: Path) -> None:
    words = ("--only", CLI.name, "--version", "0.1.1", "--out")
    with ThreadPoolExecutor() as pool:
        folders = (tmp_path / name for name in ("one", "another-and-longer"))
        assert all(pool.map(lambda folder: build(*words, folder), folders))
    for file in names_of(CLI, "0.1.1"):
        first, second = (tmp_path / name / file for name in ("one", "another-and-longer"))
        assert first.read_bytes() == second.read_bytes(), file
    root = tmp_path / "x"
    run(["dpkg-deb", "-x", tmp_path / "one" / names_of(CLI, "0.1.1")[0], root])
    inside = home(root, CLI)
    said = run([inside / "runtime/bin/python3", "-I", inside / "bin/exclave", "--version"]).stdout
    assert said.strip() == "exclave, version 0.1.1"


@pytest.mark.parametrize("package", PRODUCTS, ids=lambda one: one.name)
def test_everything_of_ours_imports_from_wherever_it_lies(
    unpacked: Unpacked, package: Package
) -> None:
    # The product's own package comes first: it settles TLS before anything imports grpc.
    sources = sorted(package.sources, key=lambda name: name in SHARED)
    done = run([python_of(unpacked, package), "-I", "-c", IMPORTER, *sources])
    found = json.loads(done.stdout)
    # Only what runs models may miss something, and only what the runtime packages bring.
    assert set(found["failed"].values()) <= {*ENGINES, *WITH_A_RUNTIME}, found["failed"]
    assert all(name.startswith("exclave_agent.runtimes.") for name in found["failed"])
    if package is AGENT:
        assert set(found["failed"]) >= RUNTIME_MODULES
    inside = str(home(unpacked(package), package)) + "/"
    outside = [name for name in (*found["path"], *found["files"]) if not name.startswith(inside)]
    assert outside == []


def test_the_agent_with_a_runtime_imports_its_engines(unpacked: Unpacked) -> None:
    site = home(unpacked(RUNTIME_CPU), RUNTIME_CPU)
    code = (
        f"import site; site.addsitedir({str(site)!r})\n"
        "import exclave_agent.runtimes.llama, exclave_agent.runtimes.onnx\n"
        "import numpy, onnxruntime, jinja2.sandbox, llama_cpp, llguidance\n"
        "print(numpy.ones((64, 64)).dot(numpy.ones(64)).sum())\n"
        "print(onnxruntime.get_available_providers())\n"
        "schema = llguidance.LLMatcher.grammar_from_json_schema('{}')\n"
        "print(repr(llguidance.LLMatcher.validate_grammar(schema)))\n"
    )
    said = run([python_of(unpacked, AGENT), "-I", "-c", code]).stdout
    assert said.startswith("4096.0\n"), said
    assert "CPUExecutionProvider" in said
    assert said.endswith("''\n"), said


def test_a_policy_is_evaluated_by_the_packaged_engine(unpacked: Unpacked) -> None:
    pack = ROOT / "policies" / "packs" / "starter"
    command = home(unpacked(CLI), CLI) / "bin" / "exclave"
    done = run([python_of(unpacked, CLI), "-I", command, "policy", "test", pack])
    assert "failed" not in done.stdout or "0 failed" in done.stdout, done.stdout


@pytest.mark.parametrize("package", BUILT, ids=lambda one: one.name)
def test_every_object_finds_its_libraries_inside_or_in_a_package_that_is_named(
    unpacked: Unpacked, built: Path, package: Package
) -> None:
    depends = run(["dpkg-deb", "-f", built / names_of(package)[0], "Depends"]).stdout
    allowed = {"libc", "libm", "libdl", "libpthread", "librt", "ld-linux-x86-64"}
    for deb, library in (
        ("libstdc++6", "libstdc++"),
        ("libgcc-s1", "libgcc_s"),
        ("libgomp1", "libgomp"),
    ):
        if deb in depends:
            allowed.add(library)
    if package is RUNTIME_CPU:
        allowed.add("libz")  # loaded already: the interpreter has its own
    root = unpacked(package)
    objects = [
        path
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink() and path.open("rb").read(4) == b"\x7fELF"
    ]
    assert objects
    for path in objects:
        for name, target in re.findall(
            r"(\S+) => (.+?)(?: \(0x|$)", run(["ldd", path]).stdout, re.M
        ):
            inside = Path(target).is_absolute() and Path(os.path.realpath(target)).is_relative_to(
                root
            )
            assert inside or name.split(".so")[0] in allowed, f"{path.name}: {name} => {target}"


@pytest.mark.parametrize("package", BUILT, ids=lambda one: one.name)
def test_compiled_code_names_the_installed_files(unpacked: Unpacked, package: Package) -> None:
    root = unpacked(package)
    sources = {path for path in root.rglob("*.py") if path.is_file()}
    compiled = list(root.rglob("*.pyc"))
    assert len(compiled) == len(sources)
    for path in compiled:
        data = path.read_bytes()
        assert data[4:8] == b"\x01\0\0\0", "not unchecked-hash"
        name = path.name.partition(".cpython-311")[0] + ".py"
        wanted = "/" + str((path.parent.parent / name).relative_to(root))
        # Another version's byte code cannot be read: its string is there all the same.
        assert wanted.encode() in data
        if sys.version_info[:2] == (3, 11):
            assert marshal.loads(data[16:]).co_filename == wanted


@pytest.mark.parametrize("package", BUILT, ids=lambda one: one.name)
def test_nothing_of_the_builders_machine_is_inside(unpacked: Unpacked, package: Package) -> None:
    words = ("exclave-packages-", str(ROOT), str(Path.home() / ".cache"))
    done = subprocess.run(
        ["grep", "-rlaF", *(part for word in words for part in ("-e", word)), unpacked(package)],
        capture_output=True,
        text=True,
    )
    assert done.stdout == ""


@pytest.mark.parametrize("package", BUILT, ids=lambda one: one.name)
def test_an_inventory_tells_what_others_made(unpacked: Unpacked, package: Package) -> None:
    folder = home(unpacked(package), package)
    path = folder / ("share" if package.interpreter else "") / "contents.json"
    told = json.loads(path.read_text())
    assert (told["package"], told["version"]) == (package.name, "0.1.0")
    wheels = [wheel["name"] for wheel in told["wheels"]]
    assert wheels == sorted(wheels)
    assert all(re.fullmatch(r"[0-9a-f]{64}", wheel["sha256"]) for wheel in told["wheels"])
    if package is RUNTIME_CPU:
        assert {*ENGINES, "llama-cpp-python"} <= set(wheels)
    else:
        assert not set(wheels) & {*ENGINES, "llama-cpp-python", "pip"}
        assert "libssl3" in {deb["name"] for deb in told["debian"]}
    copyright_text = (unpacked(package) / f"usr/share/doc/{package.name}/copyright").read_text()
    assert all(name in copyright_text for name in wheels)


@pytest.mark.parametrize("package", PRODUCTS, ids=lambda one: one.name)
def test_commands_their_completion_and_their_manual(unpacked: Unpacked, package: Package) -> None:
    root = unpacked(package)
    for command in package.commands:
        launcher = home(root, package) / "bin" / command.name
        assert os.access(launcher, os.X_OK)
        link = root / "usr" / "bin" / command.name
        assert link.is_symlink() == command.on_path
        if not command.on_path:
            continue
        assert os.readlink(link) == f"/opt/exclave/{package.folder}/bin/{command.name}"
        page = gzip.decompress((root / f"usr/share/man/man1/{command.name}.1.gz").read_bytes())
        assert b'"exclave 0.1.0"' in page
        if command.name != "exclave-verify":
            bash = root / "usr/share/bash-completion/completions" / command.name
            run(["bash", "-n", bash])
            assert f"complete -o nosort -F _{command.name.replace('-', '_')}" in bash.read_text()
            assert (root / f"usr/share/zsh/vendor-completions/_{command.name}").exists()
            assert (root / f"usr/share/fish/vendor_completions.d/{command.name}.fish").exists()


@pytest.mark.parametrize(
    ("package", "words", "offered"),
    [
        (AGENT, "exclave-agent aud", "audit"),
        (COORDINATOR, "exclave-coordinator ser", "serve"),
        (CLI, "exclave release pub", "publish"),
    ],
    ids=lambda one: getattr(one, "name", ""),
)
def test_completion_offers_subcommands(
    unpacked: Unpacked, package: Package, words: str, offered: str
) -> None:
    name = words.split()[0]
    env = {
        f"_{name.replace('-', '_').upper()}_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    launcher = home(unpacked(package), package) / "bin" / name
    said = run([python_of(unpacked, package), "-I", launcher], env=env).stdout
    assert said.strip() == f"plain,{offered}"


@pytest.mark.parametrize("package", BUILT, ids=lambda one: one.name)
def test_nobody_but_root_owns_or_writes(built: Path, package: Package) -> None:
    listing = run(["dpkg-deb", "-c", built / names_of(package)[0]]).stdout.splitlines()
    times = set()
    for line in listing:
        mode, owner, _, day, clock, path = line.split(None, 5)
        assert owner == "root/root", line
        if not mode.startswith("l"):
            assert mode[5] == mode[8] == "-", line
            assert set(mode) <= set("drwx-"), line
        times.add((day, clock))
        assert path.startswith(("./opt/", "./usr/", "./etc/")), line
    assert len(times) == 1


def test_no_two_packages_bring_one_file(unpacked: Unpacked) -> None:
    seen: dict[str, str] = {}
    for package in BUILT:
        root = unpacked(package)
        for path in root.rglob("*"):
            if path.is_symlink() or not path.is_dir():
                place = str(path.relative_to(root))
                assert place not in seen, f"{place}: {package.name} and {seen[place]}"
                seen[place] = package.name


needs_rpm = pytest.mark.skipif(shutil.which("rpm") is None, reason="rpm is not installed")


@needs_rpm
@pytest.mark.parametrize("package", BUILT, ids=lambda one: one.name)
def test_the_rpm_brings_what_the_deb_brings(
    unpacked: Unpacked, built: Path, package: Package
) -> None:
    root = unpacked(package)
    in_deb = {
        f"/{path.relative_to(root)}".replace("zsh/vendor-completions", "zsh/site-functions")
        for path in root.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
    form = "[%{FILEMODES:perms} %{FILEUSERNAME} %{FILENAMES}\n]"
    listed = run(["rpm", "-qp", "--qf", form, built / names_of(package)[1]]).stdout.splitlines()
    rows = [line.split(None, 2) for line in listed]
    assert {name for mode, _, name in rows if not mode.startswith("d")} == in_deb
    assert {owner for _, owner, _ in rows} == {"root"}
    folders = {name for mode, _, name in rows if mode.startswith("d")}
    shared = {"/usr", "/usr/bin", "/usr/lib", "/usr/lib/systemd", "/etc", "/opt", "/usr/share"}
    assert not folders & shared


@needs_rpm
@pytest.mark.parametrize("package", BUILT, ids=lambda one: one.name)
def test_the_rpm_asks_for_and_does_what_the_deb_does(
    built: Path, tmp_path: Path, package: Package
) -> None:
    deb, rpm = (built / name for name in names_of(package))
    run(["dpkg-deb", "-e", deb, tmp_path / "control"])
    scripts = run(["rpm", "-qp", "--scripts", rpm]).stdout
    for name in ("postinst", "prerm", "postrm"):
        path = tmp_path / "control" / name
        if path.exists():
            assert path.read_text().strip() in scripts
    requires = run(["rpm", "-qp", "--requires", rpm]).stdout
    depends = run(["dpkg-deb", "-f", deb, "Depends"]).stdout
    assert ("glibc >= 2.36" in requires) and ("libc6 (>= 2.36)" in depends)
    assert ("systemd >= 252" in requires) == ("systemd (>= 252)" in depends)
    assert ("libgomp.so.1" in requires) == ("libgomp1" in depends)
    kept = run(["rpm", "-qp", "--configfiles", rpm]).stdout.split()
    conffiles = tmp_path / "control" / "conffiles"
    assert kept == (sorted(conffiles.read_text().split()) if conffiles.exists() else [])
