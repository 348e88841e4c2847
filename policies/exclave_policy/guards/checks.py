"""Carries out the checks of a Validator on one text.

MUST: `check` never raises, and what cannot be checked has failed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from exclave_policy.admission import MAX_OUTPUT, MAX_OUTPUT_DEPTH, Scope
from exclave_policy.conditions import ConditionFailed, bind
from exclave_policy.guards import grounding, injection
from exclave_policy.guards.patterns import Pattern, PatternFailed
from exclave_policy.guards.personal import TooLong, find
from exclave_policy.guards.schemas import JsonSchema
from exclave_policy.guards.tokens import normal
from exclave_policy.kinds.validators import (
    Check,
    ConditionCheck,
    ConfidenceCheck,
    GroundedCheck,
    InjectionCheck,
    JudgeCheck,
    PatternCheck,
    PersonalCheck,
    SchemaCheck,
    Validator,
)
from exclave_policy.schema import Value

NAMES: Final = {
    SchemaCheck: "schema",
    ConditionCheck: "cel",
    PatternCheck: "pattern",
    ConfidenceCheck: "confidence",
    GroundedCheck: "grounded",
    PersonalCheck: "personal",
    InjectionCheck: "injection",
    JudgeCheck: "judge",
}
JUDGE_SCHEMA: Final = json.dumps(
    {
        "type": "object",
        "properties": {"grade": {"type": "integer", "minimum": 0, "maximum": 100}},
        "required": ["grade"],
        "additionalProperties": False,
    }
)
"""What a judge's reply is held to while it is made."""
MAX_REPLY: Final = 4096
"""Most characters of a judge's reply that are read."""
_PLACES = re.compile(r"\{(input|output)\}")
_BRACKETS = re.compile(r'"(?:[^"\\]|\\(?:.|\Z))*+(?:"|\Z)|[\[\]{}]', re.DOTALL)
"""A string that does not end goes to the end of the text: it is looked at once."""
_TOO_LONG = "it is too long to be looked at"


@dataclass(frozen=True, slots=True)
class Material:
    """One text, and what is known beside it."""

    text: str
    asked: str = ""
    """Everything that was asked, as one text; of an answer."""
    values: Mapping[str, Value] = field(default_factory=dict)
    """The declared names that conditions see."""
    confidences: Mapping[str, float] = field(default_factory=dict)
    """Of 0..1, by tensor: the least sure row's largest value; "": the geometric mean of the
    tokens' probabilities. What is not there is not known."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A check that does not hold."""

    validator: str
    check: str
    """One of `NAMES`."""
    place: int
    """In the document's list of checks, from 0."""
    reason: str
    """Words that hold none of the text."""


class CompiledValidator:
    """One document's checks, ready to be carried out. Safe to share between threads."""

    def __init__(self, validator: Validator) -> None:
        self.validator = validator
        self.judges: tuple[tuple[int, JudgeCheck], ...] = tuple(
            (place, each)
            for place, each in enumerate(validator.checks)
            if isinstance(each, JudgeCheck)
        )
        """Those that a model is asked for, with their places."""
        self.names: frozenset[str] = frozenset().union(
            *(each.condition.names for each in validator.checks if isinstance(each, ConditionCheck))
        )
        """The declared names that its conditions see."""
        self._steps = [
            (place, NAMES[type(each)], _step(each))
            for place, each in enumerate(validator.checks)
            if not isinstance(each, JudgeCheck)
        ]

    def check(self, material: Material) -> Failure | None:
        """The first of the checks that does not hold, of those that ask no model; None: all do.
        MUST NOT raise."""
        for place, name, step in self._steps:
            try:
                reason = step(material)
            except TooLong:
                reason = _TOO_LONG
            except (PatternFailed, ConditionFailed) as error:
                reason = str(error)
            except Exception:  # noqa: BLE001 - a guard that breaks has not found anything good
                reason = "it could not be checked"
            if reason:
                return Failure(self.validator.name, name, place, reason)
        return None


# --- judges --------------------------------------------------------------------------------------


def judge_prompt(check: JudgeCheck, asked: str, output: str) -> str:
    """What the judge is told. Both are put in at once: what one says cannot stand for the other."""
    texts = {"input": asked, "output": output}
    return _PLACES.sub(lambda found: texts[found.group(1)], check.prompt)


