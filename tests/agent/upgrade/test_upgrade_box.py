"""The real units, dpkg and systemd, in a sandbox; only the agent itself is a stand-in.

The stand-in comes in packages of its own versions, answers on the control socket, and misbehaves
as its version says. The upgrader is the real one.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exclave_agent.upgrade.letters import Request, staging
from exclave_protocol.packages import Package
from exclave_testing.packages import deb, package_of
from exclave_testing.processes import ROOT, wait_for
from exclave_testing.sandbox import Sandbox, debian_tree, why_not
from exclave_testing.tuf_repo import TENANT, TufRepo, add_package

# The first test that needs a tree waits for it to be built.
pytestmark = pytest.mark.timeout(600)

HOME = "/var/lib/exclave"
SOURCES = ("proto", "policies", "agent", "packaging")
UNITS = ROOT / "packaging" / "systemd" / "system"
# The host's interpreter behind the name that the package gives it. It takes its own path from
# its first word, as a relocatable one does.
PYTHON = f"""#!/bin/bash
words=()
for word in "$@"; do [ "$word" = -I ] || words+=("$word"); done
export LD_LIBRARY_PATH=/py/lib PYTHONHOME=/py
export PYTHONPATH={":".join(f"/src/{name}" for name in SOURCES)}:/site
exec -a "$0" /py/bin/python3 "${{words[@]}}"
"""
AGENT_UNIT = """[Service]
User=exclave
Environment=LD_LIBRARY_PATH=/py/lib
ExecStart=/py/bin/python3 -S /opt/exclave/agent/agent.py
Restart=always
RestartSec=1
[Install]
WantedBy=multi-user.target
"""
STAND_IN = """
import json, os, socket, sys
version, kind = "{version}", "{kind}"
if kind == "crashing":
    sys.exit(1)
os.makedirs("/var/lib/exclave/run", exist_ok=True)
path = "/var/lib/exclave/run/control.sock"
if os.path.exists(path):
    os.unlink(path)
server = socket.socket(socket.AF_UNIX)
server.bind(path)
server.listen()
status = {{"version": version, "release": {{"digest": "d", "version": 1}},
          "coordinator": {{"connected": True}}}}
body = json.dumps(status).encode()
while True:
    connection, _ = server.accept()
    with connection:
        if kind != "silent":
            connection.recv(4096)
            head = b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body)
            connection.sendall(head + body)
