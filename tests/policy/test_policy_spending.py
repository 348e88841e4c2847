"""Documents of kind Budget and Cache: what they mean, what is refused and where, their schemas."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import exclave_policy
from exclave_policy.compile import compile_pack
from exclave_policy.errors import PolicyInvalid
from exclave_policy.evaluate import CompiledPolicy
from exclave_policy.kinds.budgets import Budget, Limits
from exclave_policy.kinds.caching import CachePolicy, Semantic, problems_of
from exclave_policy.pack import Pack
from exclave_testing.damage import damaged
from exclave_testing.policies import allow, document

SCHEMAS = Path(exclave_policy.__file__).parent / "schemas"
RULES = json.dumps(document(allow("a")))

BUDGET = """apiVersion: exclave.dev/v1
kind: Budget
metadata: {name: acme, version: "1"}
spec:
  currency: EUR
  tenant: {money: "500", per: month}
  teams_only: true
  teams:
    - name: claims
      roles: [clerk, claims-lead]
      tokens: 2000000
      money: "40.05"
      per: day
      workflows_only: true
      workflows:
        - name: triage
          tokens: 500000
          per: total
          run: {tokens: 20000, money: "0.000001"}
        - name: letters
          money: "0"
          per: day
    - name: everybody-else
      roles: ["*"]
      tokens: 1
      per: day
"""
CACHE = """apiVersion: exclave.dev/v1
kind: Cache
metadata: {name: acme, version: "1"}
spec:
  models: [smollm2]
  data_classes: ["", public]
  ttl_seconds: 3600
  max_mib: 16
  share: subject
  semantic:
    data_classes: [public]
    threshold: "0.95"
    embed_model: minilm
