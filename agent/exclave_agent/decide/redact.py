"""Redact: what a model is shown instead of personal data, and how its answer gets it back.

MUST: where a redaction applies, nothing of the call reaches the model but what `redacted` made of
it; what cannot be searched is not sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from exclave_agent.ports import ModelInfo, ToolCall
from exclave_policy.evaluate import CompiledPolicy
from exclave_policy.guards.personal import Finding
from exclave_policy.guards.tokens import Restorer, Tokens
from exclave_policy.kinds.redactions import Redaction
from exclave_policy.model import Obligations

from .texts import Writable, rewritten, texts_of


def applying(
    policy: CompiledPolicy, obligations: Obligations, info: ModelInfo
) -> tuple[Redaction, ...]:
    """The redactions that stand between a call and this model."""
    documents = (policy.redactions[name] for name in obligations.redactions)
    return tuple(each for each in documents if each.stands_before(remote=info.remote))


@dataclass(frozen=True, slots=True)
class Redacted:
    """A call as a model may see it."""

    call: Writable
    names: tuple[str, ...] = ()
    """Of the redactions, in the order in which they were applied."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Different values by kind."""
    tokens: Mapping[str, str] = field(default_factory=dict)
    """Value by token: for the vault alone."""
    refused: tuple[str, str] | None = None
    """A redaction and the kind with which it refuses the call: it must not be sent at all."""
    restored: tuple[Mapping[str, str], ...] = ()
    """Value by token of each redaction that restores, the last applied first."""

    def restorer(self, *, in_json: bool) -> Restoration:
        """For one answer. `in_json`: its text is JSON, so values are put in as parts of strings."""
        return Restoration(self.restored, in_json=in_json)


def redacted(
    before: Redacted, redaction: Redaction, key: bytes, found: Mapping[str, Sequence[Finding]]
) -> Redacted:
    """Apply one more. `key`: what keyed tokens are made with; `found`: what its model found in
    each of the call's texts as they are `before`. Blocking: it takes a second for each 30 KB.

    Raises: TooLong; then the call must not be sent.
    """
    made = Tokens(redaction, key)
    call = _replaced(before.call, made, found)
    refused = sorted(redaction.refuse & made.counts.keys())
    return Redacted(
        call,
        (*before.names, redaction.name),
        Counter(before.counts) + Counter(made.counts),
        {**before.tokens, **made.values},
        (redaction.name, refused[0]) if refused else None,
        (made.values, *before.restored) if redaction.restore else before.restored,
    )


def _replaced(call: Writable, tokens: Tokens, found: Mapping[str, Sequence[Finding]]) -> Writable:
    """All of its texts are known before the first is changed: a token of the caller's own writing
    must not come to stand for a value."""
    texts = dict.fromkeys(texts_of(call))
    tokens.reserve(tuple(texts))
    new = {text: tokens.replace(text, found.get(text, ())) for text in texts}
    return rewritten(call, new.__getitem__)


class Restoration:
    """Gives one answer its values back, as it comes."""

    def __init__(self, maps: Sequence[Mapping[str, str]], *, in_json: bool) -> None:
        self._text = [Restorer(each, in_json=in_json) for each in maps]
        self._maps = maps

    def feed(self, piece: str) -> str:
        """What of the text may leave now."""
        for each in self._text:
            piece = each.feed(piece)
        return piece

    def flush(self) -> str:
        """The rest of it."""
        rest = ""
        for each in self._text:
            rest = each.feed(rest) + each.flush()
        return rest

    def call(self, made: ToolCall) -> ToolCall:
        """A call that the model asks for, in the caller's words."""
        name, arguments = made.name, made.arguments
        for values in self._maps:
            name = _restored(name, Restorer(values))
            arguments = _restored(arguments, Restorer(values, in_json=True))
        return ToolCall(made.id, name, arguments)


def _restored(text: str, restorer: Restorer) -> str:
    return restorer.feed(text) + restorer.flush()
