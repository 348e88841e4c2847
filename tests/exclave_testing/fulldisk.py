"""Fills a real, small disk under a running log and frees it again.

`python -m exclave_testing.fulldisk DIR`: DIR lies on a file system of a few MiB. Prints one
JSON object with what was promised and what was refused.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from exclave_agent.errors import StorageError

from .homes import Home, intent, result


async def main(folder: Path) -> None:
    """Append until refused, go on being refused, free space, append again."""
    ballast = folder / "ballast"
    ballast.write_bytes(os.urandom(1 << 20))
    kept: list[str] = []
    refused: list[str] = []

    async def decide(home: Home, name: str) -> None:
        try:
            place = await home.log.append(intent(name, "x" * 3000))
            await home.log.append(result(name, place.seq, "y" * 3000))
        except StorageError as error:
            refused.append(error.code)
        else:
            kept.append(name)

    async with Home(folder / "home", seed=os.getpid()) as home:
        number = 0
        while len(refused) < 40:
            await asyncio.gather(*(decide(home, f"d{number + n}") for n in range(16)))
            number += 16
        size_when_full, promised = home.log.size, len(kept)
        ballast.unlink()
        await decide(home, "after")
        size = home.log.size
    print(
        json.dumps(
            {
                "promised": promised,
                "kept": kept,
                "refused": sorted(set(refused)),
                "size_when_full": size_when_full,
                "size": size,
            }
        )
    )


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
