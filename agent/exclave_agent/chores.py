"""Chores: small jobs at a steady pace (clock floor, retention, what is kept too long).

APScheduler keeps the times; what it must not do is swallow a failure, so the first job that
fails for a reason it does not know ends `run`, and with it the agent's task group.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from exclave_agent.errors import StorageError

log = logging.getLogger(__name__)

Job = Callable[[], Awaitable[None]]


class Chores:
    """Add jobs, then `run` until cancelled."""

    def __init__(self) -> None:
        self._jobs: list[tuple[str, float, Job]] = []
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def every(self, seconds: float, name: str, job: Job) -> None:
        """Run `job` each `seconds`, first after one interval; never twice at once, and once
        only for times that were missed while the machine slept."""
        self._jobs.append((name, seconds, job))

    async def run(self) -> None:
        """Own this by the agent's task group."""
        # Late: the scheduler and its time zones are not needed to say what is wrong at start.
        from apscheduler.schedulers.asyncio import AsyncIOScheduler

        scheduler = AsyncIOScheduler(
            timezone="UTC", job_defaults={"coalesce": True, "max_instances": 1}
        )
        for name, seconds, job in self._jobs:
            scheduler.add_job(self._attempt, "interval", seconds=seconds, args=(name, job), id=name)
        scheduler.start()
        try:
            await self._broken
        finally:
            scheduler.shutdown(wait=False)

    async def _attempt(self, name: str, job: Job) -> None:
        try:
            await job()
        except StorageError as error:
            # A full disk refuses decisions loudly by itself; the chore is tried again.
            log.warning("chore %s not done: %s", name, error.message)
        except Exception as error:  # noqa: BLE001 - handed on to the task group by `run`
            if not self._broken.done():
                self._broken.set_exception(error)
