"""Every act of an operator leaves a leaf: with the change in one transaction, or alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

from exclave_coordinator.api.auth import RoleDenied, calling_operator
from exclave_coordinator.audit.oplog import DENIED, OK, REFUSED, Act, OperatorLog
from exclave_coordinator.errors import Refused
from exclave_coordinator.ports import Store, Tx

T = TypeVar("T")


class Recorder:
    """Binds acts to the calling operator."""

    def __init__(self, store: Store, log: OperatorLog) -> None:
        self._store = store
        self._log = log

    def act(self, action: str, target: str, details: Mapping[str, str] | None = None) -> Act:
        """What the calling operator is about to do."""
        caller = calling_operator()
        return Act(caller.id, caller.role, action, target, dict(details or {}))

    async def commit(
        self, act: Act, job: Callable[[Tx], T], *, after: Callable[[T], None] | None = None
    ) -> T:
        """Run a change and record it.

        MUST: both are in one transaction, so that no change is without its record.
        """

        def recorded(tx: Tx) -> T:
            result = job(tx)
            self._log.append(tx, act, OK)
            return result

        return await self._store.write(recorded, after=after)

    @asynccontextmanager
    async def attempt(self, act: Act) -> AsyncIterator[Act]:
        """Record the act as refused when the block raises a refusal."""
        try:
            yield act
        except Refused as error:
            code = error.code
            await self._store.write(lambda tx: self._log.append(tx, act, REFUSED, code))
            raise

    async def denied(self, error: RoleDenied, method: str) -> None:
        """Record an attempt that the caller's role does not allow."""
        caller = error.caller
        act = Act(caller.id, caller.role, method.rpartition("/")[2], "")
        await self._store.write(lambda tx: self._log.append(tx, act, DENIED, error.code))
