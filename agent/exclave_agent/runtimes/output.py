"""Reads one answer: what is text, what is a call, and which log probabilities belong to which."""

from __future__ import annotations

import codecs
import json
import re
from collections import deque
from collections.abc import Collection

from exclave_agent.runtimes import frames
from exclave_agent.runtimes.grammar import Constraint
from exclave_agent.runtimes.text import StopFilter
from exclave_agent.runtimes.tools import CallFormat

_TEXT, _START, _CALL, _BETWEEN, _PROSE = "text", "start", "call", "between", "prose"


class Reader:
    """An `engine.Output` for answers with calls, log probabilities or a grammar."""

    __slots__ = (
        "_calls", "_constraint", "_decoder", "_delivered", "_fed", "_logprobs", "_pending",
        "_read", "_released", "_sent", "_stops", "plain", "stopped",
    )  # fmt: skip

    def __init__(
        self,
        stops: StopFilter,
        *,
        calls: CallReader | None = None,
        logprobs: bool = False,
        constraint: Constraint | None = None,
    ) -> None:
        self._stops = stops
        self._calls = calls
        self._constraint = constraint
        self._logprobs = logprobs
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._pending: deque[tuple[int, int, frames.LogprobFrame]] = deque()
        """Log probabilities of what was not sent yet, with their token's first character and
        the one after its last, counted from the answer's beginning."""
        self._released: list[frames.LogprobFrame] = []
        self._read = 0
        """Characters read."""
        self._delivered = 0
        """Characters sent."""
        self._fed = 0
        self._sent = 0
        """Calls told of."""
        self.plain = calls is None and not logprobs
        self.stopped = False

    def feed(self, piece: bytes, logprob: frames.LogprobFrame | None = None) -> str:
        """See `engine.Output`."""
        if self.stopped:
            return ""
        self._fed += 1
        start = self._read
        text = self._decoder.decode(piece)
        self._read += len(text)
        if logprob is not None and self._logprobs:
            # Half a character is the beginning of the next one.
            half = 1 if self._decoder.getstate()[0] else 0
            self._pending.append((start, self._read + half, logprob))
        if self._calls is not None:
            text = self._calls.feed(text)
        out = self._stops.take(text)
        if self._stops.stopped:
            self.stopped = True
        elif self._calls is not None and self._calls.done:
            self.stopped = True
            out += self._stops.finish()
        elif self._constraint is not None and self._constraint.complete_at == self._fed:
            self.stopped = True
            out += self._rest()
        self._deliver(out)
        return out

    def _rest(self) -> str:
        text = self._calls.finish() if self._calls is not None else ""
        out = self._stops.take(text)
        return out if self._stops.stopped else out + self._stops.finish()

    def _deliver(self, out: str) -> None:
        """Release the log probabilities of what is sent now."""
        self._delivered += len(out)
        while self._pending:
            start, end, logprob = self._pending[0]
            # After the last text, a token that was sent in part counts as sent.
            if end > self._delivered and not (self.stopped and start < self._delivered):
                break
            self._pending.popleft()
            self._released.append(logprob)

    def finish(self) -> str:
        """See `engine.Output`."""
        if self.stopped:
            return ""
        out = self._rest()
        self.stopped = True
        self._deliver(out)
        return out

    def extras(self) -> tuple[list[frames.LogprobFrame], list[frames.ToolCallFrame]]:
        """See `engine.Output`."""
        released, self._released = self._released, []
        if self._calls is None:
            return released, []
        new = self._calls.calls[self._sent :]
        self._sent += len(new)
        return released, new

    def reason(self, natural: str) -> str:
        """See `engine.Output`."""
        if natural == "stop" and self._calls is not None and self._calls.calls:
            return "tool_calls"
        return natural


