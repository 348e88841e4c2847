"""Every frozen example that the page covers, read from the page alone."""

import ast
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stranger import tree
from stranger.leaves import parse_leaf
from stranger.notes import (
    LOG,
    TERM,
    WITNESS,
    Vkey,
    certified,
    cosigned,
    parse_checkpoint,
    parse_vkey,
    signed,
)
from stranger.proofs import (
    open_disclosures,
    parse_disclosure,
    parse_request,
    read_tiles,
    tile_path,
    tile_paths,
)
from stranger.wire import Refused, b64, b64url, canonical, parse, time_ns, time_text, unb64url

VECTORS = Path(__file__).parents[1] / "vectors"
NOT_OF_THE_PAGE = {"endpoint"}


def vector(name: str) -> Any:
    """A file of frozen examples."""
    return json.loads((VECTORS / f"{name}.json").read_text())


def key_of(seed: str, name: str, kind: bytes) -> tuple[Ed25519PrivateKey, Vkey]:
    """A key pair of a seed."""
    private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed))
    return private, Vkey(name, kind, private.public_key().public_bytes_raw())


def test_nothing_of_the_implementation_is_imported() -> None:
    for path in Path(__file__).parent.glob("*.py"):
        for found in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in found.names] if isinstance(found, ast.Import) else []
            names += [found.module or ""] if isinstance(found, ast.ImportFrom) else []
            assert not [name for name in names if name.startswith("exclave")], path


def test_every_vector_of_the_page_is_read_here() -> None:
    here = {"bundle", "checkpoint", "disclosure", "leaf", "term", "tile", "tree", "witness"}
    here |= {"approval"}  # test_acts_read
    assert {path.stem for path in VECTORS.glob("*.json")} == here | NOT_OF_THE_PAGE


@pytest.mark.parametrize("case", vector("leaf"), ids=lambda case: case["seq"])
def test_leaves(case: dict[str, str]) -> None:
    raw = case["leaf"].encode()
    leaf = parse_leaf(raw)
    assert (str(leaf.seq), leaf.kind, str(leaf.time)) == (
        case["seq"],
        case["type"],
        case["time_ns"],
    )
    assert tree.leaf_hash(raw).hex() == case["hash"]
    assert time_ns(time_text(leaf.time)) == leaf.time
    for at in range(len(raw)):
        cut = raw[:at] + raw[at + 1 :]
        try:
            assert parse_leaf(cut) != leaf
        except Refused:
            continue


def test_tree() -> None:
    given = vector("tree")
    hashes = [tree.leaf_hash(leaf.encode()) for leaf in given["leaves"]]
    roots = [bytes.fromhex(root) for root in given["roots"]]
    assert [tree.root(hashes[:size]) for size in range(8)] == roots
    path = [bytes.fromhex(part) for part in given["inclusion_4_of_7"]]
    assert tree.prove(4, hashes) == path
    for index in range(7):
        assert tree.included(hashes[4], index, 7, path, roots[7]) is (index == 4)
    links = [bytes.fromhex(part) for part in given["consistency_3_to_7"]]
    for old in range(8):
        assert tree.consistent(old, 7, links, roots[old], roots[7]) is (old == 3)
    for at in range(len(links)):
        assert not tree.consistent(3, 7, links[:at] + links[at + 1 :], roots[3], roots[7])
    assert not tree.consistent(3, 7, [*links, links[0]], roots[3], roots[7])


def test_checkpoint_and_cosignature() -> None:
    given = vector("checkpoint")
    log, witness = parse_vkey(given["log_vkey"]), parse_vkey(given["witness_vkey"])
    assert log == key_of(given["log_seed"], log.name, TERM)[1]
    assert witness == key_of(given["witness_seed"], witness.name, WITNESS)[1]
    alone, both = (parse_checkpoint(given[name].encode()) for name in ("signed", "cosigned"))
    for point in (alone, both):
        signed(point, log)
        signed(point, parse_vkey(given["term_vkey"]))
        assert point.note.text == given["text"]
    assert cosigned(alone, witness) is None
    assert cosigned(both, witness) == 1_800_000_000
    assert given["signed"] + given["cosignature"] == given["cosigned"]


def vouched(note: bytes, log: Vkey, witness: Vkey) -> None:
    """Refuse what the log did not sign or the witness did not cosign."""
    point = parse_checkpoint(note)
    signed(point, log)
    if cosigned(point, witness) is None:
        raise Refused("nobody vouches")


