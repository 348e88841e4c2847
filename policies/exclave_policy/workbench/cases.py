"""Runs a pack's cases: what was asked, what was expected, and which rules no case reached."""

from __future__ import annotations

from collections.abc import Mapping as Mapping_
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from dataclasses import fields as fields_of

from exclave_policy.compile import compile_pack
from exclave_policy.errors import PolicyInvalid, Problem, nearest
from exclave_policy.evaluate import CompiledPolicy
from exclave_policy.fields import NAME, Fields
from exclave_policy.guards.checks import CompiledValidator
from exclave_policy.model import DEFAULT_DENY, UNBOUNDED, Decision, Obligations, Request
from exclave_policy.pack import Pack
from exclave_policy.source import Mapping, Node, Report, Scalar, Sequence, parse, read_text
from exclave_policy.workbench.coverage import Branch, Coverage, GuardCoverage
from exclave_policy.workbench.given import as_given, read_given
from exclave_policy.workbench.guarded import (
    ExpectedGuards,
    Texts,
    difference,
    guarded,
    read_expected,
    read_texts,
    seen_in,
)

MAX_CASES = 2000
"""Most cases of one file."""
MAX_NAME = 200
OBLIGATIONS = tuple(field.name for field in fields_of(Obligations))


@dataclass(frozen=True, slots=True)
class Expected:
    """What a case says of its decision. `checks_max_tokens`: whether it says anything of that."""

    allowed: bool
    rule: str
    max_tokens: int | None
    checks_max_tokens: bool
    matched: tuple[str, ...] | None = None
    """None: not looked at, as in the next two."""
    obligations: Mapping_[str, Seq[str]] | None = None
    """Those that are named, by the fields of `Obligations`."""
    would: tuple[bool, str] | None = None
    """Allowed, and by which rule, had audited rules been enforced."""
    guards: ExpectedGuards = field(default_factory=ExpectedGuards)


@dataclass(frozen=True, slots=True)
class Case:
    """One case."""

    name: str
    request: Request
    expected: Expected
    texts: Texts | None
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class CaseFailure:
    """A case whose decision was another one."""

    name: str
    file: str
    line: int
    text: str
    """What was expected and what came, in one sentence."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.name}: {self.text}"


@dataclass(frozen=True, slots=True)
class CasesReport:
    """The outcome of a pack's cases."""

    name: str
    version: str
    passed: int
    failures: tuple[CaseFailure, ...]
    covered: tuple[str, ...]
    """Ids of rules that matched in at least one case, in order of evaluation."""
    uncovered: tuple[str, ...]
    """Ids of rules that no case reached."""
    branches: int = 0
    """Ways that the terms of all conditions can go."""
    missed: tuple[Branch, ...] = ()
    """Those that none went."""
    guards: int = 0
    """Ways that validators and redactions can go: a validator passes and fails, a redaction finds
    something."""
    unguarded: tuple[str, ...] = ()
    """Those that none went, in words."""

    @property
    def total(self) -> int:
        """Cases that ran."""
        return self.passed + len(self.failures)

    @property
    def coverage(self) -> float:
        """Share of rules that matched at least once: 0.0 to 1.0."""
        rules = len(self.covered) + len(self.uncovered)
        return len(self.covered) / rules if rules else 0.0

    @property
    def branch_coverage(self) -> float:
        """Share of branches that were taken: 0.0 to 1.0; 1.0 where there is none."""
        return 1 - len(self.missed) / self.branches if self.branches else 1.0

    @property
    def guard_coverage(self) -> float:
        """Share of what guards can do that a case has seen: 0.0 to 1.0; 1.0 where there is none."""
        return 1 - len(self.unguarded) / self.guards if self.guards else 1.0

    @property
    def ok(self) -> bool:
        """Every case passed, and there was at least one."""
        return self.passed > 0 and not self.failures

    @property
    def complete(self) -> bool:
        """Every case passed and every rule was reached."""
        return self.ok and not self.uncovered

    def __str__(self) -> str:
        reached = f"{len(self.covered)} of {len(self.covered) + len(self.uncovered)} rules reached"
        head = f"{self.name} {self.version}: {self.passed} of {self.total} cases passed, {reached}"
        missed = [f"no case reaches rule {rule}" for rule in self.uncovered]
        return "\n".join([head, *map(str, self.failures), *missed])


