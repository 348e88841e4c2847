"""A process that reserves and settles budgets on a real log until it is killed.

`python -m exclave_testing.spender HOME PRODUCERS`: each line printed is one RESULT that is
durable. Every leaf says in its body what rides on it, so that the ledger can be checked against
the log.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
from pathlib import Path

from exclave_agent.decide.budget import Budgets
from exclave_agent.decide.calls import GenerateCall
from exclave_agent.decide.worst import Worst
from exclave_agent.ports import ActiveRelease, Caller, LeafDraft, LedgerEntry, ModelInfo, Price
from exclave_policy.compile import compile_pack
from exclave_policy.pack import Pack
from exclave_protocol.canonical import JsonValue

from .homes import Home
from .policies import allow, document
from .runtimes import FakeRuntimes

PRICE = Price("EUR", 1_000_000, 2_000_000)
MODEL = ModelInfo("small", "llama", "5" * 64, frozenset({"chat"}), price=PRICE)
SPEC = {
    "currency": "EUR",
    "tenant": {"tokens": 2**50, "money": "900000", "per": "month"},
    "teams": [{"name": "claims", "roles": ["clerk"], "tokens": 2**50, "per": "day"}],
}


async def release() -> ActiveRelease:
    """A release whose budget is never used up."""
    head = {"apiVersion": "exclave.dev/v1", "metadata": {"name": "b", "version": "1"}}
    files = {
        "policy.yaml": json.dumps(document(allow("a"))),
        "policies/budget.yaml": json.dumps(head | {"kind": "Budget", "spec": SPEC}),
    }
    policy = compile_pack(Pack("test", "1", files))
    return ActiveRelease("a" * 64, 1, 1, policy, "b" * 64, await FakeRuntimes().load([]))


def draft(kind: str, decision: str, entries: tuple[LedgerEntry, ...]) -> LeafDraft:
    """A leaf that says what rides on it."""
    tokens = entries[0].tokens if entries else 0
    money = entries[0].money_micro if entries else 0
    body: dict[str, JsonValue] = {"decision": decision, "tokens": tokens, "money": money}
    return LeafDraft(kind, body | {"accounts": len(entries)}, ledger=entries)


async def main(home: Path, producers: int) -> None:
    """Reserve, record, settle, record, for ever."""
    numbers = itertools.count()
    run = os.getpid()
    active = await release()

    async def produce(opened: Home, budgets: Budgets) -> None:
        while True:
            number = next(numbers)
            decision = f"{run}-{number}"
            call = GenerateCall(
                decision=decision,
                action="chat",
                model="small",
                caller=Caller("k", ("clerk",)),
                subject="s",
                prompt="p",
            )
            held = budgets.reserve(active, call, [MODEL], Worst(100 + number % 7, 50))
            await opened.log.append(draft("INTENT", decision, held.entries()))
            settled = held.settle(number % 100, number % 50, 0, PRICE)
            await opened.log.append(draft("RESULT", decision, settled))
            os.write(1, f"{decision}\n".encode())

    async with Home(home, seed=run) as opened, asyncio.TaskGroup() as group:
        budgets = Budgets(opened.storage.ledger, opened.clock)
        await budgets.load()
        for _ in range(producers):
            group.create_task(produce(opened, budgets))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
