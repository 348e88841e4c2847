"""A leaf and a signed head at a steady pace, whether or not anything else happens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from exclave_agent.errors import StorageError
from exclave_agent.ports import Clock
from exclave_agent.slots import pause

from . import drafts
from .append import Log
from .checkpoint import Checkpointer

log = logging.getLogger(__name__)

INTERVAL = 3600.0
"""Seconds."""


class Heartbeat:
    """Beats until its task is cancelled; a full disk makes it miss a beat, no more."""

    def __init__(
        self,
        record: Log,
        checkpointer: Checkpointer,
        clock: Clock,
        *,
        counts: Callable[[], Mapping[str, int]],
        interval: float = INTERVAL,
    ) -> None:
        """`counts` gives public figures (decisions, denials) for the leaf."""
        self._record = record
        self._checkpointer = checkpointer
        self._clock = clock
        self._counts = counts
        self._interval = interval
        self._changed = asyncio.Event()

    def set_interval(self, seconds: float) -> None:
        """Beat at another pace, counted from now."""
        self._interval = seconds
        self._changed.set()

    async def run(self) -> None:
        """Own this by the component's task group."""
        while True:
            if await pause(self._clock, self._interval, self._changed):
                continue
            try:
                await self._record.append(drafts.heartbeat(self._counts(), self._interval))
                await self._record.store.note_quiet()
                await self._checkpointer.sign()
            except StorageError as error:
                # Decisions fail loudly by themselves; the missing beat is seen centrally.
                log.warning("heartbeat not recorded: %s", error.message)
