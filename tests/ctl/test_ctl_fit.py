"""A release whose policy does not fit its models is refused before anybody signs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from exclave_testing.ctl import Ctl

ROUTE = """apiVersion: exclave.dev/v1
kind: Route
metadata: {{name: helper, version: "1"}}
spec:
  actions: [{action}]
  targets: [{{model: {model}{limits}}}]
"""
CACHE = """apiVersion: exclave.dev/v1
kind: Cache
metadata: {name: kept, version: "1"}
spec:
  models: [small]
  data_classes: [public]
  ttl_seconds: 60
  semantic: {data_classes: [public], threshold: "0.9", embed_model: minilm}
"""
BUDGET = """apiVersion: exclave.dev/v1
kind: Budget
metadata: {name: spending, version: "1"}
spec:
  currency: EUR
  tenant: {money: "5", per: day}
"""
PRICED = ",price_currency=EUR,price_input=0,price_output=0"
CLOUD = {
    "schema": "exclave.endpoint/v1",
    "provider": "openai",
    "base_url": "https://api.openai.com/v1",
    "model": "gpt-5-mini",
    "actions": ["embed"],
    "data_classes": ["public"],
    "price": {"currency": "USD", "input": "1", "output": "1"},
}


def route(model: str, action: str = "chat", limits: str = "") -> str:
    return ROUTE.format(model=model, action=action, limits=limits)


def words(ctl: Ctl, document: str, options: str = "") -> list[object]:
    """What builds a release of this document, a GGUF file, an ONNX file and an endpoint."""
    folder = ctl.pack() / "policies"
    folder.mkdir(exist_ok=True)
    (folder / "more.yaml").write_text(document)
    net, cloud = ctl.folder / "net.onnx", ctl.folder / "cloud.json"
    net.write_bytes(b"onnx")
    cloud.write_text(json.dumps(CLOUD))
    models = [ctl.model() + options, f"net={net}", f"cloud={cloud},runtime=remote"]
    return ["--pack", ctl.pack(), *(word for model in models for word in ("--model", model))]


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (route("smaller"), "route helper: the release has no model smaller"),
        (route("net"), "route helper: model net does not serve chat"),
        (route("cloud"), "route helper: model cloud does not serve chat"),
        (route("small", "infer"), "route helper: model small does not serve infer"),
        (CACHE, "embed_model minilm is no model of the release that embeds on the machine"),
        (CACHE.replace("minilm", "cloud"), "embed_model cloud is no model of the release"),
        (BUDGET, "model small has no price in it"),
        (BUDGET, "model cloud has no price in it"),
        (
            route("cloud", "embed", ', limits: {max_cost: "2", currency: EUR}'),
            "max_cost is in EUR, and model cloud has no price in it",
        ),
    ],
)
def test_what_does_not_fit_is_refused(ctl: Ctl, document: str, reason: str) -> None:
    workspace = ctl.make_workspace()
    before = sorted(Path(workspace / "drafts").iterdir())
    refused = ctl("release", "build", workspace, *words(ctl, document), code=1)
    assert "the policy does not fit the release's models" in refused.stderr
    assert reason in refused.stderr
    assert sorted(Path(workspace / "drafts").iterdir()) == before  # there is nothing to sign


@pytest.mark.parametrize(
    "document",
    [
        route("small"),
        # A GGUF file may embed: which it does, only the agent that loads it can tell.
        route("small", "embed"),
        route("net", "infer"),
        route("cloud", "embed", ', limits: {max_cost: "2", currency: USD}'),
        CACHE.replace("minilm", "small"),
    ],
)
def test_what_fits_or_may_fit_is_built(ctl: Ctl, document: str) -> None:
    workspace = ctl.make_workspace()
    ctl("release", "build", workspace, *words(ctl, document))


def test_all_of_it_is_listed(ctl: Ctl) -> None:
    workspace = ctl.make_workspace()
    refused = ctl("release", "build", workspace, *words(ctl, BUDGET, PRICED), code=1)
    assert "model small" not in refused.stderr
    assert all(f"model {name} has no price" in refused.stderr for name in ("net", "cloud"))
