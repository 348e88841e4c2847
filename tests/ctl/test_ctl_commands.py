"""The other commands, and how failures reach the operator."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from exclave_ctl.audits import anomalies
from exclave_protocol.checkpoint import cosign
from exclave_protocol.identity import ROLES
from exclave_protocol.leaf import Leaf, LeafType, encode_leaf
from exclave_protocol.note import add_signature, split_note
from exclave_protocol.pb import admin_pb2 as pb
from exclave_protocol.tree import leaf_hash
from exclave_testing.ctl import Ctl
from exclave_testing.fake_admin import Authority, FakeCoordinator
from exclave_testing.witnesses import FakeWitness, OutsideTree

HEAVY = ("grpc", "tuf", "securesystemslib", "rich", "google.protobuf", "exclave_policy", "yaml")


def test_help_imports_nothing_heavy() -> None:
    code = f"import sys, exclave_ctl.cli; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


# --- operators -----------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_an_issued_operator_works_within_its_role(ctl: Ctl, tmp_path: Path, role: str) -> None:
    folder = tmp_path / "new"
    ctl("operator", "issue", "dora", "--role", role, "-o", folder)
    assert (folder / "key.pem").stat().st_mode & 0o777 == 0o600
    assert json.loads((folder / "profile.json").read_text())["role"] == role
    dora = Ctl(folder, tmp_path)
    assert dora.json("tenant", "list") == []
    dora.make_keys("alice")
    words = ("tenant", "create", "acme", "--key", tmp_path / "alice.pub", "--threshold", 1)
    done = dora(*words, "-o", tmp_path / "ws", code=0 if role == "admin" else 1)
    if role != "admin":
        assert "this operator's role may not do that: needs role admin" in done.stderr
        assert not (tmp_path / "ws").exists()


def test_an_existing_profile_is_not_overwritten(ctl: Ctl, tmp_path: Path) -> None:
    words = ("operator", "issue", "dora", "--role", "auditor", "-o", tmp_path / "new")
    ctl(*words)
    key = (tmp_path / "new" / "key.pem").read_bytes()
    assert "already holds a profile" in ctl(*words, code=1).stderr
    assert (tmp_path / "new" / "key.pem").read_bytes() == key


def test_a_certificate_from_another_ca_is_explained(
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    stranger = Ctl(coordinator.profile("stranger", ca=Authority("other")), tmp_path)
    assert "do not trust each other" in stranger("tenant", "list", code=1).stderr


def test_a_coordinator_that_is_away_is_explained(ctl: Ctl, coordinator: FakeCoordinator) -> None:
    coordinator.stop()
    done = ctl("tenant", "list", code=1)
    assert "error: cannot reach the coordinator\n" in done.stderr
    assert "hint: check that `exclave-coordinator serve` runs" in done.stderr


def test_tls_1_2_is_refused(ctl: Ctl, coordinator: FakeCoordinator) -> None:
    context = ssl.create_default_context(cadata=coordinator.ca.pem.decode())
    context.load_cert_chain(ctl.profile / "cert.pem", ctl.profile / "key.pem")
    context.set_alpn_protocols(["h2"])
    for version, works in ((ssl.TLSVersion.TLSv1_3, True), (ssl.TLSVersion.TLSv1_2, False)):
        context.minimum_version = context.maximum_version = version
        with socket.create_connection(("127.0.0.1", coordinator.port), timeout=10) as raw:
            try:
                with context.wrap_socket(raw, server_hostname="localhost") as secure:
                    assert secure.version() == "TLSv1.3"
                    assert works
            except (ssl.SSLError, ConnectionError):
                assert not works


def test_grpc_imported_too_early_is_an_error_not_a_weaker_tls() -> None:
    env = {k: v for k, v in os.environ.items() if k != "GRPC_SSL_CIPHER_SUITES"}
    for program, works in (("import exclave_ctl, grpc", True), ("import grpc, exclave_ctl", False)):
        done = subprocess.run(
            [sys.executable, "-c", program], env=env, capture_output=True, timeout=60, check=False
        )
        assert (done.returncode == 0) == works, done.stderr
        assert works or b"before require_tls13()" in done.stderr


def test_an_expired_or_mixed_profile_is_explained(
    ctl: Ctl, coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    old = Ctl(coordinator.profile("old", expired=True), tmp_path)
    assert "this profile's certificate expired on" in old("tenant", "list", code=1).stderr
    mixed = Ctl(coordinator.profile("mixed", ca=Authority("other")), tmp_path)
    (mixed.profile / "ca.pem").write_bytes(coordinator.ca.pem)
    assert "not issued by a CA in ca.pem" in mixed("tenant", "list", code=1).stderr


def test_a_failed_handshake_is_one_line_of_error(
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    profile = coordinator.profile("stranger", ca=Authority("other"))
    program = [sys.executable, "-c", "from exclave_ctl.cli import main; main()"]
    done = subprocess.run(
        [*program, "--profile", str(profile), "tenant", "list"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert [line.partition(":")[0] for line in done.stderr.strip().splitlines()] == [
        "error",
        "hint",
    ]


def test_a_missing_or_damaged_profile_is_explained(ctl: Ctl, tmp_path: Path) -> None:
    nowhere = Ctl(tmp_path / "nowhere", tmp_path)
    assert "cannot read profile" in nowhere("tenant", "list", code=1).stderr
    (ctl.profile / "profile.json").write_text('{"endpoint": "localhost:1", "name": "a"}')
    assert "lacks role" in ctl("tenant", "list", code=1).stderr
    (ctl.profile / "profile.json").write_text("[")
    assert "is not JSON" in ctl("tenant", "list", code=1).stderr


# --- tenants -------------------------------------------------------------------------------


def test_tenants_are_listed_and_shown(ctl: Ctl) -> None:
    workspace = ctl.make_workspace()
    assert [t["name"] for t in ctl.json("tenant", "list")] == ["acme"]
    shown = ctl.json("tenant", "show", "acme")
    assert shown["root_version"] == 0
    assert "acme" in ctl("tenant", "list").stdout
    assert "not found: no such tenant" in ctl("tenant", "show", "globex", code=1).stderr
    keys = ("--key", ctl.folder / "alice.pub", "--threshold", 1)
    again = ctl("tenant", "create", "acme", *keys, "-o", ctl.folder / "other", code=1)
    assert "already exists" in again.stderr
    assert "--existing" in again.stderr
    occupied = ctl("tenant", "create", "globex", *keys, "-o", workspace, code=1)
    assert "is already a workspace" in occupied.stderr
    assert [t["name"] for t in ctl.json("tenant", "list")] == ["acme"]


# --- agents and rollouts --------------------------------------------------------------------


def published(ctl: Ctl) -> str:
    """The digest of a published release of acme."""
    workspace = ctl.make_workspace()
    digest: str = ctl.build(workspace)["digest"]
    ctl.sign(workspace, "alice", "bob")
    ctl("release", "publish", workspace)
    return digest


def test_agents(ctl: Ctl, coordinator: FakeCoordinator) -> None:
    assert "no agents yet" in ctl("agent", "list").stderr
    coordinator.admin.add_agent("acme", "north")
    coordinator.admin.add_agent("globex", "south")
    assert [a["name"] for a in ctl.json("agent", "list", "--tenant", "acme")] == ["north"]
    assert "applied" in ctl("agent", "list").stdout
    assert ctl.json("agent", "evict", "acme", "north", "--reason", "moved")["state"] == "evicted"
    banned = ctl.json("agent", "ban", "acme", "north", "--reason", "stolen", "--yes")
    assert banned["state"] == "banned"
    assert coordinator.admin.calls == ["north: moved", "north: stolen"]
    # Without --yes and without an answer nobody is banned.
    ctl("agent", "ban", "globex", "south", "--reason", "x", code=1)
    assert coordinator.admin.agents["globex", "south"].state != banned["state"]
    assert "no such agent" in ctl("agent", "evict", "acme", "x", "--reason", "y", code=1).stderr


def test_a_rollout_of_the_latest_release_is_waited_for(
    ctl: Ctl, coordinator: FakeCoordinator
) -> None:
    digest = published(ctl)
    for name in ("north", "south", "west"):
        coordinator.admin.add_agent("acme", name)
    done = ctl.json("rollout", "start", "acme", "--wait")
    assert (done["release"], done["applied"], done["agents"]) == (digest, 3, 3)
    assert ctl.json("rollout", "status", "acme")["rollout"] == done["rollout"]
    for wanted in (digest, digest[:8], "1"):
        assert ctl.json("rollout", "start", "acme", "--release", wanted)["release"] == digest
    for unknown in ("f" * 64 if digest[0] != "f" else "0" * 64, "7", ""):
        refused = ctl("rollout", "start", "acme", "--release", unknown or "x", code=1)
        assert "0 published releases match" in refused.stderr


def test_a_rollout_that_agents_refuse_fails_the_command(
    ctl: Ctl, coordinator: FakeCoordinator
) -> None:
    published(ctl)
    agent = coordinator.admin.add_agent("acme", "north")
    agent.observed.error_message = "model small: the file did not load"
    rollout = json.loads(ctl("rollout", "start", "acme", "--json").stdout)["rollout"]
    state = coordinator.admin.rollouts[-1]
    state.failed = 1
    state.pending.append(agent)
    refused = ctl("rollout", "status", "acme", "--rollout", rollout, "--wait", code=1)
    assert "1 of 1 agents refused the release" in refused.stderr
    assert "the file did not load" in refused.stdout


def test_waiting_for_a_rollout_ends(ctl: Ctl, coordinator: FakeCoordinator) -> None:
    published(ctl)
    coordinator.admin.add_agent("acme", "north")
    coordinator.admin.applied_per_poll = 0
    refused = ctl("rollout", "start", "acme", "--wait", "--timeout", "1s", code=1)
    assert "0 of 1 agents had applied the release after 1 s" in refused.stderr


def test_nothing_to_roll_out(ctl: Ctl) -> None:
    ctl.make_workspace()
    assert "has published no release" in ctl("rollout", "start", "acme", code=1).stderr
    assert "no such rollout" in ctl("rollout", "status", "acme", code=1).stderr


# --- audit ---------------------------------------------------------------------------------


def test_a_bundle_is_pulled_whole(ctl: Ctl, coordinator: FakeCoordinator, tmp_path: Path) -> None:
    ctl.make_workspace()
    file = tmp_path / "bundle.zip"
    words = ("audit", "pull", "--tenant", "acme", "-o", file)
    times = ("--from", "2026-11-22T00:00:00Z", "--to", "2026-11-23")
    pulled = ctl.json(*words, *times)
    assert file.read_bytes() == coordinator.admin.bundle
    assert pulled["sha256"] == hashlib.sha256(coordinator.admin.bundle).hexdigest()
    assert coordinator.admin.calls == ["export 1795305600..1795392000"]
    assert "not overwritten" in ctl(*words, code=1).stderr
    assert pulled["sha256"] in ctl(*words, "--force").stdout


def test_a_broken_pull_leaves_nothing_behind(
    ctl: Ctl, coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    ctl.make_workspace()
    file = tmp_path / "out" / "bundle.zip"
    file.parent.mkdir()
    coordinator.admin.bundle_breaks = True
    words = ("audit", "pull", "--tenant", "acme", "-o", file)
    assert "disk error" in ctl(*words, code=1).stderr
    assert list(file.parent.iterdir()) == []
    coordinator.admin.bundle_breaks = False
    coordinator.admin.bundle = b""
    assert "empty bundle" in ctl(*words, code=1).stderr
    assert list(file.parent.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ("--from", "yesterday"),
        ("--from", "2026-11-22T00:00:00"),
        ("--to", "2026-13-01"),
    ],
)
def test_bad_times_are_wrong_usage(ctl: Ctl, tmp_path: Path, words: tuple[str, ...]) -> None:
    ctl("audit", "pull", "--tenant", "acme", "-o", tmp_path / "b.zip", *words, code=2)


def test_times_in_the_wrong_order_are_refused(ctl: Ctl, tmp_path: Path) -> None:
    words = ("--from", "2026-11-23", "--to", "2026-11-22")
    refused = ctl("audit", "pull", "--tenant", "acme", "-o", tmp_path / "b.zip", *words, code=1)
    assert "--from must lie before --to" in refused.stderr


def operator_leaves(count: int) -> list[bytes]:
    """A chained log."""
    leaves: list[bytes] = []
    for seq in range(count):
        leaf = Leaf(
            log="example.test/_operators/coordinator/e1",
            epoch=1,
            seq=seq,
            prev=leaf_hash(leaves[-1]) if leaves else bytes(32),
            type=LeafType.HEARTBEAT,
            time_ns=1_700_000_000_000_000_000,
            body={"action": f"step {seq}"},
            sd=(),
        )
        leaves.append(encode_leaf(leaf))
    return leaves


def test_the_operators_log_is_read_page_by_page(ctl: Ctl, coordinator: FakeCoordinator) -> None:
    coordinator.admin.leaves = operator_leaves(5)
    assert [leaf["seq"] for leaf in ctl.json("audit", "log")] == ["0", "1", "2", "3", "4"]
    some = ctl.json("audit", "log", "--from-seq", 1, "--limit", 3)
    assert [leaf["seq"] for leaf in some] == ["1", "2", "3"]
    shown = ctl("audit", "log").stdout
    assert "action=step 4" in shown
    assert "2023-11-14T22:13:20Z" in shown


def test_a_changed_or_missing_operator_record_is_noticed(
    ctl: Ctl, coordinator: FakeCoordinator
) -> None:
    good = operator_leaves(5)
    for broken in (
        good[:2] + good[3:],
        [good[0], good[1].replace(b"step 1", b"step X"), *good[2:]],
    ):
        coordinator.admin.leaves = broken
        assert "broken between records 1 and" in ctl("audit", "log", code=1).stderr


def test_the_witness_s_log_is_read_as_well(ctl: Ctl, coordinator: FakeCoordinator) -> None:
    coordinator.admin.cosigned = operator_leaves(3)
    assert [leaf["seq"] for leaf in ctl.json("audit", "log", "--of", "cosigned")] == ["0", "1", "2"]
    assert ctl.json("audit", "log") == []
    ctl("audit", "log", "--of", "others", code=2)


def own_log(witness: FakeWitness, tree: OutsideTree, **change: Any) -> pb.OwnLog:
    """One that the witness has cosigned at its size less one."""
    signed = tree.note(tree.tree.size - 1)
    line = cosign(split_note(signed)[0], witness.cosigner, 1_700_000_000)
    given = {
        "witness_vkey": witness.key.vkey,
        "size": tree.tree.size - 1,
        "cosigned_at": 1_700_000_000,
        "note": add_signature(signed, line),
        "configured": True,
    }
    return pb.OwnLog(
        origin=tree.origin,
        vkey=tree.vkey,
        size=tree.tree.size,
        checkpoint=tree.note(),
        cosignatures=[pb.OutsideCosignature(**{**given, **change})],
    )


def test_witnesses_are_shown_and_verified(ctl: Ctl, coordinator: FakeCoordinator) -> None:
    witness, tree = FakeWitness(), OutsideTree("example.test/_witness/coordinator/e1", size=7)
    nothing = pb.ListWitnessesResponse(own=[pb.OwnLog(origin=tree.origin, vkey=tree.vkey)])
    coordinator.admin.witnesses = nothing
    assert "outside_witnesses" in ctl("audit", "witnesses").stderr
    coordinator.admin.witnesses = pb.ListWitnessesResponse(
        own=[own_log(witness, tree, error="ahead", message="it knows more")],
        outside=[
            pb.OutsideLog(
                origin="log.example/x", size=3, cosigned_at=1_700_000_000, fork=[b"a", b"b"]
            )
        ],
        witness_vkey="ours",
    )
    shown = ctl("audit", "witnesses").stdout
    for words in ("6/7", "2023-11-14T22:13:20Z", "ahead: it knows more", "FORKED", tree.vkey):
        assert words in shown
    (own,) = ctl.json("audit", "witnesses")["own"]
    assert own["checkpoint"] == tree.note().decode()
    assert own["cosignatures"][0]["size"] == 6


def test_a_checkpoint_that_does_not_verify_is_an_error(
    ctl: Ctl, coordinator: FakeCoordinator
) -> None:
    witness, tree = FakeWitness(), OutsideTree(size=7)
    other = FakeWitness(name="another.example/w")
    good = own_log(witness, tree)
    foreign = pb.OwnLog(origin="log.example/two", vkey=tree.vkey, size=7, checkpoint=tree.note())
    for bad in (
        own_log(witness, tree, witness_vkey=other.key.vkey),
        own_log(witness, tree, note=tree.note()),
        foreign,
    ):
        coordinator.admin.witnesses = pb.ListWitnessesResponse(own=[good, bad])
        assert "does not verify" in ctl("audit", "witnesses", code=1).stderr


# --- policies ------------------------------------------------------------------------------


def test_policy_test_passes_fails_and_lists_faults(ctl: Ctl) -> None:
    pack = ctl.pack()
    assert ctl.json("policy", "test", pack)["passed"] == 1
    assert "no faults" in ctl("policy", "check", pack).stdout
    cases = pack / "cases.yaml"
    cases.write_text(cases.read_text().replace("allowed: true", "allowed: false"))
    failed = ctl("policy", "test", pack, code=1)
    assert "an analyst chats" in failed.stdout
    assert "1 of 1 cases fail" in failed.stderr
    policy = pack / "policy.yaml"
    policy.write_text(policy.read_text().replace("effect: allow", "effect: perhaps"))
    faults = ctl("policy", "check", pack, code=1)
    assert "policy.yaml:7:" in faults.stdout
    assert ctl("policy", "test", pack, code=1).stdout == faults.stdout
    listed = json.loads(ctl("policy", "check", pack, "--json", code=1).stdout)
    assert listed["problems"][0]["line"] == 7


def test_the_verifier_is_handed_out_as_one_file(ctl: Ctl, tmp_path: Path) -> None:
    file = tmp_path / "exclave-verify.pyz"
    said = ctl("audit", "verifier", "-o", file)
    assert said.stdout.split()[0] == hashlib.sha256(file.read_bytes()).hexdigest()
    done = subprocess.run(
        [sys.executable, file, "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    assert "Verify an audit bundle offline." in done.stdout
    assert "exists" in ctl("audit", "verifier", "-o", file, code=1).stderr
    ctl("audit", "verifier", "-o", file, "--force")


NOW = 2_000_000_000


def agent_log(**fields: Any) -> pb.AgentLog:
    """One that is as it should be, but for `fields`."""
    usual: dict[str, Any] = {
        "tenant": "acme",
        "agent": "north",
        "state": pb.Agent.ACTIVE,
        "last_seen": NOW - 5,
        "epoch": 1,
        "size": 9,
        "witnessed_size": 9,
        "witnessed_at": NOW - 60,
        "last_leaf": NOW - 60,
    }
    return pb.AgentLog(**(usual | fields))


@pytest.mark.parametrize(
    ("fields", "odd"),
    [
        ({}, []),
        ({"size": 12}, []),
        ({"size": 12, "witnessed_at": NOW - 8000, "last_leaf": NOW - 7999}, ["3 leaves", "silent"]),
        ({"last_leaf": NOW - 7201}, ["silent"]),
        ({"last_leaf": NOW - 9000, "state": pb.Agent.EVICTED}, []),
        ({"last_leaf": NOW + 4000}, ["clock runs ahead"]),
        ({"contradictions": 2}, ["2 contradictions"]),
        ({"epoch": 0, "size": 0, "witnessed_size": 0}, ["has sent no leaf"]),
        ({"epoch": 0, "size": 0, "last_seen": 0}, []),
    ],
)
def test_what_is_odd_about_a_log(fields: dict[str, Any], odd: list[str]) -> None:
    found = anomalies(agent_log(**fields), NOW, 7200)
    assert len(found) == len(odd)
    assert all(words in said for words, said in zip(odd, found, strict=True))


def test_the_fleet_is_shown_and_checked(ctl: Ctl, coordinator: FakeCoordinator) -> None:
    now = int(time.time())
    fine = agent_log(last_leaf=now - 5, witnessed_at=now - 5)
    coordinator.admin.agent_logs = pb.ListAgentLogsResponse(logs=[fine])
    assert "north" in ctl("audit", "fleet", "--check").stdout
    forked = agent_log(agent="south", last_leaf=now - 5, contradictions=1)
    coordinator.admin.agent_logs = pb.ListAgentLogsResponse(logs=[fine, forked], left_out=3)
    done = ctl("audit", "fleet", "--check", code=1)
    assert "1 contradictions are kept" in done.stdout and "3 more logs" in done.stderr
    rows = ctl.json("audit", "fleet")
    assert [row["odd"] for row in rows] == [[], ["1 contradictions are kept as evidence"]]
