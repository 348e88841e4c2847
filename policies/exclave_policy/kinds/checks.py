"""Reads the checks of a Validator."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from exclave_policy.admission import Scope
from exclave_policy.clauses import read_condition
from exclave_policy.fields import MODEL, TENSOR, Fields
from exclave_policy.kinds import redactions
from exclave_policy.kinds.files import read_file
from exclave_policy.kinds.numbers import fraction
from exclave_policy.kinds.patterns import read_patterns
from exclave_policy.kinds.validators import (
    QUOTED,
    Check,
    ConditionCheck,
    ConfidenceCheck,
    GroundedCheck,
    InjectionCheck,
    JudgeCheck,
    PatternCheck,
    PersonalCheck,
    SchemaCheck,
    Stage,
)
from exclave_policy.source import Mapping as Entries
from exclave_policy.source import Node, Report, Scalar, Sequence

MAX_CHECKS = 16
MAX_PATTERNS = 32
"""Of one list."""
MAX_PROMPT = 16 * 1024
"""Bytes."""
MOST_INJECTION = 100
KINDS = tuple(kind for kind in redactions.KINDS if kind not in (*redactions.BY_MODEL, "custom"))
"""Personal data that is found without a model."""
ANSWERS_ONLY = frozenset({"confidence", "grounded", "judge"})
"""Checks that say nothing about an input."""


class Checks:
    """Reads the checks of one document."""

    def __init__(self, stage: Stage, text: str, files: Mapping[str, str]) -> None:
        self._stage = stage
        self._text = text
        self._files = files
        self._readers: dict[str, Callable[[Fields, str], Check | None]] = {
            "schema": self._schema,
            "cel": self._condition,
            "pattern": self._pattern,
            "confidence": self._confidence,
            "grounded": self._grounded,
            "personal": self._personal,
            "injection": self._injection,
            "judge": self._judge,
        }

    def read(self, parent: Fields) -> tuple[Check, ...]:
        """All of them; what faults leave of them, when there are any."""
        node = parent.get("checks")
        if node is None:
            return ()
        if not isinstance(node, Sequence):
            fix = "start each with '- ' and the name of the check"
            parent.wrong(node, "checks", "expected a list of checks", fix)
            return ()
        if not 0 < len(node.items) <= MAX_CHECKS:
            message = f"{len(node.items)} checks"
            parent.wrong(node, "checks", message, f"1 to {MAX_CHECKS} in a document")
            return ()
        found = [
            self._check(item, f"spec.checks[{i}]", parent.report)
            for i, item in enumerate(node.items)
        ]
        return tuple(check for check in found if check is not None)

    def _check(self, node: Node, path: str, report: Report) -> Check | None:
        fields = Fields(node, path, report, known=tuple(self._readers))
        if isinstance(node, Entries) and len(node.fields) != 1:
            fix = f"write one of {', '.join(self._readers)}; more checks are more entries"
            report.add(node, path, "each entry is one check", fix)
        found = None
        for name, reader in self._readers.items():
            place = fields.get(name)
            if place is None:
                continue
            if name in ANSWERS_ONLY and self._stage == "input":
                fix = "move it to a validator of the stage output"
                fields.wrong(place, name, "this says nothing about an input", fix)
            found = reader(fields, name)
        return found

    def _schema(self, parent: Fields, name: str) -> Check | None:
        # It brings a library that only documents with a schema need.
        from exclave_policy.guards import schemas

        fields = _inner(parent, name, ("file", "json"))
        given = [one for one in ("file", "json") if fields.get(one) is not None]
        if len(given) != 1:
            fix = "give one of file and json"
            fields.report.add(fields.node, fields.path, "exactly one schema is needed", fix)
            return None
        one, limit = given[0], schemas.MAX_SCHEMA_BYTES
        before = len(fields.report.problems) + fields.report.dropped
        if one == "file":
            schema = read_file(fields, one, self._files, limit)
        else:
            schema = fields.text(one, limit=limit)
        if len(fields.report.problems) + fields.report.dropped != before:
            return None
        wrong, node = schemas.fault(schema), fields.get(one)
        if wrong and node is not None:
            fields.wrong(node, one, wrong, "write an object of JSON Schema 2020-12")
        return SchemaCheck(schema)

    def _condition(self, parent: Fields, name: str) -> Check | None:
        condition = read_condition(parent, name, self._text, Scope.OUTPUT)
        if condition is None:
            return None
        node = parent.get(name)
        if condition.sees_output and self._stage == "input" and node is not None:
            fix = "write text, or move it to a validator of the stage output"
            parent.wrong(node, name, "there is no output yet", fix)
        return ConditionCheck(condition)

    def _pattern(self, parent: Fields, name: str) -> Check | None:
        fields = _inner(parent, name, ("must", "must_not"))
        must = read_patterns(fields, "must", MAX_PATTERNS)
        must_not = read_patterns(fields, "must_not", MAX_PATTERNS)
        if fields.get("must") is None and fields.get("must_not") is None:
            fix = "add must or must_not"
            fields.report.add(fields.node, fields.path, "nothing is looked for", fix)
        return PatternCheck(must, must_not)

    def _confidence(self, parent: Fields, name: str) -> Check | None:
        fields = _inner(parent, name, ("least", "tensor"), ("least",))
        least = fraction(fields, "least")
        return ConfidenceCheck(1.0 if least is None else least, fields.word("tensor", TENSOR))

    def _grounded(self, parent: Fields, name: str) -> Check | None:
        found = {item.value for item in parent.names(name, choices=QUOTED)}
        return GroundedCheck(frozenset(quote for quote in QUOTED if quote in found))

    def _personal(self, parent: Fields, name: str) -> Check | None:
        fields = _inner(parent, name, ("kinds", "countries", "from_input"), ("kinds",))
        kinds = fields.names("kinds", choices=KINDS)
        countries = redactions.read_countries(fields, kinds)
        output = self._stage == "output"
        repeated = fields.flag("from_input", output)
        node = fields.get("from_input")
        if node is not None and repeated and not output:
            fix = "remove it: the input is what is looked at"
            fields.wrong(node, "from_input", "every input holds what it holds", fix)
        return PersonalCheck(frozenset(item.value for item in kinds), countries, repeated)

    def _injection(self, parent: Fields, name: str) -> Check | None:
        fields = _inner(parent, name, ("most",), ("most",))
        most = fields.whole("most", 0, MOST_INJECTION)
        return None if most is None else InjectionCheck(most)

    def _judge(self, parent: Fields, name: str) -> Check | None:
        known = ("model", "prompt", "least")
        fields = _inner(parent, name, known, known)
        prompt, node = read_file(fields, "prompt", self._files, MAX_PROMPT), fields.get("prompt")
        if prompt and node is not None and "{output}" not in prompt:
            fix = "write {output} where the answer belongs, and {input} for what was asked"
            fields.wrong(node, "prompt", "the judge is not shown the answer", fix)
        least = fraction(fields, "least")
        return JudgeCheck(fields.word("model", MODEL), prompt, 1.0 if least is None else least)


def _inner(
    parent: Fields, name: str, known: tuple[str, ...], required: tuple[str, ...] = ()
) -> Fields:
    """The fields of one check."""
    node = parent.get(name) or Scalar("", "null", "", 0, 0)
    return Fields(node, parent.at(name), parent.report, known=known, required=required)
