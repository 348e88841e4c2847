"""What one model takes of memory: estimated, measured, and held to by a limit."""

from __future__ import annotations

from exclave_agent.runtimes import frames
from exclave_agent.runtimes.means import HEADROOM
from exclave_agent.runtimes.memory import Need
from exclave_agent.runtimes.memory_keeper import Keeper
from exclave_agent.runtimes.memory_machine import NOTHING
from exclave_agent.runtimes.placement import PROCESS, Wanted
from exclave_agent.runtimes.process import Worker


class Footprint:
    """One model's, over all its workers."""

    def __init__(self, wanted: Wanted, keeper: Keeper) -> None:
        self.need = wanted.estimate(has_gpu=keeper.has_gpu)
        self.held = NOTHING
        """What its process holds, as far as it can be seen."""
        self._wanted = wanted
        self._keeper = keeper

    def within_budget(self) -> None:
        """Plan with no more than the budget: only what a load really took refuses a model."""
        budget = self._keeper.budget
        self.need = Need(min(self.need.ram, budget.ram), min(self.need.vram, budget.vram))

    def limit(self) -> int | None:
        """RLIMIT_DATA while it loads; None: CUDA maps more than it uses, no limit would be true."""
        keeper = self._keeper
        return None if keeper.has_gpu else keeper.budget.ram + PROCESS + HEADROOM

    def measure(self, worker: Worker, loaded: frames.Loaded, *, first: bool) -> None:
        """Plan from now on with what the load took, and hold the worker to it.

        A `first` load that took too much is refused by its need; of a later one that is not
        believed.
        """
        self.look(worker)
        ram = loaded.ram_bytes or (self.held.resident or self.need.ram)
        self.need = Need(max(ram, self.held.resident), loaded.vram_bytes)
        if not first:
            self.within_budget()
        if not loaded.vram_bytes and self.held.data:
            worker.limit_data(self.most_data())

    def most_data(self) -> int:
        """RLIMIT_DATA while it works: half as much again as it has, and in any case all that it
        says it may yet take: stores of prefixes and of parked requests are still empty."""
        grown = self.held.data + max(HEADROOM, self.need.ram // 2)
        return max(grown, PROCESS + self.need.ram + HEADROOM)

    def look(self, worker: Worker) -> None:
        """See what its process holds now."""
        if worker.pid is not None:
            self.held = self._keeper.machine.held(worker.pid)

    def outgrown(self) -> bool:
        """Whether it holds more than is planned; the plan then follows."""
        if self.held.resident <= self.need.ram:
            return False
        self.need = Need(self.held.resident, self.need.vram)
        return True

    def private(self, *, loaded: bool) -> int:
        """See `memory_keeper.Tenant.private_bytes`."""
        if self.held is not NOTHING:
            return self.held.private
        # A service's process is not ours to look at: all but the weights, which are mapped.
        files = self._wanted.files_bytes if loaded else self.need.ram
        return max(0, self.need.ram - files)
