"""The agent's control socket as root asks it: only ever the agent's own user's answer."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CONTROL_SOCKET: Final = "run/control.sock"
"""Relative to the home; that of api/control.py, which brings a web framework along."""
SECONDS: Final = 5.0
MAX_STATUS: Final = 4 << 20


class _Patient(socket.socket):
    """One deadline for all that is said: a socket's own timeout counts from each piece anew."""

    def __init__(self, deadline: float) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.settimeout(SECONDS)
        self._deadline = deadline

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer does not come to its end")
        self.settimeout(left)
        return super().recv_into(buffer, nbytes, flags)


class SocketProbe:
    """A `ports.Probe`."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def status(self) -> Mapping[str, Any] | None:
        connection = http.client.HTTPConnection("localhost")
        try:
            connection.sock = self._connect()
            connection.request("GET", "/status")
            answer = connection.getresponse()
            value = json.loads(answer.read(MAX_STATUS)) if answer.status == 200 else None
        except (OSError, ValueError, RecursionError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        return value if isinstance(value, dict) else None

    def _connect(self) -> socket.socket:
        """Whatever the path leads to, nothing is said to a socket of another user.

        Raises: OSError.
        """
        sock = _Patient(time.monotonic() + SECONDS)
        try:
            sock.connect(str(self._home / CONTROL_SOCKET))
            peer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            if struct.unpack("3i", peer)[1] != self._home.lstat().st_uid:
                raise PermissionError("the control socket belongs to another user")
        except BaseException:
            sock.close()
            raise
        return sock
