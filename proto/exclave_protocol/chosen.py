"""Which decisions a bundle is about, where it was not asked for all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .canonical import JsonValue
from .errors import EvidenceError
from .leaf import Leaf, LeafType

MAX_NAMES = 64
MAX_COMMITMENTS = 5_000
MAX_LENGTH = 255
DECISIONS = frozenset({LeafType.INTENT, LeafType.RESULT, LeafType.APPROVAL, LeafType.OVERRIDE})
"""Types of records that are of a decision, where their body names one."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A decision is chosen if one of each list that is not empty is its own."""

    models: tuple[str, ...] = ()
    """Names; of the model that answered, or that was to."""
    workflows: tuple[str, ...] = ()
    commitments: tuple[str, ...] = ()
    """Digests of private fields, as in `sd`: the tenant's agent tells those of a subject."""

    def __bool__(self) -> bool:
        return bool(self.models or self.workflows or self.commitments)

    def to_json(self) -> dict[str, JsonValue]:
        """The manifest's object."""
        return {
            "models": list(self.models),
            "workflows": list(self.workflows),
            "commitments": list(self.commitments),
        }

    @classmethod
    def from_json(cls, value: JsonValue) -> Filter:
        """Raises: EvidenceError."""
        if type(value) is not dict or value.keys() != {"models", "workflows", "commitments"}:
            raise EvidenceError("filter: not an object with models, workflows, commitments")
        return cls(
            _names(value["models"], MAX_NAMES),
            _names(value["workflows"], MAX_NAMES),
            _names(value["commitments"], MAX_COMMITMENTS),
        )

    def chosen(self, leaves: Iterable[Leaf]) -> frozenset[str]:
        """Ids of the decisions among these records that are chosen."""
        wanted = frozenset(self.commitments)
        by_model: set[str] = set()
        by_workflow: set[str] = set()
        by_commitment: set[str] = set()
        for leaf in leaves:
            decision = leaf.body.get("decision")
            if leaf.type not in DECISIONS or not isinstance(decision, str):
                continue
            model = leaf.body.get("model")
            if isinstance(model, dict) and model.get("name") in self.models:
                by_model.add(decision)
            if leaf.body.get("workflow") in self.workflows:
                by_workflow.add(decision)
            if not wanted.isdisjoint(leaf.sd):
                by_commitment.add(decision)
        found = [
            decisions
            for names, decisions in (
                (self.models, by_model),
                (self.workflows, by_workflow),
                (self.commitments, by_commitment),
            )
            if names
        ]
        return frozenset(set.intersection(*found)) if found else frozenset()

    def keeps(self, leaf: Leaf, chosen: frozenset[str]) -> bool:
        """Whether a record of the range belongs into the bundle: all that is no decision's does."""
        if leaf.type not in DECISIONS or leaf.body.get("decision") in chosen:
            return True
        return leaf.type is LeafType.OVERRIDE and "decision" not in leaf.body


EVERYTHING = Filter()


def _names(value: JsonValue, limit: int) -> tuple[str, ...]:
    if type(value) is not list or len(value) > limit:
        raise EvidenceError(f"filter: not an array of at most {limit} names")
    names = []
    for name in value:
        if type(name) is not str or not 0 < len(name) <= MAX_LENGTH:
            raise EvidenceError(f"filter: a name is not 1 to {MAX_LENGTH} characters")
        names.append(name)
    return tuple(names)
