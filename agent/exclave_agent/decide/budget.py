"""Budget: how many tokens this answer may have."""

from __future__ import annotations

from exclave_agent.errors import TooManyTokens

DEFAULT_TOKENS = 512
"""Tokens of answer when neither the request nor the policy names a number."""


def budget(requested: int | None, cap: int | None) -> int | None:
    """The tokens granted: what was asked for, within the policy's cap.

    None: nothing was asked for; `route` then chooses within the cap and the model's context.
    Raises: TooManyTokens naming both numbers when more was asked for than the policy grants:
    a silent cut would look like an answer that ended by itself.
    """
    if requested is not None and cap is not None and requested > cap:
        raise TooManyTokens(
            f"max_tokens is {requested}, and the policy allows at most {cap}: ask for less",
            code="max_tokens_exceeded",
        )
    return requested


def default_tokens(cap: int | None, context: int) -> int:
    """Tokens of answer when the request names none: the policy's cap and `DEFAULT_TOKENS`,
    and never more than half the context, so that a prompt still fits beside it."""
    tokens = DEFAULT_TOKENS if cap is None else min(cap, DEFAULT_TOKENS)
    return max(1, min(tokens, context // 2)) if context else tokens
