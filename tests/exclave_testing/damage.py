"""Damages documents at random, for tests that hold two readers of them together."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of every value in a document, its own empty one first."""
    inner: list[tuple[Any, ...]] = [at]
    items: Any = value.items() if isinstance(value, dict) else []
    items = enumerate(value) if isinstance(value, list) else items
    for key, child in items:
        inner += places(child, (*at, key))
    return inner


def damaged(
    data: st.DataObject, whole: Any, *, odd: st.SearchStrategy[Any], names: st.SearchStrategy[str]
) -> Any:
    """A copy of `whole` after one or two changes: a value replaced by an odd one, a field removed,
    or one of these names added with an odd value."""
    value = copy.deepcopy(whole)
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.sampled_from(places(value)))
        if not place:
            continue
        parent: Any = value
        for key in place[:-1]:
            parent = parent[key]
        # Copies: the next change may be within, and what is drawn is drawn again.
        change = data.draw(st.sampled_from(["replace", "remove", "add"]))
        if change == "replace":
            parent[place[-1]] = copy.deepcopy(data.draw(odd))
        elif change == "remove":
            del parent[place[-1]]
        elif isinstance(parent, dict):
            parent[data.draw(names)] = copy.deepcopy(data.draw(odd))
    return value
