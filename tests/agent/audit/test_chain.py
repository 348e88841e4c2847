"""The chain's arithmetic: places, rewinding, the nodes that proofs are served from."""

from __future__ import annotations

import pytest

from exclave_agent.audit.chain import Chain, prepare
from exclave_agent.errors import StorageError
from exclave_agent.ports import LeafDraft
from exclave_protocol.tree import MemoryTree, leaf_hash
from exclave_testing.audit import ORIGIN
from exclave_testing.clock import START_NS, SeededRng

RNG = SeededRng()


def grow(chain: Chain, count: int) -> list[bytes]:
    """Seal `count` leaves; their bytes."""
    leaves = []
    for _ in range(count):
        draft = LeafDraft("HEARTBEAT" if chain.size else "GENESIS", {})
        leaves.append(chain.seal(prepare(draft, time_ns=START_NS, rng=RNG)).data)
    return leaves


def test_stored_nodes_are_those_of_the_whole_tree() -> None:
    chain, tree, nodes = Chain(ORIGIN, 1), MemoryTree(), {}
    for number in range(256 * 256 + 300):
        draft = LeafDraft("HEARTBEAT" if number else "GENESIS", {})
        sealed = chain.seal(prepare(draft, time_ns=START_NS, rng=RNG))
        tree.append(sealed.hash)
        nodes.update({(n.level, n.index): n.hash for n in sealed.nodes})
    assert sorted(nodes) == [*((8, index) for index in range(257)), (16, 0)]
    assert all(tree.node(*place) == value for place, value in nodes.items())
    assert chain.root() == tree.root()


def test_rewinding_forgets_exactly_what_followed() -> None:
    chain = Chain(ORIGIN, 1)
    grow(chain, 300)
    mark, root = chain.mark(), chain.root()
    first = grow(chain, 300)
    chain.rewind(mark)
    assert (chain.size, chain.root()) == (300, root)
    assert grow(chain, 300) == first


def test_only_genesis_opens_a_log() -> None:
    chain = Chain(ORIGIN, 1)
    with pytest.raises(StorageError, match="GENESIS opens a log"):
        chain.seal(prepare(LeafDraft("BOOT", {}), time_ns=START_NS, rng=RNG))
    (genesis,) = grow(chain, 1)
    assert chain.prev == leaf_hash(genesis)


def test_open_intents_wait_for_their_result() -> None:
    chain = Chain(ORIGIN, 1)
    grow(chain, 1)
    for decision in ("d1", "d2"):
        draft = LeafDraft("INTENT", {"decision": decision})
        sealed = chain.seal(prepare(draft, time_ns=START_NS, rng=RNG))
        chain.settle(sealed.prepared.type, sealed.prepared.body, sealed.seq)
    assert chain.open_intents == {"d1": 1, "d2": 2}
    assert chain.quiet_before() == 1
    draft = LeafDraft("RESULT", {"decision": "d1", "intent": "1"})
    sealed = chain.seal(prepare(draft, time_ns=START_NS, rng=RNG))
    chain.settle(sealed.prepared.type, sealed.prepared.body, sealed.seq)
    assert chain.open_intents == {"d2": 2}
    assert chain.quiet_before() == 2
