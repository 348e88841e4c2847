"""A machine in memory that an upgrade is tried on: its package manager, its services, its agent.

Every act of the upgrader is a moment at which it may be killed, or the power be cut.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exclave_agent.upgrade.engine import Engine
from exclave_agent.upgrade.errors import UpgradeRefused
from exclave_agent.upgrade.letters import Request, Result
from exclave_agent.upgrade.ports import (
    Installed,
    InstallFailed,
    ManagerBusy,
    Stopped,
    UnitState,
)
from exclave_agent.upgrade.settings import Patience
from exclave_agent.upgrade.shelf import Shelf
from exclave_agent.upgrade.state import Book, State, decode, encode
from exclave_agent.upgrade.vet import Plan
from exclave_protocol.packages import AGENT, Label, Package, upstream

OLD, NEW = "0.1.0-1", "0.2.0-1"
RELEASE = {"digest": "d" * 64, "version": 7}
PATIENCE = Patience(settle_seconds=3, deadline_seconds=20, lock_seconds=30)


def package(version: str) -> Package:
    """Of that version; the digest is the version's own."""
    digits = "".join(c for c in version if c.isdigit())
    return Package(Label(AGENT, version, "amd64", "deb"), f"{int(digits):064x}", 1000)


class Killed(BaseException):
    """The upgrader ends in the middle of an act."""


class Entered(BaseException):
    """The upgrader goes on as another process."""


@dataclass
class Machine:
    """What outlives the upgrader's process."""

    installed: str = OLD
    unpacked: str = "installed"
    """dpkg's word for how far it came."""
    behaviour: dict[str, str] = field(default_factory=dict)
    """By version: good (where nothing is said), crashing, failed, silent, impostor, bare, unlinked,
    uninstallable."""
    running: str = OLD
    """Version whose code the agent's process has; empty: none runs."""
    invocation: int = 1
    restarts: int = 0
    looks: int = 0
    connected: bool = True
    request: Request | None = field(
        default_factory=lambda: Request("a" * 32, package(NEW).sha256, package(OLD).sha256)
    )
    refusal: str = ""
    """Code under which the request is refused by the vetting."""
    answers: list[Result] = field(default_factory=list)
    state: bytes | None = None
    unfinished: bool = False
    stands: bool = False
    """There is a copy of the upgrader."""
    locked_until: float = 0.0
    time: float = 1_900_000_000.0
    kept: list[Package] = field(default_factory=list)
    installs: list[str] = field(default_factory=list)
    acts: int = 0
    cuts: list[int] = field(default_factory=list)
    """Numbers of the acts at which the upgrader ends."""
    power: bool = True
    """It ends because the power is cut; else it alone is killed, and what it began goes on."""

    def act(self, _name: str) -> None:
        """Something is about to be done, or was just done."""
        self.acts += 1
        if self.cuts and self.acts == self.cuts[0]:
            self.cuts.pop(0)
            self.acts = 0
            if self.power:
                self._boot()
            elif self.unpacked != "installed" and self._installs(self.installed):
                self.unpacked = "installed"
            raise Killed

    def _boot(self) -> None:
        self.start()

    def start(self) -> None:
        """The agent's service starts, with what is installed by now."""
        self.invocation += 1
        self.restarts = self.looks = 0
        self.running = self.installed if self.unpacked != "half-installed" else ""

    def _installs(self, version: str) -> bool:
        return self.behaviour.get(version) != "uninstallable"

    # --- counter ---

    def vet(self, request: Request, _now: int) -> Plan:
        """As Vetting does."""
        if self.refusal:
            raise UpgradeRefused("it is refused", code=self.refusal)
        return Plan(package(OLD), package(NEW))


