"""A machine with systemd and our package on it, in memory, for the steps of an installation."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Sequence
from pathlib import Path

from exclave_agent.config import DEFAULT_HOME
from exclave_agent.errors import IdentityError
from exclave_agent.identity.store import PRIVATE_KEYS
from exclave_agent.install import units
from exclave_agent.install.host import Ran
from exclave_agent.install.seal import HELPER
from exclave_agent.install.steps import IDENTITY, JOINED, RUNTIMES
from exclave_agent.sealing import KEY_BYTES, Sealer
from exclave_protocol.identity import JoinToken

DEV = Path("/dev")


class FakeHost:
    """See `exclave_agent.install.host.Host`. Commands act on what the fake knows."""

    def __init__(self, *, systemd: int = 252, gpu: bool = False, root: bool = True) -> None:
        self.is_root = root
        self.systemd = systemd
        self.files: dict[Path, bytes] = {
            Path("/run/systemd/system"): b"",
            RUNTIMES / "cpu": b"",
            units.SHIPPED / units.AGENT: b"[Unit]",
        }
        self.modes: dict[Path, int] = {}
        for name in (
            "10-systemd-254.conf",
            "20-gpu.conf",
            "20-gpu-socket.conf",
            "exclave-gpu.sysusers",
        ):
            self.files[units.TEMPLATES / name] = name.encode()
        if gpu:
            self.files[DEV / "nvidiactl"] = b""
        self.owners: dict[Path, str] = {}
        self.users = {"root"}
        self.enabled: set[str] = set()
        self.active: set[str] = set()
        self.commands: list[list[str]] = []
        self.secrets: list[bytes] = []
        self.fails: dict[str, str] = {}
        """Commands, by their first two words, that fail with that text."""
        self.rewrites = -1
        """Keys that are sealed anew before that is interrupted; -1: all."""

    # --- the port --------------------------------------------------------------------------

    def run(self, argv: Sequence[str], stdin: bytes = b"") -> Ran:
        words = list(argv)
        self.commands.append(words)
        short = " ".join(words[:2])
        if short in self.fails:
            return Ran(1, b"", self.fails[short])
        if words[0] == "systemctl":
            return self._systemctl(words[1], words[2:])
        if words[0] == "systemd-sysusers":
            self.users |= {units.USER, units.WORKER_USER}
        elif words[0] == "systemd-creds":
            return self._creds(words, stdin)
        elif tuple(words) == HELPER:
            return self._reseal(Sealer(stdin[:KEY_BYTES]), Sealer(stdin[KEY_BYTES:]))
        elif words[1:2] == ["join"]:
            assert self.owners[DEFAULT_HOME] == units.USER
            token = JoinToken.decode(stdin.decode().strip())
            record = {
                "spiffe_id": f"spiffe://example.org/tenant/{token.tenant}/agent/north",
                "root_pin": token.root_pin,
            }
            self.files[JOINED] = json.dumps(record).encode()
        return Ran(0, b"", "")

    def _creds(self, words: list[str], stdin: bytes) -> Ran:
        """Not encrypted at all, so that a test can see what is inside."""
        if words[1] == "decrypt":
            return Ran(0, self.files[Path(words[3])].removeprefix(b"sealed:"), "")
        self.secrets.append(stdin)
        return Ran(0, b"sealed:" + stdin, "")

    def _reseal(self, old: Sealer, new: Sealer) -> Ran:
        """What the helper does, on files in memory, up to `rewrites` of them."""
        assert units.AGENT not in self.active
        for name in PRIVATE_KEYS:
            path = IDENTITY / name
            try:
                new.open(name, self.files[path])
            except IdentityError:
                if self.rewrites == 0:
                    return Ran(1, b"", "power cut")
                self.rewrites -= 1
                self.files[path] = new.seal(name, old.open(name, self.files[path]))
        return Ran(0, b"", "")

    def _systemctl(self, verb: str, names: list[str]) -> Ran:
        if verb == "--version":
            return Ran(0, f"systemd {self.systemd} ({self.systemd}.1-1)\n".encode(), "")
        now = "--now" in names
        names = [name for name in names if not name.startswith("--")]
        if verb == "is-enabled":
            said = ["enabled" if name in self.enabled else "disabled" for name in names]
            return Ran(0, "\n".join(said).encode(), "")
        if verb == "is-active":
            said = ["active" if name in self.active else "inactive" for name in names]
            return Ran(0, "\n".join(said).encode(), "")
        if verb == "enable":
            self.enabled |= set(names)
        elif verb in ("start", "restart"):
            self.active |= set(names)
        elif verb == "stop":
            self.active -= set(names)
        elif verb == "disable":
            self.enabled -= set(names)
            self.active -= set(names) if now else set()
        return Ran(0, b"", "")

    def exists(self, path: Path) -> bool:
        return path in self.files or path in self.owners

    def read(self, path: Path) -> bytes | None:
        return self.files.get(path)

    def write(self, path: Path, data: bytes, mode: int) -> None:
        self.files[path] = data
        self.modes[path] = mode

    def remove(self, path: Path) -> None:
        self.files.pop(path, None)

    def owner(self, path: Path) -> str | None:
        return self.owners.get(path)

    def make_home(self, path: Path, user: str) -> None:
        assert user in self.users
        self.owners[path] = user

    def has_user(self, name: str) -> bool:
        return name in self.users

    def glob(self, folder: Path, pattern: str) -> Sequence[Path]:
        return sorted(p for p in self.files if fnmatch.fnmatch(str(p), f"{folder}/{pattern}"))
