"""The vault: sealed, bound to its record, there with the leaf or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave_agent.audit.store import LogReader
from exclave_agent.errors import StorageError, StorageFull
from exclave_agent.ports import LeafDraft
from exclave_agent.storage import vault as vault_module
from exclave_agent.storage.home import read_log
from exclave_agent.storage.vault import LEAST_SEALED, padded
from exclave_protocol.canonical import JsonValue
from exclave_protocol.disclosure import parse
from exclave_protocol.leaf import decode_leaf
from exclave_testing.homes import Home, execute, intent, result, state, vault

SECRET = "Patient Erika Mustermann, 1964"


def values_of(seq: int) -> Callable[[LogReader], list[str]]:
    return lambda reader: reader.private(seq)


async def test_values_come_back_as_they_were(tmp_path: Path) -> None:
    value: list[JsonValue] = [{"role": "user", "content": SECRET}, 7, None, True]
    async with Home(tmp_path) as home:
        place = await home.log.append(
            LeafDraft("INTENT", {"decision": "d"}, {"prompt": value, "context": []}, "erika")
        )
        encoded = await home.database.read(lambda reader: reader.private(place.seq))
        leaf = await home.database.read(lambda reader: reader.leaf(place.seq))
    opened = {item.name: item for item in map(parse, encoded)}
    assert opened["prompt"].value == value
    assert opened["context"].value == []
    assert leaf is not None
    assert {item.digest for item in opened.values()} < set(decode_leaf(leaf.data).sd)


async def test_neither_their_number_nor_their_length_tells_much(tmp_path: Path) -> None:
    """A refusal of one field looks like an answer of three, and a short name like a longer one."""
    async with Home(tmp_path) as home:
        for fields in (1, 2, 3, 4, 5):
            private: dict[str, JsonValue] = {f"f{n}": "x" for n in range(fields)}
            await home.log.append(LeafDraft("INTENT", {"decision": "d"}, private, "erika"))
        leaves = await home.database.read(lambda reader: reader.leaves(1, 9, 1 << 20))
        assert [len(decode_leaf(data).sd) for data in leaves] == [4, 4, 4, 4, 8]
        for length in range(0, 4000, 7):
            await home.log.append(intent("d", "x" * length, subject="erika"))
        sizes = execute(state(tmp_path), "SELECT DISTINCT length(sealed) FROM leaf")
    known = sorted(size for (size,) in sizes if isinstance(size, int))
    assert len(known) < 60, "of 572 lengths"


@given(st.binary(max_size=5000))
def test_padding_costs_an_eighth_at_most(values: bytes) -> None:
    made = padded(values)
    assert made.startswith(values)
    assert len(made) <= max(LEAST_SEALED, len(values) * 9 // 8)
    assert set(made[len(values) :]) <= {ord("~")}


async def test_no_file_of_the_home_holds_a_value_or_a_subject_in_clear(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        await home.log.append(intent("d", SECRET, subject="subject-in-clear"))
        for path in tmp_path.rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                assert SECRET.encode() not in data
                assert b"subject-in-clear" not in data


async def test_many_values_and_many_subjects_of_one_batch(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        places = await asyncio.gather(
            *(home.log.append(intent(f"d{n}", f"v{n}", subject=f"s{n % 7}")) for n in range(200))
        )
        for n, place in enumerate(places):
            (encoded,) = await home.database.read(values_of(place.seq))
            assert parse(encoded).value == f"v{n}"
    assert execute(vault(tmp_path), "SELECT count(*) FROM subject") == [(7,)]
    async with Home(tmp_path) as home:  # the same keys serve after a restart
        await home.log.append(intent("again", "w", subject="s3"))
    assert execute(vault(tmp_path), "SELECT count(*) FROM subject") == [(7,)]


ONE, OTHER = "(SELECT min(id) FROM leaf WHERE sealed NOT NULL)", "(SELECT max(id) FROM leaf)"


@pytest.mark.parametrize(
    ("file", "attack"),
    [
        (state, "UPDATE leaf SET sealed = zeroblob(length(sealed)) WHERE sealed NOT NULL"),
        (state, "UPDATE leaf SET sealed = x'00' WHERE sealed NOT NULL"),
        (
            state,
            f"UPDATE leaf SET sealed = (SELECT sealed FROM leaf WHERE id = {OTHER}) "
            f"WHERE id = {ONE}",
        ),
        (
            state,
            f"UPDATE leaf SET hash = (SELECT hash FROM leaf WHERE id = {OTHER}) WHERE id = {ONE}",
        ),
        (vault, "UPDATE subject SET wrapped = x'00'"),
        (vault, "UPDATE subject SET tag = zeroblob(32)"),
    ],
    ids=["zeroed", "cut", "swapped", "moved", "key-damaged", "key-relabelled"],
)
async def test_tampered_values_do_not_open(
    tmp_path: Path, file: Callable[[Path], Path], attack: str
) -> None:
    async with Home(tmp_path) as home:
        first = await home.log.append(intent("d1", "one"))
        await home.log.append(result("d1", first.seq, "two"))
    execute(file(tmp_path), attack)
    with pytest.raises(StorageError) as refused:
        read_log(tmp_path, values_of(first.seq))
    assert refused.value.code == "vault_damaged"


async def test_a_destroyed_key_takes_its_values_and_no_others(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        gone = await home.log.append(intent("d1", "one", subject="erika"))
        kept = await home.log.append(intent("d2", "two", subject="max"))
    execute(vault(tmp_path), "DELETE FROM subject WHERE id = 1")
    assert read_log(tmp_path, values_of(gone.seq)) == []
    (encoded,) = read_log(tmp_path, values_of(kept.seq))
    assert parse(encoded).value == "two"


async def test_a_vault_that_cannot_take_a_key_refuses_the_record_and_recovers(
    tmp_path: Path,
) -> None:
    async with Home(tmp_path) as home:
        await home.log.append(intent("d1", subject="known"))
        connection = home.storage.vault_connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        drafts = [intent("d2", subject=f"new {number}") for number in range(100)]
        outcome = await asyncio.gather(*map(home.log.append, drafts), return_exceptions=True)
        assert {type(error) for error in outcome} == {StorageFull}
        size = home.log.size
        assert (await home.log.append(intent("d3", subject="known"))).seq == size
        connection.execute("PRAGMA max_page_count = 1000000")
        place = await home.log.append(intent("d4", "mine", subject="new again"))
        (encoded,) = await home.database.read(values_of(place.seq))
    assert parse(encoded).value == "mine"


async def test_more_subjects_than_are_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault_module, "CACHED_KEYS", 3)
    async with Home(tmp_path) as home:
        for turn in range(2):
            places = await asyncio.gather(
                *(home.log.append(intent(f"d{n}", f"v{n}", f"s{n % 5}")) for n in range(20))
            )
            for n, place in enumerate(places):
                (encoded,) = await home.database.read(values_of(place.seq))
                assert parse(encoded).value == f"v{n}", turn
    assert execute(vault(tmp_path), "SELECT count(*) FROM subject") == [(5,)]
