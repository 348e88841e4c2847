"""An upload that is cut off anywhere: nothing is lost, nothing comes twice (docs/attacks.md, W)."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from pathlib import Path

import pytest

from exclave_agent.errors import LinkError
from exclave_protocol.leaf import decode_leaf
from exclave_protocol.report import Verdict
from exclave_testing.attacks import attack
from exclave_testing.centre import Centre, judge
from exclave_testing.meddling import MOMENTS, Breaking, Killed
from exclave_testing.uploading import Pair, Working

PHASES = (8, 1, 0, 6)
"""Leaves that are appended between rounds; with GENESIS and batches of four, ten calls."""
CALLS = ["head", "begin_term", "append", "append", "append", "witness"]
CALLS += ["append", "witness", "append", "append", "witness"]
SCHEDULES = int(os.environ.get("EXCLAVE_UPLOAD_SCHEDULES", "24"))
"""The bounded run of every day; a long run sets more."""
TRIES = 200


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exclave_agent.audit.upload.MAX_BATCH_LEAVES", 4)


async def one_round(agent: Working) -> bool:
    """Whether it came to its end; if not, the uploader is left as its own loop would leave it."""
    try:
        await agent.uploader.once()
    except LinkError as error:
        agent.uploader._failed(error.code)
        return False
    except Killed:
        await agent.restart()
        return False
    return True


async def settle(agent: Working) -> None:
    for _ in range(TRIES):
        if await one_round(agent):
            return
    raise AssertionError(f"not settled after {TRIES} rounds")


async def check(pair: Pair, centre: Centre, agent: Working) -> None:
    """The coordinator has exactly what the agent wrote, cosigned once each, and no reproach."""
    written = await agent.leaves()
    head = await centre.line().head(1)
    assert await centre.leaves() == written
    assert head.size == head.witnessed_size == len(written) == agent.home.log.size
    assert head.checkpoint == await agent.kept()
    assert [decode_leaf(data).seq for data in written] == list(range(len(written)))
    assert (await centre.evidence(), await agent.incidents()) == ([], [])

    def cosigned(tx: object) -> list[int]:
        chain = centre.cosigned.table(tx)  # type: ignore[arg-type]  # a `ports.Tx`
        leaves = [decode_leaf(leaf.data) for leaf in chain.leaves(1, chain.state().size)]
        return [int(str(leaf.body["size"])) for leaf in leaves]

    sizes = await centre.store.read(cosigned)
    assert sizes == sorted(set(sizes)), "no head twice, and none below the one before it"
    bundle = await centre.export(pair.folder / "b.zip")
    assert judge(bundle, await agent.kept()).verdict is Verdict.WITNESSED


async def run(folder: Path, schedule: Mapping[int, str]) -> list[str]:
    """All phases under a schedule of failures; the calls that were made."""
    pair = Pair(folder)
    async with pair.centre() as centre:
        breaking = Breaking(centre.line(), schedule)
        async with pair.agent(breaking) as agent:
            for more in PHASES:
                await agent.add(more)
                await settle(agent)
            await check(pair, centre, agent)
    return breaking.names


async def test_the_calls_of_an_upload_that_nothing_interrupts(tmp_path: Path) -> None:
    """Else the next test would not interrupt every one of them."""
    assert await run(tmp_path, {}) == CALLS


@attack("W33")
@pytest.mark.parametrize("moment", MOMENTS)
async def test_an_upload_is_cut_off_at_every_call(tmp_path: Path, moment: str) -> None:
    for number in range(len(CALLS)):
        names = await run(tmp_path / str(number), {number: moment})
        assert len(names) > len(CALLS), f"call {number} was not made again"


@attack("W34")
@pytest.mark.parametrize("seed", range(SCHEDULES))
async def test_an_upload_is_cut_off_by_chance(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    schedule = {number: chance.choice(MOMENTS) for number in range(60) if chance.random() < 0.45}
    pair = Pair(tmp_path)
    async with pair.centre() as centre:
        breaking = Breaking(centre.line(), schedule)
        async with pair.agent(breaking) as agent:
            for _ in range(8):
                await agent.add(chance.choice((0, 1, 3, 9)))
                for _ in range(chance.randrange(4)):
                    await one_round(agent)
                if chance.random() < 0.2:
                    await agent.restart()
            await settle(agent)
            await check(pair, centre, agent)
    assert any(number < len(breaking.names) for number in schedule)
