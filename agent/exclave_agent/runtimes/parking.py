"""A bounded place in RAM for the states of sequences that gave up their slot."""

from __future__ import annotations

from exclave_agent.runtimes.engine import State


class Parking:
    """States by request, within a limit of bytes. Not safe for use by two threads."""

    def __init__(self, limit: int) -> None:
        """`limit`: bytes; 0: nothing is parked."""
        self.limit = limit
        self.bytes = 0
        """Held now."""
        self._states: dict[int, State] = {}

    def __len__(self) -> int:
        return len(self._states)

    def fits(self, size: int) -> bool:
        """Whether a state of `size` bytes may come in."""
        return self.bytes + size <= self.limit

    def put(self, request: int, state: State) -> bool:
        """Keep it; False when there is no room."""
        if not self.fits(state.nbytes):
            return False
        self._states[request] = state
        self.bytes += state.nbytes
        return True

    def take(self, request: int) -> State | None:
        """Give it back and forget it; None: there is none."""
        state = self._states.pop(request, None)
        if state is not None:
            self.bytes -= state.nbytes
        return state
