"""What goes into a support bundle, file by file; each says what it is for.

Nothing of a request is among it: no prompt, answer, database row, key or file of the tenant's.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from exclave_agent.config import Settings
from exclave_agent.doctor import about, journal, units
from exclave_agent.doctor.examine import examine
from exclave_agent.doctor.kept import read_manifest
from exclave_agent.doctor.network import both
from exclave_agent.doctor.redact import Redactor
from exclave_agent.doctor.site import Known, Site
from exclave_agent.doctor.trust import Signed, read_metadata
from exclave_agent.errors import AgentError, unforeseen
from exclave_agent.releases.state import Kept as KeptRelease
from exclave_agent.storage.connect import open_reader
from exclave_agent.storage.home import STATE_FILE

COUNT_SECONDS: Final = 5.0
"""Counting the leaves of a very long log is given up after that."""
UNITS: Final = ("exclave-agent.service", "exclave-worker@doctor.service", "exclave-worker.socket")


@dataclass(frozen=True, slots=True)
class Piece:
    """One file of a bundle, redacted."""

    name: str
    why: str
    """For the person who decides whether it may leave."""
    text: str
    redacted: Mapping[str, int] = field(default_factory=dict)
    """What was taken out of it, by kind."""


Value = Any
"""JSON-ready, or a text that goes in as it is."""

CONTENTS: Final[tuple[tuple[str, str, Callable[[Site], Value]], ...]] = (
    ("doctor.json", "every check, its finding and its remedy", lambda site: examine(site).value()),
    ("status.json", "what the running agent says of itself", lambda site: site.status),
    (
        "version.json",
        "versions of the agent, Python and libraries",
        about.version,
    ),
    ("settings.json", "settings in force, and where each comes from", lambda site: _settings(site)),
    ("release.json", "digests and sizes of the releases kept", lambda site: _release(site)),
    ("tuf.json", "versions and expiries of the signed metadata", lambda site: _tuf(site)),
    ("record.json", "how many records of which type, no contents", lambda site: _record(site)),
    (
        "home.json",
        "names, sizes and modes of our files, no contents",
        about.home,
    ),
    (
        "system.json",
        "kernel, distribution, processor, memory, disk",
        about.system,
    ),
    ("units.json", "state of our units; drop-ins without free texts", lambda site: _units(site)),
    ("journal.jsonl", "newest lines of our own code and of systemd", lambda site: _journal(site)),
)
"""In this order, always."""


def collect(site: Site, names: Mapping[str, str] | None = None) -> Iterator[Piece]:
    """Every piece. One that cannot be had says why, in its place.

    `names`: words to replace, such as the tenant's -> what stands for them.
    """
    for name, why, build in CONTENTS:
        redactor = Redactor(names)
        try:
            value = build(site)
        except AgentError as error:
            value = {"not_taken": error.message}
        except PermissionError:
            value = {"not_taken": "no permission: run as root"}
        except Exception as error:  # noqa: BLE001 - a bundle without one file is still of use
            value = {"not_taken": unforeseen(error)}
        text = _lines(value, redactor) if name.endswith("l") else _document(value, redactor)
        yield Piece(name, why, text, dict(sorted(redactor.counts.items())))


def _document(value: Value, redactor: Redactor) -> str:
    return json.dumps(redactor.value(value), indent=1, sort_keys=True) + "\n"


def _lines(value: Value, redactor: Redactor) -> str:
    """One JSON value a line; the newest ones where they are too many."""
    found = value if isinstance(value, list) else [value]
    lines = [json.dumps(redactor.value(line), sort_keys=True) for line in found]
    kept, gone = journal.newest(lines)
    note = [json.dumps({"left_out": f"{gone} older lines"})] if gone else []
    return "".join(f"{line}\n" for line in (*note, *kept))


def identifying(site: Site) -> dict[str, str]:
    """The words that tell who and where this is, for those who must not say so."""
    found = {str(site.home): "<home>"} if site.home != Settings().home else {}
    known = site.known
    if isinstance(known, Known):
        _, _, domain, _, tenant, _, agent = known.spiffe.split("/")
        found |= {domain: "<domain>", tenant: "<tenant>", agent: "<agent>"}
        hosts = {port.host for port in both(known)} - {"127.0.0.1", "::1", "localhost"}
        found |= dict.fromkeys(hosts, "<coordinator>")
    owner = site.machine.stat(site.home)
    if owner is not None:
        user = site.machine.user_name(owner.uid)
        found |= {} if user in ("exclave", "root") else {user: "<user>"}
    return found


# --- the pieces ---------------------------------------------------------------------------


def _settings(site: Site) -> Value:
    if site.settings_error:
        return {"not_taken": "the settings are not valid: doctor.json says what is wrong"}
    return {
        spec.name: {
            "value": str(value) if isinstance(value, Path) else value,
            "source": site.sources.get(spec.name, "default"),
        }
        for spec in fields(Settings)
        if (value := getattr(site.settings, spec.name)) is not None
    }


def _release(site: Site) -> Value:
    kept = site.kept
    if kept is None:
        return None
    state = kept.state
    return {
        "state": {name: value for name, value in asdict(state).items() if isinstance(value, int)},
        "checked_ns": str(kept.checked_ns),
        "current": _manifest(site, state.current),
        "last_known_good": _manifest(site, state.last_known_good),
    }


def _manifest(site: Site, kept: KeptRelease | None) -> Value:
    if kept is None:
        return None
    manifest = read_manifest(site.home, site.machine, kept.digest)
    files = manifest.targets() if manifest is not None else ()
    return {
        **asdict(kept),
        "files": [{"path": one.path, "length": one.length} for one in files],
        "runtimes": sorted({one.runtime for one in manifest.models}) if manifest else [],
    }


def _tuf(site: Site) -> Value:
    return [
        {"role": one.role, "version": one.version, "expires": one.expires}
        if isinstance(one, Signed)
        else {"role": one, "trouble": "cannot be read"}
        for one in read_metadata(site.home, site.machine)
    ]


def _record(site: Site) -> Value:
    """Counts alone: of a leaf, nothing but its type is looked at, and an incident's code."""
    path = site.home / STATE_FILE
    if site.machine.stat(path) is None:
        return None
    end = site.clock.monotonic() + COUNT_SECONDS
    by_type = (
        "SELECT epoch, type, count(*), min(time), max(time) FROM log GROUP BY 1, 2 ORDER BY 1, 2"
    )
    by_code = (
        "SELECT json_extract(leaf, '$.body.code'), count(*) FROM log WHERE type = 'INCIDENT' "
        "GROUP BY 1 ORDER BY 1"
    )
    try:
        with closing(open_reader(path)) as connection:
            connection.set_progress_handler(lambda: site.clock.monotonic() > end, 100_000)
            rows = connection.execute(by_type).fetchall()
            incidents = connection.execute(by_code).fetchall()
    except sqlite3.Error as error:
        return {"not_taken": f"not counted ({error.sqlite_errorname})"}
    return {
        "records": [
            {"epoch": epoch, "type": kind, "count": count, "first": first, "last": last}
            for epoch, kind, count, first, last in rows
        ],
        "incidents": {str(code): count for code, count in incidents},
        "worker_crashes_since_start": (site.status or {}).get("counts", {}).get("worker_crashes"),
    }


def _units(site: Site) -> Value:
    if site.no_service:
        return {"not_taken": site.no_service}
    found: dict[str, Value] = {}
    for unit in UNITS:
        shown = dict(site.show(unit))
        files = [shown.get("FragmentPath", ""), *shown.get("DropInPaths", "").split()]
        found[unit] = {"properties": shown, "files": {p: _unit(site, p) for p in files if p}}
    return found


def _unit(site: Site, path: str) -> list[str]:
    data = site.machine.read(Path(path)) or b""
    return list(units.trimmed(data.decode("utf-8", "replace")))


def _journal(site: Site) -> Value:
    ran = site.machine.run(journal.COMMAND, seconds=journal.SECONDS)
    if ran.code:
        return {"not_taken": f"journalctl ended with {ran.code}: run as root, under systemd"}
    return list(journal.select(ran.out))
