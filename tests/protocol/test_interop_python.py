"""Other people's Python reads our log and our proofs, and refuses them when they were changed:
pymerkle's tree, and tlog-scales' client of tiled logs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from pymerkle import (
    ConsistencyProof,
    InclusionProof,
    InmemoryTree,
    InvalidProof,
    verify_consistency,
    verify_inclusion,
)
from tlog_scales.backend import LocalBackend
from tlog_scales.reader import TilesReader
from tlog_scales.signing import Vkey
from tlog_scales.tlog import InclusionProofInvalid

from exclave_agent.audit.checkpoint import Checkpointer
from exclave_agent.audit.store import StoredCheckpoint
from exclave_agent.audit.tiled import write_tiles
from exclave_protocol.checkpoint import cosign
from exclave_protocol.note import add_signature
from exclave_protocol.tree import (
    MemoryTree,
    inclusion_proof,
    leaf_hash,
)
from exclave_testing.audit import signing_key
from exclave_testing.decider import WITNESS
from exclave_testing.homes import KEY, Home, intent

SIZES = [1, 2, 3, 7, 8, 13, 64, 100]

PLAIN = signing_key().plain_key
"""Of the term, as verifiers take it that know nothing of terms."""


# --- pymerkle ------------------------------------------------------------------------------------


def trees(size: int) -> tuple[InmemoryTree, MemoryTree]:
    theirs = InmemoryTree(algorithm="sha256")
    for number in range(size):
        theirs.append_entry(b"leaf %d" % number)
    return theirs, MemoryTree(leaf_hash(b"leaf %d" % n) for n in range(size))


@pytest.mark.parametrize("size", SIZES)
def test_pymerkle_has_our_roots_and_takes_our_proofs_of_inclusion(size: int) -> None:
    theirs, ours = trees(size)
    assert theirs.get_root() == ours.root()
    for index in range(size):
        form = theirs.prove_inclusion(index + 1)
        digest = leaf_hash(b"leaf %d" % index)
        proof = inclusion_proof(index, size, ours.node)
        made = InclusionProof("sha256", True, size, index + 1, form.rule, [digest, *proof])
        verify_inclusion(digest, ours.root(), made)
        for place in range(len(proof)):
            broken = [*proof[:place], bytes(32), *proof[place + 1 :]]
            bad = InclusionProof("sha256", True, size, index + 1, form.rule, [digest, *broken])
            with pytest.raises(InvalidProof):
                verify_inclusion(digest, ours.root(), bad)


@pytest.mark.parametrize("size", SIZES[1:])
def test_pymerkle_proves_consistency_between_our_roots(size: int) -> None:
    theirs, ours = trees(size)
    for old in range(1, size):
        proof = theirs.prove_consistency(old, size)
        assert isinstance(proof, ConsistencyProof)
        verify_consistency(ours.root(old), ours.root(), proof)
        with pytest.raises(InvalidProof):
            verify_consistency(bytes(32), ours.root(), proof)


# --- tlog-scales ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real home's log with a witness's line, as tiles."""
    place = tmp_path_factory.mktemp("scales")

    async def write() -> None:
        async with Home(place / "home") as home:
            for number in range(599):
                await home.log.append(intent(f"d{number}"))
            signed = await Checkpointer(home.database, signing_key()).sign()
            line = cosign(signed.checkpoint.text(), WITNESS, 1_700_000_000)
            note = add_signature(signed.note, line)
            await home.database.save_checkpoint(StoredCheckpoint(600, note, cosigned=True))
            await home.database.read(
                lambda log: write_tiles(log, place / "log", cosigned=True, entries=True)
            )

    asyncio.run(write())
    return place / "log"


def test_tlog_scales_reads_our_tiles_and_believes_our_keys(folder: Path) -> None:
    reader = TilesReader(LocalBackend(folder))
    checkpoint = reader.get_checkpoint()
    checkpoint.verify(Vkey.from_string(PLAIN.vkey))
    checkpoint.verify(Vkey.from_string(WITNESS.vkey))
    assert (checkpoint.origin, checkpoint.size) == (KEY.name, 600)
    assert reader.calculate_root_hash() == checkpoint.root_hash
    for index in range(0, 600, 7):
        reader.get_inclusion_proof(index, 600).check(
            leaf_hash(reader.get_entry(index)), checkpoint.root_hash
        )
    for old in (1, 2, 255, 256, 257, 511, 599):
        before = MemoryTree(leaf_hash(reader.get_entry(n)) for n in range(old)).root()
        reader.get_consistency_proof(old, 600).check(before, checkpoint.root_hash)


class Changed(LocalBackend):
    """One bit of one file is another."""

    def __init__(self, base: Path, name: str, at: int) -> None:
        super().__init__(base)
        self._name, self._at = name, at

    def get(self, *path: str) -> bytes | None:
        data = super().get(*path)
        if data is None or "/".join(path) != self._name:
            return data
        assert isinstance(data, bytes)
        return data[: self._at] + bytes([data[self._at] ^ 1]) + data[self._at + 1 :]


def test_tlog_scales_refuses_what_was_changed(folder: Path) -> None:
    text = (folder / "checkpoint").read_bytes()
    checkpoint = TilesReader(
        Changed(folder, "checkpoint", text.index(b"\n600\n") + 3)
    ).get_checkpoint()
    with pytest.raises(InvalidSignature):
        checkpoint.verify(Vkey.from_string(PLAIN.vkey))
    edge = TilesReader(Changed(folder, "tile/0/002.p/88", 40))
    head = edge.get_checkpoint()
    assert edge.calculate_root_hash() != head.root_hash
    inner = TilesReader(Changed(folder, "tile/0/000", 40))
    inner.get_checkpoint()
    proof = inner.get_inclusion_proof(0, 600)
    with pytest.raises(InclusionProofInvalid):
        proof.check(leaf_hash(inner.get_entry(0)), head.root_hash)
