"""The packaged agent in a real systemd: installed, answering, restarted, watched, limited, told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from exclave_testing.installed import AGENT, HOME, Installed, binds
from exclave_testing.processes import wait_for
from exclave_testing.sandbox import Sandbox

ASK_UNIX = [
    "/opt/exclave/agent/runtime/bin/python3",
    "-I",
    "-c",
    "import socket\ns = socket.socket(socket.AF_UNIX)\ns.settimeout(10)\n"
    "s.connect('/run/exclave/agent.sock')\n"
    "s.sendall(b'GET /healthz HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')\nprint(s.recv(15))",
]


@pytest.fixture(scope="module")
def up(
    bookworm: Path, packages: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installed]:
    """Coordinator and agent as services, a release with two real models, an API key."""
    folder = tmp_path_factory.mktemp("service")
    with Sandbox(bookworm, "service", folder, binds=binds(packages), on_disk=True) as box:
        made = Installed(box)
        made.centre_up()
        made.release()
        made.install_agent()
        made.rollout()
        made.wait_release()
        made.create_key()
        yield made


@contextmanager
def drop_in(up: Installed, unit: str, text: str) -> Iterator[None]:
    """A site's own override, as `systemctl edit` writes it; gone afterwards."""
    path = f"/etc/systemd/system/{unit}.d/override.conf"
    up.box.write_text(path, text)
    up.box.sh("systemctl daemon-reload")
    try:
        yield
    finally:
        up.box.sh(f"rm {path}; rmdir --ignore-fail-on-non-empty $(dirname {path})")
        up.box.sh("systemctl daemon-reload; systemctl restart exclave-agent")
        up.wait_release()


def test_it_answers_a_request_with_a_real_model(up: Installed) -> None:
    code, body = up.chat()
    assert code == 200, body
    assert json.loads(body)["choices"][0]["message"]["content"]


def test_installing_again_changes_nothing(up: Installed) -> None:
    pid = up.main_pid()
    assert "nothing to do" in up.agent("install")
    assert "nothing to do" in up.agent("install", "--dry-run")
    assert up.main_pid() == pid


def test_agent_and_workers_are_users_of_their_own_behind_walls(up: Installed) -> None:
    status = up.status()
    assert status["service"] == {"managed": True, "workers": "service", "keys_sealed": True}
    assert [model["network"] for model in status["models"]] == ["none", "none"]
    users = up.box.sh("ps -eo user:20,comm | grep exclave- | sort -u").split("\n")
    assert [line.split()[0] for line in users if line] == [
        "exclave",
        "exclave-coordinator",
        "exclave-worker",
    ]
    # The workers' user cannot enter the agent's home, and its models are nobody's to change.
    assert up.box.run(["ls", HOME], user="exclave-worker", code=None).returncode != 0
    modes = up.box.sh(f"stat -c %a {HOME} {HOME}/artifacts/sha256/*").split()
    assert modes[0] == "700"
    assert sorted(modes[1:]) == ["444", "444", "600", "600"], "models, manifest and policy"


def test_keys_lie_sealed_on_disk(up: Installed) -> None:
    for name in ("key.pem", "audit.key", "vault.key"):
        data = up.box.path(f"{HOME}/identity/{name}").read_bytes()
        assert data.startswith(b"exclave-sealed/v1\n"), name
        assert b"PRIVATE" not in data
    assert up.box.sh("stat -c '%a %U' /etc/exclave/seal.key.cred").strip() == "600 root"
    # Root's commands open them all the same, and leave nothing of root's behind.
    assert "verify" in up.agent("audit", "verify")
    assert up.box.sh(f"find {HOME} -user root").strip() == ""


