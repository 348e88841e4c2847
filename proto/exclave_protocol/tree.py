"""The Merkle tree over leaves: RFC 6962 roots, proofs and their verification."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import islice
from typing import TypeAlias

from .errors import ProofError as ProofError

HASH_SIZE = 32
MAX_SIZE = 2**63 - 1
EMPTY_ROOT = sha256(b"").digest()
"""Root of the tree without leaves."""

Node: TypeAlias = Callable[[int, int], bytes]
"""(level, index) -> hash of the complete subtree over [index << level, (index + 1) << level)."""


def leaf_hash(leaf: bytes) -> bytes:
    """SHA-256(0x00 || leaf)."""
    return sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return sha256(b"\x01" + left + right).digest()


def peaks(size: int, node: Node) -> list[bytes]:
    """The roots of the complete subtrees that make up the first `size` leaves, largest first: what
    `Frontier.from_peaks` takes. Raises: ProofError (from `node`)."""
    found, begin = [], 0
    for level in range(size.bit_length() - 1, -1, -1):
        if size >> level & 1:
            found.append(node(level, begin >> level))
            begin += 1 << level
    return found


_SUBTREE = 256
"""Leaves that are hashed level by level."""


class Frontier:
    """A tree that keeps only its peaks: enough to append and to know the root.

    Peaks are the roots of the complete subtrees that make up the tree, largest first, one
    per bit set in the size.
    """

    __slots__ = ("_peaks", "_size")

    def __init__(self) -> None:
        self._peaks: list[bytes] = []
        self._size = 0

    @classmethod
    def from_peaks(cls, size: int, peaks: Sequence[bytes]) -> Frontier:
        """Take up a tree where it was left. Raises: ProofError when peaks do not fit the size."""
        if not 0 <= size <= MAX_SIZE or len(peaks) != size.bit_count():
            raise ProofError(f"{len(peaks)} peaks do not make a tree of {size} leaves")
        _check_hashes(peaks)
        frontier = cls()
        frontier._size = size
        frontier._peaks = list(peaks)
        return frontier

    @property
    def size(self) -> int:
        """Leaves so far."""
        return self._size

    @property
    def peaks(self) -> tuple[bytes, ...]:
        """Largest subtree first."""
        return tuple(self._peaks)

    def append(self, leaf: bytes) -> None:
        """Add one leaf by its hash; O(log n) at worst, one node hash on average."""
        size, peaks = self._size, self._peaks
        while size & 1:
            leaf = sha256(b"\x01" + peaks.pop() + leaf).digest()
            size >>= 1
        peaks.append(leaf)
        self._size += 1

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Add many leaves by their hashes: whole subtrees at a time, level by level, which spares
        the interpreter many of its steps."""
        source = iter(leaves)
        for leaf in islice(source, -self._size % _SUBTREE):
            self.append(leaf)
        while len(level := list(islice(source, _SUBTREE))) == _SUBTREE:
            while len(level) > 1:
                pairs = iter(level)
                level = [
                    sha256(b"\x01" + a + b).digest() for a, b in zip(pairs, pairs, strict=True)
                ]
            self._append_subtree(level[0])
        for leaf in level:
            self.append(leaf)

    def _append_subtree(self, node: bytes) -> None:
        """Add `_SUBTREE` leaves by their root; the size is a multiple of that."""
        count, peaks = self._size // _SUBTREE, self._peaks
        while count & 1:
            node = sha256(b"\x01" + peaks.pop() + node).digest()
            count >>= 1
        peaks.append(node)
        self._size += _SUBTREE

    def root(self) -> bytes:
        """RFC 6962 Merkle Tree Hash."""
        if not self._peaks:
            return EMPTY_ROOT
        result = self._peaks[-1]
        for peak in reversed(self._peaks[:-1]):
            result = node_hash(peak, result)
        return result

    def copy(self) -> Frontier:
        """An independent frontier with the same leaves."""
        return Frontier.from_peaks(self._size, self._peaks)


def root_of(leaves: Iterable[bytes]) -> bytes:
    """The root over leaf hashes, read once."""
    frontier = Frontier()
    frontier.extend(leaves)
    return frontier.root()


def _split(size: int) -> int:
    """The largest power of two below `size` (size >= 2)."""
    return 1 << ((size - 1).bit_length() - 1)


def _range(begin: int, end: int, node: Node) -> bytes:
    """MTH(D[begin:end]); `begin` is a multiple of a power of two >= end - begin."""
    size = end - begin
    if size & (size - 1) == 0:
        level = size.bit_length() - 1
        return node(level, begin >> level)
    k = _split(size)
    return node_hash(_range(begin, begin + k, node), _range(begin + k, end, node))


def root(size: int, node: Node) -> bytes:
    """The root of the first `size` leaves."""
    if not 0 <= size <= MAX_SIZE:
        raise ProofError(f"tree size {size} is out of range")
    return EMPTY_ROOT if size == 0 else _range(0, size, node)


