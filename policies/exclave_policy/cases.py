"""Runs a pack's cases: what was asked, what was expected, and which rules no case reached."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

from exclave_policy.errors import PolicyInvalid, Problem, nearest
from exclave_policy.evaluate import CompiledPolicy, compile_pack
from exclave_policy.fields import MODEL, NAME, ROLE, Fields, Item
from exclave_policy.model import ACTIONS, DEFAULT_DENY, UNBOUNDED, Decision, Request
from exclave_policy.pack import Pack
from exclave_policy.source import Mapping, Node, Report, Scalar, Sequence, parse, read_text

MAX_CASES = 2000
"""Most cases of one file."""
MAX_NAME = 200


@dataclass(frozen=True, slots=True)
class Expected:
    """What a case says of its decision. `checks_max_tokens`: whether it says anything of that."""

    allowed: bool
    rule: str
    max_tokens: int | None
    checks_max_tokens: bool


@dataclass(frozen=True, slots=True)
class Case:
    """One case."""

    name: str
    request: Request
    expected: Expected
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
    reached: set[str] = set()
    for case in cases:
        trace = policy.trace(case.request)
        reached.update(trace.matched)
        text = _difference(case.expected, trace.decision)
        if text:
            failures.append(CaseFailure(case.name, case.file, case.line, text))
    ids = [rule.id for rule in policy.rules]
    return CasesReport(
        name=pack.name,
        version=pack.version,
        passed=len(cases) - len(failures),
        failures=tuple(failures),
        covered=tuple(rule for rule in ids if rule in reached),
        uncovered=tuple(rule for rule in ids if rule not in reached),
    )


def _difference(expected: Expected, got: Decision) -> str:
    """In words, or "" when they agree."""
    if (expected.allowed, expected.rule) != (got.allowed, got.rule):
        want = f"{'allowed' if expected.allowed else 'denied'} by {expected.rule}"
        have = f"{'allowed' if got.allowed else 'denied'} by {got.rule}"
        return f"expected {want}, but it was {have} ({got.reason})"
    if expected.checks_max_tokens and expected.max_tokens != got.max_tokens:
        return f"expected max_tokens {_limit(expected.max_tokens)}, found {_limit(got.max_tokens)}"
    return ""


def _limit(value: int | None) -> str:
    return "without limit" if value is None else str(value)


# --- reading --------------------------------------------------------------------------------


def _read_all(pack: Pack, policy: CompiledPolicy) -> tuple[list[Case], list[Problem]]:
    cases: list[Case] = []
    problems: list[Problem] = []
    rules = [rule.id for rule in policy.rules]
    for path in pack.cases():
        report = Report(path)
        cases.extend(_read(pack.files[path].encode("utf-8", "surrogatepass"), rules, report))
        problems.extend(report.all())
    return cases, problems


def _read(raw: bytes, rules: Seq[str], report: Report) -> list[Case]:
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
    cases = [_case(node, f"[{i}]", rules, report) for i, node in enumerate(root.items)]
    seen: set[str] = set()
    for case, node in zip(cases, root.items, strict=True):
        if case.name and case.name in seen:
            report.add(node, "", "two cases have the same name", "choose another name")
        seen.add(case.name)
    return cases


def _case(node: Node, path: str, rules: Seq[str], report: Report) -> Case:
    known = ("name", "given", "expect")
    fields = Fields(node, path, report, known=known, required=known)
    name = fields.text("name", limit=MAX_NAME)
    given, expect = fields.get("given"), fields.get("expect")
    empty = Mapping({}, node.line, node.column)
    # After a missing field (already reported) the rest is read into a scratch report.
    scratch = Report(report.file)
    request = _request(given or empty, f"{path}.given", report if given else scratch)
    expected = _expected(expect or empty, f"{path}.expect", rules, report if expect else scratch)
    return Case(name, request, expected, report.file, node.line)


def _request(node: Node, path: str, report: Report) -> Request:
    known = (
        "subject",
        "roles",
        "action",
        "model",
        "data_class",
        "max_tokens",
        "stream",
        "message_count",
        "prompt_bytes",
        "hour",
        "weekday",
    )
    fields = Fields(node, path, report, known=known, required=("roles", "action", "model"))
    roles: list[Item] = fields.names("roles", shape=ROLE, empty=True)
    return Request(
        subject=fields.text("subject", limit=128, default="case"),
        roles=tuple(item.value for item in roles),
        action=fields.choice("action", ACTIONS),
        model=fields.word("model", MODEL),
        data_class=fields.text("data_class", limit=128),
        max_tokens=fields.whole("max_tokens", 0, UNBOUNDED, null=True),
        stream=fields.flag("stream"),
        message_count=fields.whole("message_count", 0, UNBOUNDED) or 0,
        prompt_bytes=fields.whole("prompt_bytes", 0, UNBOUNDED) or 0,
        hour=fields.whole("hour", 0, 23) or 0,
        weekday=fields.whole("weekday", 0, 6) or 0,
    )


def _expected(node: Node, path: str, rules: Seq[str], report: Report) -> Expected:
    known = ("allowed", "rule", "max_tokens")
    fields = Fields(node, path, report, known=known, required=known[:2])
    rule = fields.word("rule", NAME)
    given = fields.get("rule")
    if rule and rule not in (*rules, DEFAULT_DENY) and isinstance(given, Scalar):
        message = f"no rule has the id {rule!r}"
        report.add(given, fields.at("rule"), message, nearest(rule, (*rules, DEFAULT_DENY)))
    return Expected(
        allowed=fields.flag("allowed"),
        rule=rule,
        max_tokens=fields.whole("max_tokens", 1, UNBOUNDED, null=True),
        checks_max_tokens=fields.get("max_tokens") is not None,
    )
