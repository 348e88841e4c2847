"""What somebody does to an agent's home beside its records: copies, values, clocks, and all of it
while the agent runs (docs/attacks.md, A)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from exclave_agent.audit.disclose import disclose, show
from exclave_agent.errors import AgentError, AuditDiverged, StorageError
from exclave_agent.storage.home import read_log
from exclave_protocol.checkpoint import Checkpoint, sign_checkpoint
from exclave_protocol.leaf import decode_leaf, encode_leaf
from exclave_protocol.report import Verdict
from exclave_protocol.tree import root_of
from exclave_testing.attacks import attack
from exclave_testing.audit import ORIGIN, signing_key
from exclave_testing.centre import judge
from exclave_testing.homes import execute, state, vault
from exclave_testing.tampering import FIRST, cut, leaf_at, put, rechain
from exclave_testing.uploading import Pair

SIZE = 21
TILED = 301
DAY = 86_400


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


# --- old copies ---------------------------------------------------------------------------------


@attack("A22")
@pytest.mark.parametrize(
    ("more", "code"), [(0, "head_ahead"), (40, "head_forked")], ids=["as it was", "gone on"]
)
async def test_an_older_copy_of_the_home_is_restored(pair: Pair, more: int, code: str) -> None:
    await pair.honest(SIZE)
    old = pair.copy("old")
    await pair.honest(SIZE + 10)
    assert await pair.uploads(old, more) == code


@attack("A23")
async def test_a_clone_of_the_home_goes_on_beside_it(pair: Pair) -> None:
    await pair.honest(SIZE)
    clone = pair.copy("clone")
    await pair.honest(SIZE + 4)
    async with pair.centre() as centre, pair.agent(centre.line(), clone) as agent:
        await agent.add(4, "mine")
        # Even before it asks where the coordinator stands.
        leaves, term = (await agent.leaves())[SIZE:], agent.terms.number
        with pytest.raises(AuditDiverged, match="another process of this agent writes it now"):
            await centre.line().append(1, SIZE, leaves, term=term - 1)
        assert await agent.refused() == "head_forked"
        assert agent.frozen == ["head_forked"]
        assert await centre.evidence() == ["term", "term"], "its head, and that beside which it was"


# --- with the agent's key -----------------------------------------------------------------------


@attack("A24")
async def test_all_is_chained_and_signed_anew_with_the_agents_key(pair: Pair) -> None:
    kept = await pair.honest(TILED)
    hashes = rechain(pair.home, 5)
    forged = sign_checkpoint(Checkpoint(ORIGIN, TILED, root_of(hashes)), signing_key())
    execute(state(pair.home), "UPDATE checkpoint SET note = ?, cosigned = 0", [forged])
    assert (await pair.starts(), pair.verified()) == ("", "vault_damaged")
    assert await pair.uploads() == "head_forked"
    async with pair.centre() as centre:
        bundle = await centre.export(pair.folder / "b.zip")
        assert judge(bundle, kept).verdict is Verdict.WITNESSED
        assert judge(bundle, kept, forged).verdict is Verdict.DIVERGED


# --- the vault ----------------------------------------------------------------------------------


def value_of(pair: Pair, seq: int) -> str:
    """The code by which a record's values do not open, or can not be disclosed."""
    with pytest.raises(StorageError, match="altered or moved") as caught:
        read_log(pair.home, lambda r: show(r, seq))
    with pytest.raises(StorageError, match="altered or moved"):
        read_log(pair.home, lambda r: disclose(r, seq, "prompt"))
    return caught.value.code


@attack("A25")
async def test_values_are_swapped_between_records(pair: Pair) -> None:
    await pair.honest(SIZE)
    sql = "UPDATE leaf SET sealed = (SELECT sealed FROM leaf WHERE id = ?) WHERE id = ?"
    execute(state(pair.home), sql, [FIRST + 3, FIRST + 5])
    assert value_of(pair, 5) == "vault_damaged"


@attack("A26")
async def test_a_value_is_changed(pair: Pair) -> None:
    await pair.honest(SIZE)
    ((sealed,),) = execute(state(pair.home), "SELECT sealed FROM leaf WHERE id = ?", [FIRST + 5])
    assert isinstance(sealed, bytes)
    changed = sealed[:-1] + bytes([sealed[-1] ^ 1])
    execute(state(pair.home), "UPDATE leaf SET sealed = ? WHERE id = ?", [changed, FIRST + 5])
    assert value_of(pair, 5) == "vault_damaged"


def settled(pair: Pair, mark: str) -> None:
    """Forge the mark below which no INTENT lacks its RESULT: what a start need not decode."""
    sql = "INSERT OR REPLACE INTO state VALUES ('audit.quiet_before.1', CAST(? AS BLOB))"
    execute(state(pair.home), sql, [mark])


