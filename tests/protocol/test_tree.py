"""The Merkle tree: published vectors, and every proof of every small tree."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave_protocol.tree import (
    EMPTY_ROOT,
    Frontier,
    MemoryTree,
    ProofError,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root,
    root_of,
    verify_consistency,
    verify_inclusion,
)

# The inputs, roots and proofs of Certificate Transparency's reference tests (RFC 6962).
INPUTS = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
H1 = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
H23 = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
H4 = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
H45 = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
H67 = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
H4567 = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
INCLUSION = [
    (0, 1, []),
    (0, 8, [H1, H23, H4567]),
    (5, 8, [H4, H67, ROOTS[4]]),
    (2, 3, [ROOTS[2]]),
    (1, 5, [ROOTS[1], H23, H4]),
]
CONSISTENCY = [
    (1, 1, []),
    (1, 8, [H1, H23, H4567]),
    (6, 8, [H45, H67, ROOTS[4]]),
    (2, 5, [H23, H4]),
]


def tree_of(size: int) -> MemoryTree:
    """A tree of numbered leaves."""
    return MemoryTree(leaf_hash(seq.to_bytes(4, "big")) for seq in range(size))


@pytest.fixture
def published() -> MemoryTree:
    return MemoryTree(leaf_hash(bytes.fromhex(text)) for text in INPUTS)


def test_published_roots(published: MemoryTree) -> None:
    assert ROOTS[0] == EMPTY_ROOT.hex()
    frontier = Frontier()
    for size, expected in enumerate(ROOTS):
        assert published.root(size).hex() == expected
        assert frontier.root().hex() == expected
        if size < len(INPUTS):
            frontier.append(leaf_hash(bytes.fromhex(INPUTS[size])))


def test_published_inclusion_proofs(published: MemoryTree) -> None:
    for index, size, expected in INCLUSION:
        proof = inclusion_proof(index, size, published.node)
        assert [value.hex() for value in proof] == expected
        leaf = leaf_hash(bytes.fromhex(INPUTS[index]))
        verify_inclusion(leaf, index, size, proof, bytes.fromhex(ROOTS[size]))


def test_published_consistency_proofs(published: MemoryTree) -> None:
    for old, new, expected in CONSISTENCY:
        proof = consistency_proof(old, new, published.node)
        assert [value.hex() for value in proof] == expected
        verify_consistency(old, bytes.fromhex(ROOTS[old]), new, bytes.fromhex(ROOTS[new]), proof)


def test_every_proof_of_every_small_tree() -> None:
    for size in range(34):
        tree = tree_of(size)
        assert root_of(tree.node(0, seq) for seq in range(size)) == tree.root()
        for index in range(size):
            proof = inclusion_proof(index, size, tree.node)
            verify_inclusion(tree.node(0, index), index, size, proof, tree.root())
        for old in range(size + 1):
            proof = consistency_proof(old, size, tree.node)
            verify_consistency(old, tree.root(old), size, tree.root(), proof)


@given(st.integers(1, 200), st.data())
@settings(max_examples=150, deadline=None)
def test_an_altered_inclusion_proof_is_refused(size: int, data: st.DataObject) -> None:
    tree = tree_of(size)
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(index, size, tree.node)
    leaf, head = tree.node(0, index), tree.root()
    attack = data.draw(st.sampled_from(["leaf", "root", "longer", "shorter", "flip", "index"]))
    if attack == "leaf":
        leaf = leaf_hash(b"another")
    elif attack == "root":
        head = leaf_hash(b"another")
    elif attack == "longer":
        proof = [*proof, head]
    elif attack == "shorter" and proof:
        proof = proof[:-1]
    elif attack == "flip" and proof:
        place = data.draw(st.integers(0, len(proof) - 1))
        proof[place] = bytes([proof[place][0] ^ 1]) + proof[place][1:]
    elif attack == "index" and size > 1:
        index = (index + 1) % size
    else:
        return
    with pytest.raises(ProofError):
        verify_inclusion(leaf, index, size, proof, head)


@given(st.integers(2, 200), st.data())
@settings(max_examples=150, deadline=None)
def test_a_rewritten_history_has_no_consistency_proof(size: int, data: st.DataObject) -> None:
    tree = tree_of(size)
    old = data.draw(st.integers(1, size - 1))
    proof = consistency_proof(old, size, tree.node)
    rewritten = MemoryTree([leaf_hash(b"rewritten"), *(tree.node(0, i) for i in range(1, size))])
    with pytest.raises(ProofError):
        verify_consistency(old, rewritten.root(old), size, tree.root(), proof)
    with pytest.raises(ProofError):
        verify_consistency(old, tree.root(old), size, rewritten.root(), proof)
    with pytest.raises(ProofError):
        verify_consistency(old, tree.root(old), size, tree.root(), [*proof, tree.root()])
    if proof:
        with pytest.raises(ProofError):
            verify_consistency(old, tree.root(old), size, tree.root(), proof[:-1])


@pytest.mark.parametrize(("index", "size"), [(0, 0), (3, 3), (-1, 3), (0, 2**63)])
def test_no_inclusion_outside_the_tree(index: int, size: int) -> None:
    with pytest.raises(ProofError):
        inclusion_proof(index, size, tree_of(3).node)
    with pytest.raises(ProofError):
        verify_inclusion(EMPTY_ROOT, index, size, [], EMPTY_ROOT)


@pytest.mark.parametrize(("old", "new"), [(2, 1), (-1, 1), (0, 2**63)])
def test_no_consistency_between_impossible_sizes(old: int, new: int) -> None:
    with pytest.raises(ProofError):
        consistency_proof(old, new, tree_of(3).node)
    with pytest.raises(ProofError):
        verify_consistency(old, EMPTY_ROOT, new, EMPTY_ROOT, [])


def test_the_empty_tree_is_consistent_with_all_but_only_with_its_own_root() -> None:
    tree = tree_of(5)
    verify_consistency(0, EMPTY_ROOT, 5, tree.root(), [])
    with pytest.raises(ProofError):
        verify_consistency(0, tree.root(), 5, tree.root(), [])
    with pytest.raises(ProofError):
        verify_consistency(5, tree.root(4), 5, tree.root(), [])


def test_hashes_of_another_length_are_refused() -> None:
    with pytest.raises(ProofError, match="bytes"):
        verify_inclusion(b"short", 0, 1, [], b"short")
    with pytest.raises(ProofError, match="bytes"):
        Frontier.from_peaks(1, [b"short"])


def test_a_frontier_is_taken_up_from_its_peaks() -> None:
    for size, following in pairwise(range(40)):
        tree = tree_of(following)
        frontier = Frontier()
        frontier.extend(tree.node(0, seq) for seq in range(size))
        again = Frontier.from_peaks(size, frontier.peaks)
        again.append(tree.node(0, size))
        assert (again.size, again.root()) == (following, tree.root())
        assert frontier.size == size
    with pytest.raises(ProofError, match="peaks"):
        Frontier.from_peaks(3, [EMPTY_ROOT])


def test_a_copy_grows_on_its_own() -> None:
    frontier = Frontier()
    frontier.append(EMPTY_ROOT)
    copy = frontier.copy()
    copy.append(EMPTY_ROOT)
    assert (frontier.size, copy.size) == (1, 2)


def test_roots_and_nodes_beyond_the_tree_are_refused() -> None:
    with pytest.raises(ProofError):
        root(-1, tree_of(1).node)
    with pytest.raises(ProofError):
        tree_of(3).node(1, 1)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 511, 512, 513, 769, 1025])
@pytest.mark.parametrize("before", [0, 1, 255, 256, 300])
def test_many_at_once_make_the_same_tree_as_one_by_one(size: int, before: int) -> None:
    hashes = [leaf_hash(b"%d" % number) for number in range(size)]
    single, many = Frontier(), Frontier()
    for value in hashes:
        single.append(value)
    many.extend(hashes[:before])
    many.extend(iter(hashes[before:]))
    assert (many.size, many.peaks, many.root()) == (single.size, single.peaks, single.root())
    assert many.root() == MemoryTree(hashes).root()
