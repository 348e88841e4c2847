"""The worker as a service: systemd starts one for each connection to exclave-worker.socket.

The connection is descriptor 3. The first byte on it carries the open model file and those of its
adapters; no other file of the agent's can be seen from here. After that it is the worker that
it always is.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading

from exclave_agent.runtimes.births import HANDED_OVER
from exclave_agent.runtimes.frames import MAX_ADAPTERS
from exclave_agent.runtimes.isolate import isolate
from exclave_agent.runtimes.worker import Connection, prepare, serve
from exclave_service.sd import Manager, NotifyError

FIRST_BYTE_SECONDS = 10.0
"""From the connection to the model's descriptor."""


def main() -> None:
    """Entry of `exclave-worker`. Exit statuses as in `worker`; 64: not started by its socket."""
    manager = Manager.take()
    connections = [fd for fds in manager.stored.values() for fd in fds]
    if len(connections) != 1:
        sys.exit("exclave-worker is started by exclave-worker.socket, and by nobody else")
    sock = socket.socket(fileno=connections[0])
    model, *adapters = receive_files(sock)
    # "Ready" means that frames are read: how the load goes, the agent hears on the socket.
    manager.ready("loading a model")
    prepare()
    walls = isolate(None)
    status = serve(
        Connection(sock),
        walls,
        files=[f"/proc/self/fd/{fd}" for fd in (model, *adapters)],
        # A thread has the walls that stood at its birth.
        walled=lambda: _keep_alive(manager),
        loaded=lambda: manager.status("serving a model"),
    )
    os._exit(status)


def receive_files(sock: socket.socket) -> list[int]:
    """Descriptors of the model and of its adapters. Raises: SystemExit, the peer does not speak
    as the agent does."""
    sock.settimeout(FIRST_BYTE_SECONDS)
    try:
        data, descriptors, flags, _ = socket.recv_fds(sock, 1, 1 + MAX_ADAPTERS)
    except OSError as error:
        raise SystemExit(f"no model was handed over: {error}") from None
    if data != HANDED_OVER or not descriptors or flags & socket.MSG_CTRUNC:
        for each in descriptors:
            os.close(each)
        raise SystemExit("the first byte does not carry the open files of a model")
    sock.settimeout(None)
    return descriptors


def _keep_alive(manager: Manager) -> None:
    """Tell the watchdog that this process still gets to run Python.

    The agent itself sees an engine that makes no progress, and closes the socket; a process
    that cannot notice even that is what the watchdog is for.
    """
    if manager.watchdog_seconds <= 0:
        return

    def beat() -> None:
        pause = threading.Event()
        while True:
            # A queue that is full for a moment; the next sign of life is in time as well.
            with contextlib.suppress(NotifyError):
                manager.watchdog()
            pause.wait(manager.watchdog_seconds / 3)

    threading.Thread(target=beat, name="watchdog", daemon=True).start()


if __name__ == "__main__":
    main()
