"""Installing the service, step by step, on a machine in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from exclave_agent import sealing
from exclave_agent.config import DEFAULT_HOME
from exclave_agent.install import units
from exclave_agent.install.steps import (
    IDENTITY,
    JOINED,
    TRUST_FILE,
    Installation,
    InstallRefused,
    Options,
    uninstall,
)
from exclave_protocol.identity import JoinToken
from exclave_testing.host import FakeHost


def token(tenant: str = "acme", root: str = "ab" * 32) -> bytes:
    """A join token as a file holds it."""
    made = JoinToken(tenant, "00" * 16, bytes(32), "centre.example:7444", "cd" * 32, root, "north")
    return made.encode().encode() + b"\n"


def install(host: FakeHost, **options: object) -> list[str]:
    """Run a whole installation; what it did."""
    given = Options(**{"token": token(), **options})  # type: ignore[arg-type]  # as the CLI fills it
    work = Installation(host, given, random=bytes)
    work.check()
    done = []
    for change in work.changes():
        change.do()
        done.append(change.what)
    return done


def test_everything_once_and_nothing_twice() -> None:
    host = FakeHost()
    done = install(host)
    assert [what.split()[0] for what in done] == [
        "create",
        "make",
        "make",
        "enroll",
        "pin",
        "enable",
        "start",
    ]
    assert host.enabled == host.active == set(units.STARTED)
    assert host.owners[DEFAULT_HOME] == units.USER
    assert host.modes[sealing.CREDENTIAL_FILE] == 0o600
    assert host.secrets == [bytes(32)]
    assert b"acme" in host.files[TRUST_FILE]
    assert install(host) == [], "idempotent"
    assert install(host, token=b"") == [], "an enrolled machine needs no token"


def test_the_token_is_never_an_argument() -> None:
    host = FakeHost()
    install(host)
    text = token().decode().strip()
    assert not any(text in word for command in host.commands for word in command)


def test_the_order_of_the_starts() -> None:
    host = FakeHost()
    install(host)
    starts = [c[2:] for c in host.commands if c[:2] == ["systemctl", "start"]]
    assert starts == [[units.WORKERS, units.UPGRADE], [units.AGENT]]


def test_a_newer_systemd_and_a_gpu_get_their_drop_ins() -> None:
    host = FakeHost(systemd=257, gpu=True)
    done = install(host)
    written = [what for what in done if what.startswith("write")]
    assert len(written) == 4
    assert units.GPU_SYSUSERS in host.files
    host.systemd = 252
    assert install(host, gpu=False) == [
        f"remove {units.LOCAL}/exclave-agent.service.d/10-exclave-systemd.conf",
        f"remove {units.LOCAL}/exclave-worker@.service.d/20-exclave-gpu.conf",
        f"remove {units.LOCAL}/exclave-worker.socket.d/20-exclave-gpu.conf",
        f"remove {units.GPU_SYSUSERS}",
        "have systemd read its units again",
        "restart the agent, and wait until it is ready",
    ]


def test_a_display_adapter_is_no_gpu() -> None:
    host = FakeHost()
    host.files[Path("/dev/dri/renderD128")] = b""
    assert not units.has_gpu(host)
    host.files[Path("/dev/kfd")] = b""
    assert units.has_gpu(host)


def test_drop_ins_of_the_site_are_left_alone() -> None:
    host = FakeHost(systemd=257)
    own = units.LOCAL / "exclave-agent.service.d" / "override.conf"
    host.files[own] = b"[Service]\nMemoryMax=1G\n"
    install(host)
    for change in uninstall(host):
        change.do()
    assert host.files[own] == b"[Service]\nMemoryMax=1G\n"
    assert units.LOCAL / "exclave-agent.service.d" / "10-exclave-systemd.conf" not in host.files
    assert host.enabled == host.active == set()
    assert JOINED in host.files, "identity stays"
    assert list(uninstall(host)) == []


def test_without_a_start_it_is_enabled_only() -> None:
    host = FakeHost()
    install(host, start=False)
    assert host.enabled == set(units.STARTED)
    assert host.active == set()


def test_unsealed_when_asked_for() -> None:
    host = FakeHost()
    install(host, seal="none")
    assert sealing.CREDENTIAL_FILE not in host.files


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda h: setattr(h, "is_root", False), "needs root"),
        (lambda h: h.files.pop(Path("/run/systemd/system")), "systemd does not run"),
        (lambda h: setattr(h, "systemd", 249), "older than 252"),
        (lambda h: h.files.pop(units.SHIPPED / units.AGENT), "install the package"),
        (lambda h: h.owners.update({DEFAULT_HOME: "root"}), "belongs to root"),
        (lambda h: h.fails.update({"systemd-creds encrypt": "no TPM2"}), "no TPM2"),
        (lambda h: h.fails.update({"/opt/exclave/agent/bin/exclave-agent join": "error: spent"}),
         "failed: spent"),
        (lambda h: h.fails.update({"systemctl start": "job failed"}), "job failed"),
        (lambda h: h.files.update({IDENTITY / "vault.key": sealing.MAGIC}), "seal.key.cred"),
        (lambda h: h.files.update({JOINED: b"{"}), "damaged"),
        (lambda h: h.files.update({TRUST_FILE: b"{}"}), "another tenant's signers"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_in_words(damage: object, says: str) -> None:
    host = FakeHost()
    damage(host)  # type: ignore[operator]  # a lambda of the table
    with pytest.raises(InstallRefused, match=says):
        install(host)
    if says != "job failed":
        assert units.AGENT not in host.active


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"token": b""}, "not enrolled: give --token-file"),
        ({"token": b"exj1.broken"}, "copy it whole"),
        ({"coordinator": "elsewhere:7444"}, "leads to centre.example:7444"),
    ],
)
def test_a_token_that_will_not_do_is_not_spent(options: dict[str, object], says: str) -> None:
    host = FakeHost()
    with pytest.raises(InstallRefused, match=says):
        install(host, **options)
    assert host.commands[1:] == [] and JOINED not in host.files


def test_a_token_of_another_tenant_does_not_change_who_may_upgrade() -> None:
    host = FakeHost()
    install(host)
    with pytest.raises(InstallRefused, match="tenant other; it was not used"):
        install(host, token=token("other"))
    with pytest.raises(InstallRefused, match="it was not used"):
        install(host, token=token(root="ef" * 32))
    assert b"acme" in host.files[TRUST_FILE]


def test_whose_packages_upgrade_it_is_not_taken_from_the_agents_own_record() -> None:
    host = FakeHost()
    install(host)
    trusted = host.files.pop(TRUST_FILE)
    with pytest.raises(InstallRefused, match="--trust-enrollment"):
        install(host, token=b"")
    assert TRUST_FILE not in host.files
    install(host)  # a token says it, and is not spent again
    assert host.files.pop(TRUST_FILE) == trusted
    install(host, token=b"", trust_enrollment=True)
    assert host.files[TRUST_FILE] == trusted


def test_an_interrupted_installation_goes_on() -> None:
    host = FakeHost()
    host.fails["/opt/exclave/agent/bin/exclave-agent join"] = "error: unreachable"
    with pytest.raises(InstallRefused, match="unreachable"):
        install(host)
    sealed = host.files[sealing.CREDENTIAL_FILE]
    host.fails.clear()
    assert install(host)[0].startswith("enroll")
    assert host.files[sealing.CREDENTIAL_FILE] == sealed, "no second key"


def test_an_interruption_after_a_drop_in_is_made_good() -> None:
    host = FakeHost()
    install(host)
    host.files[Path("/dev/nvidiactl")] = b""
    work = Installation(host, Options(), random=bytes)
    for change in work.changes():
        change.do()
        if change.what.startswith("write"):
            break
    done = install(host, token=b"")
    assert done[-2:] == [
        "have systemd read its units again",
        "restart the agent, and wait until it is ready",
    ]
    assert install(host, token=b"") == []


def test_no_runtime_is_a_warning() -> None:
    host = FakeHost()
    del host.files[Path("/opt/exclave/runtimes/cpu")]
    (warning,) = Installation(host, Options(token=token()), random=bytes).check()
    assert "exclave-runtime-cpu" in warning
