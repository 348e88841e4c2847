"""Turns a model's token bytes into text that is safe to send: whole characters, no stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from exclave_agent.runtimes import frames


class StopFilter:
    """Holds back what may yet turn out to be half a character or the start of a stop string.

    Feed it the bytes of each token; it returns the text that can be sent now. Text from a
    stop string on is never returned. Bytes that are no UTF-8 come out as U+FFFD.
    """

    __slots__ = ("_decoder", "_held", "_stops", "stopped")
    plain = True

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.stopped = False

    def feed(self, piece: bytes, logprob: frames.LogprobFrame | None = None) -> str:
        """Text that is now certain; empty while it hangs on what comes next."""
        return self.take(self._decoder.decode(piece))

    def take(self, text: str) -> str:
        """As `feed`, for text that has been decoded already."""
        if not self._stops:
            return text
        if self.stopped:
            return ""
        text = self._held + text
        first = min((at for stop in self._stops if (at := text.find(stop)) >= 0), default=-1)
        if first >= 0:
            self.stopped = True
            self._held = ""
            return text[:first]
        keep = self._undecided(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back, once no more tokens come. An unfinished character is dropped."""
        held, self._held = self._held, ""
        return held

    def extras(self) -> tuple[list[frames.LogprobFrame], list[frames.ToolCallFrame]]:
        """See `engine.Output`."""
        return [], []

    def reason(self, natural: str) -> str:
        """See `engine.Output`."""
        return natural

    def _undecided(self, text: str) -> int:
        """Length of the longest tail of `text` that begins some stop string."""
        longest = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:size]):
                    longest = size
                    break
        return longest
