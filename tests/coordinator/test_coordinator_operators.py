"""A profile made at the home itself: the way back in when no administrator is left."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from exclave_coordinator.commands import main
from exclave_coordinator.home import Home
from exclave_coordinator.storage.database import once
from exclave_protocol.evidence import verify_bundle
from exclave_protocol.leaf import decode_leaf
from exclave_protocol.pb import admin_pb2
from exclave_testing.coordinator import TIMEOUT, RunningCoordinator, new_home, running_coordinator


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home that was never served."""
    return new_home(tmp_path / "home")


def issue(home: Home, folder: Path, *more: str, name: str = "rescue") -> Result:
    """`operator issue` as an administrator, unless `more` says otherwise."""
    words = ["operator", "issue", name, "--role", "admin", "-o", folder, "--home", home.path]
    return CliRunner().invoke(main, [str(word) for word in (*words, *more)])


def issue_as_root(home: Home, folder: Path) -> subprocess.CompletedProcess[str]:
    """`operator issue` in a process of its own, which may give up being root."""
    words = ["operator", "issue", "rescue", "--role", "admin", "-o", folder, "--home", home.path]
    command = [sys.executable, "-m", "exclave_coordinator.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=20)


def record(home: Home) -> list[Any]:
    """The operators' record, bodies only."""

    def job(tx: Any) -> list[Any]:
        size = tx.operators.state().size
        return [decode_leaf(leaf.data).body for leaf in tx.operators.leaves(0, size)]

    return once(home.database, job)


async def acts_as(centre: RunningCoordinator, profile: Path) -> None:
    """The profile's operator may do what an administrator may."""
    stub = centre.operator_stub(
        (profile / "key.pem").read_bytes(), (profile / "cert.pem").read_bytes()
    )
    await stub.ListTenants(admin_pb2.ListTenantsRequest(), timeout=TIMEOUT)
    request = admin_pb2.CreateTenantRequest(name=f"made-by-{profile.name}")
    await stub.CreateTenant(request, timeout=TIMEOUT)


async def test_while_nobody_serves(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "profiles" / "rescue"
    done = issue(home, folder, "--days", "7")
    assert done.exit_code == 0, done.output
    assert done.output.startswith("rescue is admin until ")
    assert sorted(p.name for p in folder.iterdir()) == [
        "ca.pem",
        "cert.pem",
        "key.pem",
        "profile.json",
    ]
    for path in (folder, *folder.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    genesis, act = record(home)
    assert "audit_vkey" in genesis
    assert act == {
        "operator": "spiffe://example.org/coordinator",
        "role": "coordinator",
        "action": "IssueOperatorLocally",
        "target": "operator/rescue",
        "outcome": "ok",
        "details": {"role": "admin", "uid": str(os.getuid())},
    }
    async with running_coordinator(home.path) as centre:
        await acts_as(centre, folder)


async def test_while_a_coordinator_serves_and_writes(tmp_path: Path) -> None:
    async with running_coordinator(tmp_path / "home") as centre:
        busy = asyncio.gather(*(centre.tenant(f"t{n}") for n in range(20)))
        made = [tmp_path / f"p{n}" for n in range(4)]
        done = [
            await asyncio.to_thread(issue, centre.home, folder, name=folder.name) for folder in made
        ]
        await busy
        assert [d.exit_code for d in done] == [0] * 4, [d.output for d in done]
        for folder in made:
            profile = json.loads((folder / "profile.json").read_text())
            assert profile["endpoint"] == centre.up.session
            await acts_as(centre, folder)
        chunks = [
            chunk.data
            async for chunk in centre.admin.ExportAudit(admin_pb2.ExportAuditRequest(tenant="t0"))
        ]
    bundle = tmp_path / "bundle.zip"
    bundle.write_bytes(b"".join(chunks))
    # Its signed root, its chain and its numbers: a fork or a gap would not verify.
    steps = {s.number: s.verdict.name for s in verify_bundle(bundle).steps if s.number[0] == "6"}
    assert len(steps) == 8 and set(steps.values()) == {"WITNESSED"}, steps
    actions = [body.get("action") for body in record(centre.home)]
    assert (actions.count("IssueOperatorLocally"), actions.count("CreateTenant")) == (4, 24)


def test_it_overwrites_nothing_and_leaves_nothing(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "taken"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    done = issue(home, folder)
    assert done.exit_code == 1
    assert "is not empty: nothing was changed; choose another folder with -o" in done.output
    assert [p.name for p in folder.iterdir()] == ["notes.txt"]
    for words in (("--role", "king"), ("--days", "366"), ("--days", "0")):
        assert issue(home, tmp_path / "new", *words).exit_code == 2
    assert issue(home, tmp_path / "new", name="Not A Name").exit_code == 1
    assert record(home) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home", "taken"]
    (tmp_path / "empty").mkdir()
    assert issue(home, tmp_path / "empty").exit_code == 0


def test_without_its_record_there_is_no_profile(home: Home, tmp_path: Path) -> None:
    with closing(sqlite3.connect(home.database)) as connection:
        connection.execute(
            "CREATE TRIGGER stop BEFORE INSERT ON operator_leaves BEGIN "
            "SELECT RAISE(ABORT, 'stop'); END"
        )
    done = issue(home, tmp_path / "new")
    assert done.exit_code == 1
    assert "the database failed" in done.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home"]
    assert [c.name for c in once(home.database, lambda tx: tx.operators.certificates())] == [
        "admin"
    ]


def _lose(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda home: _lose(home.ca_key), "ca/ca.key is missing"),
        (lambda home: home.ca_key.chmod(0o644), "may be read by others"),
        (lambda home: _lose(home.key("operators")), "keys/operators.key is missing"),
        (lambda home: _lose(home.settings_file), "run `exclave-coordinator init` first"),
        (lambda home: _lose(home.database), "coordinator.db is missing"),
        (lambda home: home.restored_mark.write_text("{}"), "start the coordinator first"),
    ],
)
def test_what_it_needs_is_named(
    home: Home, tmp_path: Path, harm: Callable[[Home], None], said: str
) -> None:
    harm(home)
    done = issue(home, tmp_path / "new")
    assert done.exit_code == 1
    assert said in done.output
    assert not (tmp_path / "new").exists()


def test_the_list_has_every_certificate(home: Home, tmp_path: Path) -> None:
    issue(home, tmp_path / "new", "--role", "auditor", "--days", "30", name="eve")
    with closing(sqlite3.connect(home.database)) as connection:
        connection.execute(
            "INSERT INTO operator_certificates VALUES ('ab', 'old', 'admin', 0, 86400)"
        )
        connection.commit()
    done = CliRunner().invoke(main, ["operator", "list", "--home", str(home.path)])
    assert done.exit_code == 0, done.output
    shown = [line.split()[:3] for line in done.output.splitlines()]
    assert shown == [
        ["admin", "admin", "until"],
        ["eve", "auditor", "until"],
        ["old", "admin", "ended"],
    ]
    assert done.output.endswith("old admin ended 1970-01-02T00:00:00Z\n")


def test_root_leaves_the_home_to_its_user() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with tempfile.TemporaryDirectory() as folder:
        home = new_home(Path(folder) / "home")
        for path in (home.path, *home.path.rglob("*")):
            os.chown(path, 54321, 54321)
        Path(folder).chmod(0o755)
        alias = Path(folder) / "alias"
        alias.symlink_to(home.path)
        for place in (home.operators / "inside", alias / "operators" / "linked"):
            done = issue_as_root(home, place)
            assert done.returncode == 0, done.stderr
        assert issue_as_root(home, Path(folder) / "outside").returncode == 0
        inside = {path.stat().st_uid for path in (home.path, *home.path.rglob("*"))}
        outside = {path.stat().st_uid for path in (Path(folder) / "outside").rglob("*")}
        uids = {act["details"]["uid"] for act in record(home)[1:]}
    assert (inside, outside, uids) == ({54321}, {0}, {"0"})


def test_root_is_not_led_out_of_the_home_by_a_link() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with tempfile.TemporaryDirectory() as folder:
        home = new_home(Path(folder) / "home")
        victim = Path(folder) / "victim"
        victim.mkdir(mode=0o755)
        for path in (home.path, *home.path.rglob("*")):
            os.chown(path, 54321, 54321)
        Path(folder).chmod(0o755)
        home.operators.rename(home.path / "moved")
        home.operators.symlink_to(victim)
        done = issue_as_root(home, home.operators / "rescue")
        left = list(victim.iterdir())
    assert done.returncode == 1
    assert "Permission denied" in done.stderr
    assert left == []


def _blind(profile: Path) -> None:
    profile.unlink()
    profile.mkdir()


@pytest.mark.parametrize(
    "harm",
    [
        lambda profile: profile.write_text("{"),
        lambda profile: profile.write_bytes(b"\xff"),
        lambda profile: profile.write_text("[]"),
        _blind,
    ],
)
async def test_a_broken_profile_does_not_stop_the_start(
    home: Home, caplog: pytest.LogCaptureFixture, harm: Callable[[Path], object]
) -> None:
    for name in ("aaa", "zzz"):
        assert issue(home, home.operators / name, name=name).exit_code == 0
    harm(home.operators / "aaa" / "profile.json")
    async with running_coordinator(home.path) as centre:
        followed = json.loads((home.operators / "zzz" / "profile.json").read_text())
        assert followed["endpoint"] == centre.up.session
    assert "operators/aaa/profile.json does not say where to dial now" in caplog.text
