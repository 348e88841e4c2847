"""The worker process: one model, no network, no way out but the socket to the agent.

    python -m exclave_agent.runtimes.worker --fd N --parent PID

Two threads: the reader takes frames, tokenises and refuses; the main thread owns the engine.
The process ends with its parent, on `Shutdown`, and when the engine fails.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

import msgspec

from exclave_agent.runtimes import frames
from exclave_agent.runtimes.cpus import physical_cores
from exclave_agent.runtimes.engine import Refused
from exclave_agent.runtimes.hosts import Host, open_host
from exclave_agent.runtimes.isolate import has_network, isolate
from exclave_agent.runtimes.landlock import confine

EXIT_LOAD = 65
"""The model did not load; `LoadFailed` was sent."""
EXIT_ENGINE = 70
"""The engine failed after the load, or the agent broke the protocol."""

ENVIRONMENT = {
    # Threads that wait must not spin: an agent shares its machine, and spinning threads that
    # lose their core are waited for by all others. A thousand rounds is a few microseconds,
    # enough for the short gaps between two operators of one graph.
    "OMP_WAIT_POLICY": "passive",
    "GOMP_SPINCOUNT": "1000",
    # onnxruntime's wheels report home unless told not to.
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    # ggml would start a debugger on itself when it aborts: its output shows arguments, and it
    # would hold our stderr open.
    "GGML_NO_BACKTRACE": "1",
}

OOM_SCORE = "500"
"""As the packaged unit has it (exclave-worker@.service)."""

_stderr = 2
"""Where our own reports go; moved by `_silence`."""


class Connection:
    """Frames over the inherited socket; `send` is safe from both threads."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._splitter = frames.Splitter()
        self._lock = threading.Lock()

    def send(self, *sent: frames.ToAgent) -> None:
        """All of them in one write: the agent is woken once. Blocks while the agent does not
        read, which bounds what is ahead of it."""
        data = frames.encode(sent[0]) if len(sent) == 1 else b"".join(map(frames.encode, sent))
        with self._lock:
            self._socket.sendall(data)

    def receive(self) -> Iterator[frames.ToWorker]:
        """Frames until the agent closes. Raises: FrameError."""
        while data := self._socket.recv(1 << 18):
            for body in self._splitter.feed(data):
                yield frames.decode_for_worker(body)


def main(arguments: list[str]) -> int:
    """Isolate, load, serve; returns the exit status."""
    parser = argparse.ArgumentParser(prog="exclave-worker")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    given = parser.parse_args(arguments)
    os.closerange(3, given.fd)
    os.closerange(given.fd + 1, max(given.fd + 2, os.sysconf("SC_OPEN_MAX")))
    prepare()
    walls = isolate(given.parent)
    return serve(Connection(socket.socket(fileno=given.fd)), walls)


def prepare() -> None:
    """Set the process up before any engine is imported: threads, telemetry, discreet reports, and
    that the kernel, should the machine run out of memory, ends this process and not the agent."""
    # Before the walls: an undumpable process's files in /proc are root's. Where the service
    # manager has set a higher value already, lowering it is refused.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE, encoding="ascii")
    os.environ.update(ENVIRONMENT)
    os.environ["OMP_NUM_THREADS"] = str(physical_cores())
    sys.excepthook = _report
    threading.excepthook = lambda failed: _end_with(failed.exc_type, failed.exc_traceback)


def serve(
    connection: Connection,
    walls: tuple[str, ...],
    *,
    files: Sequence[str] | None = None,
    walled: Callable[[], None] = lambda: None,
    loaded: Callable[[], None] = lambda: None,
) -> int:
    """Load, then serve until the agent closes; returns the exit status.

    `files` is where this process finds the model and its adapters, if not at the paths that the
    agent knows; `walled` is called when all walls stand and nothing is loaded yet, `loaded` when
    it is.
    """
    incoming = connection.receive()
    load = next(incoming, None)
    if not isinstance(load, frames.Load):
        return EXIT_ENGINE
    if files is not None:
        if len(files) != 1 + len(load.adapters):
            return EXIT_ENGINE
        load = _found_at(load, files)
    if confine(Path(load.path), *(Path(one.path) for one in load.adapters)):
        walls = (*walls, "landlock")
    walled()
    try:
        host = open_host(load, connection.send)
    except Exception as error:  # noqa: BLE001 - engines raise types of their own; no request yet
        connection.send(frames.LoadFailed(str(error)[:500] or type(error).__name__))
        return EXIT_LOAD
    connection.send(
        frames.Loaded(
            actions=host.actions,
            context_tokens=host.context_tokens,
            inputs=host.inputs,
            outputs=host.outputs,
            provider=host.provider,
            # Asked now, with the engine loaded: nothing it did brought a network back.
            network="shared" if has_network() else "none",
            isolation=list(walls),
            degraded=host.degraded,
            ram_bytes=host.ram_bytes,
            vram_bytes=host.vram_bytes,
        )
    )
    loaded()
    _silence()
    reader = threading.Thread(target=_read, args=(incoming, host, connection), name="reader")
    reader.daemon = True
    reader.start()
    host.run()
    return 0


def _found_at(load: frames.Load, files: Sequence[str]) -> frames.Load:
    """The same load with other paths."""
    model, *adapters = files
    return msgspec.structs.replace(
        load,
        path=model,
        adapters=[
            msgspec.structs.replace(one, path=path)
            for one, path in zip(load.adapters, adapters, strict=True)
        ],
    )


def _read(incoming: Iterator[frames.ToWorker], host: Host, connection: Connection) -> None:
    """Handle frames until the agent closes, then end the process."""
    for frame in incoming:
        if isinstance(frame, frames.Generate | frames.Infer | frames.Embed | frames.Rerank):
            try:
                host.submit(frame)
            except Refused as refusal:
                connection.send(refusal.frame(frame.id))
        elif isinstance(frame, frames.Cancel):
            host.cancel(frame.id)
        elif isinstance(frame, frames.Ping):
            steps, active = host.progress()
            connection.send(frames.Pong(frame.nonce, steps, active, host.stats()))
        elif isinstance(frame, frames.Shutdown):
            break
        else:
            os._exit(EXIT_ENGINE)
    # Not sys.exit: engines crash in their destructors, and the main thread may be deep in one.
    os._exit(0)


def _silence() -> None:
    """From now on what the engine prints may quote requests: it goes nowhere.

    Our own reports, which name places in the code and never values, keep the real stderr.
    """
    global _stderr
    _stderr = os.dup(2)
    faulthandler.enable(file=_stderr)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _report(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
) -> None:
    """An unhandled exception: its type and where, not its message, which may hold data."""
    places = [f"{one.name} line {one.lineno}" for one in traceback.extract_tb(trace)]
    os.write(_stderr, f"{kind.__name__} in {' > '.join(places)}\n".encode())


def _end_with(kind: type[BaseException], trace: TracebackType | None) -> None:
    _report(kind, None, trace)
    os._exit(EXIT_ENGINE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
