"""Root's side: what it believes (its own trust file, signatures), and every way to be lied to."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from exclave_agent.errors import AgentError
from exclave_agent.upgrade.letters import Outcome, Request, Result
from exclave_agent.upgrade.ports import Installed
from exclave_agent.upgrade.trust import read_trust, write_trust
from exclave_agent.upgrade.vet import Plan
from exclave_protocol.packages import Label, Package
from exclave_testing.packages import deb, package_of
from exclave_testing.tuf_repo import TufRepo, add_package
from exclave_testing.upgrade_files import NOW, Site

DAY = 86_400


@pytest.fixture
async def asked(site: Site) -> Request:
    """The desk's request, staged."""
    await site.desk.request()
    request = site.mailbox.request()
    assert request is not None
    return request


def refused(site: Site, request: Request, now: int = NOW) -> str:
    with pytest.raises(AgentError) as caught:
        site.vetting().vet(request, now)
    return caught.value.code


def staged(site: Site, request: Request, *path: str) -> Path:
    return site.home.joinpath("upgrade", f"staging-{request.id}", *path)


def test_a_good_request_is_verified_and_both_packages_kept(site: Site, asked: Request) -> None:
    plan = site.vetting().vet(asked, NOW)
    assert plan == Plan(site.packages["0.1.0"], site.packages["0.2.0"])
    for package in (plan.present, plan.target):
        path = site.shelf.path(package)
        assert path.read_bytes() == site.repo.source.targets[package.sha256]
        assert path.parent.stat().st_mode & 0o077 == 0
    assert site.vetting().vet(asked, NOW) == plan, "safe to repeat"


def test_without_a_trust_file_nobody_is_believed(site: Site, asked: Request) -> None:
    (site.root / "trust.json").unlink()
    assert refused(site, asked) == "not_trusted"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": "exclave.upgrade-trust/v1"}'])
def test_a_broken_trust_file_is_no_trust(site: Site, asked: Request, content: str) -> None:
    (site.root / "trust.json").write_text(content)
    assert refused(site, asked) == "not_trusted"


def test_a_trust_file_that_others_may_write_is_no_trust(site: Site, asked: Request) -> None:
    (site.root / "trust.json").chmod(0o666)
    assert refused(site, asked) == "not_trusted"


def test_trust_is_written_once_for_one_tenant(site: Site) -> None:
    trust = read_trust(site.root)
    write_trust(site.root, trust)
    other = replace(trust, root_pin="f" * 64)
    with pytest.raises(AgentError, match="another tenant's signers"):
        write_trust(site.root, other)
    assert read_trust(site.root) == trust
    write_trust(site.root, other, replace=True)
    assert read_trust(site.root) == other


def test_a_repository_of_the_agents_own_is_not_believed(site: Site, asked: Request) -> None:
    """A subverted agent signs a package itself, and stages it perfectly."""
    evil = TufRepo(("eve", "mal", "oz"))
    package = site.packages["0.2.0"]
    add_package(evil, package, site.repo.source.targets[package.sha256])
    evil.publish()
    for name, data in evil.source.files.items():
        staged(site, asked, "metadata", name).write_bytes(data)
    assert refused(site, asked) == "root_mismatch"


def test_under_signed_expired_and_altered_metadata(site: Site, asked: Request) -> None:
    metadata = staged(site, asked, "metadata")
    good = {p.name: p.read_bytes() for p in metadata.iterdir()}
    targets = metadata / "1.targets.json"
    document = json.loads(good["1.targets.json"])
    document["signatures"] = document["signatures"][:1]
    targets.write_text(json.dumps(document))
    assert refused(site, asked) == "under_signed"
    targets.write_bytes(good["1.targets.json"].replace(b"0.2.0", b"0.3.0"))
    assert refused(site, asked) == "tampered"
    targets.unlink()
    assert refused(site, asked) == "fetch_failed"
    targets.write_bytes(good["1.targets.json"])
    site.vetting().vet(asked, NOW)
    assert refused(site, asked, NOW + 2 * DAY) == "expired"


async def test_older_metadata_than_root_has_seen_is_refused(site: Site, asked: Request) -> None:
    site.vetting().vet(asked, NOW)
    old = {p.name: p.read_bytes() for p in staged(site, asked, "metadata").iterdir()}
    (site.home / "upgrade/request.json").unlink()
    site.sign("0.3.0")
    await site.desk.request()
    newer = site.mailbox.request()
    assert newer is not None
    site.vetting().vet(newer, NOW)
    for path in staged(site, newer, "metadata").iterdir():
        path.unlink()
    for name, data in old.items():
        staged(site, newer, "metadata", name).write_bytes(data)
    assert refused(site, newer) == "rolled_back"


async def test_new_signers_are_followed_through_the_roots_that_were_staged(site: Site) -> None:
    site.repo.rotate(("ann", "bob", "dan"))
    site.sign("0.3.0")
    await site.desk.request()
    request = site.mailbox.request()
    assert request is not None
    assert staged(site, request, "metadata", "2.root.json").exists()
    assert site.vetting().vet(request, NOW).target.version == "0.3.0"


