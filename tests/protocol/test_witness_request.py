"""add-checkpoint's body: one spelling each, and nothing a peer sends raises anything but ours."""

from __future__ import annotations

import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave_protocol.errors import NoteError, ProofError
from exclave_protocol.tree import Frontier, MemoryTree, consistency_proof
from exclave_protocol.witness import (
    MAX_BODY,
    MAX_PROOF,
    AddCheckpoint,
    encode_size,
    parse_size,
    proof_between,
)

EXAMPLE = """\
old 20852014
PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=
jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=
5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=
/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=

example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

\u2014 example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
\u2014 example.com/behind-the-sofa opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZdXNqlcVGlCum2Wks+49/V6267UEjw6QUXTS5Rovnzv++qbSzm9Q=
""".encode()  # noqa: E501 (the specification's own example, as it stands)


def test_the_specification_s_example() -> None:
    request = AddCheckpoint.parse(EXAMPLE)
    assert request.old_size == 20852014
    assert len(request.proof) == 4
    assert request.note.startswith(b"example.com/behind-the-sofa\n20852163\n")
    assert request.encode() == EXAMPLE


@pytest.mark.parametrize(
    "head",
    [
        "",
        "old",
        "old ",
        "old 01",
        "old -1",
        "old +1",
        "old 1 ",
        " old 1",
        "Old 1",
        "old 1\r",
        "old 9223372036854775808",
        "old 1\nAAAA",
        "old 1\n" + "A" * 43 + "B=",
        "old 1\n" + "A" * 43 + "= ",
        "old 1\n" + "A" * 44,
        "old 1\n\N{FULLWIDTH DIGIT ONE}",
        "old \N{ARABIC-INDIC DIGIT ONE}",
        "old 1" + ("\n" + "A" * 43 + "=") * (MAX_PROOF + 1),
    ],
)
def test_what_is_not_a_request(head: str) -> None:
    with pytest.raises(NoteError):
        AddCheckpoint.parse(head.encode() + b"\n\nnote")


def test_limits() -> None:
    full = AddCheckpoint(2**63 - 1, (bytes(32),) * MAX_PROOF, b"n")
    assert AddCheckpoint.parse(full.encode()) == full
    with pytest.raises(NoteError, match="limit"):
        AddCheckpoint.parse(b"old 0\n\n" + bytes(MAX_BODY))
    with pytest.raises(NoteError, match="empty line"):
        AddCheckpoint.parse(b"old 0\nnote")


@given(st.binary(max_size=300) | st.binary(max_size=60).map(lambda tail: EXAMPLE[:200] + tail))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        request = AddCheckpoint.parse(data)
    except NoteError:
        return
    assert request.encode() == data  # one spelling


@given(st.integers(0, 2**63 - 1))
def test_sizes_have_one_spelling(size: int) -> None:
    assert parse_size(encode_size(size)) == size


@pytest.mark.parametrize("body", [b"", b"1", b"01\n", b"1\n\n", b"-1\n", b"9223372036854775808\n"])
def test_what_is_not_a_size(body: bytes) -> None:
    with pytest.raises(NoteError):
        parse_size(body)


def test_a_proof_from_peaks_is_that_of_the_whole_tree() -> None:
    hashes = [hashlib.sha256(bytes([n])).digest() for n in range(70)]
    tree = MemoryTree(hashes)
    for old, new in itertools.combinations_with_replacement(range(71), 2):
        frontier = Frontier()
        frontier.extend(hashes[:old])
        made = proof_between(frontier, new, hashes[old:new])
        assert made == consistency_proof(old, new, tree.node), (old, new)
    with pytest.raises(ProofError):
        proof_between(Frontier(), 3, hashes[:2])
