"""What systemd does for exclave-worker.socket (Accept=yes), for tests without systemd."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path


class WorkerSocket:
    """Listens, and starts one worker service for each connection, as descriptor 3."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.workers: list[subprocess.Popen[bytes]] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                script = f'exec 3<&{connection.fileno()}; exec "$0" -I -m "$1"'
                words = [sys.executable, "exclave_agent.runtimes.service_worker"]
                self.workers.append(
                    subprocess.Popen(
                        ["bash", "-c", script, *words],
                        pass_fds=(connection.fileno(),),
                        env={"PATH": os.environ["PATH"], "LISTEN_FDS": "1"},
                        stdin=subprocess.DEVNULL,
                    )
                )

    def close(self) -> None:
        """Stop listening; workers end by themselves, and are waited for."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        for worker in self.workers:
            worker.wait(10)
