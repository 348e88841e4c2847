"""Join tokens: what they pin, and that nothing is trusted on first use."""

from __future__ import annotations

import hashlib
from pathlib import Path

from exclave_protocol.identity import JoinToken
from exclave_testing.ctl import Ctl
from exclave_testing.fake_admin import Authority, FakeCoordinator


def test_a_token_pins_the_ca_and_the_unpublished_root_draft(
    ctl: Ctl, coordinator: FakeCoordinator
) -> None:
    workspace = ctl.make_workspace()
    made = ctl.json("token", "create", "acme", "--agent", "north", "--workspace", workspace)
    token = JoinToken.decode(made["token"])
    assert (token.tenant, token.agent, token.endpoint) == ("acme", "north", "localhost:7444")
    assert token.ca_sha256 == hashlib.sha256(coordinator.ca.der).hexdigest()
    assert token.secret == coordinator.admin.tokens[token.token_id]
    # The pin stays the same once the root has its signatures and is published.
    ctl.build(workspace)
    ctl.sign(workspace, "alice", "bob")
    ctl("release", "publish", workspace)
    assert token.root_pin == coordinator.admin.tenants["acme"].message().root_pin.hex()
    again = ctl.json("token", "create", "acme", "--workspace", workspace)
    assert JoinToken.decode(again["token"]).root_pin == token.root_pin


def test_without_a_workspace_the_coordinators_root_is_taken_with_a_warning(ctl: Ctl) -> None:
    workspace = ctl.make_workspace()
    refused = ctl("token", "create", "acme", code=1)
    assert "has no published root to pin" in refused.stderr
    ctl.build(workspace)
    ctl.sign(workspace, "alice", "bob")
    ctl("release", "publish", workspace)
    done = ctl("token", "create", "acme", "--ttl", "1h")
    assert "warning: the root pin comes from the coordinator itself" in done.stderr
    token = JoinToken.decode(done.stdout)
    pinned = ctl.json("token", "create", "acme", "--workspace", workspace)
    assert token.root_pin == JoinToken.decode(pinned["token"]).root_pin


def test_a_root_other_than_the_workspaces_stops_the_token(
    ctl: Ctl, coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    mine = ctl.make_workspace()
    other = tmp_path / "other"
    key = tmp_path / "alice.pub"
    ctl("tenant", "create", "acme", "--key", key, "--threshold", 1, "--existing", "-o", other)
    ctl.build(other)
    ctl.sign(other, "alice")
    ctl("release", "publish", other)
    refused = ctl("token", "create", "acme", "--workspace", mine, code=1)
    assert "is not this workspace's" in refused.stderr
    assert coordinator.admin.tokens == {}


def test_a_ca_that_the_profile_does_not_know_revokes_the_token(
    ctl: Ctl, coordinator: FakeCoordinator
) -> None:
    workspace = ctl.make_workspace()
    coordinator.admin.ca = Authority("impostor")
    refused = ctl("token", "create", "acme", "--workspace", workspace, code=1)
    assert "a CA that is not in this profile" in refused.stderr
    assert coordinator.admin.tokens == {}


def test_a_token_file_is_private_and_not_overwritten(ctl: Ctl, tmp_path: Path) -> None:
    workspace = ctl.make_workspace()
    file = tmp_path / "north.token"
    words = ("token", "create", "acme", "--workspace", workspace, "-o", file)
    done = ctl(*words)
    assert "exj1." not in done.output
    assert file.stat().st_mode & 0o777 == 0o600
    JoinToken.decode(file.read_text())
    assert "is not overwritten" in ctl(*words, code=1).stderr


def test_revoke(ctl: Ctl, coordinator: FakeCoordinator) -> None:
    workspace = ctl.make_workspace()
    made = ctl.json("token", "create", "acme", "--workspace", workspace)
    ctl("token", "revoke", made["token_id"])
    assert coordinator.admin.tokens == {}
    assert "no such token" in ctl("token", "revoke", made["token_id"], code=1).stderr


def test_a_workspace_of_another_tenant_is_refused(ctl: Ctl) -> None:
    workspace = ctl.make_workspace()
    assert (
        "of tenant acme"
        in ctl("token", "create", "globex", "--workspace", workspace, code=1).stderr
    )
