"""Decisions on a real home, by a process that is killed at a chosen moment of a commit.

`python -m exclave_testing.decider` reads a line of JSON for each run: {"home", "seed", "where",
"count"}. It forks for each, so that a run costs no start of Python, and answers with a line of
JSON: {"killed", "said"}. `said` is what had left by then, line by line:

    token DECISION          a piece of an answer
    answer DECISION SEQ     a whole answer, and its RESULT
    denied DECISION         a refusal
    cosigned SIZE ROOT      a head that a witness vouches for, as its cosignature was kept
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exclave_agent.audit.checkpoint import Checkpointer
from exclave_agent.audit.store import StoredCheckpoint
from exclave_agent.decide.calls import Answered
from exclave_agent.decide.pipeline import Pipeline
from exclave_agent.errors import AgentError, WorkerCrashed
from exclave_agent.ports import ActiveRelease, Caller, Delta
from exclave_agent.storage.leaves import LeafTail
from exclave_agent.storage.sqlite import Writer
from exclave_protocol.checkpoint import CosignerKey, cosign
from exclave_protocol.note import add_signature

from .audit import signing_key
from .clock import SequentialIds
from .homes import Home
from .local_api import FakeReleases, compile_policy
from .obliged import obliging
from .routing import ANALYST, Gathered, chat
from .scripted import ScriptedModels, model

PLACES = ("begin", "sealed", "vault", "commit", "durable", "told")
"""Of a commit: before it, before its leaves are added, before a new subject's key is durable,
at the statement that ends it, before those who wait are told, and after."""
DECISIONS = 24
AT_ONCE = 5
WITNESS = CosignerKey("example.org/witness", Ed25519PrivateKey.from_private_bytes(b"w" * 32))

Say = Callable[[str], None]


class Killer:
    """Ends the process the `count`-th time that it comes by `where`."""

    def __init__(self, where: str, count: int) -> None:
        self._where = where
        self._left = count

    def at(self, where: str) -> None:
        """The process comes by."""
        if where == self._where:
            self._left -= 1
            if not self._left:
                os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(60)  # the signal may take a moment: nothing happens in it

    def before(self, owner: Any, name: str, where: str) -> None:
        """Come by before each call of a method."""
        work = getattr(owner, name)

        def called(*args: Any) -> Any:
            self.at(where)
            return work(*args)

        setattr(owner, name, called)

    def after(self, owner: Any, name: str, where: str) -> None:
        """Come by after each."""
        work = getattr(owner, name)

        def called(*args: Any) -> Any:
            result = work(*args)
            self.at(where)
            return result

        setattr(owner, name, called)

    def watch(self, connection: sqlite3.Connection, where: str, starts: tuple[str, ...]) -> None:
        """Come by as a statement begins."""

        def traced(statement: str) -> None:
            if statement.startswith(starts):
                self.at(where)

        connection.set_trace_callback(traced)


async def run(path: Path, seed: int, say: Say, killer: Killer | None = None) -> None:
    """Make decisions until there were enough; whatever leaves is said first."""
    if killer is not None:
        killer.before(Writer, "_commit", "begin")
        killer.before(LeafTail, "insert", "sealed")
        killer.before(Writer, "_resolve", "durable")
        killer.after(Writer, "_answer", "told")
    chance = random.Random(seed)
    async with Home(path, seed=seed + 1) as home:
        if killer is not None:
            killer.watch(home.storage.writer._connection, "commit", ("COMMIT", "INSERT INTO leaf"))
            killer.watch(home.storage.vault_connection, "vault", ("COMMIT",))
        await home.boot()
        models = ScriptedModels(model("big"), model("small"))
        releases = FakeReleases()
        policy = compile_policy(obliging())
        releases.active = ActiveRelease("a" * 64, 7, 3, policy, "b" * 64, models)
        pipeline = Pipeline(releases, home.log, home.clock, SequentialIds(), Gathered())
        numbers = iter(range(DECISIONS))

        async def work() -> None:
            for number in numbers:
                await decide(pipeline, models, f"r{seed}-{number}", chance, say)
                if number % 6 == 5:
                    await witnessed(home, say)

        async with pipeline, asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(work())


async def decide(
    pipeline: Pipeline, models: ScriptedModels, decision: str, chance: random.Random, say: Say
) -> None:
    """One of several kinds; a caller who leaves early is one of them."""
    kind = chance.choice(["stream", "whole", "fails", "denied", "leaves"])
    if kind == "fails":
        models.script("big", "half ", WorkerCrashed("it died"))
    else:
        models.script("big", "an ", "answer ", "of ", "words")
    call = chat(
        decision=decision,
        model="big",
        stream=kind in ("stream", "leaves"),
        subject=f"subject-{chance.randrange(9)}",
        caller=Caller("k", ()) if kind == "denied" else ANALYST,
    )
    try:
        events = pipeline.stream(call)
        async for event in events:
            if isinstance(event, Delta):
                say(f"token {decision}")
                if kind == "leaves":
                    break
            elif isinstance(event, Answered):
                say(f"answer {decision} {event.receipt.result_seq}")
        await events.aclose()
    except AgentError:
        say(f"denied {decision}")


async def witnessed(home: Home, say: Say) -> None:
    """A signed head, cosigned and kept."""
    signed = await Checkpointer(home.database, signing_key()).sign()
    line = cosign(signed.checkpoint.text(), WITNESS, 1_700_000_000)
    note = add_signature(signed.note, line)
    size = signed.checkpoint.size
    await home.database.save_checkpoint(StoredCheckpoint(size, note, cosigned=True))
    say(f"cosigned {size} {signed.checkpoint.root.hex()}")


# --- one process for each run --------------------------------------------------------------------


def forked(home: Path, seed: int, where: str, count: int) -> tuple[bool, list[str]]:
    """Whether it was killed, and what it said."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        killer = Killer(where, count)

        def say(line: str) -> None:
            os.write(writing, f"{line}\n".encode())

        asyncio.run(run(home, seed, say, killer))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read().splitlines()
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit(f"run {seed} ended with {os.WEXITSTATUS(status)}")
    return os.WIFSIGNALED(status), said


def main(lines: Iterable[str]) -> None:
    """Run what is asked for, line by line."""
    for line in lines:
        asked = json.loads(line)
        killed, said = forked(Path(asked["home"]), asked["seed"], asked["where"], asked["count"])
        print(json.dumps({"killed": killed, "said": said}), flush=True)


if __name__ == "__main__":
    main(sys.stdin)
