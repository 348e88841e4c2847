"""What doctor may rely on, whatever machine it looks at: the real one, and the fake."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from exclave_agent.doctor.host import Host
from exclave_agent.doctor.machine import ABSENT, Machine, Ran
from exclave_testing.machine import Answer, FakeMachine


@pytest.fixture(params=["fake", "fake elsewhere", "real"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    (tmp_path / "b").write_bytes(b"0123456789")
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "b").chmod(0o640)
    (tmp_path / "folder").mkdir()
    if request.param == "real":
        return Host()
    echo: dict[str, Answer] = {"echo": lambda argv: " ".join(argv[1:]) + "\n", "false": Ran(1, "")}
    if request.param == "fake":
        return FakeMachine(tmp_path, commands=dict(echo))
    real = {str(path): Host().read(path) for path in tmp_path.iterdir()}
    stats = {name: found for name in real if (found := Host().stat(Path(name)))}
    real |= {str(tmp_path): None}
    return FakeMachine(Path("/nowhere"), commands=dict(echo), files=real, stats=stats)


def test_files(machine: Machine, tmp_path: Path) -> None:
    assert machine.read(tmp_path / "b") == b"0123456789"
    assert machine.read(tmp_path / "b", 4) == b"0123"
    assert machine.read(tmp_path / "none") is None
    assert machine.read(tmp_path / "folder") is None
    assert machine.read(tmp_path / "b" / "below a file") is None


def test_stats(machine: Machine, tmp_path: Path) -> None:
    found = machine.stat(tmp_path / "b")
    assert found is not None
    assert (found.permissions, found.size, found.uid) == (0o640, 10, os.geteuid())
    assert not found.is_folder
    folder = machine.stat(tmp_path / "folder")
    assert folder is not None and folder.is_folder
    assert machine.stat(tmp_path / "none") is None


def test_globs_are_in_order_and_stars_stay_in_their_folder(
    machine: Machine, tmp_path: Path
) -> None:
    assert machine.glob(f"{tmp_path}/[ab]") == [tmp_path / "a", tmp_path / "b"]
    assert machine.glob(f"{tmp_path}/*/none") == []
    assert tmp_path / "a" not in machine.glob(f"{tmp_path.parent}/*")


def test_commands(machine: Machine) -> None:
    assert machine.run(["echo", "a", "b"]) == Ran(0, "a b\n")
    assert machine.run(["echo", "abc"], most=2).out == "c\n", "the newest part counts"
    assert machine.run(["false"]).code == 1
    assert machine.run(["exclave-no-such-command"]) == Ran(ABSENT, "")


def test_space(machine: Machine, tmp_path: Path) -> None:
    room = machine.space(tmp_path)
    assert room is not None and room.free > 0
    assert machine.space(tmp_path / "none") is None


def test_users(machine: Machine) -> None:
    root = machine.user("root")
    assert root is not None and root.uid == 0 and 0 in root.groups
    assert machine.user("exclave-no-such-user") is None
    assert machine.user_name(0) == "root"
    assert machine.user_name(4_000_000) == "4000000"
    assert machine.group("exclave-no-such-group") is None


def test_names(machine: Machine) -> None:
    assert "127.0.0.1" in machine.resolve("127.0.0.1", 1)
    with pytest.raises(OSError, match=r"."):
        machine.resolve("exclave.invalid", 1)


def test_modules(machine: Machine) -> None:
    assert machine.has_module("onnxruntime")
    assert not machine.has_module("exclave_no_such_module")
