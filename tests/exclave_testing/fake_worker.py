"""A worker process with no engine, whose prompts say how it is to behave; for the supervisor's
tests. Start it with `births.program(*FAKE_WORKER)`.

    poison            dies
    hold              answers only once somebody was poisoned (parameter `marker` names the file)
    fuse N            dies after N milliseconds, cancelled or not
    hang              does nothing any more, whatever it is told
    speak and die     says a word, then dies
    allocate N        allocates N MiB and answers
    sleep N           answers after N milliseconds
    anything else     is answered with "ok"

Every prompt is added to the file that the parameter `journal` names, as it arrives. `ram_bytes`,
`vram_bytes`, `degraded` and `load_ms` are what it says of itself, and how long its load takes.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from exclave_agent.runtimes import frames

FAKE_WORKER = (sys.executable, "-I", __file__)


class FakeWorker:
    """Serves one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._splitter = frames.Splitter()
        self._lock = threading.Lock()
        self._marker = self._journal = Path("/dev/null")
        self._held: dict[int, str] = {}
        self._burning = 0

    def send(self, frame: frames.ToAgent) -> None:
        with self._lock:
            self._socket.sendall(frames.encode(frame))

    def run(self) -> None:
        while data := self._socket.recv(1 << 18):
            for body in self._splitter.feed(data):
                self._take(frames.decode_for_worker(body))

    def _take(self, frame: frames.ToWorker) -> None:
        match frame:
            case frames.Load():
                self._load(frame)
            case frames.Generate():
                with self._journal.open("a") as journal:
                    journal.write(f"{frame.prompt}\t{frame.adapter}\t{frame.timeout_us}\n")
                self._held[frame.id] = frame.prompt or ""
                self._answer(frame.id, frame.prompt or "")
            case frames.Ping():
                self.send(frames.Pong(frame.nonce, 1, len(self._held) + self._burning))
            case frames.Cancel():
                self._held.pop(frame.id, None)
            case frames.Shutdown():
                os._exit(0)

    def _load(self, load: frames.Load) -> None:
        given = load.parameters
        self._marker = Path(str(given.get("marker", "/dev/null/none")))
        self._journal = Path(str(given.get("journal", "/dev/null")))
        time.sleep(int(given.get("load_ms", 0)) / 1000)
        self.send(
            frames.Loaded(
                actions=["chat", "complete"],
                context_tokens=100,
                inputs=[],
                outputs=[],
                provider="cuda" if given.get("vram_bytes") else "cpu",
                network="none",
                isolation=[],
                degraded=str(given.get("degraded", "")),
                ram_bytes=int(given.get("ram_bytes", 0)),
                vram_bytes=int(given.get("vram_bytes", 0)),
            )
        )

    def _answer(self, request: int, prompt: str) -> None:
        verb, _, count = prompt.partition(" ")
        if verb == "poison":
            self._marker.touch()
            os._exit(9)
        elif verb == "fuse":
            self._burning += 1
            threading.Timer(int(count) / 1000, os._exit, (9,)).start()
            return
        elif verb == "hang":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif verb == "speak":
            self.send(frames.Step([frames.Text(request, "word")], []))
            os._exit(9)
        elif verb == "allocate":
            bytearray(int(count) << 20)
        elif verb == "sleep":
            threading.Timer(int(count) / 1000, self._done, (request,)).start()
            return
        if verb != "hold" or self._marker.exists():
            self._done(request)

    def _done(self, request: int) -> None:
        if self._held.pop(request, None) is not None:
            self.send(
                frames.Step([frames.Text(request, "ok")], [frames.Ended(request, "stop", 1, 1)])
            )


def main() -> None:
    """Entry of the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    FakeWorker(socket.socket(fileno=parser.parse_args().fd)).run()


if __name__ == "__main__":
    main()
