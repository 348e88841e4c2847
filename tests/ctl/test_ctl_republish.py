"""A coordinator that lost publications gets them again from the workspace that saw them."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from exclave_ctl.workspace import Workspace
from exclave_protocol import tufmeta
from exclave_testing.ctl import Ctl
from exclave_testing.fake_admin import FakeCoordinator, FakeTenant


@pytest.fixture
def workspace(ctl: Ctl) -> Path:
    """A tenant's, in which one release was published."""
    made = ctl.make_workspace()
    publish(ctl, made)
    return made


@pytest.fixture
def tenant(workspace: Path, coordinator: FakeCoordinator) -> FakeTenant:
    """The same tenant at the coordinator."""
    return coordinator.admin.tenants["acme"]


@pytest.fixture
def lose(coordinator: FakeCoordinator, tenant: FakeTenant) -> Callable[[], None]:
    """Restores the coordinator to where it was when the test began."""
    kept = copy.copy(tenant)
    kept.roots, kept.artifacts = list(tenant.roots), dict(tenant.artifacts)

    def restore() -> None:
        coordinator.admin.tenants["acme"] = copy.copy(kept)
        coordinator.admin.uploads.clear()

    return restore


def publish(ctl: Ctl, workspace: Path, *more: object) -> str:
    """Build, sign and publish one release; returns its digest."""
    built = ctl.build(workspace, *more)
    ctl.sign(workspace, "alice", "bob")
    ctl("release", "publish", workspace)
    digest: str = built["digest"]
    return digest


def rotate(ctl: Ctl, workspace: Path) -> None:
    """Draft, sign and publish the next root, of the same people."""
    opened = Workspace.load(workspace)
    current = tufmeta.load_root(opened.published_root() or b"").signed
    keys = {
        role: [current.keys[keyid] for keyid in current.roles[role].keyids]
        for role in ("root", "snapshot", "timestamp")
    }
    later = datetime.now(UTC) + timedelta(days=99)
    draft = tufmeta.next_root(
        current, keys["root"], 2, keys["snapshot"][0], keys["timestamp"][0], later
    )
    opened.drafts.write("root.json", tufmeta.to_bytes(draft))
    ctl.sign(workspace, "alice", "carol")
    ctl("release", "publish", workspace)


def saw_expired_targets(ctl: Ctl, workspace: Path) -> None:
    """Targets version 2 were published long ago, and are in the workspace alone by now."""
    opened = Workspace.load(workspace)
    named = tufmeta.load_targets(opened.published_targets() or b"").signed.targets
    draft = tufmeta.new_targets(2, named.values(), datetime.now(UTC) - timedelta(days=1))
    opened.drafts.write("targets.json", tufmeta.to_bytes(draft))
    ctl.sign(workspace, "alice", "bob")
    opened.record_targets(opened.drafts.read("targets.json") or b"")


def second_model(ctl: Ctl) -> Path:
    """A model file of its own, for `--model second=...`."""
    path = ctl.folder / "second.gguf"
    path.write_bytes(b"GGUF" + b"second")
    return path


def test_the_same_bytes_go_out_again(
    ctl: Ctl, coordinator: FakeCoordinator, workspace: Path, lose: Callable[[], None]
) -> None:
    publish(ctl, workspace)
    publish(ctl, workspace, "--model", f"second={second_model(ctl)}")
    before = coordinator.admin.tenants["acme"]
    lose()
    done = ctl("release", "publish", workspace)
    assert (
        "the coordinator has targets 1, this workspace saw 3: publishing 3 again"
        in done.stderr.splitlines()
    )
    assert "published root 1 and targets 3; 3 files uploaded" in done.stdout
    after = coordinator.admin.tenants["acme"]
    assert (after.targets, after.roots) == (before.targets, before.roots)
    assert after.artifacts.keys() == before.artifacts.keys()
    assert "nothing to publish" in ctl("release", "publish", workspace).stdout
    publish(ctl, workspace)  # and it goes on from there
    assert coordinator.admin.tenants["acme"].targets_version == 4


def test_roots_come_back_with_the_targets(
    ctl: Ctl, coordinator: FakeCoordinator, workspace: Path, lose: Callable[[], None]
) -> None:
    rotate(ctl, workspace)
    rotate(ctl, workspace)
    publish(ctl, workspace)
    before = coordinator.admin.tenants["acme"]
    lose()
    done = ctl("release", "publish", workspace)
    assert "has root 1, this workspace saw 3: publishing 3 again" in done.stderr
    assert "has targets 1, this workspace saw 2: publishing 2 again" in done.stderr
    after = coordinator.admin.tenants["acme"]
    assert (after.targets, after.roots) == (before.targets, before.roots)


