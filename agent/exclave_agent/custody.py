"""Custody: what people who may read the home do with its records; the running agent does it for
them, which alone may append to its log, and without one the home is opened for it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from exclave_agent.audit import disclose as records
from exclave_agent.audit.append import Log
from exclave_agent.audit.erase import Eraser
from exclave_agent.audit.store import Hold
from exclave_agent.basis import eraser_of, open_record, registry_of
from exclave_agent.config import Settings
from exclave_agent.errors import BadRequest
from exclave_agent.identity.store import IdentityStore
from exclave_agent.review.registry import Registry, Reviewer
from exclave_agent.storage.home import Storage
from exclave_agent.system import SystemClock, SystemIds, SystemRng
from exclave_protocol.leaf import format_time

Asked = Mapping[str, Any]


class Custody:
    """Everything that is asked for by name, as JSON."""

    def __init__(
        self, record: Log, eraser: Eraser, registry: Registry, live: Callable[[], int]
    ) -> None:
        """`live`: how many decisions are being answered now."""
        self._record = record
        self._registry = registry
        self._eraser = eraser
        self._live = live
        self._known: Mapping[str, Callable[[Asked], Awaitable[Asked]]] = {
            "disclose": self._disclose,
            "erase": self._erase,
            "hold": self._hold,
            "lift": self._lift,
            "holds": self._holds,
            "reviewer_add": self._add_reviewer,
            "reviewer_remove": self._remove_reviewer,
            "reviewers": self._reviewers,
        }

    async def answer(self, asked: Asked) -> Asked:
        """Do what `asked["do"]` names. Raises: BadRequest, StorageFull, StorageError."""
        work = self._known.get(str(asked.get("do")))
        if work is None:
            raise BadRequest(f"do: not one of {', '.join(self._known)}", param="do")
        return await work(asked)

    async def _disclose(self, asked: Asked) -> Asked:
        """A disclosure file; that it was made is on record before it leaves."""
        seq, field = int(asked["seq"]), str(asked["field"])
        store = self._record.store
        file, item = await store.read(lambda reader: records.disclose(reader, seq, field))
        await records.record_disclosure(self._record, seq, item)
        return {"file": base64.b64encode(file).decode("ascii")}

    async def _erase(self, asked: Asked) -> Asked:
        done = await self._eraser.erase(str(asked["subject"]))
        return {
            "leaves": done.leaves,
            "answers": done.answers,
            "seq": done.seq,
            "live": self._live(),
        }

    async def _hold(self, asked: Asked) -> Asked:
        subject = asked.get("subject")
        made = await self._eraser.hold(
            str(asked["reference"]), None if subject is None else str(subject)
        )
        return _told(made)

    async def _lift(self, asked: Asked) -> Asked:
        return _told(await self._eraser.lift(str(asked["hold"])))

    async def _holds(self, _: Asked) -> Asked:
        return {"holds": [_told(each) for each in await self._eraser.holds()]}

    async def _add_reviewer(self, asked: Asked) -> Asked:
        return _named(await self._registry.add(str(asked["vkey"]), str(asked["key"])))

    async def _remove_reviewer(self, asked: Asked) -> Asked:
        return _named(await self._registry.remove(str(asked["name"])))

    async def _reviewers(self, _: Asked) -> Asked:
        return {"reviewers": [_named(each) for each in self._registry.all()]}


def _named(found: Reviewer) -> dict[str, Any]:
    return {
        "name": found.name,
        "vkey": found.vkey,
        "key": found.key,
        "roles": list(found.roles),
        "record": found.seq,
    }


def _told(hold: Hold) -> dict[str, Any]:
    return {
        "hold": hold.name,
        "reference": hold.reference,
        "since": format_time(hold.since_ns),
        "subject": hold.subject,
    }


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Custody]:
    """Of a home in which no agent runs. Raises: StorageError, IdentityError."""
    rng, clock = SystemRng(), SystemClock()
    identity = IdentityStore(settings.home).current
    async with await asyncio.to_thread(Storage, settings.home, rng) as storage:
        record = await open_record(identity, storage, clock, rng)
        eraser = eraser_of(record.log, storage, clock, SystemIds())
        registry = await registry_of(record, storage, settings.home)
        yield Custody(record.log, eraser, registry, lambda: 0)


async def answer_offline(settings: Settings, asked: Asked) -> Asked:
    """As `Custody.answer`, while no agent runs. Raises: as that, IdentityError."""
    async with opened(settings) as custody:
        return await custody.answer(asked)
