"""Every example in docs/policy.md is run, and its tables are the code's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from exclave_policy.cases import run_cases
from exclave_policy.conditions import (
    FUNCTIONS,
    MACROS,
    ConditionFailed,
    ConditionInvalid,
    bind,
    compile_condition,
)
from exclave_policy.evaluate import compile_pack
from exclave_policy.model import Request
from exclave_policy.pack import Pack, pack_files, unpack
from exclave_policy.routes import MAX_TARGETS, BreakerRule, Retry
from exclave_policy.schema import VARIABLES, activation
from exclave_testing.policies import problems

PAGE = (Path(__file__).parents[2] / "docs" / "policy.md").read_text()
EXAMPLES: dict[str, str] = dict(
    re.findall(r"<!-- example: (.+?) -->\n```[a-z]+\n(.*?)```", PAGE, re.DOTALL)
)


def test_every_marked_example_is_known_here() -> None:
    assert set(EXAMPLES) == {
        "policy helpdesk",
        "conditions admitted",
        "conditions refused",
        "conditions that hide failures",
        "refused",
        "faults",
        "cases helpdesk",
        "pack",
        "route",
        "budget",
        "cache",
    }
    unmarked = PAGE.count("```") // 2 - len(EXAMPLES)
    assert unmarked == 1  # the editor's comment


def test_the_policy_passes_its_cases_and_they_reach_every_rule() -> None:
    files = {"policy.yaml": EXAMPLES["policy helpdesk"], "cases.yaml": EXAMPLES["cases helpdesk"]}
    report = run_cases(Pack("helpdesk", "1.0", files))
    assert report.complete, str(report)


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
        assert default in PAGE.split("## Routes")[1].split("## Budgets")[0], default


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
    admitted = PAGE.split("What is admitted:")[1].split("What is not admitted")[0]
    assert all(f"`{name}`" in admitted for name in (*FUNCTIONS, *MACROS))


def test_the_budget_and_the_cache_are_read_beside_the_policy() -> None:
    names = ("policy helpdesk", "budget", "cache")
    files = {f"policies/{i}.yaml": EXAMPLES[name] for i, name in enumerate(names)}
    policy = compile_pack(Pack("docs", "1", files))
    assert policy.budget is not None
    assert policy.budget.teams[0].workflows["triage"].run is not None
    assert policy.cache is not None
    assert policy.cache.semantic is not None
