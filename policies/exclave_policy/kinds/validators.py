"""Documents of kind Validator: what an input or an answer is held to, and what happens else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from exclave_policy.conditions import Condition
from exclave_policy.model import Mode

Stage: TypeAlias = Literal["input", "output"]
Otherwise: TypeAlias = Literal["fall_back", "escalate", "refuse"]
"""Ask the route's next target; hand the decision to a person; refuse it."""
Quoted: TypeAlias = Literal["amounts", "ids", "dates"]

STAGES: tuple[Stage, ...] = ("input", "output")
OTHERWISE: tuple[Otherwise, ...] = ("fall_back", "escalate", "refuse")
QUOTED: tuple[Quoted, ...] = ("amounts", "ids", "dates")


@dataclass(frozen=True, slots=True)
class SchemaCheck:
    """The text is JSON that matches a JSON Schema (2020-12)."""

    schema: str
    """JSON text; it stands by itself."""


@dataclass(frozen=True, slots=True)
class ConditionCheck:
    """A CEL condition over the parsed text: `output` (JSON, any type) or `text`, and every name
    that rules see."""

    condition: Condition


@dataclass(frozen=True, slots=True)
class PatternCheck:
    """Regular expressions (RE2 syntax, linear time) found anywhere in the text."""

    must: tuple[str, ...] = ()
    must_not: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConfidenceCheck:
    """How sure the model was: the geometric mean of its tokens' probabilities or, with `tensor`,
    the largest of each row of that output."""

    least: float
    tensor: str = ""


@dataclass(frozen=True, slots=True)
class GroundedCheck:
    """Every amount, id or date that the answer quotes occurs in the input or the context."""

    quotes: frozenset[Quoted]


@dataclass(frozen=True, slots=True)
class PersonalCheck:
    """No personal data of these kinds, unless the input holds the same."""

    kinds: frozenset[str]
    """Some of `redactions.KINDS`."""
    countries: tuple[str, ...] = ()
    from_input: bool = True
    """What the input holds may be repeated."""


@dataclass(frozen=True, slots=True)
class InjectionCheck:
    """The text does not read like an attempt to give the model other orders."""

    most: int
    """Of 0..100."""


@dataclass(frozen=True, slots=True)
class JudgeCheck:
    """A second, local model of the release is asked whether the answer is good."""

    model: str
    prompt: str
    """What it is told; `{input}` and `{output}` stand for what was asked and answered."""
    least: float
    """Of 0..1: the probability, or the grade, that it must give."""


Check: TypeAlias = (
    SchemaCheck
    | ConditionCheck
    | PatternCheck
    | ConfidenceCheck
    | GroundedCheck
    | PersonalCheck
    | InjectionCheck
    | JudgeCheck
)


@dataclass(frozen=True, slots=True)
class Validator:
    """One document of kind Validator, checked."""

    name: str
    version: str
    description: str
    stage: Stage
    checks: tuple[Check, ...]
    """All must hold; tried in this order, those that ask a model last."""
    repair: bool = False
    """Ask the same model once more, with what was wrong; output only."""
    otherwise: Otherwise = "refuse"
    told: str = ""
    """With "escalate": the text that the caller is given."""
    mode: Mode = "enforce"
    file: str = ""
    line: int = 0