def inclusion_proof(index: int, size: int, node: Node) -> list[bytes]:
    """PATH(index, D[size]) of RFC 6962 section 2.1.1, lowest sibling first.

    Raises: ProofError when the tree has no such leaf.
    """
    if not 0 <= index < size <= MAX_SIZE:
        raise ProofError(f"no leaf {index} in a tree of {size}")
    path: list[bytes] = []
    begin, end = 0, size
    while end - begin > 1:
        k = _split(end - begin)
        if index < begin + k:
            path.append(_range(begin + k, end, node))
            end = begin + k
        else:
            path.append(_range(begin, begin + k, node))
            begin += k
    path.reverse()
    return path


def consistency_proof(old: int, new: int, node: Node) -> list[bytes]:
    """PROOF(old, D[new]) of RFC 6962 section 2.1.2; empty when old is 0 or equals new.

    Raises: ProofError unless 0 <= old <= new.
    """
    if not 0 <= old <= new <= MAX_SIZE:
        raise ProofError(f"no consistency from size {old} to size {new}")
    if old in (0, new):
        return []
    proof: list[bytes] = []
    begin, end, whole = 0, new, True
    while old != end:
        k = _split(end - begin)
        if old <= begin + k:
            proof.append(_range(begin + k, end, node))
            end = begin + k
        else:
            proof.append(_range(begin, begin + k, node))
            begin += k
            whole = False
    if not whole:
        proof.append(_range(begin, end, node))
    proof.reverse()
    return proof


def _check_hashes(hashes: Sequence[bytes]) -> None:
    for value in hashes:
        if len(value) != HASH_SIZE:
            raise ProofError(f"hash of {len(value)} bytes where {HASH_SIZE} are expected")


def _climb(index: int, size: int, proof: Sequence[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Each sibling on the way from node `index` of a row of `size` up, and whether it is left.

    The bit walk of RFC 9162 section 2.1.3.2. Raises: ProofError on a wrong length.
    """
    fn, sn = index, size - 1
    for sibling in proof:
        if sn == 0:
            raise ProofError("proof is too long")
        left = bool(fn & 1) or fn == sn
        yield sibling, left
        if left:
            while fn & 1 == 0 and fn:
                fn >>= 1
                sn >>= 1
        fn >>= 1
        sn >>= 1
    if sn != 0:
        raise ProofError("proof is too short")


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root_hash: bytes
) -> None:
    """Refuse a leaf hash that is not at `index` under `root_hash` (RFC 9162 section 2.1.3.2).

    Raises: ProofError.
    """
    if not 0 <= index < size <= MAX_SIZE:
        raise ProofError(f"no leaf {index} in a tree of {size}")
    _check_hashes([leaf, root_hash, *proof])
    result = leaf
    for sibling, left in _climb(index, size, proof):
        result = node_hash(sibling, result) if left else node_hash(result, sibling)
    if result != root_hash:
        raise ProofError(f"leaf {index} is not under the root of size {size}")


def verify_consistency(
    old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Refuse a tree that is not an extension of the old one (RFC 9162 section 2.1.4.2).

    Raises: ProofError.
    """
    if not 0 <= old <= new <= MAX_SIZE:
        raise ProofError(f"no consistency from size {old} to size {new}")
    _check_hashes([old_root, new_root, *proof])
    if old in (0, new):
        if proof:
            raise ProofError("proof is too long")
        if old_root != (EMPTY_ROOT if old == 0 else new_root):
            raise ProofError(f"roots of size {old} differ")
        return
    path = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not path:
        raise ProofError("proof is too short")
    # Skip the levels where the old tree's last node is a right child: they are inside path[0].
    skip = (old ^ (old - 1)).bit_length() - 1
    old_result = new_result = path[0]
    for sibling, left in _climb((old - 1) >> skip, ((new - 1) >> skip) + 1, path[1:]):
        if left:
            old_result = node_hash(sibling, old_result)
            new_result = node_hash(sibling, new_result)
        else:
            new_result = node_hash(new_result, sibling)
    if old_result != old_root or new_result != new_root:
        raise ProofError(f"the tree of size {new} does not extend the tree of size {old}")


class MemoryTree:
    """A whole tree in memory, every level kept; for verifiers and tests."""

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self._levels: list[list[bytes]] = [[]]
        for leaf in leaves:
            self.append(leaf)

    @property
    def size(self) -> int:
        """Leaves so far."""
        return len(self._levels[0])

    def append(self, leaf: bytes) -> None:
        """Add one leaf by its hash."""
        level, value = 0, leaf
        while True:
            if level == len(self._levels):
                self._levels.append([])
            row = self._levels[level]
            row.append(value)
            if len(row) & 1:
                return
            value = node_hash(row[-2], row[-1])
            level += 1

    def node(self, level: int, index: int) -> bytes:
        """A `Node` over this tree. Raises: ProofError when the subtree is not complete."""
        if level < len(self._levels) and 0 <= index < len(self._levels[level]):
            return self._levels[level][index]
        raise ProofError(f"no complete subtree {index} at level {level}")

    def root(self, size: int | None = None) -> bytes:
        """The root now, or when the tree had `size` leaves."""
        return root(self.size if size is None else size, self.node)
