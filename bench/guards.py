"""How many attempts to give a model other orders are scored as such, and how many other texts.

The corpus is the project's own (tests/exclave_testing/prompts.py). The heuristics were worked on
with its even places; what is reported is its odd ones. A text counts as an attempt above 60.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from common import Bar, write_results

from exclave_policy.guards.injection import score
from exclave_testing.prompts import Prompt, attacks, held_out, ordinary

ABOVE = 60


def flagged(prompts: Sequence[Prompt]) -> float:
    """Share of them above the bound."""
    return sum(score(each.text) > ABOVE for each in prompts) / len(prompts)


def by(prompts: Sequence[Prompt], key: Callable[[Prompt], str], what: str) -> list[dict[str, Any]]:
    """A row for each group."""
    groups: dict[str, list[Prompt]] = defaultdict(list)
    for each in prompts:
        groups[key(each)].append(each)
    return [
        {what: name, "texts": len(group), "flagged": flagged(group)}
        for name, group in sorted(groups.items())
    ]


def speed() -> float:
    """KB of text a second, over all texts of the corpus joined to pieces of about 4 KB."""
    texts = [each.text for each in ordinary()]
    pieces = ["\n".join(texts[i : i + 60]) for i in range(0, len(texts), 60)]
    started = time.perf_counter()
    for piece in pieces:
        score(piece)
    return sum(map(len, pieces)) / 1000 / (time.perf_counter() - started)


def main() -> None:
    """Measure, write the results."""
    bad, good = held_out(attacks()), held_out(ordinary())
    rows = [
        *by(bad, lambda each: each.sort, "technique"),
        *by(bad, lambda each: each.language, "language of attacks"),
        *by(good, lambda each: each.sort, "genre"),
        *by(good, lambda each: each.language, "language of others"),
        *by((*bad, *good), _origin, "origin"),
        {"attacks": len(bad), "others": len(good), "kb_per_s": speed()},
    ]
    bars = [
        Bar("recall", flagged(bad), 0.80, "higher"),
        Bar("false positive rate", flagged(good), 0.01, "lower"),
    ]
    write_results("guards", rows, bars, {"google-re2": version("google-re2")})


def _origin(prompt: Prompt) -> str:
    how = "composed" if prompt.composed else "written"
    return f"{'attacks' if prompt.attack else 'others'}, {how}"


if __name__ == "__main__":
    main()
