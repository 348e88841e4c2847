"""Tiles: a log's tree and entries as static files of bounded size (C2SP tlog-tiles).

A reader of tiles believes none of them: each is held against the one above it, and the last ones
of every level against the root that the log's checkpoint signs.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from .errors import ProofError
from .tree import HASH_SIZE, MAX_SIZE, leaf_hash, root, root_of

HEIGHT = 8
"""Levels of the tree that one tile stands for."""
WIDTH = 1 << HEIGHT
"""Hashes, or entries, of a full tile."""
MAX_LEVEL = 63
CHECKPOINT = "checkpoint"
"""The file beside the tiles."""
MAX_ENTRY = 0xFFFF
"""Bytes of one entry."""
MAX_BUNDLE = WIDTH * (2 + MAX_ENTRY)
_KEPT = 64
"""Verified tiles that a reader keeps: two paths through the largest tree, and more."""

_PATH = re.compile(
    r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?"
)


@dataclass(frozen=True, slots=True)
class Tile:
    """One file: `width` hashes of a level from `index * 256` on, or as many entries."""

    level: int
    """0: leaf hashes; n: roots of full tiles of the level below."""
    index: int
    width: int = WIDTH
    """Less than 256: a partial tile, at the right edge of the tree."""
    entries: bool = False
    """Leaves themselves, at level 0."""

    def __post_init__(self) -> None:
        if not (0 <= self.level <= MAX_LEVEL and 0 <= self.index <= MAX_SIZE):
            raise ProofError("tile: level or index out of range")
        if not 1 <= self.width <= WIDTH or (self.entries and self.level):
            raise ProofError(f"tile: not 1 to {WIDTH} wide, or entries above level 0")

    @property
    def path(self) -> str:
        """Relative to the log's prefix."""
        digits = str(self.index)
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        parts = [digits[at : at + 3] for at in range(0, len(digits), 3)]
        number = "/".join([*(f"x{part}" for part in parts[:-1]), parts[-1]])
        part = "" if self.width == WIDTH else f".p/{self.width}"
        return f"tile/{'entries' if self.entries else self.level}/{number}{part}"

    @classmethod
    def parse(cls, path: str) -> Tile:
        """Read a path; there is one for each tile. Raises: ProofError."""
        match = _PATH.fullmatch(path)
        if match is None:
            raise ProofError("tile: not a path of a tile")
        level, number, width = match.groups()
        digits = number.replace("/", "").replace("x", "")
        if (len(digits) > 3 and digits.startswith("000")) or len(digits) > 21:
            raise ProofError("tile: its index has leading zeroes, or is too large")
        entries = level == "entries"
        tile = cls(
            0 if entries else int(level), int(digits), int(width) if width else WIDTH, entries
        )
        if width and tile.width == WIDTH:
            raise ProofError("tile: a full one is not partial")
        return tile