"""


def compiled(**texts: str) -> CompiledPolicy:
    files = {f"policies/{name}.yaml": text for name, text in texts.items()}
    return compile_pack(Pack("test", "1", {"policy.yaml": RULES} | files))


def faults(text: str) -> list[str]:
    try:
        compiled(doc=text)
    except PolicyInvalid as invalid:
        return [str(problem).partition("doc.yaml:")[2] for problem in invalid.problems]
    return []


def budget() -> Budget:
    found = compiled(budget=BUDGET).budget
    assert found is not None
    return found


def test_a_budget_is_read_in_millionths() -> None:
    found = budget()
    assert (found.currency, found.teams_only) == ("EUR", True)
    assert found.tenant == Limits(None, 500_000_000, "month")
    claims, rest = found.teams
    assert (claims.limits, claims.workflows_only) == (Limits(2_000_000, 40_050_000, "day"), True)
    assert list(claims.workflows) == ["triage", "letters"]
    assert claims.workflows["triage"].limits == Limits(500_000, None, "total")
    assert claims.workflows["triage"].run == Limits(20_000, 1, "total")
    assert claims.workflows["letters"].limits == Limits(None, 0, "day")
    assert claims.workflows["letters"].run is None
    assert (rest.limits, dict(rest.workflows)) == (Limits(1, None, "day"), {})


@pytest.mark.parametrize(
    ("roles", "team"),
    [
        (("clerk",), "claims"),
        (("guest", "claims-lead"), "claims"),
        (("guest",), "everybody-else"),
        ((), "everybody-else"),
    ],
)
def test_the_first_team_that_fits_counts(roles: tuple[str, ...], team: str) -> None:
    found = budget().team_of(roles)
    assert found is not None
    assert found.name == team


def test_without_a_team_for_everybody_some_have_none() -> None:
    text = BUDGET.partition("    - name: everybody-else")[0]
    found = compiled(budget=text).budget
    assert found is not None
    assert found.team_of(("guest", "*x")) is None


def test_a_cache_is_read() -> None:
    found = compiled(cache=CACHE).cache
    assert found == CachePolicy(
        models=frozenset({"smollm2"}),
        data_classes=frozenset({"", "public"}),
        ttl_seconds=3600,
        max_mib=16,
        share="subject",
        semantic=Semantic(frozenset({"public"}), Decimal("0.95"), "minilm"),
    )
    assert found.covers("smollm2", "")
    assert not found.covers("smollm2", "health")
    assert not found.covers("other", "public")


def test_a_cache_keeps_exact_answers_of_the_tenant_unless_told_more() -> None:
    text = CACHE.partition("  max_mib")[0].replace("[smollm2]", '["*"]')
    found = compiled(cache=text).cache
    assert found is not None
    assert (found.max_mib, found.share, found.semantic) == (64, "tenant", None)
    assert found.covers("anything", "public")


def test_a_pack_without_them_has_none() -> None:
    assert (compiled().budget, compiled().cache) == (None, None)


@pytest.mark.parametrize(("name", "text"), [("Budget", BUDGET), ("Cache", CACHE)])
def test_two_of_them_are_refused(name: str, text: str) -> None:
    with pytest.raises(PolicyInvalid, match=f"second document of kind {name}"):
        compiled(a=text, b=text)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("  currency: EUR\n", "", '5:19: spec: an amount of money, and no currency (add spec.curr'),
        ("EUR", "eur", "5:13: spec.currency: this is not the code of a currency (use an ISO 4217"),
        ('"500"', "500", "6:19: spec.tenant.money: an amount must be text (write an amount in quo"),
        ('"500"', '"5,00"', "6:19: spec.tenant.money: this is not an amount of money (write an"),
        ('"500"', '"1.0000001"', "6:19: spec.tenant.money: this is not an amount of money"),
        ('"500"', '"-1"', "6:19: spec.tenant.money: this is not an amount of money"),
        (", per: month", "", "6:11: spec.tenant: a limit, and no period (add 'per': day, month"),
        ("per: month", "per: week", "6:31: spec.tenant.per: 'week' is not allowed here (known"),
        ('{money: "500", per: month}', "{}", "6:11: spec.tenant: nothing is limited (add 'tokens'"),
        ("  teams_only: true\n", "  teams_onyl: true\n", "unknown field 'teams_onyl' (did you m"),
        ("name: everybody-else", "name: claims", "23:13: spec.teams[1].name: 'claims' is taken"),
        ("name: letters", "name: triage", "workflows[1].name: 'triage' is taken (choose another"),
        ("tokens: 500000", "tokens: -1", "17:19: spec.teams[0].workflows[0].tokens: the number is"),
        ("{tokens: 20000", "{per: day", "workflows[0].run: unknown field 'per'"),
        ('{tokens: 20000, money: "0.000001"}', "{}", "19:16: spec.teams[0].workflows[0].run: noth"),
        ("[clerk, claims-lead]", "[Clerk]", "10:15: spec.teams[0].roles[0]: 'Clerk' is not a val"),
        ("  teams:\n", "  team:\n", "unknown field 'team' (did you mean 'teams'?"),
    ],
)  # fmt: skip
def test_faults_of_a_budget_have_their_place(old: str, new: str, fault: str) -> None:
    assert old in BUDGET
    found = faults(BUDGET.replace(old, new, 1))
    assert any(fault in one for one in found), found


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("ttl_seconds: 3600", "ttl_seconds: 0", "7:16: spec.ttl_seconds: the number is out of"),
        ("  ttl_seconds: 3600\n", "", "field 'ttl_seconds' is missing"),
        ('["", public]', "[]", "6:17: spec.data_classes: the list is empty"),
        ('["", public]', '["*"]', "spec.data_classes[0]: '*' is not a valid name (use at most 64"),
        ("[public]", "[health]", "11:20: spec.semantic.data_classes[0]: nothing of this class is"),
        ('"0.95"', "0.95", "12:16: spec.semantic.threshold: a threshold must be text"),
        ('"0.95"', '"0.4"', "12:16: spec.semantic.threshold: this is not a similarity"),
        ('"0.95"', '"1.01"', "12:16: spec.semantic.threshold: this is not a similarity"),
        ("    embed_model: minilm\n", "", "field 'embed_model' is missing"),
        ("share: subject", "share: everybody", "9:10: spec.share: 'everybody' is not allowed here"),
    ],
)
def test_faults_of_a_cache_have_their_place(old: str, new: str, fault: str) -> None:
    assert old in CACHE
    found = faults(CACHE.replace(old, new, 1))
    assert any(fault in one for one in found), found


# --- the published schemas ----------------------------------------------------------------------


def validator(name: str) -> Any:
    return jsonschema_rs.validator_for(json.loads((SCHEMAS / f"{name}.v1.schema.json").read_text()))


def plain(text: str) -> Any:
    import yaml

    return yaml.safe_load(text)


FULL = {"budget": plain(BUDGET), "cache": plain(CACHE)}
BEYOND = ("is taken", "and no currency", "nothing of this class")
"""Faults that a schema cannot find."""


def both_say(name: str, value: Any) -> tuple[bool, bool, list[str]]:
    found = faults(json.dumps(value))
    mine = [one for one in found if not any(word in one for word in BEYOND)]
    return validator(name).is_valid(value), not mine, found


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2**54),
    st.sampled_from(["", "*", "a", "A b", "EUR", "day", "0.7", "1", "1.0", "01", "40", "x" * 70]),
    st.sampled_from([[], ["*"], ["*", "a"], ["a", "a"], [1], {}, {"tokens": 5}, {"x": 1}]),
)
NAMES = st.sampled_from(
    ["name", "tokens", "money", "per", "run", "teams_only", "workflows_only", "share", "extra"]
)


@pytest.mark.parametrize("name", ["budget", "cache"])
@settings(max_examples=400, deadline=None, derandomize=True)
@given(data=st.data())
def test_schema_and_parser_refuse_the_same_documents(name: str, data: st.DataObject) -> None:
    assert both_say(name, FULL[name])[:2] == (True, True)
    value = damaged(data, FULL[name], odd=ODD, names=NAMES)
    if value.get("kind") != FULL[name]["kind"]:
        return  # of another kind, or none: another schema's document
    schema, parser, found = both_say(name, value)
    assert schema == parser, found


def test_similar_questions_need_a_model_that_embeds_on_the_machine() -> None:
    semantic = Semantic(frozenset({""}), Decimal("0.9"), "embedder")
    cache = CachePolicy(frozenset({"*"}), frozenset({""}), 60, semantic=semantic)
    assert problems_of(cache, {"embedder": frozenset({"embed"})}) == []
    wrong: list[dict[str, frozenset[str]]] = [{}, {"embedder": frozenset({"chat"})}]
    for local in wrong:
        (problem,) = problems_of(cache, local)
        assert "embed_model embedder" in problem
    assert problems_of(replace(cache, semantic=None), {}) == problems_of(None, {}) == []


def test_accounts_know_their_lines() -> None:
    found = budget()
    team = found.teams[0]
    workflow = team.workflows["triage"]
    assert workflow.run is not None
    lines = (found.tenant, team, team.limits, workflow, workflow.limits, workflow.run)
    assert [each.line for each in lines] == [6, 9, 9, 16, 16, 19]
    assert (found.file, found.line) == ("policies/budget.yaml", 1)
