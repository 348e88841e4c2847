"""Reads a document of kind Cache: which answers may be kept, for how long, and who shares them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal, TypeAlias

from exclave_policy.fields import DATA_CLASS, MODEL, Fields
from exclave_policy.model import ANY
from exclave_policy.source import Node, Report, Scalar

Share: TypeAlias = Literal["tenant", "subject"]
"""Who may be answered with an answer of before: everybody whom the policy allows the request, or
requests about the same subject only."""

SHARES: tuple[Share, ...] = ("tenant", "subject")
MAX_TTL = 31 * 86_400
"""Seconds."""
MAX_MIB = 4096
DEFAULT_MIB = 64
LOWEST_THRESHOLD = Decimal("0.5")

_THRESHOLD = re.compile(r"(0|1)(\.[0-9]{1,6})?")


@dataclass(frozen=True, slots=True)
class Semantic:
    """Whether an answer to a similar question will do."""

    data_classes: frozenset[str]
    """Labels of data for which it will; "" is unlabelled data."""
    threshold: Decimal
    """Least cosine similarity of the two questions, 0.5 to 1."""
    embed_model: str
    """The release's model that turns a question into a vector."""


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """One document of kind Cache."""

    models: frozenset[str]
    """Whose answers may be kept; `ANY`: every model's."""
    data_classes: frozenset[str]
    """Labels of data whose answers may be kept; "" is unlabelled data."""
    ttl_seconds: int
    max_mib: int = DEFAULT_MIB
    share: Share = "tenant"
    semantic: Semantic | None = None
    file: str = field(default="", compare=False)
    line: int = field(default=0, compare=False)

    def covers(self, model: str, data_class: str) -> bool:
        """Whether answers of this model on such data may be kept."""
        return data_class in self.data_classes and (ANY in self.models or model in self.models)


def read_cache(top: Fields, spec: Node, text: str, report: Report) -> CachePolicy | None:
    """The cache that `spec` describes; None when faults were reported.

    The header and the metadata are read by whoever knows the kind (`document`).
    """
    before = len(report.problems) + report.dropped
    needed = ("models", "data_classes", "ttl_seconds")
    known = (*needed, "max_mib", "share", "semantic")
    fields = Fields(spec, "spec", report, known=known, required=needed)
    models = frozenset(i.value for i in fields.names("models", shape=MODEL, wildcard=True))
    classes = frozenset(i.value for i in fields.names("data_classes", shape=DATA_CLASS))
    ttl = fields.whole("ttl_seconds", 1, MAX_TTL)
    mib = fields.whole("max_mib", 1, MAX_MIB)
    given = fields.choice("share", SHARES)
    share: Share = "subject" if given == "subject" else "tenant"
    semantic = _semantic(fields, classes, report)
    if len(report.problems) + report.dropped != before or ttl is None:
        return None
    return CachePolicy(
        models=models,
        data_classes=classes,
        ttl_seconds=ttl,
        max_mib=DEFAULT_MIB if mib is None else mib,
        share=share,
        semantic=semantic,
        file=report.file,
        line=top.node.line,
    )


def problems_of(cache: CachePolicy | None, local: Mapping[str, frozenset[str]]) -> list[str]:
    """What is wrong with a pack's cache beside the models of its release; empty: nothing.
    `local`: the actions that each serves, by name, of those that run on the machine itself."""
    if cache is None or cache.semantic is None:
        return []
    model = cache.semantic.embed_model
    if "embed" in local.get(model, ()):
        return []
    return [f"cache: embed_model {model} is no model of the release that embeds on the machine"]


def _semantic(parent: Fields, classes: frozenset[str], report: Report) -> Semantic | None:
    node = parent.get("semantic")
    if node is None:
        return None
    needed = ("data_classes", "threshold", "embed_model")
    fields = Fields(node, parent.at("semantic"), report, known=needed, required=needed)
    chosen = fields.names("data_classes", shape=DATA_CLASS)
    for item in chosen:
        if item.value not in classes:
            fix = "list it in spec.data_classes too"
            report.add(item.node, item.path, "nothing of this class is kept", fix)
    threshold = _threshold(fields)
    model = fields.word("embed_model", MODEL)
    return Semantic(frozenset(item.value for item in chosen), threshold, model)


def _threshold(fields: Fields) -> Decimal:
    node = fields.get("threshold")
    if node is None:
        return Decimal(1)
    fix = 'write a decimal in quotes from "0.5" to "1", such as "0.95"'
    if not isinstance(node, Scalar) or node.kind != "string":
        fields.wrong(node, "threshold", "a threshold must be text", fix)
        return Decimal(1)
    found = _THRESHOLD.fullmatch(node.value)
    value = Decimal(node.value) if found is not None else Decimal(0)
    if not LOWEST_THRESHOLD <= value <= 1:
        fields.wrong(node, "threshold", "this is not a similarity", fix)
        return Decimal(1)
    return value
