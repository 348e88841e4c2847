"""Grammars that hold a model to a form, through llguidance: compiled once, tried before use.

llguidance bounds much of what a grammar may cost, not all: some overflow its stack, some take
minutes. So a grammar that is new here is first tried in a child process with little processor
time, which compiles it and takes some steps; what kills the child is refused.
"""

from __future__ import annotations

import ctypes
import faulthandler
import hashlib
import os
import re
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from numpy.typing import NDArray

from exclave_agent.runtimes.engine import Refused

MAX_GRAMMAR = 64 << 10
"""Characters of a grammar that a caller writes."""
MAX_COMPILED = 1 << 20
"""Characters of one that is made of schemas."""
TRIAL_CPU = 0.4
"""Seconds of processor time in which a grammar must compile and take `TRIAL_STEPS`."""
TRIAL_WALL = 2.0
"""Seconds on the clock, for a machine that is busy."""
TRIAL_STEPS = 48
KEPT = 32
"""Compiled grammars that are kept for the next request."""
PATIENCE = 4.0
"""A caller whose grammar had to be killed waits this many times as long before its next new one
is tried: all grammars of a model are tried on one thread."""

MAX_WAITS = 1024
ALLOWANCE = 0.5
"""Seconds that one sequence's grammar may take beside `PER_TOKEN` for each token: what is slow
only further in than the trial went is given up, for every sequence of the step waits for it."""
PER_TOKEN = 0.005

_LIMITS = LLParserLimits(
    verbose_errors=False,  # they would quote the grammar
    initial_lexer_fuel=300_000,
    step_lexer_fuel=100_000,
    step_max_items=20_000,
    max_lexer_states=20_000,
    max_grammar_size=50_000,
)
_LIBC = ctypes.CDLL(None)
_SET_PARENT_DEATH_SIGNAL = 1
"""Of prctl(2)."""
_WRONG, _TOO_LARGE = 1, 2
"""How the child ends."""
_UNIMPLEMENTED = re.compile(r'Unimplemented keys: \[("[a-zA-Z$]+"(?:, "[a-zA-Z$]+")*)\]')
_KEYWORDS = """
    not if then else uniqueItems contains minContains maxContains dependentRequired
    dependentSchemas propertyNames unevaluatedItems unevaluatedProperties dependencies
    contentEncoding contentMediaType contentSchema $dynamicRef $dynamicAnchor minProperties
    maxProperties patternProperties
"""
"""What is named where it cannot be enforced; no other word of a schema is."""


class Vocabulary(Protocol):
    """What is needed of a model's vocabulary."""

    @property
    def tokens(self) -> int:
        """How many there are."""
        ...

    @property
    def ends(self) -> frozenset[int]:
        """Those that end an answer."""
        ...

    def guided(self) -> LLTokenizer:
        """llguidance's view of the vocabulary; takes about a second to make."""
        ...


class Constraint:
    """One sequence's place in its grammar; for one thread at a time."""

    __slots__ = ("_end", "_grammars", "_left", "_matcher", "accepted", "complete_at")

    def __init__(self, grammars: Grammars, matcher: LLMatcher, end: int) -> None:
        self._grammars = grammars
        self._matcher = matcher
        self._end = end
        self._left = ALLOWANCE
        self.accepted = 0
        """Tokens so far."""
        self.complete_at = -1
        """How many tokens there were when nothing more could follow; -1: not yet."""

    @property
    def end(self) -> int:
        """The token that ends an answer which is complete; -1 while it is not."""
        return self._end if self.complete_at >= 0 else -1

    def take(self, token: int) -> bool:
        """Accept a token if the grammar allows it."""
        begun = self._grammars.monotonic()
        taken = self._matcher.try_consume_tokens([token])
        self._left += PER_TOKEN * taken - (self._grammars.monotonic() - begun)
        if taken != 1 or self._left < 0:
            return False
        self.accepted += 1
        if self._matcher.is_stopped() and not self._matcher.is_error():
            self.complete_at = self.accepted
        return True

    def allowed(self) -> NDArray[np.intp]:
        """The tokens that may come next, ascending; none when the grammar has failed."""
        if self._matcher.is_error() or self._left < 0:
            return np.empty(0, dtype=np.intp)
        begun = self._grammars.monotonic()
        found = self._grammars.allowed(self._matcher)
        self._left -= self._grammars.monotonic() - begun
        return found

    def forced(self) -> Sequence[int]:
        """Tokens that must come next whatever the model says, often none."""
        matcher = self._matcher
        return () if matcher.is_stopped() else matcher.compute_ff_tokens()


