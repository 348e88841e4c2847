"""Keeps the loaded models within the memory budgets: makes room, and never by swapping."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

from exclave_agent.runtimes.memory import UNLIMITED, Need, Resident, evictions, total
from exclave_agent.runtimes.memory_machine import Machine
from exclave_agent.runtimes.waiting import first_of

RAM_SHARE = 0.8
"""Of what was free at the start; the rest is the agent's, its page cache's and the tenant's."""
VRAM_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class MemorySettings:
    """Budgets in bytes; None: a share of what the machine has free at the start."""

    ram: int | None = None
    vram: int | None = None

    @classmethod
    def of_mib(cls, ram: int, vram: int) -> MemorySettings:
        """From the agent's settings, where 0 means: by itself."""
        return cls(ram << 20 if ram else None, vram << 20 if vram else None)


class Tenant(Protocol):
    """A model as the keeper sees it."""

    @property
    def need(self) -> Need:
        """Estimated before its first load, measured after."""
        ...

    @property
    def private_bytes(self) -> int:
        """Memory of its process that its end would give back; 0: none, or not known."""
        ...

    @property
    def loading(self) -> bool:
        """It has its memory, and does not serve yet."""
        ...

    def resident(self) -> Resident:
        """How it stands now."""
        ...

    def evict(self) -> None:
        """Take no more requests, and end the process; called only while none is in use."""
        ...

    def make_way(self) -> None:
        """Finish the requests that it serves and begin no other, so that it can be evicted."""
        ...

    def stay(self) -> None:
        """No longer asked to make way."""
        ...


class Keeper:
    """Who holds memory, who has it promised, and who must go."""

    def __init__(self, settings: MemorySettings, machine: Machine) -> None:
        vram_left = machine.vram_left()
        ram = round(machine.ram_left() * RAM_SHARE) if settings.ram is None else settings.ram
        vram = settings.vram
        if vram is None:
            # No GPU, or none that tells: then the engine alone knows what fits.
            vram = round(vram_left * VRAM_SHARE) if vram_left else UNLIMITED
        self.budget = Need(ram, vram)
        self.has_gpu = vram_left > 0
        self.machine = machine
        self._held: dict[Tenant, bool] = {}
        """Whether it is on its way out."""
        self._promised: dict[Tenant, Need] = {}
        self._news = asyncio.Event()

    async def enter(self, tenant: Tenant, *, insist: bool = False) -> None:
        """Wait until the tenant's need is free beside all others, evicting idle ones; it then
        holds it until `leave`. Being cancelled gives the promise back.

        `insist`: those in use are asked to make way, too.
        """
        asked: set[Tenant] = set()
        try:
            while (victims := self._plan(tenant.need)) is None:
                for one in self._plan(tenant.need, in_use_too=True) or () if insist else ():
                    asked.add(one)
                    one.make_way()
                await self._next()
        except BaseException:
            for one in asked:
                one.stay()
            raise
        for one in asked.difference(victims):
            one.stay()
        self._promised[tenant] = tenant.need
        try:
            for victim in victims:
                self._held[victim] = True
                victim.evict()
            # What is promised is freed by processes that still end.
            while not (total(one.need for one in self._held) + tenant.need).fits(self.budget):
                await self._next()
        finally:
            del self._promised[tenant]
            self.changed()
        self._held[tenant] = False

    async def enter_within(
        self, tenant: Tenant, seconds: float, stopping: asyncio.Event, *, insist: bool = False
    ) -> bool:
        """As `enter`, for so long and until `stopping`; whether the tenant has its memory."""
        entered = False

        async def enter() -> None:
            nonlocal entered
            await self.enter(tenant, insist=insist)
            entered = True

        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await first_of(enter(), stopping.wait())
        if entered and stopping.is_set():
            self.leave(tenant)
        return entered and not stopping.is_set()

    @property
    def loading(self) -> bool:
        """Whether somebody is about to have a model loaded."""
        return bool(self._promised) or any(
            one.loading for one, leaving in self._held.items() if not leaving
        )

    def leave(self, tenant: Tenant) -> None:
        """Its process has ended."""
        self._held.pop(tenant, None)
        self.changed()

    def settle(self) -> None:
        """Somebody turned out larger than planned: idle ones go until all fit again."""
        for victim in self._plan(Need()) or ():
            self._held[victim] = True
            victim.evict()

    def changed(self) -> None:
        """Something is free, idle or gone: whoever waits looks again."""
        self._news.set()

    async def _next(self) -> None:
        self._news.clear()
        await self._news.wait()

    def _plan(self, need: Need, *, in_use_too: bool = False) -> Sequence[Tenant] | None:
        staying = [one for one, leaving in self._held.items() if not leaving]
        residents = [one.resident() for one in staying]
        if in_use_too:
            # The idle first, by being worth less than whatever is asked for right now.
            residents = [
                replace(one, in_use=False, warm=one.warm or one.in_use) for one in residents
            ]
        plan = evictions(self.now(), residents, need, total(self._promised.values()))
        by_name = {each.name: one for each, one in zip(residents, staying, strict=True)}
        return None if plan is None else [by_name[one.name] for one in plan]

    def now(self) -> Need:
        """The budget, or less when other programs have taken memory since the start."""
        ours = total(one.need for one in self._held).ram
        given_back = sum(one.private_bytes for one in self._held)
        # Mapped weights are ours and count as available too; the rest of what we hold does not.
        left = self.machine.ram_left() + max(given_back, 0)
        return Need(min(self.budget.ram, max(left, ours)), self.budget.vram)
