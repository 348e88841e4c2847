"""Rotation: a process that runs for long changes its key as often as one that restarts."""

from __future__ import annotations

import logging
from collections.abc import Callable

from exclave_agent.errors import StorageError
from exclave_agent.ports import Clock

from . import drafts
from .append import Log
from .term import Terms

log = logging.getLogger(__name__)


class Rotation:
    """Begins a term at a steady pace until its task is cancelled."""

    def __init__(
        self,
        record: Log,
        terms: Terms,
        begun: Callable[[], None],
        clock: Clock,
        seconds: float,
    ) -> None:
        """`begun` is told of each new term."""
        self._record = record
        self._terms = terms
        self._begun = begun
        self._clock = clock
        self._seconds = seconds

    async def run(self) -> None:
        """Own this by the component's task group; a full disk leaves the term as it is."""
        while True:
            await self._clock.sleep(self._seconds)
            try:
                await self.rotate()
            except StorageError as error:
                log.warning("the log's key not rotated: %s", error.message)

    async def rotate(self) -> None:
        """A new term, on record under the key of the new one. Raises: StorageFull, StorageError."""
        certificate = await self._terms.begin()
        self._begun()
        await self._record.append(drafts.key_rotate(certificate))
