"""What no single log of a bundle shows: epochs, agents on file, and what is made of the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from . import layout
from .archive import Archive
from .canonical import CanonicalError, JsonValue, decode
from .checkpoint import Checkpoint
from .epoch import linked_size, links
from .errors import EvidenceError
from .index import Index
from .layout import LogEntry, Manifest
from .listings import listings
from .logcheck import LogCheck
from .page import render
from .report import Findings, Verdict
from .tally import Tally, completeness
from .tree import EMPTY_ROOT


def check_made(
    archive: Archive,
    manifest: Manifest,
    tallies: Sequence[Tally],
    index: Index,
    digests: Mapping[str, str],
) -> None:
    """What is made of the records, made again. `digests`: SHA-256 (hex) of the bundle's files.

    Raises: EvidenceError.
    """
    if archive.read(layout.COMPLETENESS, layout.MAX_JSON) != completeness(tallies):
        raise EvidenceError(f"{layout.COMPLETENESS}: says other than what the records show")
    if layout.PAGE in archive.names and (
        archive.read(layout.PAGE, layout.MAX_JSON) != render(manifest, tallies)
    ):
        raise EvidenceError(f"{layout.PAGE}: not the page that the records give: do not read it")
    if layout.LISTINGS in archive.names and (
        archive.read(layout.LISTINGS, layout.MAX_JSON) != listings(tallies)
    ):
        raise EvidenceError(f"{layout.LISTINGS}: lists other than what the records show")
    if layout.INDEX in archive.names and digests.get(layout.INDEX) != index.hexdigest():
        raise EvidenceError(f"{layout.INDEX}: not the lines that the records give")


def check_registration(archive: Archive, log: LogEntry) -> None:
    """Canonical JSON; what it says is the coordinator's word. Raises: EvidenceError."""
    if not log.agent:
        return
    name = f"logs/{log.agent}/registration.json"
    try:
        value: JsonValue = decode(archive.read(name, layout.MAX_SMALL), limit=layout.MAX_SMALL)
    except CanonicalError as error:
        raise EvidenceError(f"{name}: {error}") from None
    if type(value) is not dict:
        raise EvidenceError(f"{name}: not an object")


def check_links(checks: Mapping[tuple[str, int], LogCheck], found: Findings) -> list[str]:
    """Each later epoch continues the one before where that was cosigned last; returns those that
    do. `checks` by agent and epoch."""
    linked = []
    for (agent, epoch), check in checks.items():
        before, second = checks.get((agent, epoch - 1)), check.walk.second
        if not agent or before is None or second is None:
            continue
        head = before.head or Checkpoint(before.origin, 0, EMPTY_ROOT)
        if fault := links(second, head):
            # The link is in a tree that was cosigned: it is the former epoch that falls short.
            short = linked_size(second) > head.size
            verdict = Verdict.INCOMPLETE if short else Verdict.INVALID
            found.add(verdict, f"{check.origin} seq 1: {fault} of epoch {epoch - 1}")
        else:
            linked.append(f"{agent}: epoch {epoch} continues at size {head.size}")
    return linked


def check_epochs(manifest: Manifest, found: Findings) -> int:
    """No epoch of an agent left out below its newest; returns how many agents there are."""
    epochs: dict[str, set[int]] = {}
    for log in manifest.logs:
        if log.agent:
            epochs.setdefault(log.agent, set()).add(log.epoch)
    for agent, present in epochs.items():
        absent = next((e for e in range(1, max(present)) if e not in present), None)
        if absent is not None:
            found.add(Verdict.INCOMPLETE, f"agent {agent}: epoch {absent} is not here")
    if not epochs:
        found.add(Verdict.INCOMPLETE, "no agent's log is here")
    return len(epochs)


def check_agents(manifest: Manifest, found: Findings) -> list[str]:
    """Every agent on file against the logs that are here; returns notes."""
    present = {log.agent for log in manifest.logs if log.agent}
    for name in sorted(present - {agent.name for agent in manifest.agents}):
        found.add(Verdict.INVALID, f"agent {name}: has a log, but is not on file")
    silent = [agent for agent in manifest.agents if agent.name not in present]
    for agent in silent:
        if agent.last_seen:
            found.add(
                Verdict.INCOMPLETE,
                f"agent {agent.name}: has been connected, but no log of it is here",
            )
    never = [agent.name for agent in silent if not agent.last_seen]
    if not never:
        return []
    shown = ", ".join(never[:5]) + (", ..." if len(never) > 5 else "")
    return [f"{len(never)} agents on file were never connected and have no log: {shown}"]
