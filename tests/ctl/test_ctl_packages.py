"""Packages among the signed targets: added, kept, replaced, dropped, shown to who signs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from exclave_protocol import tufmeta
from exclave_protocol.packages import packages_in
from exclave_testing.ctl import Ctl
from exclave_testing.fake_admin import FakeCoordinator
from exclave_testing.packages import deb


def write(folder: Path, version: str, name: str = "", **more: Any) -> Path:
    path = folder / (name or f"agent-{version}.deb")
    path.write_bytes(deb(version, **more))
    return path


def sign_and_publish(ctl: Ctl, workspace: Path) -> Any:
    ctl.sign(workspace, "alice", "bob")
    return ctl.json("release", "publish", workspace)


@pytest.fixture
def workspace(ctl: Ctl) -> Path:
    """With release 1 published, without packages."""
    made = ctl.make_workspace()
    ctl.build(made)
    sign_and_publish(ctl, made)
    return made


def versions(ctl: Ctl) -> list[str]:
    shown = ctl.json("release", "show", "--published", "acme")
    return [package["version"] for package in shown["packages"]]


def test_a_release_is_built_with_packages_and_the_next_one_keeps_them(
    ctl: Ctl, coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    workspace = ctl.make_workspace()
    first, second = write(tmp_path, "0.1.0"), write(tmp_path, "0.2.0")
    ctl.build(workspace, "--package", first, "--package", second)
    assert sign_and_publish(ctl, workspace)["uploaded"] == 6
    tenant = coordinator.admin.tenants["acme"]
    found = packages_in(tufmeta.load_targets(tenant.targets).signed)
    assert [p.version for p in found] == ["0.1.0", "0.2.0"]
    assert tenant.artifacts[found[1].sha256] == second.read_bytes()
    ctl.build(workspace, "--package", "keep")
    sign_and_publish(ctl, workspace)
    ctl.build(workspace)
    sign_and_publish(ctl, workspace)
    assert versions(ctl) == ["0.1.0", "0.2.0"]


def test_packages_are_published_without_a_new_release(
    ctl: Ctl, workspace: Path, tmp_path: Path
) -> None:
    path = write(tmp_path, "0.2.0")
    drafted = ctl.json("release", "package", workspace, "--add", path)
    assert drafted["targets_version"] == 2
    assert [p["version"] for p in drafted["packages"]] == ["0.2.0"]
    signing = ctl("release", "sign", workspace, "--key", tmp_path / "alice.key")
    assert "lets agents install, as root, exclave-agent 0.2.0 (deb, amd64)" in signing.stderr
    assert "also lets release 1 run" in signing.stderr
    ctl.sign(workspace, "bob")
    assert ctl.json("release", "publish", workspace)["uploaded"] == 1
    shown = ctl("release", "show", "--published", "acme").stdout
    assert "exclave-agent  0.2.0" in shown
    assert ctl.json("release", "show", workspace)["published"]["packages"][0]["format"] == "deb"
    again = ctl("release", "package", workspace, "--add", path, code=1)
    assert "published already" in again.stderr


def test_the_three_newest_stay_and_a_rebuilt_version_replaces_its_file(
    ctl: Ctl, workspace: Path, tmp_path: Path
) -> None:
    for number in ("0.9.0", "0.10.0", "0.11.0", "0.12.0"):
        ctl("release", "package", workspace, "--add", write(tmp_path, number))
        sign_and_publish(ctl, workspace)
    assert versions(ctl) == ["0.10.0", "0.11.0", "0.12.0"]
    rebuilt = write(tmp_path, "0.12.0", "rebuilt.deb", fields="Section: net\n")
    other = write(tmp_path, "0.12.0", "arm.deb", architecture="arm64")
    ctl("release", "package", workspace, "--add", rebuilt, "--add", other)
    sign_and_publish(ctl, workspace)
    assert versions(ctl) == ["0.10.0", "0.11.0", "0.12.0", "0.12.0"]
    old = ctl("release", "package", workspace, "--add", tmp_path / "agent-0.9.0.deb", code=1)
    assert "older than the 3 newest" in old.stderr


def test_a_version_is_dropped(ctl: Ctl, workspace: Path, tmp_path: Path) -> None:
    words = [w for v in ("0.1.0", "0.2.0") for w in ("--add", write(tmp_path, v))]
    ctl("release", "package", workspace, *words)
    sign_and_publish(ctl, workspace)
    ctl("release", "package", workspace, "--drop", "0.2.0")
    sign_and_publish(ctl, workspace)
    assert versions(ctl) == ["0.1.0"]
    assert "no published package has version" in (
        ctl("release", "package", workspace, "--drop", "0.2.0", code=1).stderr
    )


def test_what_cannot_be_drafted(ctl: Ctl, tmp_path: Path) -> None:
    workspace = ctl.make_workspace()
    path = write(tmp_path, "0.2.0")
    none = ctl("release", "package", workspace, "--add", path, code=1)
    assert "nothing is published yet" in none.stderr
    assert "say what to --add" in ctl("release", "package", workspace, code=2).stderr
    bad = tmp_path / "bad.deb"
    bad.write_bytes(b"!<arch>\nnothing")
    words = ("release", "build", workspace, "--pack", ctl.pack(), "--package", bad)
    assert "bad.deb: package: the file is cut off" in ctl(*words, code=1).stderr
    missing = ctl(*words[:-1], tmp_path / "none.deb", code=1)
    assert "cannot read package" in missing.stderr


def test_an_unpublished_draft_that_is_replaced_is_told(
    ctl: Ctl, workspace: Path, tmp_path: Path
) -> None:
    ctl.build(workspace)
    done = ctl("release", "package", workspace, "--add", write(tmp_path, "0.2.0"))
    assert "an unpublished draft is replaced" in done.stderr


def test_a_smuggled_package_is_not_signed(ctl: Ctl, workspace: Path, tmp_path: Path) -> None:
    ctl("release", "package", workspace, "--add", write(tmp_path, "0.2.0"))
    path = workspace / "drafts" / "targets.json"
    draft = json.loads(path.read_text())
    (name,) = (n for n in draft["signed"]["targets"] if n.startswith("packages/"))
    del draft["signed"]["targets"][name]["custom"]
    path.write_text(json.dumps(draft))
    refused = ctl("release", "sign", workspace, "--key", ctl.folder / "alice.key", code=1)
    assert "without its description" in refused.stderr
    assert "do not sign" in refused.stderr
