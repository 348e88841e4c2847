"""The packaged agent replaces itself by a signed version, and goes back by itself when it must."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exclave_testing.installed import HOME, INSIDE, WORK, Installed, binds
from exclave_testing.processes import wait_for
from exclave_testing.repacked import repack
from exclave_testing.sandbox import Sandbox

GOOD, CRASHING, DEAF = "0.1.1", "0.1.2", "0.1.3"
SETTINGS = "/etc/exclave/agent.toml"


@pytest.fixture(scope="module")
def offered(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The present package and three newer ones: well, crashing at its start, and one that says it
    is ready and then answers nobody."""
    folder = tmp_path_factory.mktemp("offered")
    present = packages / "exclave-agent_0.1.0_amd64.deb"
    (folder / present.name).write_bytes(present.read_bytes())
    repack(present, GOOD, folder)
    repack(present, CRASHING, folder, appended={"cli/run.py": "\nraise SystemExit('sabotaged')\n"})
    deaf = "\n\ndef build_control(*_):\n    raise RuntimeError('deaf')\n"
    repack(present, DEAF, folder, appended={"api/control.py": deaf})
    return folder


@pytest.fixture(scope="module")
def up(
    bookworm: Path, packages: Path, offered: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installed]:
    """An agent at 0.1.0 with a release, and the present version among its signed packages."""
    folder = tmp_path_factory.mktemp("upgrade")
    shown = {**binds(packages), offered: "/srv/offered"}
    with Sandbox(bookworm, "upgrade", folder, binds=shown, on_disk=True) as box:
        made = Installed(box)
        made.centre_up()
        made.release([f"fraud={INSIDE['fraud']}/model.onnx,runtime=onnx"])
        made.install_agent()
        made.rollout()
        made.wait_release()
        made.create_key()
        box.write_text("/etc/exclave/upgrade.toml", "settle_seconds = 3\ndeadline_seconds = 40\n")
        yield made


def offer(up: Installed, *versions: str) -> None:
    """Sign packages as targets of the tenant, offline, by both."""
    files = [f"/srv/offered/exclave-agent_{version}_amd64.deb" for version in versions]
    words = [word for file in files for word in ("--add", file)]
    up.ctl("release", "package", WORK, *words)
    up.sign_and_publish()


def incidents(up: Installed) -> list[dict[str, Any]]:
    """Codes and details of the record's incidents."""
    rows = json.loads(up.agent("audit", "show", "--last", "500", "--json"))
    return [row["body"] for row in rows if row["type"] == "INCIDENT"]


def last_incident(up: Installed, version: str) -> dict[str, Any]:
    """The newest incident, once it is about that version: the agent looks every few seconds."""

    def told() -> dict[str, Any] | None:
        found = incidents(up)
        return found[-1] if found and version in found[-1]["detail"] else None

    found: dict[str, Any] = wait_for(f"an incident about {version}", told, 40)
    return found


def running_version(up: Installed) -> str:
    """Of the agent that answers; empty while none does."""
    return str(up.status().get("version", ""))


def test_it_does_not_go_forward_without_the_way_back(up: Installed) -> None:
    offer(up, GOOD)
    said = up.agent("upgrade", "--wait", code=1)
    assert "0.1.0" in said and "revert" in said
    assert running_version(up) == "0.1.0"


def test_a_newer_signed_version_takes_over_with_state_and_settings_kept(up: Installed) -> None:
    edited = up.box.read_text(SETTINGS) + "\nheartbeat = 1234\n"
    up.box.write_text(SETTINGS, edited)
    up.box.run(["systemctl", "reload", "exclave-agent"])
    size = up.status()["audit"]["size"]
    offer(up, "0.1.0")
    assert GOOD in up.agent("upgrade", "--check")
    said = up.agent("upgrade", "--wait", timeout=180)
    assert GOOD in said
    status = up.status()
    assert status["version"] == GOOD
    assert status["upgrade"]["outcome"] == "done"
    assert status["audit"]["size"] > size
    assert status["release"]["version"] == 1
    assert up.box.read_text(SETTINGS) == edited
    assert up.call("/v2/models/fraud")[0] == 200
    assert last_incident(up, GOOD)["code"] == "upgrade_done"
    assert f"Version: {GOOD}" in up.box.sh("dpkg -s exclave-agent")


@pytest.mark.parametrize("version", [CRASHING, DEAF])
def test_a_version_that_is_not_well_is_rolled_back_and_reported(
    up: Installed, version: str
) -> None:
    if running_version(up) != GOOD:
        offer(up, "0.1.0", GOOD)
        up.agent("upgrade", "--wait", "--version", GOOD, timeout=180)
    offer(up, version)
    up.agent("upgrade", "--wait", "--version", version, code=1, timeout=240)
    wait_for("the former version", lambda: running_version(up) == GOOD)
    up.wait_release()
    upgrade = up.status()["upgrade"]
    assert (upgrade["outcome"], upgrade["from"], upgrade["to"]) == ("reverted", GOOD, version)
    assert f"Version: {GOOD}" in up.box.sh("dpkg -s exclave-agent")
    assert up.call("/v2/models/fraud")[0] == 200
    assert last_incident(up, version)["code"] == "upgrade_reverted"
    # The centre hears of it with the record.
    wait_for(
        "the record at the centre",
        lambda: up.status()["audit"]["witnessed_size"] >= up.status()["audit"]["size"] - 1,
    )


def test_an_unsigned_package_is_refused_by_root_whatever_the_agent_asks(up: Installed) -> None:
    """A subverted agent writes a request of its own: root believes none of it."""
    before = running_version(up)
    request = {
        "schema": "exclave.upgrade-request/v1",
        "id": "ab" * 16,
        "package": "cd" * 32,
        "former": "",
        "downgrade": False,
        "deadline": 0,
    }
    staged = f"{HOME}/upgrade/staging-{'ab' * 16}"
    up.box.sh(f"runuser -u exclave -- mkdir -p {staged}/metadata {staged}/packages")
    up.box.sh(f"printf x > {staged}/packages/{'cd' * 32}.deb; chown -R exclave: {HOME}/upgrade")
    up.box.write_text(f"{HOME}/upgrade/request.new", json.dumps(request))
    up.box.sh(f"chown exclave: {HOME}/upgrade/request.new; "
              f"mv {HOME}/upgrade/request.new {HOME}/upgrade/request.json")  # fmt: skip
    wait_for(
        "a refusal",
        lambda: (
            (up.status()["upgrade"] or {}).get("id") == "ab" * 16
            and up.status()["upgrade"]["outcome"] == "refused"
        ),
    )
    assert running_version(up) == before
