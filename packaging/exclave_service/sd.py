"""The service manager's protocols: readiness, watchdog, kept descriptors.

Sources: sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3).

Every variable that systemd sets for a service is taken out of the environment when it is read:
no child process may speak in our name. Without a manager everything here does nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Final

LISTEN_FDS_START: Final = 3
"""First descriptor that is handed over; sd_listen_fds(3)."""
SEND_SECONDS: Final = 1.0
"""A datagram to the manager waits this long for room in its queue."""


_ANEW: Final = (errno.ECONNREFUSED, errno.ENOTCONN, errno.ECONNRESET)


class NotifyError(Exception):
    """The manager's socket does not take what we say."""


class Manager:
    """The service manager of this process, if there is one. Make it once, with `take`.

    Its socket is made and connected at once: a process that shuts itself off later, from
    files and from making sockets, can still say that it is alive.
    """

    def __init__(
        self,
        address: str = "",
        watchdog_seconds: float = 0.0,
        stored: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        self.watchdog_seconds = watchdog_seconds
        """The manager kills a service that is silent for so long; 0: never."""
        self.stored: Mapping[str, tuple[int, ...]] = stored or {}
        """Descriptors by name: those of sockets that activated us, and those that a former run
        of this service gave into keeping."""
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.settimeout(SEND_SECONDS)
            # One that cannot be reached now is told at the first thing to say.
            with contextlib.suppress(OSError):
                self._socket.connect(self._address)

    @classmethod
    def take(cls, environ: MutableMapping[str, str] | None = None) -> Manager:
        """Read what the manager says, and take it out of the environment.

        Variables that are addressed to another process (LISTEN_PID, WATCHDOG_PID) are
        dropped, and so are values that no manager writes.
        """
        env = os.environ if environ is None else environ
        address = env.pop("NOTIFY_SOCKET", "")
        return cls(
            address=address if address[:1] in ("/", "@") else "",
            watchdog_seconds=_watchdog(env),
            stored=_stored(env),
        )

    @property
    def present(self) -> bool:
        """Whether anybody listens to what we say."""
        return self._socket is not None

    def ready(self, status: str = "") -> None:
        """The service does what it is for; the manager lets what waits for it start.

        Raises: NotifyError.
        """
        self._say("READY=1", *_status(status))

    def status(self, text: str) -> None:
        """One line for `systemctl status`. Raises: NotifyError."""
        self._say(*_status(text))

    def reloading(self) -> None:
        """Settings are being read again; `ready` ends it. Raises: NotifyError."""
        # The monotonic time is what `Type=notify-reload` (systemd 253) asks for.
        self._say("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str = "") -> None:
        """The service has begun to end. Raises: NotifyError."""
        self._say("STOPPING=1", *_status(status))

    def watchdog(self) -> None:
        """The service is alive: MUST be said only after its parts were seen working.

        Raises: NotifyError.
        """
        self._say("WATCHDOG=1")

    def extend(self, seconds: float) -> None:
        """Starting or stopping goes on, and takes at most so much longer. Raises: NotifyError."""
        self._say(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def keep(self, name: str, descriptors: Iterable[int]) -> None:
        """Have descriptors kept over a restart under a name. Raises: NotifyError.

        FDPOLL=0: a listening socket without its process is not an error to be cleaned up.
        """
        self._say("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", descriptors=tuple(descriptors))

    def drop(self, name: str) -> None:
        """Let go of the descriptors kept under a name. Raises: NotifyError."""
        self._say("FDSTOREREMOVE=1", f"FDNAME={name}")

    def _say(self, *lines: str, descriptors: tuple[int, ...] = ()) -> None:
        if self._socket is None or not lines:
            return
        data = ["\n".join(lines).encode()]
        ancillary = []
        if descriptors:
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))]
        # May run on an event loop: a datagram to the manager goes out at once or, where its
        # queue is full, within SEND_SECONDS.
        try:
            try:
                self._socket.sendmsg(data, ancillary)
            except OSError as error:
                if error.errno not in _ANEW:
                    raise
                # The manager was started anew, and so was its socket.
                self._socket.connect(self._address)
                self._socket.sendmsg(data, ancillary)
        except OSError as error:
            what = lines[0].partition("=")[0]
            raise NotifyError(f"the service manager does not take {what}: {error}") from error


def _status(text: str) -> Iterator[str]:
    """A status is one line: a second one would be read as another variable."""
    if text:
        yield "STATUS=" + " ".join(text.split())


def _mine(env: MutableMapping[str, str], name: str) -> bool:
    """Whether a `*_PID` variable names this process; taken out either way."""
    return env.pop(name, "") in ("", str(os.getpid()))


def _watchdog(env: MutableMapping[str, str]) -> float:
    mine = _mine(env, "WATCHDOG_PID")
    text = env.pop("WATCHDOG_USEC", "")
    return int(text) / 1e6 if mine and text.isascii() and text.isdigit() else 0.0


def _stored(env: MutableMapping[str, str]) -> dict[str, tuple[int, ...]]:
    mine = _mine(env, "LISTEN_PID")
    count, names = env.pop("LISTEN_FDS", ""), env.pop("LISTEN_FDNAMES", "")
    if not mine or not count.isascii() or not count.isdigit():
        return {}
    found: dict[str, tuple[int, ...]] = {}
    given = names.split(":") if names else []
    for at in range(int(count)):
        descriptor = LISTEN_FDS_START + at
        fcntl.fcntl(descriptor, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        name = given[at] if at < len(given) else "unknown"
        found[name] = (*found.get(name, ()), descriptor)
    return found
