"""Runs the guards that a decision obliges to over the texts of a case."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from exclave_policy.evaluate import CompiledPolicy
from exclave_policy.fields import Fields
from exclave_policy.guards import injection, personal
from exclave_policy.guards.checks import NAMES, CompiledValidator, Failure, Material, judged
from exclave_policy.guards.tokens import Tokens
from exclave_policy.kinds.numbers import fraction
from exclave_policy.kinds.redactions import KINDS
from exclave_policy.kinds.validators import ConfidenceCheck, JudgeCheck
from exclave_policy.model import Decision, Request
from exclave_policy.schema import activation
from exclave_policy.source import Mapping as Entries

MAX_TEXT = 64 * 1024
"""Most characters of one text of a case."""
PASSES = "passes"
_KEY = b"the key of tokens in cases, only"


@dataclass(frozen=True, slots=True)
class Texts:
    """What was sent and answered in a case."""

    input: str = ""
    output: str | None = None
    """None: the case ends before there is an answer, and validators of the output do not run."""
    confidence: float | None = None
    """What the tokens' probabilities come to; None: nobody told."""
    tensors: Mapping[str, float] = field(default_factory=dict)
    """The least sure row's largest value, by output tensor."""
    grades: Mapping[str, float] = field(default_factory=dict)
    """What judges would say, by validator; no model runs here."""


@dataclass(frozen=True, slots=True)
class ExpectedGuards:
    """What a case says of them; None: not looked at."""

    validators: Mapping[str, str] = field(default_factory=dict)
    """PASSES, or the check that fails, by validator."""
    redacted: Mapping[str, int] | None = None
    """Different values by kind."""
    refused: str | None = None
    """The kind with which a redaction refuses; "": none."""
    sent: str | None = None
    """What the model sees."""

    @property
    def any(self) -> bool:
        """Whether anything is expected."""
        return bool(self.validators) or (self.redacted, self.refused, self.sent) != (None,) * 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """What they did."""

    validators: Mapping[str, Failure | None]
    redactions: Sequence[str]
    """Names of those that replaced or refused something."""
    redacted: Mapping[str, int]
    refused: str
    sent: str


def seen_in(request: Request, texts: Texts, given: bool) -> Request:
    """The request with what conditions would see of its text; `given`: the case says so itself."""
    if given:
        return request
    return replace(
        request,
        personal=personal.kinds_in(texts.input),
        injection=injection.score(texts.input),
    )


def guarded(
    policy: CompiledPolicy,
    validators: Mapping[str, CompiledValidator],
    request: Request,
    decision: Decision,
    texts: Texts,
) -> Outcome:
    """Run the validators and redactions of an allowed decision, as the agent does. `validators`:
    the policy's, compiled."""
    found: dict[str, Failure | None] = {}
    for name in decision.obligations.validators:
        compiled = validators[name]
        if compiled.validator.stage == "input" or texts.output is not None:
            found[name] = _failure(compiled, request, texts)
    sent, counts, acted, refused = texts.input, dict[str, int](), [], ""
    for name in decision.obligations.redactions:
        redaction = policy.redactions[name]
        if not redaction.stands_before(remote=request.facts.remote):
            continue
        tokens = Tokens(redaction, _KEY)
        tokens.reserve([sent])
        sent = tokens.replace(sent)
        for kind, count in tokens.counts.items():
            counts[kind] = counts.get(kind, 0) + count
        if tokens.counts:
            acted.append(name)
        refused = refused or min(redaction.refuse & tokens.counts.keys(), default="")
    return Outcome(found, acted, counts, refused, sent)


def _failure(compiled: CompiledValidator, request: Request, texts: Texts) -> Failure | None:
    values = activation(request, compiled.names)
    if compiled.validator.stage == "input":
        return compiled.check(Material(texts.input, values=values))
    confidences = dict(texts.tensors)
    if texts.confidence is not None:
        confidences[""] = texts.confidence
    material = Material(texts.output or "", texts.input, values, confidences)
    failure = compiled.check(material)
    for place, check in compiled.judges:
        name = compiled.validator.name
        grade = texts.grades.get(name)
        reply = "" if grade is None else json.dumps({"grade": round(grade * 100)})
        failure = failure or judged(name, place, check, reply)
    return failure