def test_roots_come_back_alone(ctl: Ctl, workspace: Path, lose: Callable[[], None]) -> None:
    rotate(ctl, workspace)
    lose()
    done = ctl.json("release", "publish", workspace)
    assert done == {"published": True, "root_version": 2, "targets_version": 1, "uploaded": 0}


def test_a_tenant_whose_first_publication_was_lost(
    ctl: Ctl, coordinator: FakeCoordinator, workspace: Path, tenant: FakeTenant
) -> None:
    roots, targets = list(tenant.roots), tenant.targets
    tenant.roots, tenant.targets, tenant.artifacts = [], b"", {}
    done = ctl("release", "publish", workspace)
    assert "has root of no version, this workspace saw 1: publishing 1 again" in done.stderr
    assert (tenant.roots, tenant.targets) == (roots, targets)


def test_other_commands_do_not_believe_it_and_say_what_to_do(
    ctl: Ctl, workspace: Path, lose: Callable[[], None]
) -> None:
    publish(ctl, workspace)
    known = Workspace.load(workspace).published_targets()
    lose()
    for words in (("build", workspace, "--pack", ctl.pack()), ("renew", workspace)):
        refused = ctl("release", *words, code=1).stderr.replace("\n", " ")
        assert "the coordinator has targets 1, this workspace saw 2" in refused
        assert f"`exclave release publish {workspace}` publishes again" in refused
        assert "if not, find out who changed it" in refused
    assert Workspace.load(workspace).published_targets() == known


def test_a_file_that_is_nowhere_any_more_is_named(
    ctl: Ctl, coordinator: FakeCoordinator, workspace: Path, lose: Callable[[], None]
) -> None:
    path = second_model(ctl)
    publish(ctl, workspace, "--model", f"second={path}")
    lose()
    path.unlink()
    refused = ctl("release", "publish", workspace, code=1).stderr
    assert "1 files are neither at the coordinator nor here: models/" in refused
    assert f"(was {path})" in refused
    assert coordinator.admin.uploads == []
    assert coordinator.admin.tenants["acme"].targets_version == 1
    second_model(ctl)
    assert ctl.json("release", "publish", workspace)["targets_version"] == 2


def test_a_root_that_the_workspace_lost_is_named(
    ctl: Ctl, workspace: Path, lose: Callable[[], None]
) -> None:
    rotate(ctl, workspace)
    rotate(ctl, workspace)
    lose()
    (workspace / "published" / "2.root.json").unlink()
    refused = ctl("release", "publish", workspace, code=1).stderr
    assert "published/2.root.json is missing" in refused
    assert "restore the workspace from its backup" in refused


def test_a_draft_that_lacks_signatures_waits_and_what_was_lost_does_not(
    ctl: Ctl, coordinator: FakeCoordinator, workspace: Path, lose: Callable[[], None]
) -> None:
    publish(ctl, workspace)
    ctl.build(workspace)
    ctl.sign(workspace, "alice")
    lose()
    refused = ctl("release", "publish", workspace, code=1).stderr
    assert "publishing 2 again" in refused
    assert "targets version 3 has 1 of 2 signatures" in refused
    assert coordinator.admin.tenants["acme"].targets_version == 2


def test_a_signed_draft_goes_out_instead_of_what_it_follows(
    ctl: Ctl, coordinator: FakeCoordinator, workspace: Path, lose: Callable[[], None]
) -> None:
    rotate(ctl, workspace)
    saw_expired_targets(ctl, workspace)
    lose()
    refused = ctl("release", "publish", workspace, code=1).stderr.replace("\n", " ")
    assert "targets metadata version 2 has expired" in refused
    assert f"`exclave release renew {workspace} --offline` drafts what follows" in refused
    ctl("release", "renew", workspace, "--offline")
    ctl.sign(workspace, "bob", "carol")
    done = ctl("release", "publish", workspace)
    assert "has root 1, this workspace saw 2: publishing 2 again" in done.stderr
    assert "has targets 1, this workspace saw 2: publishing 3, which follows it" in done.stderr
    after = coordinator.admin.tenants["acme"]
    assert (len(after.roots), after.targets_version) == (2, 3)


