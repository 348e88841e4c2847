"""What is kept of a decision, beside the data: enough to explain it, and to ask it again of another
policy, without the pack that made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from exclave_policy.model import NO_FACTS, UNBOUNDED, Decision, Facts, Request
from exclave_policy.schema import VARIABLES, Value, activation

if TYPE_CHECKING:
    from exclave_policy.evaluate import CompiledPolicy

Json: TypeAlias = bool | int | str | list["Json"] | dict[str, "Json"] | None

_EXACT = 2**53
"""JSON readers agree on integers below it; larger ones are text."""


@dataclass(frozen=True, slots=True)
class RecordedRule:
    """A rule that matched."""

    id: str
    effect: str
    mode: str
    when: str
    """Its condition; "": it had none."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the record kept, read again."""

    names: Mapping[str, Value]
    rules: tuple[RecordedRule, ...]

    def request(self) -> Request:
        """What the policy was asked."""
        names = self.names
        tokens = _whole(names, "request.max_tokens")
        action = _text(names, "request.action")
        return Request(
            subject=_text(names, "subject.id"),
            roles=_texts(names, "subject.roles"),
            action=action,
            model=_text(names, "request.model"),
            resource=_text(names, _RESOURCE.get(action, "")),
            data_class=_text(names, "request.data_class"),
            max_tokens=None if tokens == UNBOUNDED else tokens,
            stream=names.get("request.stream") is True,
            schema=names.get("request.schema") is True,
            message_count=_whole(names, "request.message_count"),
            inputs=_whole(names, "request.inputs"),
            prompt_bytes=_whole(names, "request.prompt_bytes"),
            tools=_texts(names, "request.tools"),
            priority=_text(names, "request.priority"),
            facts=_facts(names),
            personal=_texts(names, "data.personal"),
            injection=_whole(names, "data.injection"),
            workflow=_text(names, "run.workflow"),
            run=_text(names, "run.id"),
            minute=_whole(names, "time.minute"),
            hour=_whole(names, "time.hour"),
            weekday=_whole(names, "time.weekday"),
            day=_whole(names, "time.day"),
            month=_whole(names, "time.month"),
            year=_whole(names, "time.year"),
        )


_RESOURCE = {
    "call_tool": "request.tool",
    "use_endpoint": "request.endpoint",
    "use_secret": "request.secret",
}


def explained(
    policy: CompiledPolicy, request: Request, decision: Decision, unseen: frozenset[str]
) -> dict[str, Json]:
    """The private value `policy` of a record: every declared name with its value but those that
    nobody found out, and the rules that matched, audited ones too, with their conditions."""
    would = () if decision.would is None else decision.would.matched
    rules: list[Json] = []
    for rule_id in dict.fromkeys((*decision.matched, *would)):
        rule = policy.rule(rule_id)
        if rule is not None:
            when = "" if rule.when is None else rule.when.source
            rules.append([rule.id, rule.effect, rule.mode, when])
    names: dict[str, Json] = {}
    for name, value in activation(request, VARIABLES.keys() - unseen).items():
        if isinstance(value, list):
            names[name] = [*value]
        else:
            large = isinstance(value, int) and not -_EXACT < value < _EXACT
            names[name] = str(value) if large else value
    return {"names": names, "rules": rules}


def read(value: object) -> Recorded | None:
    """A private value `policy`, read again; None when it is none of ours."""
    if not isinstance(value, dict):
        return None
    names, rules = value.get("names"), value.get("rules")
    if not isinstance(names, dict) or not isinstance(rules, list):
        return None
    found: dict[str, Value] = {}
    for name, each in names.items():
        variable = VARIABLES.get(name)
        if variable is None:
            continue  # of a later version; no condition of this one sees it
        if variable.type == "int" and isinstance(each, str):
            each = int(each) if each.lstrip("-").isdigit() and len(each) < 21 else each
        if not _fits(variable.type, each):
            return None
        found[name] = each
    shaped = all(
        isinstance(rule, list) and len(rule) == 4 and all(isinstance(text, str) for text in rule)
        for rule in rules
    )
    return Recorded(found, tuple(RecordedRule(*rule) for rule in rules)) if shaped else None


def _fits(kind: str, value: object) -> bool:
    if kind == "list(string)":
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    wanted = {"string": str, "int": int, "bool": bool}[kind]
    return isinstance(value, wanted) and (kind == "bool" or not isinstance(value, bool))


def _facts(names: Mapping[str, Value]) -> Facts:
    found = Facts(
        _text(names, "model.runtime"),
        _text(names, "model.provider"),
        names.get("model.remote") is True,
        _whole(names, "model.context_tokens"),
    )
    return NO_FACTS if found == NO_FACTS else found


def _text(names: Mapping[str, Value], name: str) -> str:
    value = names.get(name, "")
    return value if isinstance(value, str) else ""


def _texts(names: Mapping[str, Value], name: str) -> tuple[str, ...]:
    value = names.get(name, [])
    return tuple(value) if isinstance(value, list) else ()


def _whole(names: Mapping[str, Value], name: str) -> int:
    value = names.get(name, 0)
    return value if isinstance(value, int) else 0
