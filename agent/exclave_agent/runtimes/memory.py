"""Which models must go so that another one fits: pure arithmetic over budgets and what is held."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

UNLIMITED = 1 << 62
"""Bytes of a budget that nobody stated and nothing measures."""
_HALF_LIFE = 60.0
"""Seconds of idleness after which the wish to keep a model has halved."""
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Need:
    """Memory, bytes."""

    ram: int = 0
    vram: int = 0

    def __add__(self, other: Need) -> Need:
        """Both together."""
        return Need(self.ram + other.ram, self.vram + other.vram)

    def fits(self, budget: Need) -> bool:
        """Whether a budget holds this."""
        return self.ram <= budget.ram and self.vram <= budget.vram


@dataclass(frozen=True, slots=True)
class Resident:
    """One model that holds memory."""

    name: Hashable
    need: Need
    in_use: bool
    """It loads, or serves requests: it stays whatever happens."""
    warm: bool
    """Its release asks to keep it: it goes only when all others are not enough."""
    idle_seconds: float
    reload_seconds: float


def total(needs: Iterable[Need]) -> Need:
    """The sum."""
    held = Need()
    for need in needs:
        held = held + need
    return held


def worth(model: Resident) -> float:
    """What keeping a model is worth: the seconds that its reload would take, less with every
    minute that nobody asked for it, for each MiB that it holds. The least goes first."""
    wish = 1.0 / (1.0 + model.idle_seconds / _HALF_LIFE)
    mib = max(1.0, (model.need.ram + model.need.vram) / _MIB)
    return model.reload_seconds * wish / mib


def evictions(
    budget: Need, held: Sequence[Resident], need: Need, promised: Need | None = None
) -> list[Resident] | None:
    """Those that must go for `need` to fit beside the rest and what is `promised` to others.

    None: it does not fit, whoever goes. Of those in use none ever goes; a warm one only when all
    idle others together are not enough.
    """
    rest = total(one.need for one in held) + need + (promised or Need())
    go: list[Resident] = []
    for one in sorted(
        (one for one in held if not one.in_use), key=lambda one: (one.warm, worth(one))
    ):
        if rest.fits(budget):
            break
        if _helps(one, rest, budget):
            go.append(one)
            rest = _less(rest, one.need)
    if not rest.fits(budget):
        return None
    # A large one that came later may have made the smaller ones before it unnecessary.
    for one in reversed(go.copy()):
        if (rest + one.need).fits(budget):
            go.remove(one)
            rest = rest + one.need
    return go


def _less(left: Need, right: Need) -> Need:
    return Need(left.ram - right.ram, left.vram - right.vram)


def _helps(one: Resident, rest: Need, budget: Need) -> bool:
    """Whether its going frees something of what lacks."""
    return (rest.ram > budget.ram and one.need.ram > 0) or (
        rest.vram > budget.vram and one.need.vram > 0
    )
