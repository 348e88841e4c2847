"""Rules as they stand after every check: what `document` reads and `evaluate` indexes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from exclave_policy.conditions import Condition


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, checked. Empty roles, actions or models (deny rules only): any."""

    id: str
    description: str
    effect: Literal["allow", "deny"]
    roles: frozenset[str]
    actions: frozenset[str]
    models: frozenset[str]
    when: Condition | None
    """None: always."""
    max_tokens: int | None
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Policy:
    """One document of kind Policy."""

    name: str
    version: str
    description: str
    rules: tuple[Rule, ...]
