"""Ways to spoil a bundle, each with the verdict that the page gives it: how they are gathered."""

import dataclasses
from collections.abc import Callable

from stranger.build import Draft, pack, seal

Files = dict[str, bytes]


@dataclasses.dataclass(frozen=True)
class Case:
    """A spoilt bundle: how, and what must be said of it."""

    name: str
    verdict: str
    make: Callable[[Draft], bytes]


CASES: list[Case] = []
Draw = Callable[[Draft], None]
Edit = Callable[[Files], None]
Repack = Callable[[bytes, Files], bytes]


def drawn(verdict: str) -> Callable[[Draw], Draw]:
    """Spoilt before anything is counted, summed and signed: what a forger with keys would do."""

    def add(spoil: Draw) -> Draw:
        def make(draft: Draft) -> bytes:
            spoil(draft)
            return pack(seal(draft.files()))

        CASES.append(Case(spoil.__name__, verdict, make))
        return spoil

    return add


def resealed(verdict: str) -> Callable[[Edit], Edit]:
    """Files are spoilt, then summed and signed again."""

    def add(spoil: Edit) -> Edit:
        def make(draft: Draft) -> bytes:
            files = draft.files()
            spoil(files)
            return pack(seal(files))

        CASES.append(Case(spoil.__name__, verdict, make))
        return spoil

    return add


def sealed(verdict: str) -> Callable[[Edit], Edit]:
    """Files are spoilt after sums and signature."""

    def add(spoil: Edit) -> Edit:
        def make(draft: Draft) -> bytes:
            files = seal(draft.files())
            spoil(files)
            return pack(files)

        CASES.append(Case(spoil.__name__, verdict, make))
        return spoil

    return add


def packed(verdict: str) -> Callable[[Repack], Repack]:
    """The zip itself is spoilt."""

    def add(spoil: Repack) -> Repack:
        def make(draft: Draft) -> bytes:
            files = seal(draft.files())
            return spoil(pack(files), files)

        CASES.append(Case(spoil.__name__, verdict, make))
        return spoil

    return add