def test_a_credential_of_another_machine_stops_the_service(up: Installed) -> None:
    up.box.sh("cp -p /etc/exclave/seal.key.cred /root/kept; head -c 200 /dev/urandom | "
              "base64 > /etc/exclave/seal.key.cred")  # fmt: skip
    try:
        done = up.box.run(["systemctl", "restart", AGENT], code=None)
        assert done.returncode != 0
        assert up.box.show(AGENT, "ExecMainStatus")["ExecMainStatus"] == "243"  # CREDENTIALS
    finally:
        up.box.sh("cp -p /root/kept /etc/exclave/seal.key.cred; systemctl restart exclave-agent")
    up.wait_release()


def test_a_restart_refuses_nobody(up: Installed) -> None:
    """Connections made while no agent runs wait in the socket that systemd keeps."""
    codes: list[int] = []
    stop = threading.Event()

    def hammer() -> None:
        while not stop.is_set():
            codes.append(up.call("/healthz")[0])

    thread = threading.Thread(target=hammer)
    thread.start()
    try:
        before = up.main_pid()
        up.box.sh("systemctl restart exclave-agent")
        assert up.main_pid() != before
        answered = len(codes)
        wait_for("answers of the new process", lambda: len(codes) > answered + 3)
    finally:
        stop.set()
        thread.join()
    assert set(codes) == {200}, codes
    up.wait_release()


def test_an_agent_that_hangs_is_killed_by_its_watchdog_and_comes_back(up: Installed) -> None:
    with drop_in(up, AGENT, "[Service]\nWatchdogSec=3\n"):
        up.box.sh("systemctl restart exclave-agent")
        pid = up.main_pid()
        up.box.run(["kill", "-STOP", str(pid)])
        wait_for("another process", lambda: up.main_pid() not in (pid, 0), 30)
        up.wait_release()
        assert up.chat()[0] == 200
    journal = up.box.journal(AGENT)
    assert "Watchdog timeout" in journal


def test_a_worker_out_of_memory_is_killed_and_the_agent_lives(up: Installed) -> None:
    """The kernel kills in the worker's cgroup alone; the agent says so, and recovers."""
    with drop_in(up, "exclave-worker@.service", "[Service]\nMemoryMax=48M\n"):
        up.box.sh("systemctl restart exclave-agent")
        pid = up.main_pid()
        wait_for(
            "a kill", lambda: "status=9/KILL" in up.box.sh("journalctl -b --no-pager -o cat"), 60
        )
        assert up.main_pid() == pid
        assert up.call("/healthz")[0] == 200
        assert up.chat()[0] == 503
    assert up.chat()[0] == 200


def test_settings_are_reloaded_whole_or_not_at_all(up: Installed) -> None:
    file = "/etc/exclave/agent.toml"
    kept, pid = up.box.read_text(file), up.main_pid()
    try:
        up.box.write_text(file, kept + '\nlog_level = "debug"\nheartbeat = 1800\n')
        up.box.run(["systemctl", "reload", AGENT])
        up.box.write_text(file, kept + '\nlog_level = "verbose"\nheartbeat = 900\n')
        assert up.box.run(["systemctl", "reload", AGENT], code=None).returncode != 0
        assert "log_level must be" in up.agent("reload", "--wait", code=78)
        up.box.write_text(file, kept + '\nlisten = "127.0.0.1:9999"\nheartbeat = 900\n')
        # The service's environment is not the shell's: it is asked, and it refuses.
        assert "listen changed, which only a restart" in up.agent("reload", "--wait", code=1)
        assert "heartbeat" not in up.agent("reload", "--wait", code=1)
    finally:
        up.box.write_text(file, kept)
    assert "heartbeat = 3600" in up.agent("reload", "--wait")
    assert up.main_pid() == pid, "nothing was restarted"


def test_a_wrong_setting_at_start_is_not_tried_for_ever(up: Installed) -> None:
    with drop_in(up, AGENT, "[Service]\nEnvironment=EXCLAVE_HEARTBEAT=soon\n"):
        assert up.box.run(["systemctl", "restart", AGENT], code=None).returncode != 0
        shown = up.box.show(AGENT, "ActiveState", "ExecMainStatus", "SubState")
        assert shown == {"ActiveState": "failed", "ExecMainStatus": "78", "SubState": "failed"}
        assert "EXCLAVE_HEARTBEAT must be a whole number" in up.journal()


