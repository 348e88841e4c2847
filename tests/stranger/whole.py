"""Section 5 of the page, steps 7 and 8: epochs, completeness, and what is made of the records."""

from collections.abc import Sequence

from stranger.leaves import Leaf
from stranger.logs import SECOND, Findings, LogRead
from stranger.manifest import Manifest
from stranger.wire import Refused, canonical, decimal, text

LISTED = 1_000


def check_epochs(logs: Sequence[LogRead], manifest: Manifest, found: Findings) -> None:
    """Step 7, and that no epoch is missing below an agent's newest."""
    by_place = {(log.entry.agent, log.entry.epoch): log for log in logs if not log.entry.operators}
    for (agent, epoch), log in by_place.items():
        if epoch == 1:
            continue
        before = by_place.get((agent, epoch - 1))
        if before is None:
            found.append(("INCOMPLETE", f"{agent}: epoch {epoch - 1} is missing"))
        if 1 in log.records:
            origin = f"{manifest.trust_domain}/{manifest.tenant}/{agent}/e{epoch - 1}"
            _link(log.records[1], origin, before, found)


def _link(leaf: Leaf, origin: str, before: LogRead | None, found: Findings) -> None:
    if leaf.kind != "EPOCH":
        raise Refused("an epoch that nobody opened")
    previous = leaf.body.get("previous")
    if not isinstance(previous, dict):
        raise Refused("an EPOCH that links nothing")
    size = decimal(previous.get("size"))
    root = text(previous.get("root"), r"[0-9a-f]{64}")
    if previous.get("origin") != origin:
        raise Refused("an epoch that continues another log")
    if before is None:
        return
    if size > before.entry.size:
        found.append(("INCOMPLETE", f"{origin}: the next epoch links more than is here"))
        return
    here = before.checkpoint.root.hex() if before.checkpoint else root
    if size != before.entry.size or root != here:
        raise Refused("an epoch that links another checkpoint")


def _ranges(seqs: Sequence[int]) -> list[list[str]]:
    out: list[list[int]] = []
    for seq in seqs:
        if out and out[-1][1] == seq - 1:
            out[-1][1] = seq
        else:
            out.append([seq, seq])
    return [[str(first), str(last)] for first, last in out]


def _every(beat: Leaf) -> int:
    """How far away the next HEARTBEAT is; 0 where it does not say."""
    try:
        return decimal(beat.body.get("every"))
    except Refused:
        return 0


def _silences(log: LogRead) -> list[list[str]]:
    out, every = [], 0
    for seq in sorted(log.records):
        leaf, before = log.records[seq], log.records.get(seq - 1)
        if before is not None and every and log.entry.first <= seq < log.entry.end:
            gap = leaf.time - before.time
            if gap > 2 * every * SECOND:
                out.append([str(seq), str(gap // SECOND)])
        if leaf.kind == "HEARTBEAT":
            every = _every(leaf)
    return out


def counted(log: LogRead, manifest: Manifest) -> dict[str, object]:
    """What completeness.json must say of one log."""
    entry, here = log.entry, log.in_range
    gone = [seq for seq in range(entry.first, entry.end) if seq not in log.records]
    answered = {leaf.body.get("intent") for leaf in log.records.values() if leaf.kind == "RESULT"}
    intents = [str(leaf.seq) for leaf in here if leaf.kind == "INTENT"]
    dangling = [seq for seq in intents if seq not in answered]
    beats = [leaf for leaf in here if leaf.kind == "HEARTBEAT"]
    silences = _silences(log)
    shown = _ranges(gone) if entry.operators or not manifest.filtered else []
    return {
        "dangling_count": str(len(dangling)),
        "dangling_intents": dangling[:LISTED],
        "end": str(entry.end),
        "every": str(_every(beats[-1])) if beats else "0",
        "first": str(entry.first),
        "heartbeats": str(len(beats)),
        "missing": shown[:LISTED],
        "missing_count": str(len(gone)),
        "origin": entry.origin,
        "records": str(len(here)),
        "silences": silences[:LISTED],
        "silences_count": str(len(silences)),
        "uploaded": str(entry.uploaded),
        "witnessed": str(entry.size),
    }


def completeness(logs: Sequence[LogRead], manifest: Manifest) -> bytes:
    """The bytes of completeness.json."""
    counts = [counted(log, manifest) for log in logs]
    return canonical({"logs": counts, "schema": "exclave.completeness/v1"})


def check_agents(manifest: Manifest, found: Findings) -> None:
    """Every log is of an agent on file, and every agent that was ever connected has a log."""
    here = {log.agent for log in manifest.logs if not log.operators}
    if here - manifest.agents.keys():
        raise Refused("a log of an agent that is not on file")
    for agent, seen in manifest.agents.items():
        if seen and agent not in here:
            found.append(("INCOMPLETE", f"{agent}: no log"))
