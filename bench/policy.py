"""One decision over twenty realistic rules, against other policy engines in the same run.

Every engine must first give the right answer to every request; then rounds alternate. "Growth" is
the time at 1,000 rules over ten times that at 100, where every rule is a candidate.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common import Bar, write_results
from policy_rules import RULES, Rule, Test, decide, requests

from exclave_policy.compile import compile_pack
from exclave_policy.evaluate import CompiledPolicy
from exclave_policy.model import Request
from exclave_policy.pack import Pack
from exclave_policy.workbench.lint import lint

HERE = Path(__file__).parent
PEERS = ("cedarpy", "regopy", "cel-python")
ROUNDS = 5
COUNTS = {"exclave": 4000, "cedarpy": 2000, "regopy": 500, "cel-python": 200}
"""Decisions a round."""
NAMES = {
    "data_class": "request.data_class",
    "max_tokens": "request.max_tokens",
    "stream": "request.stream",
    "message_count": "request.message_count",
    "inputs": "request.inputs",
    "prompt_bytes": "request.prompt_bytes",
    "priority": "request.priority",
    "workflow": "run.workflow",
    "hour": "time.hour",
    "weekday": "time.weekday",
    "roles": "subject.roles",
}


class Peer:
    """One engine in a process of its own environment."""

    def __init__(self, name: str, venv: Path) -> None:
        self._process = subprocess.Popen(
            [venv / "bin" / "python", HERE / "policy_peer.py", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, line: str) -> Any:
        """One line there, one JSON value back."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit("a peer ended: its error is above")
        return json.loads(answer)

    def close(self) -> None:
        """End it, and wait."""
        self._process.communicate(timeout=20)


def condition(test: Test) -> str:
    """A test in our language."""
    name, operator, value = test
    if operator in ("has", "lacks"):
        found = f"{json.dumps(value)} in {NAMES[name]}"
        return found if operator == "has" else f"!({found})"
    if isinstance(value, bool):
        return NAMES[name] if value else f"!{NAMES[name]}"
    return f"{NAMES[name]} {operator} {json.dumps(value)}"


def document(rules: Sequence[Rule]) -> str:
    """The rules as a Policy document. JSON is YAML."""

    def fields(rule: Rule) -> dict[str, Any]:
        found: dict[str, Any] = {"id": rule.id, "effect": rule.effect}
        if rule.roles:
            found["subjects"] = {"roles": list(rule.roles)}
        if rule.actions:
            found["actions"] = list(rule.actions)
        if rule.models:
            found["models"] = list(rule.models)
        if rule.tests:
            found["when"] = " && ".join(map(condition, rule.tests))
        return found

    head = {"apiVersion": "exclave.dev/v1", "kind": "Policy"}
    head["metadata"] = {"name": "bench", "version": "1"}  # type: ignore[assignment]  # JSON
    return json.dumps({**head, "spec": {"rules": [fields(rule) for rule in rules]}})


def compiled(rules: Sequence[Rule]) -> CompiledPolicy:
    """The rules as an agent runs them."""
    return compile_pack(Pack("bench", "1", {"policy.yaml": document(rules)}))


def request(asked: Mapping[str, Any]) -> Request:
    """A request as the agent puts it."""
    rest = {name: value for name, value in asked.items() if name != "roles"}
    return Request(subject="k", roles=tuple(asked["roles"]), **rest)


def timed(policy: CompiledPolicy, asked: Sequence[Request], count: int) -> list[float]:
    """Microseconds of each of `count` decisions."""
    spent = []
    for number in range(count):
        each = asked[number % len(asked)]
        started = time.perf_counter_ns()
        policy.evaluate(each)
        spent.append((time.perf_counter_ns() - started) / 1e3)
    return spent


def growth() -> dict[int, float]:
    """Median microseconds of a decision by the number of rules that are all candidates."""
    found = {}
    asked = [request({**requests()[0]})]
    for count in (10, 100, 1000):
        rules = [
            Rule(f"r{i}", "deny", tests=[("prompt_bytes", ">", 10**6 + i)])
            for i in range(count - 1)
        ]
        policy = compiled([*rules, Rule("a", "allow", ["analyst"], ["chat"], ["small"])])
        found[count] = statistics.median(timed(policy, asked, 40_000 // count))
    return found


def check_ms() -> float:
    """Median milliseconds to compile a pack of 200 rules and to lint it."""
    rules = [
        Rule(f"{rule.id}-{copy}", rule.effect, rule.roles, rule.actions, rule.models, rule.tests)
        for copy in range(200 // len(RULES))
        for rule in RULES
    ]
    pack = Pack("bench", "1", {"policy.yaml": document(rules)})
    spent = []
    for _ in range(5):
        started = time.perf_counter()
        lint(compile_pack(pack))
        spent.append(time.perf_counter() - started)
    return statistics.median(spent) * 1e3


def main() -> None:
    """Check, measure, write the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers-venv", type=Path, required=True)
    venv = parser.parse_args().peers_venv
    asked, policy = requests(), compiled(RULES)
    ours = [request(each) for each in asked]
    right = [decide(RULES, each) for each in asked]
    peers = {name: Peer(name, venv) for name in PEERS}
    answers = {name: peer.ask("check") for name, peer in peers.items()}
    answers["exclave"] = [policy.evaluate(each).allowed for each in ours]
    for name, given in answers.items():
        wrong = sum(a != b for a, b in zip(given, right, strict=True))
        if wrong:
            raise SystemExit(f"{name} answers {wrong} of {len(right)} requests wrongly")
    spent: dict[str, list[float]] = {name: [] for name in ("exclave", *PEERS)}
    for _ in range(ROUNDS):
        spent["exclave"] += timed(policy, ours, COUNTS["exclave"])
        for name, peer in peers.items():
            spent[name] += peer.ask(f"time {COUNTS[name]}")
    for peer in peers.values():
        peer.close()
    medians = {name: statistics.median(values) for name, values in spent.items()}
    grown, checked = growth(), check_ms()
    rows: list[dict[str, Any]] = [
        {
            "engine": name,
            "p50_us": medians[name],
            "p99_us": statistics.quantiles(values, n=100)[98],
            "times_ours": medians[name] / medians["exclave"],
        }
        for name, values in spent.items()
    ]
    rows += [{"rules": count, "p50_us": value} for count, value in grown.items()]
    rows.append({"requests": len(asked), "allowed": sum(right), "check_200_rules_ms": checked})
    bars = [
        Bar("one decision over 20 rules, p50 us", medians["exclave"], 50, "lower"),
        *(Bar(f"{name} / ours", medians[name] / medians["exclave"], 1, "higher") for name in PEERS),
        Bar("growth 100 to 1,000 rules", grown[1000] / (10 * grown[100]), 1.3, "lower"),
        Bar("check of a 200-rule pack, ms", checked, 300, "lower"),
    ]
    write_results("policy", rows, bars, {"cel-expr-python": version("cel-expr-python")})


if __name__ == "__main__":
    main()
