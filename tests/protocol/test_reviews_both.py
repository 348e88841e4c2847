"""Every act that the second reader refuses, or lets be, is judged alike by ours."""

from __future__ import annotations

import pytest

from exclave_protocol.errors import LeafError
from exclave_protocol.leaf import decode_leaf
from exclave_testing.office import judged
from stranger.acts_again import HONEST, opened, sealed
from stranger.test_acts_spoiled import BEFORE, FINE, SPOILT


@pytest.mark.parametrize("name", SPOILT)
def test_what_is_refused_there_is_refused_here(name: str) -> None:
    case, spoil = SPOILT[name]
    log = opened(case)
    spoil(log)
    leaves, hashes = sealed(log)
    try:
        found = judged([decode_leaf(leaf) for leaf in leaves], hashes).found
    except LeafError:
        return  # no record at all
    assert found.count


@pytest.mark.parametrize("name", FINE)
def test_what_is_fine_there_is_fine_here(name: str) -> None:
    case, spoil = FINE[name]
    log = opened(case)
    spoil(log)
    leaves, hashes = sealed(log)
    assert judged([decode_leaf(leaf) for leaf in leaves], hashes).found.problems == []


@pytest.mark.parametrize("name", HONEST)
def test_what_is_cut_there_may_be_cut_here(name: str) -> None:
    leaves, hashes = sealed(opened(name))
    decoded = [decode_leaf(leaf) for leaf in leaves]
    for _, since in (each for each in BEFORE if each[0] == name):
        cut = [leaf for leaf in decoded if leaf.seq == 0 or leaf.seq >= since]
        assert judged(cut, hashes).found.problems == [], since