class Process:
    """One process of the upgrader; all ports in one, for the engine."""

    form = "deb"

    def __init__(self, machine: Machine, *, inside: bool) -> None:
        self.machine = machine
        self._inside = inside
        self.told = False

    def engine(self) -> Engine:
        """As root.build puts it together."""
        return Engine(
            counter=_Counter(self.machine),
            vet=self.machine.vet,
            book=_Book(self.machine),
            shelf=_Shelf(self.machine),
            packages=self,
            services=_Services(self.machine),
            probe=_Probe(self.machine),
            foothold=self,
            pace=self,
            patience=lambda: PATIENCE,
        )

    # --- PackageManager ---

    def installed(self, name: str) -> Installed | None:
        assert name == AGENT
        m = self.machine
        return Installed(m.installed, "amd64", m.unpacked == "installed")

    @contextlib.contextmanager
    def locked(self, patience: float) -> Iterator[None]:
        m = self.machine
        if m.locked_until > m.time + patience:
            m.time += patience
            raise ManagerBusy("another process uses the package manager")
        m.time = max(m.time, m.locked_until)
        yield

    def install(self, file: Path) -> None:
        m = self.machine
        version = next(v for v in (OLD, NEW) if package(v).file_name == file.name)
        m.act("install")
        m.installed, m.unpacked = version, "half-installed"
        m.act("unpacking")
        m.unpacked = "unpacked"
        m.act("unpacked")
        if not m._installs(version):
            raise InstallFailed("dpkg exited 1: the script failed")
        m.unpacked = "installed"
        m.installs.append(version)
        m.act("installed")

    def repair(self) -> None:
        m = self.machine
        m.act("repair")
        if m.unpacked == "unpacked" and m._installs(m.installed):
            m.unpacked = "installed"
        if m.unpacked != "installed":
            raise InstallFailed("dpkg exited 1: needs to be reinstalled")

    # --- Foothold ---

    @property
    def stands(self) -> bool:
        return self.machine.stands

    @property
    def inside(self) -> bool:
        return self._inside

    def take(self) -> None:
        self.machine.act("take")
        self.machine.stands = True
        self.machine.act("taken")

    def enter(self) -> None:
        assert self.machine.stands
        raise Entered

    def leave(self) -> None:
        self.remove()
        if self._inside:
            raise Entered

    def remove(self) -> None:
        self.machine.act("remove")
        self.machine.stands = False

    # --- Pace ---

    def now(self) -> int:
        return int(self.machine.time)

    def monotonic(self) -> float:
        return self.machine.time

    def sleep(self, seconds: float) -> None:
        if self.told:
            raise Stopped
        self.machine.time += seconds


class _Counter:
    def __init__(self, machine: Machine) -> None:
        self._m = machine

    def request(self) -> Request | None:
        return self._m.request

    def answer(self, result: Result) -> None:
        self._m.act("answer")
        self._m.answers.append(result)
        self._m.act("answered")

    def clear(self, request_id: str) -> None:
        if self._m.request is not None and self._m.request.id == request_id:
            self._m.request = None
        self._m.act("cleared")


class _Book(Book):
    def __init__(self, machine: Machine) -> None:
        self._m = machine

    @property
    def unfinished(self) -> bool:
        return self._m.unfinished

    def load(self) -> State | None:
        return None if self._m.state is None else decode(self._m.state)

    def save(self, state: State) -> None:
        self._m.act("save")
        self._m.state = encode(state)
        self._m.act("saved")
        self._m.unfinished = True

    def close(self) -> None:
        self._m.act("close")
        self._m.unfinished = False
        self._m.act("closed")


class _Shelf(Shelf):
    def __init__(self, machine: Machine) -> None:
        super().__init__(Path("/shelf"))
        self._m = machine

    def kept(self) -> list[Package]:
        return self._m.kept

    def settle(self, keep: object) -> None:
        assert isinstance(keep, list)
        self._m.act("settle")
        self._m.kept = keep


class _Services:
    def __init__(self, machine: Machine) -> None:
        self._m = machine

    def unit(self) -> UnitState:
        m = self._m
        kind = m.behaviour.get(upstream(m.running), m.behaviour.get(m.running, "good"))
        m.looks += 1
        if kind == "crashing" or not m.running:
            m.restarts += 1
            m.invocation += 1
            return self._state("activating", "auto-restart")
        if kind == "failed":
            return self._state("failed", "failed")
        return self._state("active", "running")

    def _state(self, active: str, sub: str) -> UnitState:
        return UnitState(active, sub, self._m.restarts, str(self._m.invocation))

    def daemon_reload(self) -> None:
        self._m.act("daemon-reload")

    def restart(self) -> None:
        self._m.act("restart")
        self._m.start()
        self._m.act("restarted")


class _Probe:
    def __init__(self, machine: Machine) -> None:
        self._m = machine

    def status(self) -> Mapping[str, Any] | None:
        m = self._m
        kind = m.behaviour.get(m.running, "good")
        if kind == "silent" or not m.running:
            return None
        return {
            "version": upstream(OLD) if kind == "impostor" else upstream(m.running),
            "release": None if kind == "bare" else RELEASE,
            "coordinator": {"connected": m.connected and kind != "unlinked"},
        }


def run(machine: Machine) -> State | None:
    """The service, started by its path unit as often as there is something to do."""
    state: State | None = None
    for _ in range(60):
        # The unit runs the copy where there is one.
        inside = machine.stands
        while True:
            try:
                state = Process(machine, inside=inside).engine().run() or state
            except Entered:
                inside = not inside
                continue
            except Killed:
                pass
            break
        if machine.request is None and not machine.unfinished:
            return state
    raise AssertionError("the upgrader is started again and again")