def test_only_signed_packages_are_installed(site: Site, asked: Request) -> None:
    assert refused(site, replace(asked, package="e" * 64)) == "no_package"


def test_the_files_must_be_the_signed_ones(site: Site, asked: Request) -> None:
    package = site.packages["0.2.0"]
    path = staged(site, asked, "packages", package.file_name)
    good = path.read_bytes()
    path.unlink()
    assert refused(site, asked) == "fetch_failed"
    for bad in (good[:-1], good + b"!", good[:-1] + b"!", b""):
        path.unlink(missing_ok=True)
        path.write_bytes(bad)
        assert refused(site, asked) == "tampered"
        assert not site.shelf.path(package).exists()
    assert [p for p in (site.root / "packages").iterdir() if p.suffix == ".part"] == []


async def test_a_file_that_says_another_version_than_was_signed_is_refused(site: Site) -> None:
    data = deb("0.1.0", fields="Section: net\n")
    add_package(site.repo, package_of(data, "0.2.0"), data)
    site.repo.entries.pop(site.packages["0.2.0"].path)
    site.repo.publish()
    await site.desk.request()
    request = site.mailbox.request()
    assert request is not None
    assert refused(site, request) == "tampered"


def signed_as(site: Site, label: Label) -> Package:
    """The new package's file, described in another way."""
    package = replace(site.packages["0.2.0"], label=label)
    site.repo.entries.pop(site.packages["0.2.0"].path)
    add_package(site.repo, package, b"")
    site.repo.publish()
    return package


@pytest.mark.parametrize(
    ("label", "code"),
    [
        (Label("exclave-cli", "0.2.0", "amd64", "deb"), "no_package"),
        (Label("exclave-agent", "0.2.0", "arm64", "deb"), "wrong_architecture"),
        (Label("exclave-agent", "0.2.0", "amd64", "rpm"), "wrong_architecture"),
    ],
)
def test_packages_for_others_are_refused(
    site: Site, asked: Request, label: Label, code: str
) -> None:
    signed_as(site, label)
    for name in ("timestamp.json", "2.snapshot.json", "2.targets.json"):
        staged(site, asked, "metadata", name).write_bytes(site.repo.source.files[name])
    assert refused(site, asked) == code


def test_the_version_must_be_another_and_an_older_one_meant(site: Site, asked: Request) -> None:
    site.installed = Installed("0.2.0", "amd64", whole=True)
    assert refused(site, asked) == "already_running"
    site.installed = Installed("0.3.0", "amd64", whole=True)
    assert refused(site, asked) == "downgrade"
    # With the wish, only the way back is missing.
    assert refused(site, replace(asked, downgrade=True)) == "cannot_revert"


def test_what_is_installed_must_be_a_whole_package(site: Site, asked: Request) -> None:
    site.installed = Installed("0.1.0", "amd64", whole=False)
    assert refused(site, asked) == "package_broken"
    site.installed = None  # type: ignore[assignment]  # not installed
    assert refused(site, asked) == "not_installed_by_package"


def test_the_former_package_must_be_the_installed_one(site: Site, asked: Request) -> None:
    assert refused(site, replace(asked, former="")) == "cannot_revert"
    assert refused(site, replace(asked, former=asked.package)) == "cannot_revert"
    site.installed = Installed("0.1.1", "amd64", whole=True)
    assert refused(site, asked) == "cannot_revert"


@pytest.mark.parametrize(
    "label",
    [
        Label("exclave-agent", "0.1.0", "arm64", "deb"),
        Label("exclave-agent", "0.1.0", "amd64", "rpm"),
    ],
)
def test_the_former_package_must_fit_as_well(site: Site, asked: Request, label: Label) -> None:
    """It would be found out only when it is to be put back."""
    data = site.repo.source.targets[site.packages["0.1.0"].sha256]
    site.repo.entries.pop(site.packages["0.1.0"].path)
    add_package(site.repo, replace(site.packages["0.1.0"], label=label), data)
    site.repo.publish()
    for name in ("timestamp.json", "2.snapshot.json", "2.targets.json"):
        staged(site, asked, "metadata", name).write_bytes(site.repo.source.files[name])
    assert refused(site, asked) == "wrong_architecture"


def test_a_kept_package_that_rotted_is_taken_from_the_agent_again(
    site: Site, asked: Request
) -> None:
    present = site.packages["0.1.0"]
    site.vetting().vet(asked, NOW)
    site.shelf.settle([present])
    without = replace(asked, former="")
    assert site.vetting().vet(without, NOW).present == present
    site.shelf.path(present).write_bytes(b"rot")
    assert refused(site, without) == "cannot_revert"
    assert site.vetting().vet(asked, NOW).present == present


def test_no_room(site: Site, asked: Request) -> None:
    site.room = 4 * site.packages["0.2.0"].length - 1
    assert refused(site, asked) == "disk_full"


# --- a folder full of tricks --------------------------------------------------------------------


