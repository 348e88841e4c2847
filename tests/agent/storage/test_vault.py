"""The vault: sealed, bound to its place, written before the leaf, swept after a crash."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from exclave_agent.audit.store import LogReader
from exclave_agent.errors import StorageError
from exclave_agent.ports import LeafDraft
from exclave_agent.storage.home import read_log
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
    assert sorted(item.digest for item in opened.values()) == list(decode_leaf(leaf.data).sd)


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


@pytest.mark.parametrize(
    "attack",
    [
        "UPDATE disclosure SET sealed = zeroblob(length(sealed)) WHERE id = (SELECT min(id) "
        "FROM disclosure)",
        "UPDATE disclosure SET sealed = (SELECT sealed FROM disclosure ORDER BY id DESC LIMIT 1)",
        "UPDATE disclosure SET digest = (SELECT digest FROM disclosure ORDER BY id DESC LIMIT 1)",
        "UPDATE subject SET wrapped = zeroblob(60)",
    ],
    ids=["zeroed", "swapped", "relabelled", "key-damaged"],
)
async def test_a_tampered_row_does_not_open(tmp_path: Path, attack: str) -> None:
    async with Home(tmp_path) as home:
        first = await home.log.append(intent("d1", "one"))
        await home.log.append(result("d1", first.seq, "two"))
    execute(vault(tmp_path), attack)
    with pytest.raises(StorageError) as refused:
        read_log(tmp_path, 1, lambda reader: reader.private(first.seq))
    assert refused.value.code == "vault_damaged"


async def test_rows_without_a_leaf_are_swept_at_boot(tmp_path: Path) -> None:
    """A crash between the vault's commit and the log's leaves rows that nothing commits to."""
    async with Home(tmp_path) as home:
        place = await home.log.append(intent("kept", "kept"))
        await home.log.append(intent("lost", "lost"))
    execute(state(tmp_path), "DELETE FROM leaf WHERE decision = 'lost'")
    assert execute(vault(tmp_path), "SELECT count(*) FROM disclosure") == [(2,)]
    async with Home(tmp_path) as home:
        assert execute(vault(tmp_path), "SELECT count(*) FROM disclosure") == [(1,)]
        again = await home.log.append(intent("next", "next"))
        assert again.seq == place.seq + 1
        (encoded,) = await home.database.read(lambda reader: reader.private(again.seq))
        assert parse(encoded).value == "next"


async def test_too_many_fields_fail_alone(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        draft = LeafDraft("INTENT", {}, {f"f{n}": n for n in range(65)}, "s")
        with pytest.raises(StorageError, match="65 private fields"):
            await home.log.append(draft)
        assert (await home.log.append(intent("d"))).seq == 1
