"""Speaks to the running agent over its control socket."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class SocketConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket instead of a port."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _call(
    path: Path, method: str, target: str, body: bytes | None, seconds: float = 30.0
) -> dict[str, Any] | None:
    connection = SocketConnection(path, seconds)
    try:
        connection.request(method, target, body)
        answer = json.loads(connection.getresponse().read())
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return answer if isinstance(answer, dict) else None


def status(path: Path) -> dict[str, Any] | None:
    """The running agent's status, or None when nothing answers on the socket."""
    return _call(path, "GET", "/status", None)


def post(
    path: Path, target: str, body: Mapping[str, Any], *, seconds: float = 30.0
) -> dict[str, Any] | None:
    """Ask the running agent to do something; None when nothing answers on the socket, or not
    within so many seconds."""
    return _call(path, "POST", target, json.dumps(body).encode(), seconds)
