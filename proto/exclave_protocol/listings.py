"""listings.json: which models and policies decided, by digest, and the records to look at."""

from __future__ import annotations

from collections.abc import Iterable

from .canonical import JsonValue, encode
from .layout import LISTINGS_SCHEMA
from .leaf import format_time
from .summary import Uses
from .tally import Tally


def listings(tallies: Iterable[Tally]) -> bytes:
    """The file; each tally must be finished."""
    return encode({"schema": LISTINGS_SCHEMA, "logs": [_log(tally) for tally in tallies]})


def _log(tally: Tally) -> dict[str, JsonValue]:
    said = tally.summary
    return {
        "origin": tally.log.origin,
        "models": _uses(said.used_models, ("name", "digest")),
        "policies": _uses(said.used_policies, ("digest",)),
        "releases": _uses(said.used_releases, ("digest",)),
        "events": [
            {
                "seq": str(event.seq),
                "time": format_time(event.time_ns),
                "type": str(event.type),
                "detail": event.detail,
            }
            for event in said.events
        ],
        "events_left": str(said.events_left),
    }


def _uses(found: Uses, names: tuple[str, ...]) -> list[JsonValue]:
    listed: list[JsonValue] = []
    for key, use in sorted(found.known.items()):
        entry: dict[str, JsonValue] = dict(zip(names, key, strict=True))
        entry |= {"first": str(use.first), "last": str(use.last), "records": str(use.records)}
        listed.append(entry)
    return listed
