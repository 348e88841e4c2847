"""A process that appends until it is killed, and says on stdout what it was promised.

`python -m exclave_testing.appender HOME PRODUCERS`: each line printed is one append that
returned: `<seq> <hash hex> <decision>`.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from pathlib import Path

from .homes import Home, intent, result


async def main(home: Path, producers: int) -> None:
    """Append INTENT and RESULT for ever."""
    numbers = itertools.count()
    run = os.getpid()

    async def produce(log_home: Home) -> None:
        while True:
            decision = f"{run}-{next(numbers)}"
            place = await log_home.log.append(intent(decision, f"prompt of {decision}"))
            say(place.seq, place.hash, decision)
            place = await log_home.log.append(result(decision, place.seq))
            say(place.seq, place.hash, decision)

    async with Home(home, seed=run) as opened, asyncio.TaskGroup() as group:
        # One decision is always under way when the process dies.
        place = await opened.log.append(intent(f"{run}-open", "never answered"))
        say(place.seq, place.hash, f"{run}-open")
        for _ in range(producers):
            group.create_task(produce(opened))


def say(seq: int, digest: bytes, decision: str) -> None:
    """One write, so that a line is there whole or not at all."""
    os.write(1, f"{seq} {digest.hex()} {decision}\n".encode())


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
