"""Sections 6 to 8 of the page: disclosures, tiles, proofs of a record."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from stranger.leaves import Leaf, parse_leaf
from stranger.notes import Checkpoint, Vkey, cosigned, parse_checkpoint, signed
from stranger.tree import hash_list, included, leaf_hash, root
from stranger.wire import Refused, b64url, decimal, items, parse, record, text, unb64, unb64url

WIDTH = 256


@dataclass(frozen=True)
class Disclosure:
    """One private field, opened."""

    name: str
    value: object
    digest: str


def parse_disclosure(encoded: str) -> Disclosure:
    """Read `b64url(canonical([b64url(salt), name, value]))`."""
    parts = items(parse(unb64url(encoded)))
    if len(parts) != 3 or len(unb64url(parts[0])) != 32:
        raise Refused("not a salt, a name and a value")
    name = text(parts[1], r"[A-Za-z][A-Za-z0-9_-]{0,63}")
    return Disclosure(name, parts[2], b64url(sha256(encoded.encode()).digest()))


def open_disclosures(data: bytes, hashes: Callable[[str], Sequence[bytes]]) -> list[Disclosure]:
    """A disclosure file, held against the hashes of a bundle that verifies."""
    fields = record(parse(data), "disclosures", "leaf", "log", "schema", "seq")
    if fields["schema"] != "exclave.disclosure/v1":
        raise Refused("another schema")
    raw = unb64url(fields["leaf"])
    leaf, seq = parse_leaf(raw), decimal(fields["seq"])
    if leaf.log != fields["log"] or leaf.seq != seq:
        raise Refused("the leaf of another place")
    opened = [parse_disclosure(text(item)) for item in items(fields["disclosures"])]
    if len({item.name for item in opened}) != len(opened):
        raise Refused("a name repeats")
    if any(item.digest not in leaf.sd for item in opened):
        raise Refused("the record did not commit to this")
    known = hashes(leaf.log)
    if seq >= len(known) or known[seq] != leaf_hash(raw):
        raise Refused("no such record in the bundle")
    return opened


@dataclass(frozen=True)
class RecordProof:
    """A proof file whose inclusion proof makes the checkpoint's root; no signature is checked."""

    leaf: Leaf
    checkpoint: Checkpoint


def parse_proof(data: bytes) -> RecordProof:
    """C2SP tlog-proof with the leaf as its extra data."""
    head, blank, note = data.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise Refused("not a proof") from None
    if not blank or len(lines) < 3 or lines[0] != "c2sp.org/tlog-proof@v1":
        raise Refused("not a proof")
    if not lines[1].startswith("extra ") or not lines[2].startswith("index "):
        raise Refused("a proof without its leaf or index")
    raw = unb64(lines[1].removeprefix("extra "))
    index, path = decimal(lines[2].removeprefix("index ")), [unb64(line) for line in lines[3:]]
    point, leaf = parse_checkpoint(note), parse_leaf(raw)
    if leaf.seq != index or leaf.log != point.origin or any(len(part) != 32 for part in path):
        raise Refused("a leaf of another place")
    if not included(leaf_hash(raw), index, point.size, path, point.root):
        raise Refused("the inclusion proof does not make the root")
    return RecordProof(leaf, point)


def verify_proof(data: bytes, log: Vkey, witnesses: Sequence[Vkey]) -> bool:
    """Whether all whose keys were brought vouch for it; refused if it does not hold."""
    if parse_checkpoint(data.partition(b"\n\n")[2]).origin != log.name:
        return False
    proof = parse_proof(data)
    signed(proof.checkpoint, log)
    times = [cosigned(proof.checkpoint, witness) for witness in witnesses]
    return bool(times) and None not in times


def tile_path(level: int, number: int, width: int = WIDTH) -> str:
    """C2SP tlog-tiles: three digits each, all but the last with an x."""
    digits = f"{number % 1000:03d}"
    while number >= 1000:
        number //= 1000
        digits = f"x{number % 1000:03d}/{digits}"
    return f"tile/{level}/{digits}" + (f".p/{width}" if width != WIDTH else "")


def tile_paths(size: int) -> list[str]:
    """The tiles of a tree: every full one, and the partial one at the right edge of each level."""
    out, level, count = [], 0, size
    while count:
        full, rest = divmod(count, WIDTH)
        out += [tile_path(level, number) for number in range(full)]
        out += [tile_path(level, full, rest)] if rest else []
        level, count = level + 1, full
    return out


def _level(read: Callable[[str], bytes], level: int, count: int) -> list[bytes]:
    full, rest = divmod(count, WIDTH)
    names = [(tile_path(level, number), WIDTH) for number in range(full)]
    names += [(tile_path(level, full, rest), rest)] if rest else []
    out = []
    for name, width in names:
        hashes = hash_list(read(name))
        if len(hashes) != width:
            raise Refused(f"{name}: not {width} hashes")
        out += hashes
    return out


def read_tiles(read: Callable[[str], bytes], point: Checkpoint) -> list[bytes]:
    """The leaf hashes of a tree, every tile held to its place."""
    level, count = 0, point.size
    below = leaves = _level(read, level, count)
    while count >= WIDTH:
        level, count = level + 1, count // WIDTH
        here = _level(read, level, count)
        for number, value in enumerate(here):
            if root(below[number * WIDTH : (number + 1) * WIDTH]) != value:
                raise Refused("a tile that does not hash to its place")
        below = here
    if root(leaves) != point.root:
        raise Refused("the tiles do not make the root")
    return leaves


def read_entries(read: Callable[[str], bytes], hashes: Sequence[bytes]) -> list[bytes]:
    """The records beside the tiles: each a length of two bytes, and the leaf."""
    out: list[bytes] = []
    while len(out) < len(hashes):
        width = min(WIDTH, len(hashes) - len(out))
        data = read(tile_path(0, len(out) // WIDTH, width).replace("/0/", "/entries/", 1))
        for _ in range(width):
            length = int.from_bytes(data[:2])
            entry, data = data[2 : 2 + length], data[2 + length :]
            if leaf_hash(entry) != hashes[len(out)]:
                raise Refused("an entry that is not at its place")
            out.append(entry)
        if data:
            raise Refused("more than the entries of a tile")
    return out


@dataclass(frozen=True)
class Request:
    """What a log asks the witness."""

    old: int
    proof: tuple[bytes, ...]
    checkpoint: Checkpoint


def parse_request(data: bytes) -> Request:
    """C2SP tlog-witness, add-checkpoint."""
    head, blank, note = data.partition(b"\n\n")
    lines = head.decode("ascii", "replace").split("\n")
    if not blank or re.fullmatch(r"old [0-9]+", lines[0]) is None or len(lines) > 64:
        raise Refused("not a request")
    proof = tuple(unb64(line) for line in lines[1:])
    if any(len(part) != 32 for part in proof):
        raise Refused("not a proof")
    return Request(decimal(lines[0][4:]), proof, parse_checkpoint(note))
