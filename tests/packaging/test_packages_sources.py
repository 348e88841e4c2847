"""What goes into a package: read from pyproject.toml, complete, pinned, and found by place."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from exclave_testing.processes import ROOT
from packages import build, nfpm, service, stamp, wheels
from packages.catalogue import (
    AGENT,
    CLI,
    COORDINATOR,
    ENGINES,
    PACKAGES,
    RUNTIME_CPU,
    Package,
    canonical,
    requirements,
    source_files,
    source_folder,
)
from packages.tools import Refusal

PRODUCTS = (AGENT, COORDINATOR, CLI)


def extras() -> dict[str, list[str]]:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: dict[str, list[str]] = table["optional-dependencies"]
    return found


def names(lines: list[str]) -> set[str]:
    return {canonical(line) for line in lines}


def test_the_agent_gets_its_extra_but_not_the_engines() -> None:
    assert names(requirements(AGENT)) == names(extras()["agent"]) - set(ENGINES) | {"cryptography"}


def test_the_runtime_gets_the_engines() -> None:
    assert set(ENGINES) | {"llama-cpp-python"} <= names(requirements(RUNTIME_CPU))


def test_a_new_dependency_comes_along_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {
        "project": {"dependencies": ["base"], "optional-dependencies": {"agent": ["new>=1", "old"]}}
    }
    monkeypatch.setattr("packages.catalogue.project", lambda: table)
    one = Package("p", "p", extras=("agent",), without={"old": "why"})
    assert requirements(one) == ["base", "new>=1"]


def test_leaving_out_what_nobody_asks_for_is_refused() -> None:
    stale = Package("p", "p", extras=("agent",), without={"not-asked-for": "why"})
    with pytest.raises(Refusal, match="not-asked-for"):
        requirements(stale)


def test_every_omission_has_its_reason() -> None:
    assert all(reason for package in PACKAGES for reason in package.without.values())


@pytest.mark.parametrize("package", PRODUCTS, ids=lambda one: one.name)
def test_no_product_carries_the_others_code(package: Package) -> None:
    own = {"exclave_agent", "exclave_coordinator", "exclave_ctl"} & set(package.sources)
    assert len(own) == 1
    assert {"exclave_protocol", "exclave_policy", "exclave_service"} <= set(package.sources)


def test_sources_are_code_and_data_without_what_python_or_a_checker_wrote() -> None:
    found = source_files(source_folder("exclave_policy"))
    assert any(path.suffix == ".json" for path in found)
    assert not {path.suffix for path in found} & {".pyc", ".pyi"}


def test_every_command_of_the_project_is_in_a_package() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    packaged = {
        command.name: f"{command.module}:main"
        for package in PRODUCTS
        for command in package.commands
        if command.on_path
    }
    assert packaged == scripts


def test_every_file_for_the_system_has_one_owner() -> None:
    owned = [path for package in PACKAGES for path, _ in service.files(package)]
    there = [path for path in service.SOURCE.rglob("*") if path.is_file()]
    assert sorted(owned) == sorted(there)


@pytest.mark.parametrize(
    ("folder", "name", "owner"),
    [
        ("system", "exclave-agent.service", "exclave-agent"),
        ("system", "exclave-worker@.service", "exclave-agent"),
        ("system", "exclave-upgrade.path", "exclave-agent"),
        ("system", "exclave-coordinator.service", "exclave-coordinator"),
        ("system", "exclave-coordinator-backup.timer", "exclave-coordinator"),
        ("sysusers", "exclave-coordinator.conf", "exclave-coordinator"),
        ("journald", "10-exclave.conf", "exclave-agent"),
        ("drop-ins", "20-gpu.conf", "exclave-agent"),
    ],
)
def test_units_go_where_their_name_says(folder: str, name: str, owner: str) -> None:
    assert service.owner(folder, name) == owner


@pytest.mark.parametrize("name", ["exclave-agent", "exclave-coordinator"])
def test_what_can_be_enabled_is_disabled_on_removal(name: str) -> None:
    package = next(one for one in PACKAGES if one.name == name)
    script = (nfpm.DESCRIPTIONS / name / "prerm").read_text()
    for path, place in service.files(package):
        if "systemd/system/" in place and "[Install]" in path.read_text():
            assert path.name in script, f"{name}/prerm does not disable {path.name}"


@pytest.mark.parametrize("path", sorted(nfpm.DESCRIPTIONS.glob("*/p*")), ids=str)
def test_no_script_starts_or_enables(path: Path) -> None:
    code = re.sub(r"(?m)^\s*#.*$", "", path.read_text())
    verbs = re.findall(r"systemctl ([a-z-]+)", code)
    allowed = {"try-restart", "daemon-reload", "disable", "stop", "clean", "show"}
    assert set(verbs) <= allowed | {"reset-failed", "is-active", "status"}


@pytest.mark.parametrize(("version", "packaged"), [("1.2.3", "1.2.3"), ("1.2.3rc1", "1.2.3~rc1")])
def test_a_candidate_sorts_before_its_release(version: str, packaged: str) -> None:
    nfpm.check_version(version)
    assert nfpm.package_version(version) == packaged


@pytest.mark.parametrize(
    "version", ["1.2", "v1.2.3", "1.2.3-1", "1.2.3+x", "1.2.3\n", "", "\u0661.2.3"]
)
def test_a_version_that_the_families_read_differently_is_refused(version: str) -> None:
    with pytest.raises(Refusal):
        nfpm.check_version(version)


def test_the_cuda_runtime_is_built_only_when_asked_for() -> None:
    assert "exclave-runtime-cuda" not in {one.name for one in build.parse([]).packages}
    assert [one.name for one in build.parse(["--variant", "cuda"]).packages] == [
        "exclave-runtime-cuda"
    ]


def test_the_cuda_runtime_without_a_compiler_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Refusal, match="nvcc is not on PATH") as caught:
        wheels.llama_wheel("cuda")
    assert "CUDA toolkit" in caught.value.hint


def test_the_moment_can_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert stamp.epoch(CLI) == 1_700_000_000
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(Refusal):
        stamp.epoch(CLI)


def test_a_stamp_knows_a_changed_input_and_a_changed_package(tmp_path: Path) -> None:
    made = tmp_path / "p.deb"
    made.write_bytes(b"package")
    stamp.write(tmp_path, CLI, "1.0.0", "key", [made])
    assert stamp.fresh(tmp_path, CLI, "1.0.0", "key") == [made]
    assert stamp.fresh(tmp_path, CLI, "1.0.0", "other") == []
    assert stamp.fresh(tmp_path, CLI, "1.0.1", "key") == []
    made.write_bytes(b"touched")
    assert stamp.fresh(tmp_path, CLI, "1.0.0", "key") == []


def test_the_key_covers_every_kind_of_input(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = {str(path.relative_to(ROOT)) for path in stamp.inputs(AGENT)}
    assert {
        "pyproject.toml",
        "packaging/constraints.txt",
        "packaging/packages/tree.py",
        "packaging/nfpm/exclave-agent/postinst",
        "packaging/systemd/system/exclave-agent.service",
        "packaging/exclave_service/manpages.py",
        "agent/exclave_agent/cli/__init__.py",
    } <= inputs
    assert not any("exclave_coordinator" in name for name in inputs)
    first = stamp.key(AGENT, "1.0.0", 1, (), [])
    assert first != stamp.key(AGENT, "1.0.1", 1, (), [])
    assert first != stamp.key(AGENT, "1.0.0", 2, (), [])
    assert first != stamp.key(AGENT, "1.0.0", 1, (), ["wheel"])
    assert first == stamp.key(AGENT, "1.0.0", 1, (), [])
