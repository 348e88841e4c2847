"""What docs/gpu.md says of devices and libraries behind a worker's walls, with a stand-in device.

No GPU is needed: a node of the kernel's `mem` driver plays it, closed to all but group `render`,
and the drop-in names that driver in the place of `accel`. Everything else is as shipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from exclave_testing.processes import ROOT
from exclave_testing.sandbox import Sandbox

SYSTEMD = ROOT / "packaging" / "systemd"
UNIT = "/etc/systemd/system/walls@.service"
NODE = "/dev/standin"
# The worker's own program is not needed to try its walls; a shell is, and so is where it lies.
WORKINGS = ("Type=", "NotifyAccess=", "ExecStart=", "WatchdogSec=", "LogNamespace=")
LIBRARY = "/usr/local/cuda/lib64/libstandin.so"


@pytest.fixture(scope="module")
def walls(bookworm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """The workers' unit with a shell in it, their user in the groups that the drop-in brings."""
    unit = (SYSTEMD / "system" / "exclave-worker@.service").read_text()
    kept = [line for line in unit.splitlines() if not line.startswith(WORKINGS)]
    with Sandbox(bookworm, "walls", tmp_path_factory.mktemp("walls")) as box:
        for name, path in (
            ("exclave-agent.conf", "sysusers/exclave-agent.conf"),
            ("exclave-gpu.conf", "drop-ins/exclave-gpu.sysusers"),
        ):
            box.copy_in(SYSTEMD / path, f"/etc/sysusers.d/{name}")
        box.sh(
            f"systemd-sysusers; mknod -m 660 {NODE} c 1 5; chgrp render {NODE}\n"
            f"mkdir -p /opt/exclave $(dirname {LIBRARY})\n"
            f"cp /lib/x86_64-linux-gnu/libm.so.6 {LIBRARY}"
        )
        shell = "Type=oneshot\nExecStart=-/bin/true\nExecPaths=/usr/bin"
        box.write_text(UNIT, "\n".join(kept).replace("[Service]", f"[Service]\n{shell}"))
        yield box


def drop_in(box: Sandbox, name: str, text: str) -> None:
    """Written as `exclave-agent install` or `systemctl edit` does; empty: none."""
    folder = f"{UNIT}.d"
    box.sh(f"mkdir -p {folder}; rm -f {folder}/{name}")
    if text:
        box.write_text(f"{folder}/{name}", text)
    box.run(["systemctl", "daemon-reload"])


def tried(box: Sandbox, script: str) -> str:
    """What a worker's shell says; its exit status last."""
    path = f"/usr/bin/tried-{abs(hash(script))}"
    box.write_text(path, f"#!/bin/sh\n{script}\n", mode=0o755)
    text = box.read_text(UNIT)
    box.write_text(UNIT, re.sub(r"ExecStart=.*", f"ExecStart=-{path}", text))
    box.run(["systemctl", "daemon-reload"])
    cursor = box.sh("journalctl -n 0 --show-cursor").split("cursor: ")[-1].strip()
    box.run(["systemctl", "start", "walls@1.service"])
    box.run(["journalctl", "--sync"])
    words = ["journalctl", "-o", "cat", "-u", "walls@1.service", f"--after-cursor={cursor}"]
    return box.run(words).stdout


def standin() -> str:
    """The shipped drop-in, for the driver that is there."""
    shipped = (SYSTEMD / "drop-ins" / "20-gpu.conf").read_text()
    assert "DeviceAllow=char-accel rw" in shipped
    return shipped.replace("char-accel", "char-mem")


def test_the_drop_in_opens_the_device_to_the_workers_user(walls: Sandbox) -> None:
    script = f"head -c 4 {NODE} | wc -c; id -un; cat /proc/self/uid_map"
    drop_in(walls, "20-exclave-gpu.conf", "")
    assert "No such file" in tried(walls, script)
    drop_in(walls, "20-exclave-gpu.conf", standin())
    said = tried(walls, script)
    assert "4\nexclave-worker\n" in said
    assert "4294967295" not in said, "the user namespace of PrivateUsers= is there as well"


def test_only_devices_of_the_drop_ins_drivers_are_open(walls: Sandbox) -> None:
    walls.sh("mknod -m 666 /dev/other c 4 64")
    drop_in(walls, "20-exclave-gpu.conf", standin())
    assert "Operation not permitted" in tried(walls, "head -c 4 /dev/other")


def test_a_device_of_another_group_stays_closed(walls: Sandbox) -> None:
    drop_in(walls, "20-exclave-gpu.conf", standin())
    walls.sh(f"chgrp root {NODE}")
    try:
        assert "Permission denied" in tried(walls, f"head -c 4 {NODE}")
    finally:
        walls.sh(f"chgrp render {NODE}")


def test_libraries_elsewhere_need_to_be_named(walls: Sandbox) -> None:
    script = f"LD_PRELOAD={LIBRARY} /bin/true && echo tried"
    drop_in(walls, "20-exclave-gpu.conf", standin())
    assert "failed to map segment from shared object" in tried(walls, script)
    drop_in(walls, "30-site.conf", "[Service]\nExecPaths=/usr/local/cuda\n")
    try:
        said = tried(walls, script)
    finally:
        drop_in(walls, "30-site.conf", "")
    assert "failed to map" not in said and "tried" in said