def linked(path: Path) -> None:
    elsewhere = path.with_name("elsewhere")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def listening(path: Path) -> None:
    path.unlink()
    before = Path.cwd()
    os.chdir(path.parent)  # socket paths are short
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path.name)
    finally:
        os.chdir(before)


@pytest.mark.parametrize("trick", [linked, fifo, folder, listening])
def test_only_plain_files_are_read(
    site: Site, asked: Request, trick: Callable[[Path], None]
) -> None:
    for name in ("metadata/timestamp.json", f"packages/{site.packages['0.2.0'].file_name}"):
        path = staged(site, asked, *name.split("/"))
        good = path.read_bytes()
        trick(path)
        assert refused(site, asked) == "fetch_failed"
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
        path.write_bytes(good)
    site.vetting().vet(asked, NOW)
    request = site.home / "upgrade/request.json"
    trick(request)
    with pytest.raises(AgentError) as caught:
        site.mailbox.request()
    assert caught.value.code == "request_invalid"


@pytest.mark.parametrize("level", ["", "metadata", "packages"])
def test_no_folder_is_reached_through_a_link(site: Site, asked: Request, level: str) -> None:
    path = staged(site, asked, level) if level else staged(site, asked)
    linked(path)
    # Without any metadata there is not even a first root.
    assert refused(site, asked) == "fetch_failed"


def test_the_folder_itself_is_not_a_link(site: Site, asked: Request) -> None:
    linked(site.home / "upgrade")
    with pytest.raises(AgentError):
        site.mailbox.request()


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files away needs root")
def test_files_of_other_users_are_not_read_on_the_agents_behalf(site: Site, asked: Request) -> None:
    os.chown(staged(site, asked, "metadata", "timestamp.json"), 12345, 12345)
    assert refused(site, asked) == "fetch_failed"


def test_endless_metadata_is_not_read_to_its_end(site: Site, asked: Request) -> None:
    with staged(site, asked, "metadata", "timestamp.json").open("r+b") as file:
        file.truncate(1 << 34)
    assert refused(site, asked) == "fetch_failed"


def test_names_lead_nowhere_else(site: Site, asked: Request) -> None:
    (site.home / "secret.json").write_text("{}")
    for name in ("../../../secret.json", "/etc/passwd", "1.root.json/..", "root.json", "x.json"):
        assert site.mailbox.metadata(asked.id, name, 100) is None


@pytest.mark.parametrize(
    "change",
    [
        {"id": "../../x"},
        {"id": "A" * 32},
        {"package": "x"},
        {"former": "x"},
        {"deadline": 1},
        {"deadline": 10**9},
        {"deadline": "60"},
        {"schema": "exclave.upgrade-request/v2"},
        {"package": None},
    ],
)
def test_a_request_with_a_wrong_field_is_refused(
    site: Site, asked: Request, change: dict[str, object]
) -> None:
    path = site.home / "upgrade/request.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | change))
    with pytest.raises(AgentError) as caught:
        site.mailbox.request()
    assert caught.value.code == "request_invalid"


@pytest.mark.parametrize("data", [b"", b"\xff", b"[" * 50_000, b"null", b" " * 70_000])
def test_a_request_that_is_none_is_refused_and_taken_away(
    site: Site, asked: Request, data: bytes
) -> None:
    path = site.home / "upgrade/request.json"
    path.write_bytes(data)
    with pytest.raises(AgentError):
        site.mailbox.request()
    site.mailbox.clear("")
    assert not path.exists()
    assert site.mailbox.request() is None


# --- the answer ---------------------------------------------------------------------------------

RESULT = Result("a" * 32, "0.1.0", "0.2.0", Outcome.DONE, "", "", ("w",), NOW, NOW + 5)


def test_the_answer_replaces_whatever_stands_in_its_place(site: Site, asked: Request) -> None:
    path, victim = site.home / "upgrade/result.json", site.folder / "victim"
    victim.write_text("root's")
    path.symlink_to(victim)
    (site.home / "upgrade/.result.json.root").symlink_to(victim)
    site.mailbox.answer(RESULT)
    assert victim.read_text() == "root's"
    assert not path.is_symlink()
    assert Result.decode(path.read_bytes()) == RESULT
    assert path.stat().st_uid == site.home.stat().st_uid
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_answer_that_cannot_be_left_is_an_error_and_nothing_more(
    site: Site, asked: Request
) -> None:
    (site.home / "upgrade/result.json").mkdir()
    with pytest.raises(OSError):
        site.mailbox.answer(RESULT)


def test_a_request_that_came_since_is_not_taken_away(site: Site, asked: Request) -> None:
    site.mailbox.clear("b" * 32)
    assert site.mailbox.request() == asked
    site.mailbox.clear(asked.id)
    assert site.mailbox.request() is None
    site.mailbox.clear(asked.id)


def test_a_result_keeps_its_bounds() -> None:
    long = replace(RESULT, outcome=Outcome.FAILED, message="m" * 9000, warnings=("w" * 9000,))
    assert len(Result.decode(long.encode()).message) == 500
