"""The values of the policy language: what is asked and what is answered."""

from __future__ import annotations

from dataclasses import dataclass

ACTIONS = ("chat", "complete", "embed", "rerank", "infer")
"""Everything a caller can ask of a model."""

ANY = "*"
"""In a rule's roles or models: every one of them."""

DEFAULT_DENY = "default-deny"
"""The rule id of a decision that no rule made. No rule may carry it."""

UNBOUNDED = 2**63 - 1
"""What a condition sees as `request.max_tokens` when the request names no maximum."""


@dataclass(frozen=True, slots=True)
class Request:
    """One question to the policy: who asks to do what with which model.

    Holds metadata only: no prompt, no input, no output.
    """

    subject: str
    """The caller's public id (an API key's id)."""
    roles: tuple[str, ...]
    action: str
    """One of `ACTIONS`."""
    model: str
    data_class: str = ""
    """The caller's label of the data, e.g. "restricted"; "" when there is none."""
    max_tokens: int | None = None
    """Tokens of answer asked for; None: the request names no maximum."""
    stream: bool = False
    message_count: int = 0
    prompt_bytes: int = 0
    """Size of everything the caller sent to the model, in UTF-8 bytes."""
    hour: int = 0
    """0..23, UTC."""
    weekday: int = 0
    """0 Monday .. 6 Sunday, UTC."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer. Denied unless a rule allowed and none denied."""

    allowed: bool
    rule: str
    """The id of the rule that decided; `DEFAULT_DENY` when none matched."""
    reason: str
    """For people and for the record; never holds a value of the request."""
    max_tokens: int | None
    """Most tokens of answer; None: the policy sets no limit. None when denied."""
