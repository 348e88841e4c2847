"""Every example in the pages about policies is run, and their tables are the code's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import exclave_policy
from exclave_policy.admission import FUNCTIONS, LITERALS, MACROS, OPERATORS, TYPES
from exclave_policy.compile import compile_pack
from exclave_policy.conditions import ConditionFailed, ConditionInvalid, bind, compile_condition
from exclave_policy.document import KINDS, read_document
from exclave_policy.kinds.routes import MAX_TARGETS, BreakerRule, Retry
from exclave_policy.model import Decision, Request
from exclave_policy.pack import Pack, pack_files, unpack
from exclave_policy.schema import VARIABLES, activation
from exclave_policy.source import Report
from exclave_policy.workbench.cases import run_cases
from exclave_testing.policies import problems

DOCS = Path(__file__).parents[2] / "docs"
SCHEMAS = Path(exclave_policy.__file__).parent / "schemas"


def examples(page: str) -> dict[str, str]:
    """The marked examples of a page."""
    marked = r"<!-- example: (.+?) -->\n```[a-z]+\n(.*?)```"
    found: list[tuple[str, str]] = re.findall(marked, page, re.DOTALL)
    return dict(found)


PAGE = (DOCS / "policy.md").read_text()
DOCUMENTS = (DOCS / "documents.md").read_text()
WORKBENCH = (DOCS / "policy-workbench.md").read_text()
EXAMPLES = examples(PAGE) | examples(DOCUMENTS) | examples(WORKBENCH)
KIND_OF = {
    "route": "Route",
    "budget": "Budget",
    "cache": "Cache",
    "validator": "Validator",
    "validator of inputs": "Validator",
    "redaction": "Redaction",
    "approval": "Approval",
    "retention": "Retention",
    "telemetry": "Telemetry",
    "finality": "Finality",
}
NAMED = {"schemas/claim.json": "{}", "prompts/judge.md": "{output}"}
"""Files that documents of the pages name."""


def test_every_marked_example_is_known_here() -> None:
    assert set(examples(DOCUMENTS)) == set(KIND_OF)
    assert DOCUMENTS.count("```") // 2 == len(KIND_OF)
    assert set(examples(PAGE)) == {
        "policy helpdesk",
        "conditions admitted",
        "conditions refused",
        "conditions that hide failures",
        "refused",
        "faults",
        "policy reach",
    }
    assert set(examples(WORKBENCH)) == {"cases helpdesk", "pack"}
    unmarked = PAGE.count("```") // 2 - len(examples(PAGE))
    assert unmarked == 1  # the editor's comment


def test_the_policy_passes_its_cases_and_they_reach_every_rule() -> None:
    files = {"policy.yaml": EXAMPLES["policy helpdesk"], "cases.yaml": EXAMPLES["cases helpdesk"]}
    report = run_cases(Pack("helpdesk", "1.0", files))
    assert report.complete, str(report)


def test_what_the_page_says_of_reach() -> None:
    policy = compile_pack(Pack("reach", "1.0", {"policy.yaml": EXAMPLES["policy reach"]}))

    def asked(action: str, model: str, resource: str, data_class: str = "") -> Decision:
        return policy.evaluate(
            Request("k", ("clerk",), action, model, resource=resource, data_class=data_class)
        )

    assert asked("call_tool", "house", "get_order").rule == "clerks-tools"
    assert not asked("call_tool", "cloud", "get_order").allowed
    assert not asked("call_tool", "house", "drop_table").allowed
    assert asked("use_endpoint", "cloud", "api.openai.com", "public").rule == "clerks-cloud"
    assert not asked("use_endpoint", "cloud", "api.openai.com").allowed
    assert asked("chat", "house", "").max_tokens == 100  # at midnight
    assert not asked("embed", "house", "").allowed


def test_the_route_is_compiled_beside_the_policy() -> None:
    files = {"policy.yaml": EXAMPLES["policy helpdesk"], "policies/route.yaml": EXAMPLES["route"]}
    route = compile_pack(Pack("helpdesk", "1.0", files)).routes["claims-assistant"]
    assert [target.model for target in route.targets] == [
        "cloud-large",
        "house-large",
        "house-small",
    ]
    assert route.otherwise.person is not None


def test_the_routes_defaults_are_those_of_the_page() -> None:
    for default in (
        f'"{Retry().ratio}", {Retry().burst}',
        f"{BreakerRule().window_seconds}, {BreakerRule().min_requests}",
        f'"{BreakerRule().error_rate}", off, off',
        f"| {BreakerRule().open_seconds} |",
        f"1 to {MAX_TARGETS}, {Retry().attempts}",
    ):
        assert default in DOCUMENTS.split("## Routes")[1].split("## Budgets")[0], default


def test_the_pack_names_its_policies() -> None:
    files = {"pack.yaml": EXAMPLES["pack"], "policies/a.yaml": EXAMPLES["policy helpdesk"]}
    pack = unpack(pack_files({path: text.encode() for path, text in files.items()}))
    assert (pack.name, pack.version) == ("front-office", "2.1.0")


def test_the_faults_are_those_of_the_refused_policy() -> None:
    found = [str(problem) for problem in problems(EXAMPLES["refused"])]
    assert found == EXAMPLES["faults"].splitlines()


@pytest.mark.parametrize("source", EXAMPLES["conditions admitted"].splitlines())
def test_admitted_conditions(source: str) -> None:
    assert compile_condition(source).source == source


@pytest.mark.parametrize("line", EXAMPLES["conditions refused"].splitlines())
def test_refused_conditions(line: str) -> None:
    source, reason = re.split(r"\s+-> ", line)
    with pytest.raises(ConditionInvalid) as caught:
        compile_condition(source)
    assert any(reason in f"{f.message} ({f.fix})" for f in caught.value.faults)


@pytest.mark.parametrize("line", EXAMPLES["conditions that hide failures"].splitlines())
def test_what_a_failure_beside_an_answer_gives(line: str) -> None:
    source, says = re.split(r"\s+-> ", line)
    condition = compile_condition(source)
    bound = bind(activation(Request("somebody", (), "chat", "smollm2")))
    if says == "fails":
        with pytest.raises(ConditionFailed):
            condition.holds(bound)
    else:
        assert condition.holds(bound) is (says == "true")


def test_the_table_of_names_is_the_declared_schema() -> None:
    table = PAGE.split("<!-- names -->\n")[1].split("\n\n")[0].splitlines()[2:]
    rows = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in table]
    assert rows == [(f"`{name}`", v.type, v.meaning) for name, v in VARIABLES.items()]


def test_functions_and_macros_are_listed() -> None:
    admitted = PAGE.split("What is admitted:")[1].split("The rest of CEL")[0]
    rows = dict(re.findall(r"^\| (\w+) \| (.+) \|$", admitted, re.MULTILINE))
    named = {what: re.findall(r"`([^`]+)`", row.replace("\\|", "|")) for what, row in rows.items()}
    assert named == {
        "literals": list(LITERALS),
        "operators": list(OPERATORS),
        "functions": list(FUNCTIONS),
        "macros": list(MACROS),
        "types": list(TYPES),
    }


def test_the_budget_and_the_cache_are_read_beside_the_policy() -> None:
    names = ("policy helpdesk", "budget", "cache")
    files = {f"policies/{i}.yaml": EXAMPLES[name] for i, name in enumerate(names)}
    policy = compile_pack(Pack("docs", "1", files))
    assert policy.budget is not None
    assert policy.budget.teams[0].workflows["triage"].run is not None
    assert policy.cache is not None
    assert policy.cache.semantic is not None


def test_a_document_of_each_kind_stands_on_the_page_and_is_taken() -> None:
    assert {*KIND_OF.values(), "Policy"} == set(KINDS)
    files = {f"policies/{name.replace(' ', '-')}.yaml": EXAMPLES[name] for name in KIND_OF}
    pack = Pack("docs", "1", files | NAMED | {"policy.yaml": EXAMPLES["policy helpdesk"]})
    policy = compile_pack(pack)
    assert set(policy.validators) == {"refund-claim", "no-other-orders"}
    assert len(policy.redactions) == len(policy.approvals) == len(policy.routes) == 1
    assert None not in (policy.budget, policy.cache, policy.retention, policy.telemetry)
    assert policy.finality is not None
    for name, kind in KIND_OF.items():
        assert f"\nkind: {kind}\n" in EXAMPLES[name]


def test_the_table_of_kinds_is_what_is_read() -> None:
    table = DOCUMENTS.split("<!-- kinds -->\n")[1].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert [re.findall(r"`(.+?)`", row[0])[0] for row in rows] == list(KINDS)
    for (_, _, _, schema), kind in zip(rows, KINDS, strict=True):
        assert schema == f"`{kind.lower()}.v1.schema.json`"
        assert (SCHEMAS / schema.strip("`")).is_file()


def test_every_field_of_a_kind_is_named_on_its_part_of_the_page() -> None:
    parts = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", DOCUMENTS, re.DOTALL | re.MULTILINE))
    for part, kind in (
        *(("Validators", "validator"), ("Redactions", "redaction"), ("Approvals", "approval")),
        *(("Retention", "retention"), ("Telemetry", "telemetry"), ("Finality", "finality")),
    ):
        schema = json.loads((SCHEMAS / f"{kind}.v1.schema.json").read_text())
        for field in fields_of([schema["properties"]["spec"], schema.get("$defs", {})]):
            assert re.search(rf"[`.{{ ]{field}[`:.]", parts[part]), (part, field)


def fields_of(value: Any) -> set[str]:
    """Names of all fields that a schema knows."""
    if isinstance(value, list):
        return set().union(*map(fields_of, value))
    if not isinstance(value, dict):
        return set()
    own = set(value["properties"]) if isinstance(value.get("properties"), dict) else set()
    return own.union(*map(fields_of, value.values()))


@pytest.mark.parametrize("page", ["guards.md", "redaction.md"])
def test_documents_on_other_pages_are_taken(page: str) -> None:
    path = DOCS / page
    for name, text in examples(path.read_text()).items() if path.exists() else ():
        if text.startswith("apiVersion:"):
            report = Report(f"{page}: {name}")
            read_document(text.encode(), report, NAMED)
            assert [p for p in report.all() if "the pack has no file" not in p.message] == []
