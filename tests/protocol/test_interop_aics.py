"""aics-tlog, a verifier of C2SP logs of another hand, reads our tiles and checkpoints, and refuses
them when they were changed. It asks for Python 3.12, and so does this."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from exclave_protocol.tiles import CHECKPOINT, entry_bundles, hash_tiles
from exclave_testing.bundles import Log, witness_key

pytestmark = pytest.mark.skipif(sys.version_info < (3, 12), reason="aics-tlog asks for Python 3.12")
if sys.version_info >= (3, 12):
    import aics_tlog

LOG = Log("edge-1").fill(600)
SIZE = len(LOG.leaves)
FILES = ["tile/0/000", "tile/0/002.p/88", "tile/1/000.p/2", "tile/entries/001"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for tile, data in [*hash_tiles(LOG.hashes), *entry_bundles(LOG.leaves)]:
        file = tmp_path / tile.path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    (tmp_path / CHECKPOINT).write_bytes(LOG.cosigned())
    return tmp_path


def believed(note: str) -> bool:
    log, witness = (aics_tlog.parse_vkey(key) for key in (LOG.plain.vkey, witness_key().vkey))
    parsed = aics_tlog.parse_note(note)
    return bool(aics_tlog.verify_checkpoint(parsed, log, [witness], quorum=1).ok)


def audited(folder: Path) -> int:
    reader = aics_tlog.FileSystemTileReader(folder)
    return int(aics_tlog.audit_tiles(reader, SIZE, LOG.checkpoint().root).size)


def test_it_believes_our_keys_and_every_file(folder: Path) -> None:
    assert believed((folder / CHECKPOINT).read_text())
    assert audited(folder) == SIZE


def test_it_refuses_a_checkpoint_that_was_changed(folder: Path) -> None:
    assert not believed((folder / CHECKPOINT).read_text().replace(f"\n{SIZE}\n", f"\n{SIZE + 1}\n"))
    assert not believed(LOG.signed().decode())


@pytest.mark.parametrize("name", FILES)
def test_it_refuses_a_file_that_was_changed(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[40] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(aics_tlog.TileVerificationError):
        audited(folder)