"""
POSTINST = """#!/bin/sh
set -e
getent passwd exclave >/dev/null || useradd -r -M -s /usr/sbin/nologin exclave
install -d -o exclave -g exclave -m 0700 /var/lib/exclave
{extra}
[ -e /run/exclave-upgrade/running ] || systemctl try-restart exclave-agent.service
"""


class Box:
    """A machine with the stand-in installed and the path unit enabled."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.repo = TufRepo()
        self.packages: dict[str, Package] = {}
        self.requests = 0

    def package(self, version: str, kind: str = "good", extra: str = "") -> bytes:
        """Sign a package of the stand-in."""
        files = {
            "/opt/exclave/agent/agent.py": STAND_IN.format(version=version, kind=kind).encode(),
            "/usr/lib/systemd/system/exclave-agent.service": AGENT_UNIT.encode(),
        }
        for unit in ("exclave-upgrade.path", "exclave-upgrade.service"):
            files[f"/usr/lib/systemd/system/{unit}"] = (UNITS / unit).read_bytes()
        data = deb(
            version,
            architecture="all",
            files=files,
            programs={"/opt/exclave/agent/runtime/bin/python3": PYTHON.encode()},
            scripts={"postinst": POSTINST.format(extra=extra)},
        )
        self.packages[version] = package_of(data, version, architecture="all")
        add_package(self.repo, self.packages[version], data)
        self.repo.publish()
        return data

    def set_up(self) -> None:
        """Version 0.1.0 runs, and root knows whom to trust."""
        box = self.sandbox
        file = box.path("/root/first.deb")
        file.write_bytes(self.package("0.1.0"))
        box.run(["dpkg", "-i", "/root/first.deb"])
        trust = {"schema": "exclave.upgrade-trust/v1", "tenant": TENANT, "root_pin": self.repo.pin}
        box.write_text("/var/lib/exclave-upgrade/trust.json", json.dumps(trust))
        box.write_text("/etc/exclave/upgrade.toml", "settle_seconds = 2\ndeadline_seconds = 8\n")
        box.run(["systemctl", "daemon-reload"])
        box.run(["systemctl", "enable", "--now", "exclave-agent.service", "exclave-upgrade.path"])
        wait_for("the stand-in", box.path(f"{HOME}/run/control.sock").exists)

    def ask(self, target: str, former: str) -> str:
        """As the desk does: everything staged, the request last."""
        self.requests += 1
        request = Request(
            f"{self.requests:032x}",
            self.packages[target].sha256,
            self.packages[former].sha256,
        )
        staged = self.sandbox.path(f"{HOME}/upgrade") / staging(request.id)
        for name in ("metadata", "packages"):
            (staged / name).mkdir(parents=True)
        for name, data in self.repo.source.files.items():
            (staged / "metadata" / name).write_bytes(data)
        for version in (target, former):
            package = self.packages[version]
            data = self.repo.source.targets[package.sha256]
            (staged / "packages" / package.file_name).write_bytes(data)
        new = staged.parent / "request.new"
        new.write_bytes(request.encode())
        self.sandbox.run(["chown", "-R", "exclave:exclave", f"{HOME}/upgrade"])
        new.rename(staged.parent / "request.json")
        return request.id

    def ended(self, request_id: str, seconds: float = 60) -> dict[str, Any]:
        """The result, once it is there and the upgrader has gone."""
        file = self.sandbox.path(f"{HOME}/upgrade/result.json")

        def result() -> dict[str, Any] | None:
            value: dict[str, Any] = json.loads(file.read_bytes()) if file.exists() else {}
            return value if value.get("id") == request_id else None

        try:
            found: dict[str, Any] = wait_for("the result", result, seconds)
            wait_for("the upgrader's end", lambda: not self.upgrading(), 20)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.journal()}") from error
        for left in (
            f"{HOME}/upgrade/request.json",
            "/var/lib/exclave-upgrade/unfinished",
            "/opt/exclave/.agent-upgrading",
            "/opt/exclave/.agent-upgrading.new",
            "/run/exclave-upgrade",
        ):
            assert not self.sandbox.path(left).exists(), left
        return found

    def upgrading(self) -> bool:
        words = ["systemctl", "is-active", "exclave-upgrade.service"]
        state = self.sandbox.run(words, code=None).stdout.strip()
        return state in ("active", "activating", "deactivating")

    def installed(self) -> str:
        words = ["dpkg-query", "-W", "-f=${db:Status-Status} ${Version}", "exclave-agent"]
        return self.sandbox.run(words).stdout

    def journal(self) -> str:
        words = ["journalctl", "--namespace=*", "--no-pager", "-n", "80", "-o", "cat"]
        return self.sandbox.run(words, code=None).stdout

    def phase(self) -> str:
        file = self.sandbox.path("/var/lib/exclave-upgrade/state.json")
        return str(json.loads(file.read_bytes())["phase"]) if file.exists() else ""


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    reason = why_not()
    if reason is not None:
        pytest.skip(f"no sandbox here: {reason}")
    site = next(path for path in sys.path if path.endswith("site-packages"))
    binds = {Path(sys.base_prefix): "/py", Path(site): "/site"}
    binds |= {ROOT / name: f"/src/{name}" for name in SOURCES}
    with Sandbox(debian_tree(), "upgrade", tmp_path, binds=binds, on_disk=True) as sandbox:
        libraries = {"LD_LIBRARY_PATH": "/py/lib"}
        words = ["/py/bin/python3", "-c", ""]
        if sandbox.run(words, env=libraries, code=None).returncode != 0:
            pytest.skip("this interpreter does not run in another tree")
        made = Box(sandbox)
        made.set_up()
        yield made


