"""Explains a decision: which rules matched, and what made their conditions true or false."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from exclave_policy.admission import tokenize
from exclave_policy.conditions import (
    Condition,
    ConditionFailed,
    ConditionInvalid,
    bind,
    compile_condition,
)
from exclave_policy.evaluate import CompiledPolicy
from exclave_policy.model import Decision, Request
from exclave_policy.recorded import Recorded
from exclave_policy.schema import VARIABLES, Value, activation
from exclave_policy.workbench.terms import terms_of


@dataclass(frozen=True, slots=True)
class TermSaid:
    """One term of a condition, for one request."""

    source: str
    value: bool | None
    """None: it had no value."""
    names: Mapping[str, str]
    """What the declared names in it stood for, as it may be shown."""


@dataclass(frozen=True, slots=True)
class RuleSaid:
    """One rule that was about the request."""

    id: str
    effect: str
    mode: str
    matched: bool | None
    """None: its condition failed."""
    terms: tuple[TermSaid, ...]
    """None where it has no condition."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a decision is what it is."""

    decision: Decision
    rules: tuple[RuleSaid, ...]
    """In order of evaluation, also those after the one that denied."""


def explain(policy: CompiledPolicy, request: Request, *, full: bool = False) -> Explanation:
    """Evaluate one request, and say why. `full`: also texts that the policy does not hold, which
    are the caller's; otherwise only their length is shown."""
    values = activation(request)
    said = [
        _rule(rule.id, rule.effect, rule.mode, rule.when, values, full)
        for rule in policy.candidates(request)
    ]
    return Explanation(policy.evaluate(request), tuple(said))


def explain_recorded(recorded: Recorded, *, full: bool = False) -> tuple[RuleSaid, ...]:
    """The rules that matched, from what the record keeps: without the pack that made it."""
    found: list[RuleSaid] = []
    for rule in recorded.rules:
        try:
            when = compile_condition(rule.when) if rule.when else None
        except ConditionInvalid:  # written by a version that admitted more than this one
            found.append(RuleSaid(rule.id, rule.effect, rule.mode, True, ()))
            continue
        found.append(_rule(rule.id, rule.effect, rule.mode, when, recorded.names, full))
    return tuple(found)


def told(rules: tuple[RuleSaid, ...]) -> Iterator[str]:
    """The rules in lines for people."""
    words = {True: "matched", False: "did not match", None: "failed, which denies"}
    for rule in rules:
        watched = ", watched only" if rule.mode == "audit" else ""
        yield f"{rule.effect} {rule.id}: {words[rule.matched]}{watched}"
        for term in rule.terms:
            value = {True: "true", False: "false", None: "no value"}[term.value]
            where = ", ".join(f"{name} = {shown}" for name, shown in term.names.items())
            yield f"    {value:8} {term.source}" + (f"   [{where}]" if where else "")


def as_json(rules: tuple[RuleSaid, ...]) -> list[dict[str, Any]]:
    """The rules for programs."""
    return [
        {
            "id": rule.id,
            "effect": rule.effect,
            "mode": rule.mode,
            "matched": rule.matched,
            "terms": [
                {"source": term.source, "value": term.value, "names": dict(term.names)}
                for term in rule.terms
            ],
        }
        for rule in rules
    ]


def _rule(
    rule_id: str,
    effect: str,
    mode: str,
    when: Condition | None,
    values: Mapping[str, Value],
    full: bool,
) -> RuleSaid:
    if when is None:
        return RuleSaid(rule_id, effect, mode, True, ())
    literals = _literals(when.source)
    terms = tuple(
        TermSaid(
            term.source,
            _value(term, values),
            {
                name: _shown(name, values[name], literals, full)
                for name in sorted(term.names)
                if name in values
            },
        )
        for term in terms_of(when)
    )
    return RuleSaid(rule_id, effect, mode, _value(when, values), terms)


def _value(condition: Condition, values: Mapping[str, Value]) -> bool | None:
    try:
        return condition.holds(bind({name: values[name] for name in condition.names}))
    except (ConditionFailed, KeyError):  # KeyError: a name that was not found out then
        return None


def _literals(source: str) -> frozenset[str]:
    """Strings that the condition itself holds; none of them is a caller's secret."""
    return frozenset(token.text[1:-1] for token in tokenize(source) if token.kind == "string")


def _shown(name: str, value: Value, literals: frozenset[str], full: bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(_shown(name, each, literals, full) for each in value)}]"
    known = value in literals or value in VARIABLES[name].choices or not value
    return f'"{value}"' if known or full else f"<text of {len(value)}>"
