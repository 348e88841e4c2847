"""How to choose tokens, with what a test does not care about filled in."""

from __future__ import annotations

from typing import Any

import msgspec

from exclave_agent.runtimes.frames import SamplingFrame

_GREEDY = SamplingFrame(
    max_tokens=64,
    temperature=0.0,
    top_p=1.0,
    top_k=0,
    min_p=0.0,
    frequency_penalty=0.0,
    presence_penalty=0.0,
    seed=1,
    stop=[],
    json_schema=None,
)


def sampling(**chosen: Any) -> SamplingFrame:
    """Greedy, but for what is given."""
    return msgspec.structs.replace(_GREEDY, **chosen)
