"""API keys: made and revoked by one process, seen at once by another; never kept in clear."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from exclave_agent.errors import BadRequest
from exclave_agent.storage.home import Storage, prepare
from exclave_agent.storage.keys import SqliteKeyRing, create_key, list_keys, revoke_key
from exclave_testing.clock import FakeClock, SeededRng

MAKE = """
import sys, pathlib
from exclave_agent.storage.keys import create_key
from exclave_agent.system import SystemClock, SystemRng
key = create_key(pathlib.Path(sys.argv[1]), roles=["analyst"], clock=SystemClock(), rng=SystemRng())
print(key.secret)
"""


async def test_keys_of_another_process_work_at_once(tmp_path: Path) -> None:
    async with Storage(tmp_path, SeededRng()) as storage:
        made = subprocess.run(
            [sys.executable, "-c", MAKE, str(tmp_path)],
            check=True,
            timeout=60,
            capture_output=True,
            text=True,
        )
        secret = made.stdout.strip()
        caller = storage.keys.authenticate(secret)
        assert caller is not None
        assert caller.roles == ("analyst",)
        revoke_key(tmp_path, caller.key_id, clock=FakeClock())
        assert storage.keys.authenticate(secret) is None


def test_keys_can_be_made_before_the_first_run(tmp_path: Path) -> None:
    clock, rng = FakeClock(), SeededRng()
    first = create_key(tmp_path, roles=["a"], label="one", clock=clock, rng=rng)
    clock.step(1)
    second = create_key(tmp_path, roles=["a", "b"], clock=clock, rng=rng)
    revoke_key(tmp_path, first.key_id, clock=clock)
    revoke_key(tmp_path, first.key_id, clock=clock)
    found = list_keys(tmp_path)
    assert [(k.key_id, k.label, k.roles, k.revoked) for k in found] == [
        (first.key_id, "one", ("a",), True),
        (second.key_id, "", ("a", "b"), False),
    ]


def test_the_secret_is_kept_nowhere(tmp_path: Path) -> None:
    key = create_key(tmp_path, roles=["a"], clock=FakeClock(), rng=SeededRng())
    files = [path.read_bytes() for path in tmp_path.iterdir() if path.is_file()]
    assert not any(key.secret[13:].encode() in data for data in files)
    assert key.secret not in repr(key)


@pytest.mark.parametrize(
    ("roles", "label"),
    [
        ([], ""),
        (["Analyst"], ""),
        (["a b"], ""),
        (["a"] * 17, ""),
        (["a"], "x" * 101),
        (["a"], "\n"),
    ],
)
def test_malformed_requests_name_the_field(tmp_path: Path, roles: list[str], label: str) -> None:
    with pytest.raises(BadRequest) as refused:
        create_key(tmp_path, roles=roles, label=label, clock=FakeClock(), rng=SeededRng())
    assert refused.value.param in {"roles", "label"}
    assert not list(tmp_path.iterdir())


def test_an_unknown_key_cannot_be_revoked(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="no API key has that id"):
        revoke_key(tmp_path, "00000000", clock=FakeClock())


def _age(home: Path) -> None:
    """The vault was last changed long ago."""
    for name in ("vault.db", "vault.db-wal"):
        if (home / name).exists():
            os.utime(home / name, ns=(1, 1))


def test_a_remembered_key_is_refused_from_its_revocation_on(tmp_path: Path) -> None:
    prepare(tmp_path, SeededRng())
    made = create_key(tmp_path, roles=("analyst",), clock=FakeClock(), rng=SeededRng(3))
    ring = SqliteKeyRing(tmp_path / "vault.db")
    _age(tmp_path)
    assert ring.authenticate(made.secret) is not None
    assert ring._seen, "a key read long after the last change is remembered"
    revoke_key(tmp_path, made.key_id, clock=FakeClock())
    assert ring.authenticate(made.secret) is None
    ring.close()


def test_nothing_is_remembered_within_a_tick_of_a_change(tmp_path: Path) -> None:
    prepare(tmp_path, SeededRng())
    made = create_key(tmp_path, roles=("analyst",), clock=FakeClock(), rng=SeededRng(3))
    ring = SqliteKeyRing(tmp_path / "vault.db")
    now = time.time_ns()
    os.utime(tmp_path / "vault.db", ns=(now, now))
    assert ring.authenticate(made.secret) is not None
    assert not ring._seen
    ring.close()
