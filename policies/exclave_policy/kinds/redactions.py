"""Documents of kind Redaction: which personal data a model does not get to see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from exclave_policy.fields import COUNTRY, MODEL, SECRET, Fields, Item
from exclave_policy.heading import metadata
from exclave_policy.kinds.patterns import read_patterns
from exclave_policy.source import Node, Report

Scope: TypeAlias = Literal["remote", "always"]
"""Which models are not shown it: those of other people's machines, or all."""
Tokens: TypeAlias = Literal["numbered", "keyed"]
"""`<CARD_1>`, counted anew in each request; or `<CARD_7f3a9c0e2b41>`, which is the same for the
same value wherever the same key is."""

KINDS = (
    "card",
    "iban",
    "national_id",
    "phone",
    "email",
    "date_of_birth",
    "person",
    "address",
    "ip",
    "custom",
)
"""`person` and `address` need a model (`entities`); `custom` needs `patterns`."""
BY_MODEL = frozenset({"person", "address"})
BY_COUNTRY = frozenset({"national_id"})
"""Kinds that have a form of their own in each country: looked for in countries named only."""
MAX_COUNTRIES = 64
MAX_PATTERNS = 32
SCOPES: tuple[Scope, ...] = ("remote", "always")
TOKENS: tuple[Tokens, ...] = ("numbered", "keyed")


@dataclass(frozen=True, slots=True)
class Redaction:
    """One document of kind Redaction, checked."""

    name: str
    version: str
    description: str
    kinds: frozenset[str]
    """What is replaced by tokens."""
    scope: Scope = "remote"
    tokens: Tokens = "numbered"
    key: str = ""
    """With "keyed": the secret (`exclave-agent secret`) that tokens are made with, the same on
    every agent that is to make the same ones; "": the agent's own key."""
    restore: bool = True
    """Whether the answer gets the values back."""
    refuse: frozenset[str] = frozenset()
    """Kinds with which a request is refused instead, before anything is sent."""
    countries: tuple[str, ...] = ()
    """ISO 3166 alpha-2: whose national ids and phone numbers are looked for."""
    patterns: tuple[str, ...] = ()
    """RE2: what `custom` is."""
    entities: str = ""
    """A local ONNX model of the release that finds persons and addresses; "": none."""
    file: str = ""
    line: int = 0

    def stands_before(self, *, remote: bool) -> bool:
        """Whether a model is not shown everything; `remote`: it is on another machine."""
        return self.scope == "always" or remote


def read_redaction(top: Fields, spec: Node, report: Report) -> Redaction | None:
    """Read a Redaction's `metadata` and `spec`; None when faults were reported."""
    before = len(report.problems) + report.dropped
    name, version, description = metadata(top)
    known = (
        *("kinds", "scope", "tokens", "key", "restore"),
        *("refuse", "countries", "patterns", "entities"),
    )
    fields = Fields(spec, "spec", report, known=known, required=("kinds",))
    kinds = fields.names("kinds", choices=KINDS)
    countries = read_countries(fields, kinds)
    scope, tokens = fields.choice("scope", SCOPES), fields.choice("tokens", TOKENS)
    key = fields.get("key")
    if key is not None and tokens != "keyed":
        fix = "remove it, or write tokens: keyed"
        fields.wrong(key, "key", "numbered tokens have no key", fix)
    redaction = Redaction(
        name=name,
        version=version,
        description=description,
        kinds=frozenset(item.value for item in kinds),
        scope="always" if scope == "always" else "remote",
        tokens="keyed" if tokens == "keyed" else "numbered",
        key=fields.word("key", SECRET),
        restore=fields.flag("restore", True),
        refuse=_refused(fields, kinds),
        countries=countries,
        patterns=_patterns(fields, kinds),
        entities=_entities(fields, kinds),
        file=report.file,
        line=top.node.line,
    )
    return redaction if len(report.problems) + report.dropped == before else None


def read_countries(fields: Fields, kinds: list[Item]) -> tuple[str, ...]:
    """Whose forms are looked for. A kind that would never be found is a fault, not a gap."""
    found = fields.names("countries", shape=COUNTRY)
    node = fields.get("countries")
    if node is not None and len(found) > MAX_COUNTRIES:
        fields.wrong(node, "countries", f"{len(found)} are too many", f"at most {MAX_COUNTRIES}")
    for item in kinds if node is None else ():
        if item.value in BY_COUNTRY:
            fix = "add countries, such as [DE, NL]"
            fields.report.add(item.node, item.path, "this is looked for by country", fix)
    return tuple(item.value for item in found)


def _refused(fields: Fields, kinds: list[Item]) -> frozenset[str]:
    found = fields.names("refuse", choices=KINDS)
    named = {item.value for item in kinds}
    for item in found:
        if item.value not in named:
            fix = "list it in spec.kinds too"
            fields.report.add(item.node, item.path, "this kind is not looked for", fix)
    return frozenset(item.value for item in found)


def _patterns(fields: Fields, kinds: list[Item]) -> tuple[str, ...]:
    node = fields.get("patterns")
    custom = next((item for item in kinds if item.value == "custom"), None)
    if custom is not None and node is None:
        fix = "add patterns"
        fields.report.add(custom.node, custom.path, "nothing says what custom is", fix)
    if node is not None and custom is None:
        fix = "add custom to kinds, or remove it"
        fields.wrong(node, "patterns", "patterns are for the kind custom", fix)
    return read_patterns(fields, "patterns", MAX_PATTERNS)


def _entities(fields: Fields, kinds: list[Item]) -> str:
    node = fields.get("entities")
    found = [item for item in kinds if item.value in BY_MODEL]
    for item in found if node is None else ():
        fix = "add entities: the name of a local ONNX model of the release"
        fields.report.add(item.node, item.path, "this is found by a model only", fix)
    if node is not None and not found:
        fix = f"add one of {', '.join(sorted(BY_MODEL))} to kinds, or remove it"
        fields.wrong(node, "entities", "a model that has nothing to find", fix)
    return fields.word("entities", MODEL)
