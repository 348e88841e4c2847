"""Retain: the class of data that decides how long a decision's values are kept."""

from __future__ import annotations

from collections.abc import Iterable

from exclave_policy.evaluate import CompiledPolicy
from exclave_policy.kinds.retention import RetentionClass
from exclave_policy.model import Obligations

from .calls import Call


def class_of(
    policy: CompiledPolicy | None, call: Call, obliged: Iterable[Obligations]
) -> RetentionClass | None:
    """The class that rules oblige to, of several the one that keeps for the shortest time; else
    that of the data's label. None: the values are kept."""
    if policy is None or policy.retention is None:
        return None
    retention = policy.retention
    named = [retention.named(each.retention) for each in obliged if each.retention]
    found = min(
        (each for each in named if each is not None), key=lambda each: each.days, default=None
    )
    return found or retention.of(call.data_class)
