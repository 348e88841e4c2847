"""Section 3 of the page: RFC 6962 trees, and the proofs of RFC 9162."""

from collections.abc import Sequence
from hashlib import sha256

from stranger.wire import Refused


def leaf_hash(leaf: bytes) -> bytes:
    """The hash of one leaf."""
    return sha256(b"\0" + leaf).digest()


def node(left: bytes, right: bytes) -> bytes:
    """The hash of two halves."""
    return sha256(b"\1" + left + right).digest()


def root(hashes: Sequence[bytes]) -> bytes:
    """The root over leaf hashes."""
    stack: list[tuple[int, bytes]] = []
    for value in hashes:
        level, top = 0, value
        while stack and stack[-1][0] == level:
            top = node(stack.pop()[1], top)
            level += 1
        stack.append((level, top))
    if not stack:
        return sha256(b"").digest()
    _, result = stack.pop()
    while stack:
        result = node(stack.pop()[1], result)
    return result


def prove(index: int, hashes: Sequence[bytes]) -> list[bytes]:
    """The audit path of a leaf, its sibling first (RFC 6962 section 2.1.1)."""
    if len(hashes) == 1:
        return []
    split = 1 << (len(hashes) - 1).bit_length() - 1
    if index < split:
        return [*prove(index, hashes[:split]), root(hashes[split:])]
    return [*prove(index - split, hashes[split:]), root(hashes[:split])]


def included(leaf: bytes, index: int, size: int, proof: Sequence[bytes], top: bytes) -> bool:
    """RFC 9162 section 2.1.3.2."""
    if not 0 <= index < size:
        return False
    first, last, result = index, size - 1, leaf
    for part in proof:
        if last == 0:
            return False
        if first & 1 or first == last:
            result = node(part, result)
            while not first & 1 and first:
                first, last = first >> 1, last >> 1
        else:
            result = node(result, part)
        first, last = first >> 1, last >> 1
    return last == 0 and result == top


def consistent(old: int, new: int, proof: Sequence[bytes], before: bytes, after: bytes) -> bool:
    """RFC 9162 section 2.1.4.2; every tree extends the empty one."""
    if not 0 <= old <= new:
        return False
    if old == 0 or old == new:
        empty = old or before == root([])
        return not proof and bool(empty) and (old == 0 or before == after)
    path = list(proof) if old & (old - 1) else [before, *proof]
    first, last = old - 1, new - 1
    while first & 1:
        first, last = first >> 1, last >> 1
    if not path:
        return False
    left = right = path[0]
    for part in path[1:]:
        if last == 0:
            return False
        if first & 1 or first == last:
            left, right = node(part, left), node(part, right)
            while not first & 1 and first:
                first, last = first >> 1, last >> 1
        else:
            right = node(right, part)
        first, last = first >> 1, last >> 1
    return last == 0 and left == before and right == after


def hash_list(data: bytes) -> list[bytes]:
    """A file of hashes, 32 bytes each."""
    if len(data) % 32:
        raise Refused("not hashes of 32 bytes")
    return [data[at : at + 32] for at in range(0, len(data), 32)]
