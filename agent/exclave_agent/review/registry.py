"""Registry: whose own keys act on decisions that wait; each is on record before it counts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from exclave_agent.audit import drafts
from exclave_agent.errors import BadRequest, StorageError
from exclave_agent.ports import AuditLog, StateStore
from exclave_protocol.approval import Place, reviewer_key
from exclave_protocol.errors import EvidenceError

PLACE: Final = "review.reviewers"
"""Where the state keeps them."""
MAX_REVIEWERS: Final = 256


class Reviewer(msgspec.Struct, frozen=True):
    """One reviewer."""

    name: str
    """That of the key."""
    vkey: str
    key: str
    """Id of the API key that goes with it."""
    roles: tuple[str, ...]
    epoch: int
    seq: int
    hash: str
    """Hex; of the OVERRIDE that registered it in that epoch."""

    @property
    def place(self) -> Place:
        """Of that record."""
        return Place(self.seq, bytes.fromhex(self.hash))


class Registry:
    """`load` it first. One reviewer for each API key, and for each name."""

    def __init__(
        self,
        log: AuditLog,
        state: StateStore,
        epoch: int,
        roles_of: Callable[[str], tuple[str, ...] | None],
    ) -> None:
        """`roles_of`: of an API key's id; None: there is none, or it was revoked. Blocking."""
        self._log = log
        self._state = state
        self._epoch = epoch
        self._roles_of = roles_of
        self._known: dict[str, Reviewer] = {}
        self._turn = asyncio.Lock()

    async def load(self) -> None:
        """What was registered; in a new epoch each is put on record again, because an epoch's log
        is to be judged by itself. Raises: StorageError, StorageFull."""
        data = await self._state.get(PLACE)
        try:
            found = [] if data is None else msgspec.json.decode(data, type=list[Reviewer])
        except msgspec.DecodeError:
            raise StorageError(
                "the register of reviewers is damaged: restore the home from a backup",
                code="storage_foreign",
            ) from None
        self._known = {each.name: each for each in found}
        for each in found:
            if each.epoch != self._epoch:
                await self._record(each.vkey, each.name, each.key, each.roles)

    def all(self) -> Sequence[Reviewer]:
        """By name."""
        return sorted(self._known.values(), key=lambda each: each.name)

    def of_key(self, key_id: str) -> Reviewer | None:
        """Who goes with an API key."""
        return next((each for each in self._known.values() if each.key == key_id), None)

    async def add(self, vkey: str, key_id: str) -> Reviewer:
        """From now on this key acts for whoever has that API key. On record before it counts.

        Raises: BadRequest (vkey, key, taken), StorageFull, StorageError.
        """
        try:
            parsed = reviewer_key(vkey)
        except EvidenceError as error:
            raise BadRequest(error.message, param="vkey") from None
        roles = await asyncio.to_thread(self._roles_of, key_id)
        if roles is None:
            raise BadRequest(
                "no API key of that id is active; `exclave-agent key list` shows them", param="key"
            )
        async with self._turn:
            name = parsed.name
            publics = {reviewer_key(each.vkey).public for each in self._known.values()}
            taken = name in self._known or parsed.public in publics
            if taken or self.of_key(key_id) is not None:
                raise BadRequest(
                    "a reviewer of that name, with that key, or with that API key, is registered: "
                    "remove that one first",
                    param="vkey",
                )
            if len(self._known) >= MAX_REVIEWERS:
                raise BadRequest(f"{MAX_REVIEWERS} reviewers are registered: remove others first")
            return await self._record(vkey, name, key_id, roles)

    async def remove(self, name: str) -> Reviewer:
        """The key acts no more; on record before it ends. What it signed stays.

        Raises: BadRequest, StorageFull, StorageError.
        """
        async with self._turn:
            found = self._known.get(name)
            if found is None:
                raise BadRequest(
                    "no reviewer of that name; `exclave-agent reviewer list` shows them",
                    param="name",
                )
            draft = drafts.reviewer(name, found.vkey, found.key, found.roles, stands=False)
            await self._log.append(draft)
            await self._save({n: each for n, each in self._known.items() if n != name})
            return found

    async def _record(self, vkey: str, name: str, key: str, roles: Sequence[str]) -> Reviewer:
        appended = await self._log.append(drafts.reviewer(name, vkey, key, roles, stands=True))
        made = Reviewer(
            name, vkey, key, tuple(roles), appended.epoch, appended.seq, appended.hash.hex()
        )
        await self._save(self._known | {name: made})
        return made

    async def _save(self, known: dict[str, Reviewer]) -> None:
        await self._state.put(PLACE, msgspec.json.encode(list(known.values())))
        self._known = known