class Grammars:
    """The grammars of one model. Compiling is safe from any thread, masks are the engine's."""

    def __init__(
        self, vocabulary: Vocabulary, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._vocabulary = vocabulary
        self.monotonic = monotonic
        self._waits: OrderedDict[str, float] = OrderedDict()
        """Callers whose grammars were killed, and when the next one may be tried."""
        self._end = min(vocabulary.ends, default=-1)
        self._tokeniser: LLTokenizer | None = None
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, LLMatcher | Refused] = OrderedDict()
        self._mask = allocate_token_bitmask(1, vocabulary.tokens)
        self.trials = 0

    def constraint(self, grammar: str, param: str, caller: str = "") -> Constraint:
        """A place at the beginning of a grammar in llguidance's Lark.

        Raises: Refused naming `param`, never quoting the grammar; "overloaded" when the last
        grammar of this caller was too complex, and that was a moment ago.
        """
        key = hashlib.sha256(f"{param}\0{grammar}".encode("utf-8", "replace")).digest()
        with self._lock:
            found = self._kept.pop(key, None)
            if found is None:
                found = self._compiled(grammar, param, caller)
            self._kept[key] = found
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        if isinstance(found, Refused):
            raise Refused(found.code, found.message, param=found.param)
        return Constraint(self, found.deep_copy(), self._end)

    def allowed(self, matcher: LLMatcher) -> NDArray[np.intp]:
        """See `Constraint.allowed`."""
        fill_next_token_bitmask(matcher, self._mask)
        if matcher.is_error():
            return np.empty(0, dtype=np.intp)
        bits = np.unpackbits(self._mask.view(np.uint8), bitorder="little")
        return np.flatnonzero(bits[: self._vocabulary.tokens])

    def _compiled(self, grammar: str, param: str, caller: str) -> LLMatcher | Refused:
        if len(grammar) > MAX_COMPILED:
            return _refused(param, f"{len(grammar)} characters, over the limit of {MAX_COMPILED}")
        tokeniser = self._tokeniser or self._vocabulary.guided()
        self._tokeniser = tokeniser
        begun = self.monotonic()
        if (wait := self._waits.get(caller, begun) - begun) > 0:
            raise Refused(
                "overloaded",
                f"{param}: the last one was too complex, the next is tried later",
                param=param,
                retry_after=round(max(wait, 0.1), 1),
            )
        status = self._try(tokeniser, grammar)
        if status == -signal.SIGALRM:
            # Others had the processor: that says nothing of the grammar, and is not remembered.
            raise Refused(
                "overloaded",
                f"{param}: no time to try it on this busy machine",
                param=param,
                retry_after=round(PATIENCE * TRIAL_WALL, 1),
            )
        if status < 0:
            ended = self.monotonic()
            self._waits[caller] = ended + PATIENCE * (ended - begun)
            self._waits.move_to_end(caller)
            if len(self._waits) > MAX_WAITS:
                self._waits.popitem(last=False)
        if status == _TOO_LARGE or status < 0:
            return _refused(param, "too complex to be enforced")
        matcher = LLMatcher(tokeniser, grammar, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            return _refused(param, _why(matcher.get_error()))
        return matcher if status == 0 else _refused(param, "cannot be enforced")

    def _try(self, tokeniser: LLTokenizer, grammar: str) -> int:
        """How the child ended that compiled the grammar and walked some way into it."""
        self.trials += 1
        try:
            child = os.fork()
        except OSError:
            raise Refused(
                "overloaded", "no process to try the grammar in", retry_after=1.0
            ) from None
        if child == 0:
            code = _TOO_LARGE
            try:
                code = self._walk(tokeniser, grammar)
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def _walk(self, tokeniser: LLTokenizer, grammar: str) -> int:
        # A stack that overflows is an answer here, nothing to report.
        faulthandler.disable()
        # Their default actions end the process, inside of native code too.
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, TRIAL_CPU)
        signal.setitimer(signal.ITIMER_REAL, TRIAL_WALL)
        # Who ends the worker need not wait for this copy of its socket to be closed.
        _LIBC.prctl(_SET_PARENT_DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)
        matcher = LLMatcher(tokeniser, grammar, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            return _WRONG
        for step in range(TRIAL_STEPS):
            allowed = self.allowed(matcher)
            if matcher.is_error() or not len(allowed):
                return _TOO_LARGE
            # Spread over the vocabulary, and not to the end while there is another way.
            choice = int(allowed[(step * 2_654_435_761) % len(allowed)])
            if choice in self._vocabulary.ends and len(allowed) > 1:
                choice = int(allowed[-1])
            matcher.consume_token(choice)
            if matcher.is_stopped():
                return _TOO_LARGE if matcher.is_error() else 0
        return 0


def _refused(param: str, why: str) -> Refused:
    name = "json_schema" if param == "response_format" else param
    return Refused("invalid_value", f"{name}: {why}", param=param)


def _why(error: str) -> str:
    """What llguidance says, in words of ours: its own may quote the grammar."""
    if found := _UNIMPLEMENTED.search(error):
        keys = [key for key in re.findall("[a-zA-Z$]+", found[1]) if key in _KEYWORDS.split()]
        if keys:
            return f"{', '.join(sorted(keys))} cannot be enforced"
    if "Unsatisfiable schema" in error:
        return "contradicts itself: nothing matches it"
    if "too large" in error or "too big" in error or "fuel" in error:
        return "too complex to be enforced"
    if "does not exist" in error or "not present in a registry" in error:
        return "refers to what is not in it"
    return "cannot be turned into a grammar"