class CallReader:
    """Takes the calls out of an answer's text, however it is cut into pieces."""

    __slots__ = (
        "_buffer", "_form", "_names", "_opening", "_scan", "_several", "_state", "calls",
    )  # fmt: skip

    def __init__(self, form: CallFormat, names: Collection[str], *, several: bool) -> None:
        """`names`: functions that may be called; `several`: more than one call may come."""
        self._form = form
        self._names = frozenset(names)
        self._several = several
        self._state = _START if form.only_first else _TEXT
        self._buffer = ""
        self._opening = ""
        """What came before the JSON that is read now, in case it turns out to be no call."""
        self._scan = _Scan()
        self.calls: list[frames.ToolCallFrame] = []

    @property
    def done(self) -> bool:
        """The only call that may come is complete."""
        return bool(self.calls) and not self._several

    def feed(self, text: str) -> str:
        """What of the answer's text is certain to be text."""
        self._buffer += text
        out = ""
        while True:
            state, size = self._state, len(self._buffer)
            out += self._step()
            if self.done or (self._state == state and len(self._buffer) == size):
                return out

    def finish(self) -> str:
        """What was held back and is text; a call that was cut off is not."""
        held, self._buffer = self._buffer, ""
        return held if self._state in (_TEXT, _START, _PROSE) else ""

    def _step(self) -> str:
        if self._state == _PROSE:
            return self._give(len(self._buffer))
        if self._state == _TEXT:
            return self._seek()
        if self._state == _START:
            return self._begin()
        if self._state == _CALL:
            return self._call()
        return self._between()

    def _give(self, size: int) -> str:
        out, self._buffer = self._buffer[:size], self._buffer[size:]
        return out

    def _seek(self) -> str:
        """Text until the trigger."""
        trigger = self._form.trigger
        at = self._buffer.find(trigger)
        if at >= 0:
            out = self._give(at)
            self._enter(self._give(len(trigger)))
            return out
        held = next(
            (n for n in range(min(len(trigger) - 1, len(self._buffer)), 0, -1)
             if self._buffer.endswith(trigger[:n])),
            0,
        )  # fmt: skip
        return self._give(len(self._buffer) - held)

    def _begin(self) -> str:
        """At the very beginning, of a format whose calls are the whole answer."""
        bare, trigger = self._buffer.lstrip(), self._form.trigger
        if bare.startswith(trigger):
            self._enter(self._give(len(self._buffer) - len(bare) + len(trigger)))
        elif bare.startswith("{"):
            self._enter(self._give(len(self._buffer) - len(bare)))
        elif bare and not trigger.startswith(bare):
            self._state = _PROSE
        return ""

    def _enter(self, opening: str) -> None:
        self._opening = opening
        self._scan = _Scan()
        self._state = _CALL

    def _call(self) -> str:
        """The JSON of one call."""
        end = self._scan.end(self._buffer)
        if end < 0:
            return ""
        raw = self._give(end)
        call = _read_call(raw, self._form.arguments, self._names)
        if call is None:
            self._state = _PROSE if self._form.only_first else _TEXT
            return self._opening + raw
        self.calls.append(call)
        self._state = _BETWEEN
        return ""

    def _between(self) -> str:
        """After a call: the marks of the format, another call, or text after all."""
        for marks, enter in ((self._form.between, True), (self._form.close, False)):
            wanted = marks.strip()
            bare = self._buffer.lstrip()
            if wanted and bare.startswith(wanted) and (enter or not self._more(bare)):
                self._give(len(self._buffer) - len(bare) + len(wanted))
                if enter:
                    self._enter("")
                return ""
            if wanted and wanted.startswith(bare):
                return ""
        self._state = _PROSE if self._form.only_first else _TEXT
        return ""

    def _more(self, bare: str) -> bool:
        """Whether this may yet become what stands between two calls."""
        return self._form.between.strip().startswith(bare)


class _Scan:
    """Finds the end of the first JSON object in a growing text, looking at each character once."""

    __slots__ = ("_at", "_depth", "_escaped", "_string")

    def __init__(self) -> None:
        self._at = self._depth = 0
        self._string = self._escaped = False

    def end(self, text: str) -> int:
        """Just after the object; -1: it is not complete."""
        for at in range(self._at, len(text)):
            char = text[at]
            if self._string:
                if self._escaped:
                    self._escaped = False
                elif char == "\\":
                    self._escaped = True
                elif char == '"':
                    self._string = False
            elif char == '"':
                self._string = True
            elif char in "{[":
                self._depth += char == "{" or self._depth > 0
            elif char in "}]" and self._depth:
                self._depth -= 1
                if not self._depth:
                    return at + 1
        self._at = len(text)
        return -1


def _read_call(raw: str, key: str, names: Collection[str]) -> frames.ToolCallFrame | None:
    """A call of one of `names`; None: this is none. Its arguments stay as the model wrote them,
    where that is what they mean: of a key that comes twice the last one counts."""
    try:
        parsed = _DECODER.decode(raw[raw.find("{") :])
    except (ValueError, RecursionError):
        return None
    name, value = parsed.get("name"), parsed.get(key)
    # Anything may stand there, lists too, which no set can be asked for.
    if not isinstance(name, str) or name not in names or not isinstance(value, dict):
        return None
    found = re.match(rf'[^{{]*{{\s*"name"\s*:\s*"[^"]*"\s*,\s*"{key}"\s*:\s*', raw)
    if found:
        end = _DECODER.raw_decode(raw, found.end())[1]
        if raw[end:].strip() == "}":
            return frames.ToolCallFrame("", name, raw[found.end() : end])
    # In ASCII: a text may hold an escaped half of a surrogate pair, which is no UTF-8.
    return frames.ToolCallFrame("", name, json.dumps(value))


def _no_number(_: str) -> float:
    raise ValueError("NaN and infinities are no JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_number)
