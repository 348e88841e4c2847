"""What every StateStore and every KeyRing promise, fakes included."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from exclave_agent.ports import Caller, KeyRing, StateStore
from exclave_agent.storage.home import Storage, prepare
from exclave_agent.storage.keys import SqliteKeyRing, create_key
from exclave_testing.clock import FakeClock, SeededRng
from exclave_testing.homes import vault
from exclave_testing.storage import FakeKeyRing, FakeStateStore


@pytest.fixture(params=["fake", "real"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StateStore]:
    if request.param == "fake":
        yield FakeStateStore()
        return
    async with Storage(tmp_path, SeededRng()) as storage:
        yield storage.state


async def test_absent_is_none(store: StateStore) -> None:
    assert await store.get("nothing") is None


async def test_the_last_put_is_what_get_gives(store: StateStore) -> None:
    await store.put("a", b"1")
    await store.put("a", b"2\x00\xff")
    await store.put("b", b"")
    assert await store.get("a") == b"2\x00\xff"
    assert await store.get("b") == b""


async def test_none_deletes_and_may_do_so_twice(store: StateStore) -> None:
    await store.put("a", b"1")
    await store.put("a", None)
    await store.put("a", None)
    assert await store.get("a") is None


Make = Callable[[tuple[str, ...]], tuple[KeyRing, str, str]]


@pytest.fixture(params=["fake", "real"])
def make_ring(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    def fake(roles: tuple[str, ...]) -> tuple[KeyRing, str, str]:
        secret = "exk_00000001_" + "A" * 43
        return FakeKeyRing({secret: Caller("00000001", roles)}), secret, "00000001"

    def real(roles: tuple[str, ...]) -> tuple[KeyRing, str, str]:
        prepare(tmp_path, SeededRng())
        key = create_key(tmp_path, roles=roles, clock=FakeClock(), rng=SeededRng(7))
        return SqliteKeyRing(vault(tmp_path)), key.secret, key.key_id

    return fake if request.param == "fake" else real


def test_a_key_is_known_by_its_secret_alone(make_ring: Make) -> None:
    ring, secret, key_id = make_ring(("analyst", "auditor"))
    assert ring.authenticate(secret) == Caller(key_id, ("analyst", "auditor"))


@pytest.mark.parametrize("damage", ["", "x", "exk_", "sk-proj-abc", "é"])
def test_other_texts_are_nobody(make_ring: Make, damage: str) -> None:
    ring, secret, _ = make_ring(("analyst",))
    assert ring.authenticate(damage) is None
    last = "A" if secret[-1] != "A" else "E"
    assert ring.authenticate(secret[:-1] + last) is None
    assert ring.authenticate(secret + " ") is None