def test_the_journal_has_its_fields_and_nothing_of_a_request(up: Installed) -> None:
    up.chat("Ms Quillfeather wants the vermilion kettle.")
    lines = up.box.sh("journalctl --namespace=exclave -o json -t exclave-agent --no-pager")
    records = [json.loads(line) for line in lines.splitlines()]
    assert any(record.get("LOGGER", "").startswith("exclave_agent") for record in records)
    assert all(record["PRIORITY"] in "23467" for record in records)
    everything = up.box.sh("journalctl --no-pager -o json --namespace=*")
    assert "Quillfeather" not in everything


def test_doctor_finds_nothing_wrong(up: Installed) -> None:
    report = json.loads(up.box.run(["exclave-agent", "doctor", "--json"]).stdout)
    failed = [check for check in report["checks"] if check["result"] == "fail"]
    assert failed == []
    seen = {check["name"] for check in report["checks"]}
    assert len(seen) > 15
    assert up.box.sh(f"find {HOME} -user root").strip() == ""


def test_doctor_names_a_site_override_that_weakens_the_walls(up: Installed) -> None:
    with drop_in(up, AGENT, "[Service]\nProtectSystem=no\n"):
        done = up.box.run(["exclave-agent", "doctor"], code=None)
        assert "ProtectSystem" in done.stdout
        assert "override.conf" in done.stdout


def test_a_support_bundle_says_what_is_inside(up: Installed) -> None:
    listed = up.agent("support-bundle", "--list")
    assert "doctor" in listed
    assert "Quillfeather" not in listed
    up.agent("support-bundle", "--yes", "-o", "/root/bundle.tar.gz")
    names = up.box.sh("tar tzf /root/bundle.tar.gz; stat -c %a /root/bundle.tar.gz")
    assert "MANIFEST.txt" in names and "600" in names


def test_it_serves_on_without_its_coordinator_and_after_a_boot(up: Installed) -> None:
    up.box.sh("systemctl disable --now exclave-coordinator")
    try:
        assert up.chat()[0] == 200
        up.box.reboot()
        up.box.wait_unit(AGENT, "active")
        up.wait_release()
        assert up.chat()[0] == 200
    finally:
        up.box.sh("systemctl enable --now exclave-coordinator")
        wait_for("a session", lambda: up.status().get("coordinator", {}).get("connected"))


def test_an_application_of_the_group_may_use_the_unix_socket(up: Installed) -> None:
    up.box.sh("useradd -G exclave app || true; useradd stranger || true")
    assert "200" in up.box.run(ASK_UNIX, user="app").stdout
    refused = up.box.run(ASK_UNIX, user="stranger", code=None)
    assert "PermissionError" in refused.stderr


def test_the_unix_socket_answers_whatever_order_systemd_was_told_things_in(up: Installed) -> None:
    """A newer systemd keeps sockets over a stop, which takes away the folder they lie in."""
    for told in ("stop", "start"):
        up.box.run(["systemctl", told, AGENT])
    for told in (
        "daemon-reload",
        "restart exclave-agent",
        "daemon-reload",
        "restart exclave-agent",
    ):
        up.box.run(["systemctl", *told.split()])
        assert "200" in up.box.run(ASK_UNIX).stdout
    up.wait_release()


def test_the_processes_end_with_the_service(up: Installed) -> None:
    up.box.sh("systemctl stop exclave-agent")
    try:
        wait_for(
            "the workers to go",
            lambda: up.box.run(["pgrep", "exclave-worker"], code=None).returncode == 1,
        )
        assert up.agent("status", code=3)
    finally:
        up.box.sh("systemctl start exclave-agent")
    up.wait_release()
