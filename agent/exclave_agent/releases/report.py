"""What this agent tells of its releases: values for the session's latest-only slot."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from exclave_agent.slots import Latest


class Phase(IntEnum):
    """Where the agent stands; numbers are those of exclave.v1.Phase."""

    EMPTY = 1
    VERIFYING = 2
    FETCHING = 3
    ACTIVATING = 4
    APPLIED = 5
    FAILED = 6
    REVERTED = 7


@dataclass(frozen=True, slots=True)
class Desired:
    """What the coordinator wants this agent to run. Only a hint until it is verified."""

    generation: int
    """0: nothing desired yet."""
    assignment: bytes
    """DSSE envelope signed by the director."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What this agent really runs."""

    generation: int
    """The newest generation acted on; 0: none."""
    phase: Phase
    release_digest: str = ""
    """Release that answers requests now; empty: none."""
    error_code: str = ""
    error_message: str = ""
    """One sentence without raw data, for FAILED and REVERTED."""


class Reporter:
    """Says each change once; the session sends the newest whenever it can."""

    def __init__(self, slot: Latest[Observed]) -> None:
        self._slot = slot

    def say(
        self, phase: Phase, generation: int, digest: str, *, code: str = "", message: str = ""
    ) -> None:
        """Publish an observation unless it repeats the last one."""
        observed = Observed(generation, phase, digest, code, message[:500])
        if observed != self._slot.value:
            self._slot.put(observed)
