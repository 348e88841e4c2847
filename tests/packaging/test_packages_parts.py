"""The parts of the builder, on small data: wheels, objects, archives, descriptions."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from packages import deb, elf, nfpm, tools, tree, wheels
from packages.catalogue import AGENT, CLI, PACKAGES, RUNTIME_CPU, Package
from packages.tools import Refusal
from packages.wheels import Wheel


def wheel(folder: Path, members: dict[str, str], name: str = "thing") -> Wheel:
    path = folder / f"{name}-1.0-py3-none-any.whl"
    headers = f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\nLicense-Expression: MIT\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}-1.0.dist-info/METADATA", headers)
        for member, text in members.items():
            archive.writestr(member, text)
    return Wheel.read(path)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_wheel_is_unpacked_without_what_nobody_needs(tmp_path: Path) -> None:
    one = wheel(
        tmp_path,
        {
            "thing/__init__.py": "",
            "thing/__init__.pyi": "",
            "thing/core.c": "",
            "thing/tests/test_it.py": "",
            "thing-1.0.dist-info/RECORD": "",
            "thing-1.0.dist-info/entry_points.txt": "",
            "thing-1.0.dist-info/licenses/LICENSE": "text",
            "thing-1.0.data/purelib/thing/more.py": "",
            "thing-1.0.data/scripts/thing": "",
        },
    )
    wheels.unpack(one, tmp_path / "site")
    assert files(tmp_path / "site") == {
        "thing/__init__.py",
        "thing/more.py",
        "thing-1.0.dist-info/METADATA",
        "thing-1.0.dist-info/entry_points.txt",
        "thing-1.0.dist-info/licenses/LICENSE",
    }
    assert wheels.licence_texts(one) == ["text"]


@pytest.mark.parametrize("member", ["../outside.py", "/etc/outside.py", "a/../../outside.py"])
def test_a_wheel_that_writes_elsewhere_is_refused(tmp_path: Path, member: str) -> None:
    one = wheel(tmp_path, {member: ""})
    with pytest.raises(Refusal, match="holds the path"):
        wheels.unpack(one, tmp_path / "site")


def test_two_wheels_with_one_file_are_refused(tmp_path: Path) -> None:
    for name in ("first", "second"):
        one = wheel(tmp_path, {"same.py": ""}, name)
        if name == "first":
            wheels.unpack(one, tmp_path / "site")
    with pytest.raises(Refusal, match=r"same\.py"):
        wheels.unpack(one, tmp_path / "site")


def test_the_metadata_carries_the_wanted_version(tmp_path: Path) -> None:
    from importlib.metadata import Distribution

    info = tmp_path / "exclave-9.8.7.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(tree.metadata("9.8.7"))
    assert Distribution.at(info).version == "9.8.7"


def test_a_launcher_starts_python_isolated_and_without_a_shell() -> None:
    text = tree.launcher(AGENT, AGENT.commands[0])
    assert text.splitlines()[0] == "#!/opt/exclave/agent/runtime/bin/python3 -I"
    compile(text, "launcher", "exec")


def stage_of(tmp_path: Path) -> Path:
    stage = tmp_path / "stage"
    for name in (
        "opt/exclave/cli/bin/exclave",
        "usr/share/man/man1/exclave.1.gz",
        "usr/share/zsh/vendor-completions/_exclave",
        "usr/share/doc/exclave-cli/copyright",
        "etc/exclave/some.toml",
    ):
        (stage / name).parent.mkdir(parents=True, exist_ok=True)
        (stage / name).write_text(name)
    return stage


def test_the_description_of_a_package(tmp_path: Path) -> None:
    needs = elf.Needs(("libstdc++6",), ("libstdc++.so.6()(64bit)",))
    made = nfpm.describe(CLI, "1.2.3rc4", 1_700_000_000, stage_of(tmp_path), needs)
    assert made["version"] == "1.2.3~rc4"
    assert made["mtime"] == "2023-11-14T22:13:20Z"
    assert made["overrides"]["deb"]["depends"] == ["libc6 (>= 2.36)", "libstdc++6"]
    assert made["overrides"]["rpm"]["depends"] == ["glibc >= 2.36", "libstdc++.so.6()(64bit)"]
    assert set(made["scripts"]) == {"postremove"}
    contents = {(entry["dst"], entry.get("packager")): entry for entry in made["contents"]}
    assert contents["/opt/exclave", None]["type"] == "dir"
    assert contents["/opt/exclave/cli", None]["type"] == "tree"
    assert contents["/etc/exclave/some.toml", None]["type"] == "config|noreplace"
    assert contents["/usr/share/zsh/vendor-completions/_exclave", "deb"]
    assert contents["/usr/share/zsh/site-functions/_exclave", "rpm"]
    link = contents["/usr/bin/exclave-verify", None]
    assert link == {
        "src": "/opt/exclave/cli/bin/exclave-verify",
        "dst": "/usr/bin/exclave-verify",
        "type": "symlink",
    }
    # A folder of the system that a package claims would conflict with the system's own package.
    folders = {entry["dst"] for entry in made["contents"] if entry.get("type") == "dir"}
    assert folders == {"/opt/exclave", "/etc/exclave", "/usr/share/doc/exclave-cli"}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda one: one.name)
def test_every_package_is_described_for_both_families(tmp_path: Path, package: Package) -> None:
    (tmp_path / "opt" / "exclave").mkdir(parents=True)
    made = nfpm.describe(package, "1.0.0", 1, tmp_path, elf.Needs((), ()))
    assert "libc6 (>= 2.36)" in made["overrides"]["deb"]["depends"]
    assert "glibc >= 2.36" in made["overrides"]["rpm"]["depends"]
    assert made["rpm"]["buildhost"] == "exclave"


def test_the_agent_recommends_a_runtime_and_runtimes_recommend_nothing(tmp_path: Path) -> None:
    (tmp_path / "opt" / "exclave").mkdir(parents=True)
    made = nfpm.describe(AGENT, "1.0.0", 1, tmp_path, elf.Needs((), ()))
    assert made["overrides"]["deb"]["recommends"] == ["exclave-runtime-cpu | exclave-runtime-cuda"]
    assert set(made["scripts"]) == {"postinstall", "preremove", "postremove"}
    runtime = nfpm.describe(RUNTIME_CPU, "1.0.0", 1, tmp_path, elf.Needs((), ()))
    assert all("recommends" not in part for part in runtime["overrides"].values())


def test_normalised_files_have_one_time_and_one_of_two_modes(tmp_path: Path) -> None:
    stage = stage_of(tmp_path)
    (stage / "etc/exclave/some.toml").chmod(0o600)
    tree.normalise(stage, 1_700_000_000)
    for path in (stage, *stage.rglob("*")):
        assert path.stat().st_mtime == 1_700_000_000
    assert (stage / "etc/exclave/some.toml").stat().st_mode & 0o777 == 0o644
    assert (stage / "opt/exclave/cli/bin/exclave").stat().st_mode & 0o777 == 0o755


def test_a_link_out_of_the_package_is_refused(tmp_path: Path) -> None:
    stage = stage_of(tmp_path)
    (stage / "etc/exclave/link").symlink_to("/etc/passwd")
    with pytest.raises(Refusal, match="links out of the package"):
        tree.normalise(stage, 1)


needs_binutils = pytest.mark.skipif(
    shutil.which("readelf") is None or shutil.which("patchelf") is None,
    reason="binutils or patchelf is not installed",
)


def library() -> Path:
    import _ctypes

    return Path(os.path.realpath(_ctypes.__file__))


@needs_binutils
def test_a_library_that_nothing_brings_is_refused_by_name(tmp_path: Path) -> None:
    shutil.copy(library(), tmp_path / "it.so")
    with pytest.raises(Refusal, match=r"it\.so needs libffi"):
        elf.needs(tmp_path)
    (tmp_path / "libffi.so.8").touch()
    if "libffi.so.8" in next(iter(elf.needed([tmp_path / "it.so"]).values())):
        assert elf.needs(tmp_path) == elf.Needs((), ())


@needs_binutils
def test_stripping_keeps_a_library_loadable(tmp_path: Path) -> None:
    copy = tmp_path / "it.so"
    shutil.copy(library(), copy)
    elf.strip([copy])
    assert elf.sound(copy)
    assert [path.name for path in tmp_path.iterdir()] == ["it.so"]


@needs_binutils
def test_copies_of_a_library_become_links(tmp_path: Path) -> None:
    for name in ("libx.so", "libx.so.0", "libx.so.0.5"):
        shutil.copy(library(), tmp_path / name)
    elf.link_twins(tmp_path)
    assert not (tmp_path / "libx.so").is_symlink()
    assert [os.readlink(tmp_path / name) for name in ("libx.so.0", "libx.so.0.5")] == [
        "libx.so",
        "libx.so",
    ]


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")
def test_a_repacked_deb_holds_the_same(tmp_path: Path) -> None:
    control = tmp_path / "in" / "DEBIAN" / "control"
    control.parent.mkdir(parents=True)
    control.write_text(
        "Package: p\nVersion: 1\nArchitecture: all\nMaintainer: m <m@example.org>\nDescription: d\n"
    )
    (tmp_path / "in" / "file").write_text("text" * 1000)
    path = tmp_path / "p.deb"
    build = ["dpkg-deb", "--root-owner-group", "-Znone", "-b", str(tmp_path / "in"), str(path)]
    subprocess.run(build, check=True, capture_output=True)
    before = subprocess.run(["dpkg-deb", "-c", path], check=True, capture_output=True).stdout
    deb.repack(path, tmp_path)
    after = subprocess.run(["dpkg-deb", "-c", path], check=True, capture_output=True).stdout
    assert before == after
    assert b"data.tar.xz" in path.read_bytes()
    first = path.read_bytes()
    subprocess.run(build, check=True, capture_output=True)
    deb.repack(path, tmp_path)
    assert first == path.read_bytes()


def test_a_failed_tool_is_told_with_its_words() -> None:
    with pytest.raises(Refusal, match=r"exit code 3[\s\S]*the reason"):
        tools.run(["sh", "-c", "echo the reason >&2; exit 3"])
