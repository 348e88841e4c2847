"""Builders for policies: the shortest way from a few rules to a compiled pack."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from exclave_policy.compile import compile_pack
from exclave_policy.errors import PolicyInvalid, Problem
from exclave_policy.evaluate import CompiledPolicy
from exclave_policy.model import Request
from exclave_policy.pack import Pack

HEAD = """apiVersion: exclave.dev/v1
kind: Policy
metadata: {name: test, version: "1"}
spec:
  rules:
"""


def allow(rule: str, **fields: Any) -> dict[str, Any]:
    """An allow rule: analysts chat with any model, unless told otherwise."""
    given = {
        "id": rule,
        "effect": "allow",
        "subjects": {"roles": ["analyst"]},
        "actions": ["chat"],
        "models": ["*"],
    }
    return given | fields


def deny(rule: str, **fields: Any) -> dict[str, Any]:
    """A deny rule about everyone and everything, unless told otherwise."""
    return {"id": rule, "effect": "deny"} | fields


def document(*rules: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """A Policy document with these rules."""
    return {
        "apiVersion": "exclave.dev/v1",
        "kind": "Policy",
        "metadata": {"name": "test", "version": "1"},
        "spec": {"rules": list(rules)},
    } | changes


def pack_of(*texts: str, cases: str | None = None) -> Pack:
    """A pack of these policy documents, and cases if given."""
    names = ["policy.yaml", *(f"policy-{i}.yaml" for i in range(1, len(texts)))]
    files = dict(zip(names, texts, strict=True))
    return Pack("test", "1", files | ({} if cases is None else {"cases.yaml": cases}))


def compiled(*rules: Mapping[str, Any]) -> CompiledPolicy:
    """These rules, compiled. JSON is YAML."""
    return compile_pack(pack_of(json.dumps(document(*rules))))


def problems(*texts: str) -> Sequence[Problem]:
    """The faults of these documents; empty when there are none."""
    try:
        compile_pack(pack_of(*texts))
    except PolicyInvalid as invalid:
        return invalid.problems
    return []


def ask(action: str = "chat", model: str = "m", roles: Any = ("analyst",), **more: Any) -> Request:
    """A request of an analyst to chat, unless told otherwise."""
    return Request("key-1", tuple(roles), action, model, **more)