def difference(expected: ExpectedGuards, got: Outcome) -> str:
    """In words, or "" when they agree."""
    for name, wanted in expected.validators.items():
        if name not in got.validators:
            return f"validator {name} did not run: no rule that matched obliges to it, or no output"
        failure = got.validators[name]
        have = PASSES if failure is None else failure.check
        if have != wanted:
            reason = "" if failure is None else f" ({failure.reason})"
            return f"expected validator {name}: {wanted}, found {have}{reason}"
    if expected.redacted is not None and dict(expected.redacted) != dict(got.redacted):
        have = ", ".join(f"{kind} {count}" for kind, count in sorted(got.redacted.items()))
        return f"expected other values to be redacted; found {have or 'none'}"
    if expected.refused is not None and expected.refused != got.refused:
        return f"expected a redaction to refuse {expected.refused or 'nothing'}, found " + (
            got.refused or "nothing"
        )
    if expected.sent is not None and expected.sent != got.sent:
        return "the model would see another text than expected"
    return ""


# --- reading -------------------------------------------------------------------------------------


def read_texts(parent: Fields, name: str, policy: CompiledPolicy) -> Texts | None:
    """The texts of a case; None where it has none."""
    node = parent.get(name)
    if node is None:
        return None
    known = ("input", "output", "confidence", "tensors", "grades")
    fields = Fields(node, parent.at(name), parent.report, known=known, required=("input",))
    output = fields.get("output")
    return Texts(
        input=fields.text("input", limit=MAX_TEXT),
        output=None if output is None else fields.text("output", limit=MAX_TEXT),
        confidence=fraction(fields, "confidence") if fields.get("confidence") else None,
        tensors=_fractions(fields, "tensors", _tensors(policy)),
        grades=_fractions(fields, "grades", _judged(policy)),
    )


def _judged(policy: CompiledPolicy) -> tuple[str, ...]:
    """Validators that ask a judge."""
    return tuple(
        each.name
        for each in policy.validators.values()
        if any(isinstance(check, JudgeCheck) for check in each.checks)
    )


def _tensors(policy: CompiledPolicy) -> tuple[str, ...]:
    checks = (check for each in policy.validators.values() for check in each.checks)
    found = (check.tensor for check in checks if isinstance(check, ConfidenceCheck))
    return tuple(dict.fromkeys(name for name in found if name))


def _fractions(parent: Fields, name: str, known: tuple[str, ...]) -> dict[str, float]:
    return {each: fraction(inner, each) or 0.0 for inner, each in _named(parent, name, known)}


def read_expected(fields: Fields, policy: CompiledPolicy) -> ExpectedGuards:
    """What a case expects of the guards, out of its `expect`."""
    validators = {
        name: inner.choice(name, (PASSES, *NAMES.values()))
        for inner, name in _named(fields, "validators", policy.validators)
    }
    redacted = {
        kind: inner.whole(kind, 1, 10_000) or 0 for inner, kind in _named(fields, "redacted", KINDS)
    }
    refused = fields.get("refused")
    sent = fields.get("sent")
    return ExpectedGuards(
        validators,
        None if fields.get("redacted") is None else redacted,
        None if refused is None else fields.choice("refused", KINDS),
        None if sent is None else fields.text("sent", limit=MAX_TEXT),
    )


def _named(parent: Fields, name: str, known: Iterable[str]) -> Iterator[tuple[Fields, str]]:
    """The entries of a mapping of a few known names, each with the fields it is read from."""
    node = parent.get(name)
    if node is None:
        return
    inner = Fields(node, parent.at(name), parent.report, known=tuple(known))
    for entry in node.fields if isinstance(node, Entries) else ():
        yield inner, entry
