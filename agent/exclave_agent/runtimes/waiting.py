"""Waiting for whichever of several things comes first, leaving no task behind."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine


async def first_of(*waits: Coroutine[object, object, object]) -> None:
    """Return when one of them has returned; the others are cancelled and awaited.

    Raises: an ExceptionGroup when one of them raises.
    """
    done = asyncio.Event()

    async def wait_for(wait: Coroutine[object, object, object]) -> None:
        await wait
        done.set()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(wait_for(wait)) for wait in waits]
        await done.wait()
        for task in tasks:
            task.cancel()