@attack("A27")
@pytest.mark.parametrize(
    "mark",
    [
        "99999",
        "-300",
        "x",
    ],
)
async def test_the_mark_of_what_is_settled_is_forged(pair: Pair, mark: str) -> None:
    await pair.honest(SIZE)
    leaf = decode_leaf(leaf_at(pair.home, 5)[0])
    put(pair.home, 5, encode_leaf(replace(leaf, body={"decision": "forged"})))
    settled(pair, mark)
    assert await pair.starts() == "log_altered"


@attack("A28")
async def test_keys_of_the_vault_are_deleted_without_an_erasure(pair: Pair) -> None:
    await pair.honest(SIZE)
    execute(vault(pair.home), "DELETE FROM subject")
    shown = read_log(pair.home, lambda r: show(r, 5))
    assert shown.closed == shown.leaf.sd
    assert pair.verified() != "", "values are gone, and no ERASURE says so"


# --- while the agent runs -----------------------------------------------------------------------


def edit_data(home: Path, seq: int) -> None:
    data, digest = leaf_at(home, seq)
    put(home, seq, data.replace(b'"decision":"d', b'"decision":"e'), digest)


def edit_both(home: Path, seq: int) -> None:
    put(home, seq, leaf_at(home, seq)[0].replace(b'"decision":"d', b'"decision":"e'))


def sql(home: Path, statement: str, *values: object) -> None:
    execute(state(home), statement, values)


async def altered(pair: Pair, damage: Callable[[Path], None], *, more: int = 300) -> str:
    """The code by which a round fails when the file was changed since the agent appended."""
    await pair.honest(TILED)
    async with pair.centre() as centre, pair.agent(centre.line()) as agent:
        await agent.once()
        await agent.add(more)
        written = await agent.leaves()
        damage(pair.home)
        with pytest.raises(AgentError) as caught:
            await agent.uploader.once()
        head, sent = await centre.line().head(1), await centre.leaves()
        assert head.witnessed_size == TILED
        assert sent == written[: len(sent)], "the coordinator has what the agent never wrote"
        return caught.value.code


@attack("A29")
@pytest.mark.parametrize("seq", [TILED - 1, 290])
async def test_a_signed_record_is_edited_while_the_agent_runs(pair: Pair, seq: int) -> None:
    assert await altered(pair, lambda home: edit_both(home, seq)) == "log_altered"


@attack("A30")
async def test_a_node_is_edited_while_the_agent_runs(pair: Pair) -> None:
    damage = "UPDATE node SET hash = zeroblob(32)"
    assert await altered(pair, lambda home: sql(home, damage)) == "log_altered"


@attack("A31")
@pytest.mark.parametrize("edit", [edit_data, edit_both])
@pytest.mark.parametrize("place", [2, -1], ids=["inner", "last"])
async def test_an_unsent_record_is_edited_while_the_agent_runs(
    pair: Pair, edit: Callable[[Path, int], None], place: int
) -> None:
    more = 6
    seq = TILED + (place % more)
    assert await altered(pair, lambda home: edit(home, seq), more=more) == "log_altered"


@attack("A32")
async def test_the_unsent_tail_is_deleted_while_the_agent_runs(pair: Pair) -> None:
    assert await altered(pair, lambda home: cut(home, TILED), more=6) == "log_altered"


@attack("A33")
async def test_a_gap_in_the_unsent_tail(pair: Pair) -> None:
    gap = FIRST + TILED + 2
    damage = "DELETE FROM leaf WHERE id = ?"
    assert await altered(pair, lambda home: sql(home, damage, gap), more=6) == "log_altered"


@attack("A34")
async def test_a_trigger_is_planted_that_edits_what_is_written(pair: Pair) -> None:
    await pair.honest(SIZE)
    edit = """replace(CAST(data AS TEXT), '"decision":"m', '"decision":"n')"""
    execute(
        state(pair.home),
        "CREATE TRIGGER planted AFTER INSERT ON leaf BEGIN "
        f"UPDATE leaf SET data = CAST({edit} AS BLOB) WHERE id = new.id; END",
    )
    assert await pair.uploads(more=4) == "log_altered"
    assert (await pair.starts(), pair.verified()) == ("log_altered", "log_altered")


# --- the clock ----------------------------------------------------------------------------------


@attack("A35")
async def test_the_clock_is_set_back_a_day_and_forward_a_year(pair: Pair) -> None:
    await pair.honest(SIZE)
    pair.clock.step(-DAY)
    await pair.honest(SIZE + 4)
    pair.clock.step(366 * DAY)
    await pair.honest(SIZE + 8)
    pair.clock.step(-365 * DAY)
    kept = await pair.honest(SIZE + 12)
    assert (await pair.starts(), pair.verified()) == ("", "")
    async with pair.centre() as centre:
        sent = [decode_leaf(data) for data in await centre.leaves()]
        report = judge(await centre.export(pair.folder / "b.zip"), kept)
    assert [leaf.seq for leaf in sent] == list(range(SIZE + 12))
    times = [leaf.time_ns for leaf in sent]
    assert times != sorted(times)
    assert report.verdict is Verdict.WITNESSED, report.to_text()
    assert f"the agent's clock went back 2 times, first at seq {SIZE}" in report.to_text()