def test_a_note_that_was_touched_is_refused() -> None:
    given = vector("checkpoint")
    log, witness = parse_vkey(given["log_vkey"]), parse_vkey(given["witness_vkey"])
    good = given["cosigned"].encode()
    for at in range(len(good)):
        with pytest.raises(Refused):
            vouched(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :], log, witness)


def test_term() -> None:
    given = vector("term")
    log = parse_vkey(given["log_vkey"])
    number, term = certified(bytes.fromhex(given["certificate"]), log)
    assert (str(number), term.line) == (given["term"], given["term_vkey"])
    assert term == key_of(given["term_seed"], log.name, LOG)[1]
    point = parse_checkpoint(given["signed"].encode())
    signed(point, log)
    head, _, tail = given["signed"].partition("\n\n")
    with pytest.raises(Refused):
        signed(parse_checkpoint(f"{head}\n\n{tail.splitlines()[0]}\n".encode()), log)
    secret = key_of(given["log_seed"], log.name, TERM)[0]
    said = f"exclave-term/v1\n{log.name}\n3\n{b64(term.public)}\n"
    assert secret.sign(said.encode()).hex() == given["certificate"][80:]


def test_disclosures() -> None:
    given = vector("disclosure")
    for case in given["disclosures"]:
        salt = b64url(bytes.fromhex(case["salt"]))
        assert b64url(canonical([salt, case["name"], case["value"]])) == case["encoded"]
        opened = parse_disclosure(case["encoded"])
        assert (opened.name, opened.value) == (case["name"], case["value"])
        assert opened.digest == case["digest"]


def test_a_disclosure_file() -> None:
    data = vector("disclosure")["file"].encode()
    fields = parse(data)
    assert isinstance(fields, dict)
    hashes = [bytes(32)] * 2 + [tree.leaf_hash(unb64url(fields["leaf"]))]

    def known(_: str) -> list[bytes]:
        return hashes

    assert [item.name for item in open_disclosures(data, known)] == ["prompt"]
    for name, wrong in (("log", "x"), ("seq", "3"), ("schema", "x"), ("disclosures", ["x"])):
        with pytest.raises(Refused):
            open_disclosures(canonical(fields | {name: wrong}), known)
    with pytest.raises(Refused):
        open_disclosures(data, lambda _: [bytes(32)] * 3)


def test_tiles() -> None:
    given = vector("tile")
    hashes = [tree.leaf_hash(f"leaf {index}".encode()) for index in range(given["leaves"])]
    tiles, level = {}, 0
    top = tree.root(hashes)
    while hashes:
        for number in range(0, len(hashes), 256):
            part = hashes[number : number + 256]
            tiles[tile_path(level, number // 256, len(part))] = b"".join(part)
        full = len(hashes) // 256
        hashes = [tree.root(hashes[at * 256 : at * 256 + 256]) for at in range(full)]
        level += 1
    assert list(tiles) == tile_paths(given["leaves"])
    for name, digest in given["tiles"].items():
        assert sha256(tiles[name]).hexdigest() == digest, name
    point = parse_checkpoint(
        f"example/log\n{given['leaves']}\n{b64(top)}\n\n— x AAAAAAAA\n".encode()
    )
    assert len(read_tiles(tiles.__getitem__, point)) == given["leaves"]
    for name in given["tiles"]:
        bad = tiles | {name: bytes(32) + tiles[name][32:]}
        with pytest.raises(Refused):
            read_tiles(bad.__getitem__, point)


def test_witness() -> None:
    given = vector("witness")
    request = parse_request(given["request"].encode())
    point = request.checkpoint
    assert request.old == 3 and f"{point.size}\n" == given["size"]
    assert len(request.proof) == 4
    log = parse_vkey(vector("checkpoint")["log_vkey"])
    signed(point, log)
    leaf = parse_leaf(given["leaf"].encode())
    assert tree.leaf_hash(given["leaf"].encode()).hex() == given["hash"]
    assert leaf.body == {
        "cosigned_at": "1800000000",
        "origin": point.origin,
        "root": point.root.hex(),
        "size": str(point.size),
    }


def test_bundle_manifest_and_completeness() -> None:
    given = vector("bundle")
    for name in ("manifest.json", "completeness.json"):
        data = given[name].encode()
        parse(data)
        assert sha256(data).hexdigest() == given["sha256"][name]
