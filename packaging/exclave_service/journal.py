"""Log records with fields for systemd's journal, by its native protocol.

Source: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/. One datagram a record: `KEY=value` lines, or
`KEY`, a little-endian 64-bit length and the bytes where a value has line breaks.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final

SOCKET: Final = Path("/run/systemd/journal/socket")
LONGEST: Final = 48 * 1024
"""Bytes of one message; what is longer is cut, so that a record fits a datagram."""
FIELDS: Final = "fields"
"""`log.info(..., extra={FIELDS: {"EXCLAVE_MODEL": ...}})` adds fields of that name."""

_ANEW: Final = (errno.ECONNREFUSED, errno.ENOTCONN, errno.ECONNRESET, errno.ENOENT)
_NAME: Final = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_PRIORITIES: Final = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
)


def is_our_stderr(environ: Mapping[str, str] | None = None, descriptor: int = 2) -> bool:
    """Whether stderr leads to the journal: JOURNAL_STREAM names its device and inode."""
    env = os.environ if environ is None else environ
    device, _, inode = env.get("JOURNAL_STREAM", "").partition(":")
    try:
        stat = os.fstat(descriptor)
    except OSError:
        return False
    return (device, inode) == (str(stat.st_dev), str(stat.st_ino))


def encode(fields: Mapping[str, str]) -> bytes:
    """The datagram of one record. Names that the journal would drop are dropped here."""
    parts = []
    for name, value in fields.items():
        if not _NAME.fullmatch(name):
            continue
        data = value.encode("utf-8", "replace")[:LONGEST]
        if b"\n" in data:
            parts.append(name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n")
        else:
            parts.append(name.encode() + b"=" + data + b"\n")
    return b"".join(parts)


class JournalHandler(logging.Handler):
    """Sends records to the journal; those that it does not take are counted in the next."""

    def __init__(self, identifier: str, path: Path = SOCKET) -> None:
        """`identifier` is what `journalctl -t` finds. Raises: OSError, no journal is there."""
        super().__init__()
        self._identifier = identifier
        self._lost = 0
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect(self._path)
        except OSError:
            self._socket.close()
            raise
        # A journal that is behind must not hold up an event loop.
        self._socket.setblocking(False)

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        fields = {
            "MESSAGE": self.format(record),
            "PRIORITY": str(_priority(record.levelno)),
            "SYSLOG_IDENTIFIER": self._identifier,
            "LOGGER": record.name,
            "CODE_FUNC": record.funcName or "",
            "CODE_LINE": str(record.lineno),
        }
        if self._lost:
            fields["EXCLAVE_RECORDS_LOST"] = str(self._lost)
        more = getattr(record, FIELDS, None)
        if isinstance(more, Mapping):
            fields |= {str(name): str(value) for name, value in more.items()}
        try:
            self._send(encode(fields))
            self._lost = 0
        except OSError:
            self._lost += 1

    def _send(self, data: bytes) -> None:
        try:
            self._socket.send(data)
        except OSError as error:
            if error.errno not in _ANEW:
                raise
            # The journal was started anew, or was not there at the last try.
            self._socket.connect(self._path)
            self._socket.send(data)

    def close(self) -> None:
        """Let go of the socket."""
        with contextlib.suppress(OSError):
            self._socket.close()
        super().close()


def _priority(level: int) -> int:
    return next((value for least, value in _PRIORITIES if level >= least), 7)