def judged(name: str, place: int, check: JudgeCheck, reply: str) -> Failure | None:
    """What a judge's reply says; one that cannot be read has not found the answer good."""
    grade: object = None
    if len(reply) <= MAX_REPLY:
        try:
            told = msgspec.json.decode(reply)
        except (ValueError, RecursionError):
            told = None
        grade = told.get("grade") if isinstance(told, dict) else None
    if isinstance(grade, bool) or not isinstance(grade, int) or not 0 <= grade <= 100:
        return Failure(name, "judge", place, "the judge did not answer with a grade")
    if grade / 100 < check.least:
        reason = f"the judge graded it {grade} of 100, less than {check.least * 100:g}"
        return Failure(name, "judge", place, reason)
    return None


# --- the others ----------------------------------------------------------------------------------

_Step = Callable[[Material], str]
"""What is wrong with the text, or "". Raises whatever keeps it from being checked."""


def _step(check: Check) -> _Step:
    if isinstance(check, SchemaCheck):
        return _schema(check)
    if isinstance(check, ConditionCheck):
        return lambda material: _condition(check, material)
    if isinstance(check, PatternCheck):
        return _patterns(check)
    if isinstance(check, ConfidenceCheck):
        return lambda material: _confidence(check, material)
    if isinstance(check, GroundedCheck):
        return lambda material: _grounded(check, material)
    if isinstance(check, PersonalCheck):
        return lambda material: _personal(check, material)
    assert isinstance(check, InjectionCheck), "judges are asked elsewhere"
    return lambda material: _injection(check, material)


def _schema(check: SchemaCheck) -> _Step:
    schema = JsonSchema(check.schema)
    return lambda material: schema.fault(material.text)


def _condition(check: ConditionCheck, material: Material) -> str:
    values: dict[str, object] = {**material.values, "text": material.text}
    if check.condition.sees_output:
        if len(material.text) > MAX_OUTPUT or _depth(material.text) > MAX_OUTPUT_DEPTH:
            return f"has more than {MAX_OUTPUT} characters, or {MAX_OUTPUT_DEPTH} levels"
        try:
            values["output"] = msgspec.json.decode(material.text)
        except (ValueError, RecursionError):
            return "is not complete JSON"
    bound = bind(values, Scope.OUTPUT)
    return "" if check.condition.holds(bound) else "a condition does not hold"


def _depth(text: str) -> int:
    """How deep brackets outside strings nest: what is deep overflows the stack of whoever reads
    it, which cannot be caught."""
    depth = deepest = 0
    for found in _BRACKETS.finditer(text):
        if found.group() in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif found.group() in "]}":
            depth -= 1
    return deepest


def _patterns(check: PatternCheck) -> _Step:
    must = [Pattern(source) for source in check.must]
    must_not = [Pattern(source) for source in check.must_not]

    def step(material: Material) -> str:
        for number, each in enumerate(must, 1):
            if not each.found(material.text):
                return f"pattern {number} of must is not in it"
        for number, each in enumerate(must_not, 1):
            if each.found(material.text):
                return f"pattern {number} of must_not is in it"
        return ""

    return step


def _confidence(check: ConfidenceCheck, material: Material) -> str:
    found = material.confidences.get(check.tensor)
    if found is None:
        return "nobody told how sure the model was"
    # A NaN is not at least anything.
    return "" if found >= check.least else f"the model was less sure than {check.least:g}"


def _grounded(check: GroundedCheck, material: Material) -> str:
    found = grounding.missing(material.text, material.asked, check.quotes)
    told = ", ".join(f"{count} {quote}" for quote, count in sorted(found.items()) if count)
    return f"{told} are quoted that are not in what was asked" if told else ""


def _personal(check: PersonalCheck, material: Material) -> str:
    found = find(material.text, check.kinds, check.countries)
    known: set[tuple[str, str]] = set()
    if check.from_input and found:
        known = {
            (each.kind, normal(each.kind, material.asked[each.start : each.end]))
            for each in find(material.asked, check.kinds, check.countries)
        }
    kinds = {
        each.kind
        for each in found
        if (each.kind, normal(each.kind, material.text[each.start : each.end])) not in known
    }
    return f"it holds personal data: {', '.join(sorted(kinds))}" if kinds else ""


def _injection(check: InjectionCheck, material: Material) -> str:
    score = injection.score(material.text)
    if score <= check.most:
        return ""
    return f"it reads like other orders for the model: {score} of 100, more than {check.most}"
