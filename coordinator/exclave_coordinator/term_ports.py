"""What fencing asks of the database: who writes each agent's log, and which epochs may begin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from exclave_coordinator.ports import AgentKey


@dataclass(frozen=True, slots=True)
class Term:
    """The term in which an agent's log is written: one process of one home."""

    number: int
    public: bytes
    """Raw Ed25519 key that signs the log's checkpoints in this term."""
    commitment: bytes
    """To the nonce that whoever begins the next term must tell."""
    note: bytes
    """The head with which it began, signed by that key."""
    begun: int
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Opening:
    """An operator's leave to begin a new epoch."""

    epoch: int
    at: int
    """Seconds since the epoch."""


class Terms(Protocol):
    """Terms of agents' logs."""

    def get(self, log_id: int) -> Term | None: ...
    def put(self, log_id: int, term: Term) -> None:
        """The term that holds from now on."""
        ...

    def opening(self, key: AgentKey) -> Opening | None:
        """The newest epoch that was opened for an agent; None: only the first."""
        ...

    def open(self, key: AgentKey, opening: Opening) -> None: ...
    def epochs(self, key: AgentKey) -> Sequence[int]:
        """Those that have a log, ascending."""
        ...