def test_forward_and_back_again(box: Box) -> None:
    box.package("0.2.0")
    done = box.ended(box.ask("0.2.0", "0.1.0"))
    assert (done["outcome"], done["from"], done["to"]) == ("done", "0.1.0", "0.2.0"), box.journal()
    assert done["warnings"] == []
    assert box.installed() == "installed 0.2.0"
    kept = json.loads(box.sandbox.read_text("/var/lib/exclave-upgrade/kept.json"))
    assert [p["version"] for p in kept["packages"]] == ["0.2.0", "0.1.0"]
    result = box.sandbox.run(["stat", "-c", "%U %a", f"{HOME}/upgrade/result.json"]).stdout
    assert result == "exclave 600\n"

    box.package("0.3.0", "crashing")
    reverted = box.ended(box.ask("0.3.0", "0.2.0"))
    assert (reverted["outcome"], reverted["code"]) == ("reverted", "crash_loop"), box.journal()
    assert box.installed() == "installed 0.2.0"

    words = ["journalctl", "--namespace=exclave", "-t", "exclave-upgrade", "-p", "err", "-o", "cat"]
    assert "going back" in box.sandbox.run(words).stdout, "errors have an error's priority"

    box.package("0.4.0", extra="exit 7")
    broken = box.ended(box.ask("0.4.0", "0.2.0"))
    assert (broken["outcome"], broken["code"]) == ("reverted", "install_failed"), box.journal()
    assert box.installed() == "installed 0.2.0"

    box.repo.publish(signers=("ann",))
    refused = box.ended(box.ask("0.3.0", "0.2.0"))
    assert (refused["outcome"], refused["code"]) == ("refused", "under_signed"), box.journal()
    assert "running" in box.sandbox.run(["systemctl", "is-system-running"], code=None).stdout


SLOW = "touch /var/lib/began; sleep 4; touch /var/lib/ended"


def test_killed_in_the_middle_it_goes_on_by_itself(box: Box) -> None:
    box.package("0.2.0", extra=SLOW)
    asked = box.ask("0.2.0", "0.1.0")
    wait_for("the installation", box.sandbox.path("/var/lib/began").exists)
    kill = ["systemctl", "kill", "--kill-who=main", "--signal=KILL", "exclave-upgrade.service"]
    box.sandbox.run(kill)
    show = ["systemctl", "show", "--property=SubState", "--value", "exclave-upgrade.service"]
    wait_for("a pause", lambda: box.sandbox.run(show).stdout == "auto-restart\n")
    done = box.ended(asked, 120)
    assert box.journal().count("interrupted (installing)") == 1, "nobody else started it"
    assert box.sandbox.path("/var/lib/ended").exists(), "dpkg was not interrupted"
    assert done["outcome"] == "done", box.journal()
    assert box.installed() == "installed 0.2.0"


def test_told_to_stop_it_lets_the_package_manager_finish(box: Box) -> None:
    box.package("0.2.0", extra=SLOW)
    asked = box.ask("0.2.0", "0.1.0")
    wait_for("the installation", box.sandbox.path("/var/lib/began").exists)
    box.sandbox.run(["systemctl", "stop", "exclave-upgrade.service"])
    assert box.sandbox.path("/var/lib/ended").exists()
    assert box.ended(asked)["outcome"] == "done", box.journal()


@pytest.mark.parametrize("phase", ["installing", "checking"])
def test_a_power_cut_is_taken_up_at_the_next_boot(box: Box, phase: str) -> None:
    slow = SLOW if phase == "installing" else ""
    box.package("0.2.0", extra=slow)
    asked = box.ask("0.2.0", "0.1.0")
    began = "/var/lib/began" if slow else "/var/lib/exclave-upgrade/state.json"
    wait_for(phase, lambda: box.sandbox.path(began).exists() and box.phase() == phase)
    if slow:
        # Nothing of the installed program is needed to go on: it may be half replaced.
        shutil.rmtree(box.sandbox.path("/opt/exclave/agent/runtime"))
    box.sandbox.close()
    box.sandbox.boot()
    done = box.ended(asked, 90)
    assert done["outcome"] == "done", box.journal()
    assert box.installed() == "installed 0.2.0"
    assert not os.path.exists("/opt/exclave/.agent-upgrading"), "nothing happened on the host"