def tiles_of(size: int, *, entries: bool = False) -> Iterator[Tile]:
    """Every tile of the tree over `size` leaves, level by level; `entries`: its bundles instead.

    Raises: ProofError.
    """
    if not 0 <= size <= MAX_SIZE:
        raise ProofError(f"tree size {size} is out of range")
    level = 0
    while size:
        for index in range(size // WIDTH):
            yield Tile(level, index, entries=entries)
        if size % WIDTH:
            yield Tile(level, size // WIDTH, size % WIDTH, entries)
        if entries:
            return
        size //= WIDTH
        level += 1


def hash_tiles(hashes: Iterable[bytes]) -> Iterator[tuple[Tile, bytes]]:
    """The tiles over these leaf hashes with their bytes, each as it is complete; the partial ones
    last. Holds one tile of each level."""
    rows: list[list[bytes]] = [[]]
    done = [0]
    for value in hashes:
        level, up = 0, value
        while True:
            if level == len(rows):
                rows.append([])
                done.append(0)
            row = rows[level]
            row.append(up)
            if len(row) < WIDTH:
                break
            yield Tile(level, done[level]), b"".join(row)
            up = root_of(row)
            done[level] += 1
            row.clear()
            level += 1
    for level, row in enumerate(rows):
        if row:
            yield Tile(level, done[level], len(row)), b"".join(row)


def entry_bundles(leaves: Iterable[bytes]) -> Iterator[tuple[Tile, bytes]]:
    """The bundles of these entries with their bytes. Raises: ProofError for one too long."""
    index, held = 0, list[bytes]()
    for leaf in leaves:
        if len(leaf) > MAX_ENTRY:
            raise ProofError(f"entry of {len(leaf)} bytes where {MAX_ENTRY} are the most")
        held.append(len(leaf).to_bytes(2, "big") + leaf)
        if len(held) == WIDTH:
            yield Tile(0, index, entries=True), b"".join(held)
            index += 1
            held.clear()
    if held:
        yield Tile(0, index, len(held), entries=True), b"".join(held)


def entries_of(tile: Tile, data: bytes) -> list[bytes]:
    """The entries of a bundle. Raises: ProofError when it does not hold as many as it must."""
    found: list[bytes] = []
    place = 0
    while place + 2 <= len(data) and len(found) < tile.width:
        end = place + 2 + int.from_bytes(data[place : place + 2], "big")
        if end > len(data):
            break
        found.append(data[place + 2 : end])
        place = end
    if place != len(data) or len(found) != tile.width:
        raise ProofError(f"{tile.path}: not {tile.width} entries")
    return found


class TileTree:
    """A tree that is read from tiles nobody vouches for, under a root that somebody does."""

    def __init__(self, size: int, root_hash: bytes, fetch: Callable[[Tile], bytes]) -> None:
        """`fetch`: a tile's bytes; what it raises is passed on. Raises: ProofError when the right
        edge does not make the root."""
        self.size = size
        self._fetch = fetch
        self._kept: OrderedDict[Tile, list[bytes]] = OrderedDict()
        self._edge: dict[int, list[bytes]] = {}
        level, left = 0, size
        while left:
            if left % WIDTH:
                self._edge[level] = self._read(Tile(level, left // WIDTH, left % WIDTH))
            left //= WIDTH
            level += 1
        if root(size, self._peak) != root_hash:
            raise ProofError("the tiles at the right edge do not make the root of the checkpoint")

    def node(self, level: int, index: int) -> bytes:
        """A `tree.Node`. Raises: ProofError when the subtree is not there, or its tile is not what
        the tree has there."""
        if level < 0 or index < 0 or (index + 1) << level > self.size:
            raise ProofError(f"no complete subtree {index} at level {level}")
        row, inner = divmod(level, HEIGHT)
        first = index << inner
        hashes = self._tile(row, first // WIDTH)
        return root_of(hashes[first % WIDTH : first % WIDTH + (1 << inner)])

    def entries(self, index: int) -> list[bytes]:
        """The entries of a bundle. Raises: ProofError when they are not those of the tree."""
        hashes = self._tile(0, index)
        tile = Tile(0, index, len(hashes), entries=True)
        found = entries_of(tile, self._fetch(tile))
        for place, entry in enumerate(found):
            if leaf_hash(entry) != hashes[place]:
                raise ProofError(f"{tile.path}: entry {place} is not the one of the tree")
        return found

    def _peak(self, level: int, index: int) -> bytes:
        """Subtrees that make up the root all lie in the last, partial tiles."""
        row, inner = divmod(level, HEIGHT)
        first = (index << inner) % WIDTH
        return root_of(self._edge[row][first : first + (1 << inner)])

    def _tile(self, level: int, index: int) -> list[bytes]:
        if index == self.size >> HEIGHT * (level + 1):
            return self._edge[level]
        tile = Tile(level, index)
        known = self._kept.get(tile)
        if known is None:
            above = self._tile(level + 1, index // WIDTH)
            known = self._read(tile)
            if root_of(known) != above[index % WIDTH]:
                raise ProofError(f"{tile.path}: not the tile of the tree")
            self._kept[tile] = known
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(tile)
        return known

    def _read(self, tile: Tile) -> list[bytes]:
        data = self._fetch(tile)
        if len(data) != tile.width * HASH_SIZE:
            raise ProofError(f"{tile.path}: {len(data)} bytes, not {tile.width * HASH_SIZE}")
        return [data[at : at + HASH_SIZE] for at in range(0, len(data), HASH_SIZE)]
