"""A machine whose memory a test sets."""

from __future__ import annotations

from exclave_agent.runtimes.memory_machine import NOTHING, Held

MIB = 1 << 20


class FakeMachine:
    """Memory that a test sets; sizes in MiB."""

    def __init__(self, ram: int = 1000, vram: int = 0) -> None:
        self.ram, self.vram = ram, vram

    def ram_left(self) -> int:
        return self.ram * MIB

    def vram_left(self) -> int:
        return self.vram * MIB

    def held(self, pid: int) -> Held:
        return NOTHING
