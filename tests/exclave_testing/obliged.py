"""Policies that oblige: documents of the guards, as short as tests want them."""

from __future__ import annotations

import json
from typing import Any

ANALYSTS = """
    - id: analysts
      effect: allow
      subjects: {roles: [analyst]}
      actions: [chat, complete, embed, rerank, infer]
      models: ["*"]
      data_classes: ["*"]
    - id: analysts-reach
      effect: allow
      subjects: {roles: [analyst]}
      actions: [call_tool, use_endpoint, use_secret]
      data_classes: ["*"]
      tools: ["*"]
      endpoints: ["*"]
      secrets: ["*"]
"""


def obliging(*more: str, **obligations: Any) -> str:
    """A policy under which analysts may do everything, with these obligations. `more`: rules."""
    rule = {"id": "obliged", "effect": "oblige", "obligations": obligations}
    rules = f"    - {json.dumps(rule)}\n" if obligations else ""
    return (
        "apiVersion: exclave.dev/v1\nkind: Policy\nmetadata: {name: test, version: '1'}\n"
        f"spec:\n  rules:{ANALYSTS}{rules}" + "".join(f"    - {each}\n" for each in more)
    )


def document(kind: str, name: str, **spec: Any) -> str:
    """One document, as JSON, which is YAML."""
    return json.dumps(
        {
            "apiVersion": "exclave.dev/v1",
            "kind": kind,
            "metadata": {"name": name, "version": "1"},
            "spec": spec,
        }
    )


def validator(*checks: dict[str, Any], name: str = "held", **spec: Any) -> str:
    """A Validator of the output, unless told otherwise."""
    return document("Validator", name, **({"stage": "output", "checks": list(checks)} | spec))


def redaction(*kinds: str, name: str = "hidden", **spec: Any) -> str:
    """A Redaction of these kinds."""
    return document("Redaction", name, **({"kinds": list(kinds)} | spec))


def approval(name: str = "four-eyes", told: str = "Somebody looks first.", **spec: Any) -> str:
    """An Approval by reviewers."""
    return document("Approval", name, **({"roles": ["reviewer"], "told": told} | spec))
