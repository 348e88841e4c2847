"""Crash loops: a release whose model keeps dying is left for the last known good one.

Automatic and offline, as every activation can be reverted. A crash loop of a model that the
last known good release holds too is reported and not reverted: going back would change the
policy and mend nothing.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from exclave_agent.audit import drafts
from exclave_agent.errors import StorageError
from exclave_agent.ports import AuditLog
from exclave_agent.releases.watch import ReleaseManager
from exclave_agent.slots import Latest

log = logging.getLogger(__name__)

CODE = "model_crash_loop"


@dataclass(frozen=True, slots=True)
class CrashLoop:
    """A model that died again and again without a stable minute in between."""

    model: str
    sha256: str
    reason: str
    """How its process ended, in words without data."""


class CrashWatch:
    """Acts on the newest crash loop in a slot."""

    def __init__(self, manager: ReleaseManager, audit: AuditLog, loops: Latest[CrashLoop]) -> None:
        self._manager = manager
        self._audit = audit
        self._loops = loops

    async def run(self) -> None:
        """Own this by the agent's task group."""
        version = 0
        while True:
            version, loop = await self._loops.newer(version)
            try:
                await self.act(loop)
            except StorageError as error:
                # Reverting needs a record; without a disk neither old nor new could answer.
                log.warning("crash loop of %s not acted on: %s", loop.model, error.message)

    async def act(self, loop: CrashLoop) -> None:
        """Record one crash loop, and revert where that changes something.

        Raises: StorageFull, StorageError.
        """
        if loop.sha256 not in self._manager.releases.digests_in_use():
            return
        text = f"model {loop.model} died again and again: {loop.reason}"
        log.error("%s", text)
        await self._audit.append(drafts.incident(CODE, text))
        if self._manager.fallback_has_other_models():
            await self._manager.revert(CODE, text)
