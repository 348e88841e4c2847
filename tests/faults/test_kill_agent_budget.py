"""Budgets under kill -9: the ledger is what the log says, and open decisions cost their worst."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from exclave_agent.audit.store import LogReader
from exclave_agent.decide.budget import Budgets
from exclave_agent.storage.home import read_log
from exclave_protocol.leaf import LeafType, decode_leaf
from exclave_testing.homes import Home, execute, state
from exclave_testing.spender import release

TESTS = Path(__file__).parents[1]
ROUNDS = int(os.environ.get("EXCLAVE_KILL_ROUNDS", "6"))


def kill_after(home: Path, seconds: float, producers: int) -> int:
    """Run the spender, kill -9 it `seconds` after its first decision; how many it told of."""
    command = [sys.executable, "-m", "exclave_testing.spender", str(home), str(producers)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline(), "the spender ended before it spent"
        time.sleep(seconds)  # the moment of the kill is the test's subject
        process.kill()
        return 1 + len(process.stdout.readlines())


class Books:
    """What the log says was spent, and what of it belongs to decisions without a RESULT."""

    def __init__(self) -> None:
        self.tokens = self.money = self.results = 0
        self.open: dict[str, int] = {}

    def read(self, reader: LogReader) -> None:
        for stored in reader.scan(0):
            leaf = decode_leaf(stored.data)
            if "accounts" not in leaf.body:
                continue
            tokens, money = leaf.body["tokens"], leaf.body["money"]
            assert isinstance(tokens, int)
            assert isinstance(money, int)
            self.tokens += tokens
            self.money += money
            decision = str(leaf.body["decision"])
            if leaf.type is LeafType.INTENT:
                self.open[decision] = tokens
            else:
                self.results += 1
                del self.open[decision]


def ledger(home: Path) -> list[tuple[object, ...]]:
    return execute(state(home), "SELECT account, tokens, money FROM spent ORDER BY account")


@pytest.mark.timeout(300)
def test_kill_9_at_any_moment_leaves_the_ledger_and_the_log_at_one(tmp_path: Path) -> None:
    moments = random.Random(20261126)
    told, left_open = 0, 0
    for number in range(ROUNDS + 30):
        if number >= ROUNDS and left_open:
            break  # more only until a kill came between the two leaves: the machine may be busy
        delay = moments.choice([0.0, 0.003, 0.02, 0.1]) * moments.uniform(0.5, 1.5)
        told += kill_after(tmp_path, delay, producers=moments.choice([1, 8, 32]))
        books = Books()
        read_log(tmp_path, books.read)
        both = (books.tokens, books.money)
        assert ledger(tmp_path) == [("tenant", *both), ("tenant/team:claims", *both)]
        assert books.results >= told
        assert all(worst >= 150 for worst in books.open.values())
        left_open += len(books.open)
    assert left_open, "no kill came between an INTENT and its RESULT"


@pytest.mark.timeout(120)
async def test_the_next_start_does_not_refund_what_the_kill_left_open(tmp_path: Path) -> None:
    for _ in range(20):  # until a kill comes between the two leaves
        kill_after(tmp_path, 0.01, producers=32)
        books = Books()
        read_log(tmp_path, books.read)
        if books.open:
            break
    assert books.open
    before = ledger(tmp_path)
    async with Home(tmp_path) as home:
        done = await home.boot()
        assert set(done.closed) == set(books.open)
        budgets = Budgets(home.storage.ledger, home.clock)
        await budgets.load()
        document = (await release()).policy.budget
        assert budgets.views(document)[0].tokens == books.tokens
    assert ledger(tmp_path) == before