def run_cases(pack: Pack) -> CasesReport:
    """Compile the pack and run every case of its `cases*.yaml` files.

    Raises: PolicyInvalid when the pack does not compile, its cases are malformed, or it has none.
    """
    policy = compile_pack(pack)
    cases, problems = _read_all(pack, policy)
    if not cases and not problems:
        message = "the pack has no cases"
        problems.append(Problem("", 0, 0, "", message, "add a cases.yaml with at least one case"))
    if problems:
        raise PolicyInvalid(problems)
    failures: list[CaseFailure] = []
    coverage, watched = Coverage(policy), GuardCoverage(policy)
    validators = {name: CompiledValidator(each) for name, each in policy.validators.items()}
    for case in cases:
        decision = policy.evaluate(case.request)
        coverage.take(case.request, _reached(decision))
        text = _difference(case.expected, decision)
        if case.texts is not None and decision.allowed:
            outcome = guarded(policy, validators, case.request, decision, case.texts)
            watched.take(outcome)
            text = text or difference(case.expected.guards, outcome)
        elif case.expected.guards.any:
            text = text or "guards are expected to do something, and a denied request meets none"
        if text:
            failures.append(CaseFailure(case.name, case.file, case.line, text))
    return CasesReport(
        name=pack.name,
        version=pack.version,
        passed=len(cases) - len(failures),
        failures=tuple(failures),
        covered=coverage.reached,
        uncovered=tuple(rule.id for rule in coverage.unreached),
        branches=coverage.branches,
        missed=coverage.missed,
        guards=watched.ways,
        unguarded=watched.missed,
    )


def _difference(expected: Expected, got: Decision) -> str:
    """In words, or "" when they agree."""
    if (expected.allowed, expected.rule) != (got.allowed, got.rule):
        want = f"{'allowed' if expected.allowed else 'denied'} by {expected.rule}"
        have = f"{'allowed' if got.allowed else 'denied'} by {got.rule}"
        return f"expected {want}, but it was {have} ({got.reason})"
    if expected.checks_max_tokens and expected.max_tokens != got.max_tokens:
        return f"expected max_tokens {_limit(expected.max_tokens)}, found {_limit(got.max_tokens)}"
    if expected.matched is not None and expected.matched != got.matched:
        want, have = ", ".join(expected.matched), ", ".join(got.matched)
        return f"expected the rules {want or 'none'} to match, but it was {have or 'none'}"
    for name, wanted in (expected.obligations or {}).items():
        value = getattr(got.obligations, name)
        found = (value,) if isinstance(value, str) else value
        if tuple(wanted) != found:
            return (
                f"expected {name} {', '.join(wanted) or 'none'}, found {', '.join(found) or 'none'}"
            )
    if expected.would is not None:
        if got.would is None:
            return "expected an audited rule to match, but none did"
        if expected.would != (got.would.allowed, got.would.rule):
            have = f"{'allowed' if got.would.allowed else 'denied'} by {got.would.rule}"
            return f"with audited rules enforced it would have been {have}"
    return ""


def _reached(decision: Decision) -> Seq[str]:
    would = decision.would
    return (*decision.matched, *(() if would is None else would.matched))


def _limit(value: int | None) -> str:
    return "without limit" if value is None else str(value)


def read_cases(pack: Pack, policy: CompiledPolicy) -> list[Case]:
    """A pack's cases. Raises: PolicyInvalid when one is malformed."""
    cases, problems = _read_all(pack, policy)
    if problems:
        raise PolicyInvalid(problems)
    return cases


# --- reading --------------------------------------------------------------------------------


def _read_all(pack: Pack, policy: CompiledPolicy) -> tuple[list[Case], list[Problem]]:
    cases: list[Case] = []
    problems: list[Problem] = []
    for path in pack.cases():
        report = Report(path)
        cases.extend(_read(pack.files[path].encode("utf-8", "surrogatepass"), policy, report))
        problems.extend(report.all())
    return cases, problems


