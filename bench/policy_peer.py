"""The peers' side of bench/policy.py; runs in their environment.

`policy_peer.py PEER`: reads "check" or "time N" from stdin, a line each, and prints one JSON value
for each. PEER is cedarpy, regopy or cel-python.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from policy_rules import RULES, Rule, Test, requests

Decide = Callable[[Mapping[str, Any]], bool]


def cedar() -> Decide:
    """Parsed once; the request's roles are the principal's groups."""
    import cedarpy

    def test(each: Test) -> str:
        name, operator, value = each
        if operator in ("has", "lacks"):
            found = f"context.roles.contains({json.dumps(value)})"
            return found if operator == "has" else f"!{found}"
        if operator == "in":
            return f"{json.dumps(value)}.contains(context.{name})"
        return f"context.{name} {operator} {json.dumps(value)}"

    def policy(rule: Rule) -> str:
        tests = [test(each) for each in rule.tests]
        if rule.roles:
            tests.append(f"{json.dumps(list(rule.roles))}.containsAny(context.roles)")
        actions = [f'Action::"{each}"' for each in rule.actions]
        action = f"action in [{', '.join(actions)}]" if actions else "action"
        models = [f'resource == Model::"{each}"' for each in rule.models]
        if models:
            tests.append(f"({' || '.join(models)})")
        when = f" when {{ {' && '.join(tests)} }}" if tests else ""
        effect = "permit" if rule.effect == "allow" else "forbid"
        return f"{effect}(principal, {action}, resource){when};"

    policies = cedarpy.PolicySet.from_str("\n".join(policy(rule) for rule in RULES))
    entities = cedarpy.Entities.from_json_str("[]")

    def decide(asked: Mapping[str, Any]) -> bool:
        context = {name: v for name, v in asked.items() if name not in ("action", "model")}
        request = {
            "principal": 'Key::"k"',
            "action": f'Action::"{asked["action"]}"',
            "resource": f'Model::"{asked["model"]}"',
            "context": context,
        }
        return bool(cedarpy.is_authorized(request, policies, entities).allowed)

    return decide


def rego() -> Decide:
    """Compiled into a bundle once."""
    from regopy import Input, Interpreter

    def test(each: Test) -> str:
        name, operator, value = each
        if operator in ("has", "lacks"):
            found = f"{json.dumps(value)} in input.roles"
            return found if operator == "has" else f"not {found}"
        if operator == "in":
            return f"input.{name} in {json.dumps(value)}"
        return f"input.{name} {operator} {json.dumps(value)}"

    def rule(each: Rule) -> str:
        tests = [test(one) for one in each.tests]
        if each.actions:
            tests.insert(0, f"input.action in {json.dumps(list(each.actions))}")
        if each.models:
            tests.insert(0, f"input.model in {json.dumps(list(each.models))}")
        if each.roles:
            tests.insert(0, f"some role in input.roles\n  role in {json.dumps(list(each.roles))}")
        head = "permit" if each.effect == "allow" else "forbid"
        body = "\n  ".join(tests)
        return f"{head} if {{\n  {body}\n}}"

    module = "package p\nimport rego.v1\ndefault allow := false\ndefault permit := false\n"
    module += "default forbid := false\nallow if {\n  permit\n  not forbid\n}\n"
    module += "\n".join(rule(each) for each in RULES)
    interpreter = Interpreter()
    interpreter.add_module("p", module)
    bundle = interpreter.build("data.p.allow")

    def decide(asked: Mapping[str, Any]) -> bool:
        interpreter.set_input(Input(dict(asked)))
        said = str(interpreter.query_bundle(bundle))
        # A bundle says so where the default would be taken.
        return said != "undefined" and bool(json.loads(said)["expressions"][0])

    return decide


def python_cel() -> Decide:
    """Behind the same index of roles, actions and models that we have: only conditions are its."""
    import celpy
    from celpy import celtypes

    def test(each: Test) -> str:
        name, operator, value = each
        if operator in ("has", "lacks"):
            found = f"{json.dumps(value)} in roles"
            return found if operator == "has" else f"!({found})"
        return f"{name} {operator} {json.dumps(value)}"

    environment = celpy.Environment()
    compiled = [
        (
            rule,
            environment.program(environment.compile(" && ".join(map(test, rule.tests))))
            if rule.tests
            else None,
        )
        for rule in sorted(RULES, key=lambda rule: rule.effect != "deny")
    ]

    def decide(asked: Mapping[str, Any]) -> bool:
        roles = set(asked["roles"])
        values = celpy.json_to_cel(dict(asked))
        allowed = False
        for rule, program in compiled:
            if rule.roles and roles.isdisjoint(rule.roles):
                continue
            if rule.actions and asked["action"] not in rule.actions:
                continue
            if rule.models and asked["model"] not in rule.models:
                continue
            if program is not None and program.evaluate(values) != celtypes.BoolType(True):
                continue
            if rule.effect == "deny":
                return False
            allowed = True
        return allowed

    return decide


PEERS: Mapping[str, Callable[[], Decide]] = {
    "cedarpy": cedar,
    "regopy": rego,
    "cel-python": python_cel,
}


def timed(decide: Decide, asked: Sequence[Mapping[str, Any]], count: int) -> list[float]:
    """Microseconds of each of `count` decisions."""
    spent = []
    for number in range(count):
        each = asked[number % len(asked)]
        started = time.perf_counter_ns()
        decide(each)
        spent.append((time.perf_counter_ns() - started) / 1e3)
    return spent


def main() -> None:
    """Serve one peer until stdin ends."""
    decide, asked = PEERS[sys.argv[1]](), requests()
    for line in sys.stdin:
        word, *rest = line.split()
        answer: Any
        if word == "check":
            answer = [decide(each) for each in asked]
        else:
            answer = timed(decide, asked, int(rest[0]))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
