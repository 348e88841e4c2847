"""Reads our units' journal, and keeps of it what cannot hold a request.

A line's text is kept where our own code wrote it, which never quotes a request, or systemd about
our units. What an engine or a library printed is counted, and its text left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

UNITS: Final = (
    "exclave-agent.service",
    "exclave-worker@*.service",
    "exclave-worker.socket",
    "exclave-upgrade.service",
)
LINES: Final = 4000
SECONDS: Final = 20.0
LARGEST: Final = 2 << 20
"""Bytes of the journal in a bundle; the newest lines count."""

_FIELDS: Final = [
    "MESSAGE",
    "PRIORITY",
    "UNIT",
    "SYSLOG_IDENTIFIER",
    "LOGGER",
    "CODE_FUNC",
    "CODE_LINE",
    "EXCLAVE_RECORDS_LOST",
    "_SYSTEMD_UNIT",
    "_PID",
]
COMMAND: Final = (
    "journalctl",
    "--namespace=+exclave",  # ours, and the main one: systemd tells of our units there
    "--quiet",
    "--no-pager",
    "--output=json",
    f"--output-fields={','.join(_FIELDS)}",
    f"--lines={LINES}",
    *(f"--unit={unit}" for unit in UNITS),
)

_OURS: Final = re.compile(r"exclave_[a-z]+(\.[a-z0-9_]+)*")
# As `cli.logs` writes to stderr where there is no journal socket.
_LINE: Final = re.compile(r"[0-9-]{10} [0-9:,]{8,12} [A-Z]+ exclave_[a-z]+(\.[a-z0-9_]+)*: ")
_QUOTED: Final = re.compile(r"(ignoring: ).*", re.S)


def select(text: str) -> Iterator[dict[str, Any]]:
    """The entries of `journalctl --output=json`, each with the fields worth having."""
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # the cut at the beginning of a long output
        if isinstance(entry, dict):
            yield _entry(entry)


def _entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {"at": _time(entry.get("__REALTIME_TIMESTAMP"))}
    for name, field in (
        ("unit", "UNIT" if "UNIT" in entry else "_SYSTEMD_UNIT"),
        ("priority", "PRIORITY"),
        ("pid", "_PID"),
        ("logger", "LOGGER"),
        ("lost", "EXCLAVE_RECORDS_LOST"),
    ):
        value = entry.get(field)
        if isinstance(value, str):
            kept[name] = value[:200]
    if isinstance(entry.get("CODE_FUNC"), str) and "logger" in kept:
        kept["where"] = f"{entry['CODE_FUNC'][:100]}:{str(entry.get('CODE_LINE'))[:10]}"
    kept["message"] = _message(entry)
    return kept


def _message(entry: Mapping[str, Any]) -> str:
    message = entry.get("MESSAGE")
    if not isinstance(message, str):
        return "[not a text, not taken]"
    if entry.get("_PID") == "1":
        # What systemd could not parse it quotes, and a drop-in may hold a password.
        return _QUOTED.sub(r"\1[not taken]", message)
    logger = entry.get("LOGGER")
    if isinstance(logger, str) and _OURS.fullmatch(logger):
        return message
    if logger is None and _LINE.match(message) and "\n" not in message:
        return message
    return f"[{len(message)} characters that others wrote, not taken]"


def _time(stamp: object) -> str:
    if not isinstance(stamp, str) or not stamp.isdigit() or len(stamp) > 18:
        return ""
    return datetime.fromtimestamp(int(stamp) / 1e6, UTC).isoformat(timespec="milliseconds")


def newest(lines: list[str], most: int = LARGEST) -> tuple[list[str], int]:
    """The last lines that fit into `most` bytes, and how many went."""
    size = 0
    for back, line in enumerate(reversed(lines)):
        size += len(line.encode()) + 1
        if size > most:
            return lines[len(lines) - back :], len(lines) - back
    return lines, 0
