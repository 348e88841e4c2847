"""The log as files, and single records' proofs: whole or not at all, and only what was signed."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from exclave_agent.audit.checkpoint import Checkpointer
from exclave_agent.audit.store import StoredCheckpoint
from exclave_agent.audit.tiled import prove, write_tiles
from exclave_agent.cli import audit
from exclave_agent.errors import BadRequest, StorageError
from exclave_agent.storage.home import read_log
from exclave_protocol.checkpoint import Checkpoint, cosign, sign_checkpoint
from exclave_protocol.extends import read_extension, verify_extension
from exclave_protocol.note import add_signature, split_note
from exclave_protocol.proof import Proof, verify_proof
from exclave_protocol.report import Verdict
from exclave_protocol.tiles import TileTree, tiles_of
from exclave_protocol.tree import MemoryTree, leaf_hash
from exclave_testing.audit import ORIGIN, signing_key
from exclave_testing.decider import WITNESS
from exclave_testing.homes import KEY, Home, execute, intent, state

LEAVES = 300


async def filled(path: Path, *, cosigned: bool = True) -> None:
    async with Home(path) as home:
        for number in range(LEAVES - 1):
            await home.log.append(intent(f"d{number}", "raw secret"))
        signed = await Checkpointer(home.database, signing_key()).sign()
        if cosigned:
            line = cosign(signed.checkpoint.text(), WITNESS, 1_700_000_000)
            note = add_signature(signed.note, line)
            await home.database.save_checkpoint(StoredCheckpoint(LEAVES, note, cosigned=True))


def run(home: Path, *words: str | Path, code: int = 0) -> str:
    done = CliRunner().invoke(audit.command, [*map(str, words), "--home", str(home)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.output


def tree_in(folder: Path) -> TileTree:
    head = Checkpoint.parse(split_note((folder / "checkpoint").read_bytes())[0])
    return TileTree(head.size, head.root, lambda tile: (folder / tile.path).read_bytes())


async def test_the_log_is_written_as_the_specification_lays_it_out(tmp_path: Path) -> None:
    home, folder = tmp_path / "home", tmp_path / "log"
    await filled(home)
    said = run(home, "tiles", "-o", folder, "--entries")
    assert f"{LEAVES} leaves in 6 files" in said
    wanted = {tile.path for tile in tiles_of(LEAVES)}
    wanted |= {tile.path for tile in tiles_of(LEAVES, entries=True)}
    there = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert there == wanted | {"checkpoint"}
    tree = tree_in(folder)
    assert b"GENESIS" in tree.entries(0)[0] and len(tree.entries(1)) == LEAVES - 256
    assert all((folder / name).stat().st_mode & 0o077 == 0 for name in there)
    assert not any(b"raw secret" in (folder / name).read_bytes() for name in there)


async def test_only_hashes_unless_records_are_asked_for(tmp_path: Path) -> None:
    await filled(tmp_path / "home")
    run(tmp_path / "home", "tiles", "-o", tmp_path / "log")
    assert not (tmp_path / "log" / "tile" / "entries").exists()


async def test_up_to_a_cosigned_head_unless_a_signed_one_is_enough(tmp_path: Path) -> None:
    home = tmp_path / "home"
    await filled(home, cosigned=False)
    with pytest.raises(BadRequest, match="cosigned by the witness yet"):
        run(home, "tiles", "-o", tmp_path / "log")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    run(home, "tiles", "-o", tmp_path / "log", "--signed")
    with pytest.raises(BadRequest, match="exists"):
        run(home, "tiles", "-o", tmp_path / "log", "--signed")


async def test_a_log_that_was_altered_is_not_handed_out(tmp_path: Path) -> None:
    home = tmp_path / "home"
    await filled(home)
    execute(state(home), "UPDATE leaf SET hash = zeroblob(32) WHERE decision = 'd10'")
    with pytest.raises(StorageError) as caught:
        run(home, "tiles", "-o", tmp_path / "log")
    assert caught.value.code == "log_altered"
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


ALTERED = (
    "UPDATE leaf SET data = CAST(replace(CAST(data AS TEXT), '\"d10\"', '\"d11\"') AS BLOB) "
    "WHERE decision = 'd10'"
)
MISSING = "DELETE FROM leaf WHERE id = (SELECT min(id) + {} FROM leaf)"


@pytest.mark.parametrize("damage", [ALTERED, MISSING.format(5), MISSING.format(LEAVES - 1)])
async def test_a_record_that_was_altered_or_lost_is_not_handed_out(
    tmp_path: Path, damage: str
) -> None:
    home = tmp_path / "home"
    await filled(home)
    execute(state(home), damage)
    with pytest.raises(StorageError, match=r"leaf (5|11|299) is missing, or") as caught:
        run(home, "tiles", "-o", tmp_path / "log", "--entries")
    assert caught.value.code == "log_altered"
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


async def test_what_stands_beside_the_folder_stays(tmp_path: Path) -> None:
    await filled(tmp_path / "home")
    theirs = tmp_path / "log.part" / "thesis"
    theirs.parent.mkdir()
    theirs.write_text("mine")
    run(tmp_path / "home", "tiles", "-o", tmp_path / "log")
    assert theirs.read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"home", "log", "log.part"}


async def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    await filled(home)
    written: list[Path] = []

    def put(path: Path, data: bytes) -> None:
        written.append(path)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    monkeypatch.setattr("exclave_agent.audit.tiled._put", put)
    with pytest.raises(OSError, match="No space"):
        run(home, "tiles", "-o", tmp_path / "log")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


# --- proofs --------------------------------------------------------------------------------------


async def test_a_record_is_proven_under_what_the_witness_saw(tmp_path: Path) -> None:
    home, file = tmp_path / "home", tmp_path / "seven.tlog-proof"
    await filled(home)
    assert "9 hashes" in run(home, "prove", "--record", "7", "-o", file)
    made = Proof.parse(file.read_bytes())
    assert verify_proof(made, KEY, [WITNESS.verify_key]).verdict is Verdict.WITNESSED
    assert b"raw secret" not in file.read_bytes()
    assert "exists" in run(home, "prove", "--record", "7", "-o", file, code=2)


async def test_a_record_that_was_altered_has_no_proof(tmp_path: Path) -> None:
    await filled(tmp_path / "home")
    execute(state(tmp_path / "home"), ALTERED)
    with pytest.raises(StorageError) as caught:
        run(tmp_path / "home", "prove", "--record", "11", "-o", tmp_path / "proof")
    assert caught.value.code == "log_altered"
    assert not (tmp_path / "proof").exists()


async def test_a_newer_record_is_proven_under_what_was_signed(tmp_path: Path) -> None:
    await filled(tmp_path)
    async with Home(tmp_path) as home:
        seq = (await home.log.append(intent("new"))).seq
        with pytest.raises(BadRequest, match="no signed head yet"):
            await home.database.read(lambda log: prove(log, seq))
        await Checkpointer(home.database, signing_key()).sign()
        made = await home.database.read(lambda log: prove(log, seq))
        assert verify_proof(made, KEY, [WITNESS.verify_key]).verdict is Verdict.UNANCHORED
        old = await home.database.read(lambda log: prove(log, 7))
        assert verify_proof(old, KEY, [WITNESS.verify_key]).verdict is Verdict.WITNESSED
        with pytest.raises(BadRequest, match="no record of that number"):
            await home.database.read(lambda log: prove(log, 99_999))


async def test_without_a_head_there_is_nothing_to_prove_under(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        with pytest.raises(BadRequest, match="was signed yet"):
            await home.database.read(lambda log: prove(log, 0))
        with pytest.raises(BadRequest, match="was signed yet"):
            await home.database.read(
                lambda log: write_tiles(log, tmp_path / "log", cosigned=False, entries=False)
            )


async def test_it_proves_that_it_only_grew(tmp_path: Path) -> None:
    home, kept, file = tmp_path / "home", tmp_path / "kept", tmp_path / "extends"
    await filled(home)
    data = read_log(home, lambda reader: [leaf.data for leaf in reader.scan(0)])
    tree = MemoryTree(map(leaf_hash, data))
    kept.write_bytes(sign_checkpoint(Checkpoint(ORIGIN, 100, tree.root(100)), signing_key()))
    assert "from 100 leaves on" in run(home, "extends", "--since", kept, "-o", file)
    made = read_extension(file)
    report = verify_extension(made, kept.read_bytes(), KEY, [WITNESS.verify_key])
    assert report.verdict is Verdict.WITNESSED, report.to_text()
    for size, root, origin in (
        (100, bytes(32), ORIGIN),
        (LEAVES + 1, bytes(32), ORIGIN),
        (100, tree.root(100), "elsewhere"),
    ):
        kept.write_bytes(sign_checkpoint(Checkpoint(origin, size, root), signing_key(origin)))
        with pytest.raises(BadRequest):
            run(home, "extends", "--since", kept, "-o", tmp_path / "no")
    kept.write_bytes(b"?")
    with pytest.raises(BadRequest):
        run(home, "extends", "--since", kept, "-o", tmp_path / "no")
    assert not (tmp_path / "no").exists()