def _read(raw: bytes, policy: CompiledPolicy, report: Report) -> list[Case]:
    text = read_text(raw, report)
    root = None if text is None else parse(text, report)
    if isinstance(root, Mapping):
        root = Fields(root, "", report, known=("cases",), required=("cases",)).get("cases")
    if root is None:
        return []
    if not isinstance(root, Sequence):
        report.add(root, "", "expected a list of cases", "start each case with '- name:'")
        return []
    if not root.items:
        report.add(root, "", "the list is empty", "add at least one case")
    if len(root.items) > MAX_CASES:
        report.add(root, "", f"{len(root.items)} cases are too many", f"at most {MAX_CASES} a file")
        return []
    cases = [_case(node, f"[{i}]", policy, report) for i, node in enumerate(root.items)]
    seen: set[str] = set()
    for case, node in zip(cases, root.items, strict=True):
        if case.name and case.name in seen:
            report.add(node, "", "two cases have the same name", "choose another name")
        seen.add(case.name)
    return cases


def _case(node: Node, path: str, policy: CompiledPolicy, report: Report) -> Case:
    known = ("name", "given", "expect")
    fields = Fields(node, path, report, known=(*known, "texts"), required=known)
    name = fields.text("name", limit=MAX_NAME)
    given, expect = fields.get("given"), fields.get("expect")
    empty = Mapping({}, node.line, node.column)
    # After a missing field (already reported) the rest is read into a scratch report.
    scratch = Report(report.file)
    asked = as_given(given or empty, f"{path}.given", report if given else scratch)
    request, texts = read_given(asked), read_texts(fields, "texts", policy)
    if texts is not None:
        says_so = asked.get("personal") is not None or asked.get("injection") is not None
        request = seen_in(request, texts, says_so)
    expected = _expected(expect or empty, f"{path}.expect", policy, report if expect else scratch)
    if expected.guards.any and texts is None:
        fix = "add 'texts' with the input, and the output where there is one"
        report.add(node, path, "guards are expected to do something, and there is no text", fix)
    return Case(name, request, expected, texts, report.file, node.line)


def _expected(node: Node, path: str, policy: CompiledPolicy, report: Report) -> Expected:
    known = (
        *("allowed", "rule", "matched", "max_tokens", "obligations", "would"),
        *("validators", "redacted", "refused", "sent"),
    )
    fields = Fields(node, path, report, known=known, required=known[:2])
    rules = [rule.id for rule in policy.rules]
    would = fields.get("would")
    return Expected(
        allowed=fields.flag("allowed"),
        rule=_rule(fields, rules),
        max_tokens=fields.whole("max_tokens", 1, UNBOUNDED, null=True),
        checks_max_tokens=fields.get("max_tokens") is not None,
        matched=_matched(fields, rules),
        obligations=_obligations(fields),
        would=None if would is None else _would(would, fields.at("would"), rules, report),
        guards=read_expected(fields, policy),
    )


def _rule(fields: Fields, rules: Seq[str]) -> str:
    rule, node = fields.word("rule", NAME), fields.get("rule")
    if rule and rule not in (*rules, DEFAULT_DENY) and isinstance(node, Scalar):
        message = f"no rule has the id {rule!r}"
        fields.wrong(node, "rule", message, nearest(rule, (*rules, DEFAULT_DENY)))
    return rule


def _matched(fields: Fields, rules: Seq[str]) -> tuple[str, ...] | None:
    if fields.get("matched") is None:
        return None
    found = fields.names("matched", shape=NAME, empty=True)
    for item in found:
        if item.value not in rules:
            message = f"no rule has the id {item.value!r}"
            fields.report.add(item.node, item.path, message, nearest(item.value, rules))
    return tuple(item.value for item in found)


def _obligations(fields: Fields) -> dict[str, Seq[str]] | None:
    node = fields.get("obligations")
    if node is None:
        return None
    inner = Fields(node, fields.at("obligations"), fields.report, known=OBLIGATIONS)
    found: dict[str, Seq[str]] = {}
    for name in OBLIGATIONS:
        if inner.get(name) is None:
            continue
        if name == "retention":
            found[name] = (inner.text(name),)
        else:
            found[name] = tuple(item.value for item in inner.names(name, empty=True))
    return found


def _would(node: Node, path: str, rules: Seq[str], report: Report) -> tuple[bool, str]:
    known = ("allowed", "rule")
    fields = Fields(node, path, report, known=known, required=known)
    return fields.flag("allowed"), _rule(fields, rules)
