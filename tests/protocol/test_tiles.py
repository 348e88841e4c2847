"""Tiles: the layout is the specification's, a tree is read from them as from memory, and nothing
that was changed in them is believed."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave_protocol.errors import ProofError
from exclave_protocol.tiles import (
    WIDTH,
    Tile,
    TileTree,
    entries_of,
    entry_bundles,
    hash_tiles,
    tiles_of,
)
from exclave_protocol.tree import (
    MemoryTree,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root,
    verify_consistency,
    verify_inclusion,
)
from exclave_testing.attacks import attack

SIZES = [1, 2, 255, 256, 257, 511, 512, 600, 65_535, 65_536, 65_537, 70_000]


def leaves(size: int) -> list[bytes]:
    return [b"leaf %d" % n for n in range(size)]


def files(size: int) -> dict[str, bytes]:
    made = {tile.path: data for tile, data in hash_tiles(map(leaf_hash, leaves(size)))}
    return made | {tile.path: data for tile, data in entry_bundles(leaves(size))}


def reading(held: dict[str, bytes]) -> Callable[[Tile], bytes]:
    return lambda tile: held[tile.path]


# --- the layout ----------------------------------------------------------------------------------


def test_the_specifications_own_examples() -> None:
    assert Tile(0, 1234067).path == "tile/0/x001/x234/067"
    assert Tile(5, 3, 112).path == "tile/5/003.p/112"
    assert Tile(0, 999, entries=True).path == "tile/entries/999"
    found = list(tiles_of(70_000))
    assert sum(tile.level == 0 and tile.width == WIDTH for tile in found) == 273
    assert [tile for tile in found if tile.width < WIDTH] == [
        Tile(0, 273, 112),
        Tile(1, 1, 17),
        Tile(2, 0, 1),
    ]
    assert list(tiles_of(256)) == [Tile(0, 0), Tile(1, 0, 1)]


@settings(max_examples=300)
@given(st.integers(0, 63), st.integers(0, 2**63 - 1), st.integers(1, WIDTH), st.booleans())
def test_a_path_is_read_back(level: int, index: int, width: int, entries: bool) -> None:
    tile = Tile(0 if entries else level, index, width, entries)
    assert Tile.parse(tile.path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile/0/1",
        "tile/0/0001",
        "tile/00/001",
        "tile/64/001",
        "tile/0/x000/001",
        "tile/0/001/002",
        "tile/0/x001",
        "tile/0/001.p/0",
        "tile/0/001.p/256",
        "tile/0/001.p/007",
        "tile/0/001.p/",
        "tile/-1/001",
        "tile/entries/001/",
        "tile/0/../../etc/passwd",
        "tile/0/\u0661\u0661\u0661",
        "/tile/0/001",
        "tile/0/" + "x999/" * 9 + "999",
    ],
)
def test_no_other_path_is_one(path: str) -> None:
    with pytest.raises(ProofError, match="tile"):
        Tile.parse(path)


@settings(max_examples=500)
@given(st.text(alphabet="tile/0123x.p-entriesé\n", max_size=40))
def test_hostile_paths_are_refused_in_no_other_way(path: str) -> None:
    with contextlib.suppress(ProofError):
        assert Tile.parse(path).path == path


# --- trees ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_what_is_written_is_what_makes_the_tree(size: int) -> None:
    written = [tile for tile, _ in hash_tiles(map(leaf_hash, leaves(size)))]
    assert sorted(written, key=lambda t: (t.level, t.index)) == list(tiles_of(size))
    bundles = [tile for tile, _ in entry_bundles(leaves(size))]
    assert bundles == list(tiles_of(size, entries=True))


@pytest.mark.parametrize("size", SIZES)
def test_proofs_from_tiles_are_those_of_the_tree(size: int) -> None:
    memory, held = MemoryTree(map(leaf_hash, leaves(size))), files(size)
    tree = TileTree(size, memory.root(), reading(held))
    chance = random.Random(size)
    for _ in range(20):
        index = chance.randrange(size)
        proof = inclusion_proof(index, size, tree.node)
        assert proof == inclusion_proof(index, size, memory.node)
        verify_inclusion(leaf_hash(b"leaf %d" % index), index, size, proof, memory.root())
        old = chance.randrange(size + 1)
        before = root(old, tree.node)
        assert before == memory.root(old)
        steps = consistency_proof(old, size, tree.node)
        verify_consistency(old, before, size, memory.root(), steps)
    last = (size - 1) // WIDTH
    assert tree.entries(last) == leaves(size)[last * WIDTH :]


@attack("B53")
@settings(max_examples=120, deadline=None)
@given(st.sampled_from([1, 3, 256, 300, 70_000]), st.data())
def test_nothing_that_was_changed_is_believed(size: int, data: st.DataObject) -> None:
    memory, held = MemoryTree(map(leaf_hash, leaves(size))), dict(FILES[size])
    path = data.draw(st.sampled_from(sorted(held)))
    body = bytearray(held[path])
    place = data.draw(st.integers(0, len(body) - 1))
    how = data.draw(st.sampled_from(["flip", "cut", "more", "gone"]))
    if how == "flip":
        body[place] ^= data.draw(st.integers(1, 255))
    elif how == "cut":
        del body[place:]
    else:
        body += b"\0"
    held[path] = bytes(body)
    if how == "gone":
        del held[path]
    with pytest.raises((ProofError, KeyError)):
        read_whole(size, memory.root(), held)


def read_whole(size: int, root_hash: bytes, held: dict[str, bytes]) -> None:
    tree = TileTree(size, root_hash, reading(held))
    for index in range(0, size, WIDTH):
        tree.node(0, index)
        tree.entries(index // WIDTH)


FILES = {size: files(size) for size in (1, 3, 256, 300, 70_000)}


@attack("B54")
def test_another_trees_tiles_are_not_taken() -> None:
    other = MemoryTree(map(leaf_hash, leaves(600)[::-1]))
    with pytest.raises(ProofError, match="right edge"):
        TileTree(600, other.root(), reading(files(600)))


@pytest.mark.parametrize(("level", "index"), [(0, 300), (-1, 0), (0, -1), (9, 0), (8, 1), (64, 0)])
def test_what_is_not_complete_is_not_there(level: int, index: int) -> None:
    memory = MemoryTree(map(leaf_hash, leaves(300)))
    tree = TileTree(300, memory.root(), reading(FILES[300]))
    with pytest.raises(ProofError, match="no complete subtree"):
        tree.node(level, index)


def test_the_empty_tree_has_no_tiles() -> None:
    assert list(tiles_of(0)) == list(hash_tiles([])) == list(entry_bundles([])) == []
    TileTree(0, MemoryTree().root(), reading({}))


@settings(max_examples=300)
@given(st.binary(max_size=60), st.integers(1, 4))
def test_bundles_are_read_strictly(data: bytes, width: int) -> None:
    tile = Tile(0, 0, width, entries=True)
    try:
        found = entries_of(tile, data)
    except ProofError:
        return
    assert b"".join(len(e).to_bytes(2, "big") + e for e in found) == data and len(found) == width


def test_an_entry_that_is_too_long_is_not_cut() -> None:
    with pytest.raises(ProofError, match="65536 bytes"):
        list(entry_bundles([bytes(65_536)]))