def test_a_release_published_since_the_restore_is_named(
    ctl: Ctl, coordinator: FakeCoordinator, workspace: Path, lose: Callable[[], None]
) -> None:
    twin = ctl.folder / "twin"
    shutil.copytree(workspace, twin)
    for _ in range(2):
        publish(ctl, workspace)
    lose()
    since = publish(ctl, twin, "--offline-grace", "1h")
    done = ctl("release", "publish", workspace)
    assert "the coordinator has targets 2, this workspace saw 3" in done.stderr
    assert f"release 2 ({since}) is at the coordinator alone: build it again" in done.stderr
    assert coordinator.admin.tenants["acme"].targets_version == 3


def test_the_same_version_with_other_content_is_not_taken_over(
    ctl: Ctl, coordinator: FakeCoordinator, workspace: Path, lose: Callable[[], None]
) -> None:
    twin = ctl.folder / "twin"
    shutil.copytree(workspace, twin)
    publish(ctl, workspace)
    lose()
    since = publish(ctl, twin, "--offline-grace", "1h")
    ours, theirs = Workspace.load(workspace).published_targets(), coordinator.admin.tenants["acme"]
    fork = theirs.targets
    for words in (
        ("build", workspace, "--pack", ctl.pack()),
        ("renew", workspace),
        ("publish", workspace),
    ):
        refused = ctl("release", *words, code=1).stderr.replace("\n", " ")
        assert (
            "targets 2 at the coordinator are others than those that this workspace saw" in refused
        )
        assert f"`exclave release build {workspace} --offline ...`" in refused
        assert "the next version must follow both" in refused
        assert Workspace.load(workspace).published_targets() == ours
        assert theirs.targets == fork
    ctl("release", "build", workspace, "--pack", ctl.pack(), "--offline")
    ctl.sign(workspace, "alice", "bob")
    done = ctl("release", "publish", workspace)
    assert "this workspace saw: publishing 3, which follows it" in done.stderr
    assert f"release 2 ({since}) is at the coordinator alone: build it again" in done.stderr
    assert theirs.targets_version == 3
    assert Workspace.load(workspace).published_targets() == theirs.targets
    publish(ctl, workspace)  # and it goes on from there


def test_more_signatures_on_the_same_targets_are_no_fork(
    ctl: Ctl, workspace: Path, tenant: FakeTenant
) -> None:
    same = tufmeta.load_targets(tenant.targets)
    same.signatures.popitem()
    known = Workspace.load(workspace)
    known.record_targets(tufmeta.to_bytes(same))
    ctl("release", "renew", workspace)
    assert known.published_targets() == tenant.targets


def test_it_only_ever_goes_forwards(
    ctl: Ctl, coordinator: FakeCoordinator, workspace: Path
) -> None:
    older = ctl.folder / "older"
    shutil.copytree(workspace, older)
    publish(ctl, workspace)
    newest = coordinator.admin.tenants["acme"].targets
    assert "nothing to publish: root 1 and targets 2" in ctl("release", "publish", older).stdout
    assert coordinator.admin.tenants["acme"].targets == newest
    assert Workspace.load(older).published_targets() == newest


def test_nothing_is_sent_to_a_coordinator_of_other_people(
    ctl: Ctl, coordinator: FakeCoordinator, workspace: Path, tenant: FakeTenant
) -> None:
    rotate(ctl, workspace)
    stranger = tufmeta.load_root(tenant.roots[0])
    stranger.signed.roles["root"].threshold = 1
    tenant.roots, tenant.targets, tenant.artifacts = [tufmeta.to_bytes(stranger)], b"", {}
    coordinator.admin.uploads.clear()
    refused = ctl("release", "publish", workspace, code=1).stderr
    assert "published with another root than this workspace's" in refused
    assert (coordinator.admin.uploads, len(tenant.roots)) == ([], 1)


def test_a_file_that_the_coordinator_lost_alone_is_brought_back(
    ctl: Ctl, coordinator: FakeCoordinator, workspace: Path, tenant: FakeTenant
) -> None:
    digest = json.loads((workspace / "files.json").read_text())
    (model,) = digest
    del tenant.artifacts[model]
    done = ctl("release", "publish", workspace)
    assert "targets 1 are published; 1 missing files uploaded" in done.stdout
    assert model in tenant.artifacts
