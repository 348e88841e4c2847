"""An agent's home, root's folder and a signed repository on disk, for both sides of an upgrade."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exclave_agent.ports import Appended, LeafDraft
from exclave_agent.releases.fetch import ArtifactStore
from exclave_agent.releases.verify import Repository
from exclave_agent.upgrade.desk import UpgradeDesk
from exclave_agent.upgrade.machine import PATH_UNIT, Machine
from exclave_agent.upgrade.mailbox import Mailbox
from exclave_agent.upgrade.ports import Installed
from exclave_agent.upgrade.shelf import Shelf
from exclave_agent.upgrade.trust import write_trust
from exclave_agent.upgrade.vet import Vetting
from exclave_protocol.packages import Package
from exclave_testing.audit import FakeAuditLog
from exclave_testing.clock import START_NS, FakeClock, SeededRng, SequentialIds
from exclave_testing.packages import deb, package_of
from exclave_testing.tuf_repo import TufRepo, add_package
from exclave_testing.upgrade import Machine as MemoryMachine
from exclave_testing.upgrade import Process

NOW = START_NS // 1_000_000_000


class OnceLog:
    """audit.append.Log, as far as evidence goes."""

    def __init__(self) -> None:
        self.log = FakeAuditLog()
        self._seen: set[bytes] = set()

    async def append_once(self, evidence: bytes, draft: LeafDraft) -> Appended | None:
        if evidence in self._seen:
            return None
        appended = await self.log.append(draft)
        self._seen.add(evidence)
        return appended

    @property
    def incidents(self) -> list[tuple[str, str]]:
        """Code and detail of each, in order."""
        return [(str(d.body["code"]), str(d.body["detail"])) for d in self.log.drafts]


@dataclass
class Site:
    """One machine: its home, root's folder, what is installed, and the tenant's repository."""

    folder: Path
    executor: ThreadPoolExecutor
    repo: TufRepo = field(default_factory=TufRepo)
    incidents: OnceLog = field(default_factory=OnceLog)
    room: int = 1 << 40
    """Bytes free on every disk."""
    packages: dict[str, Package] = field(default_factory=dict)
    """By version."""

    def __post_init__(self) -> None:
        self.home, self.root = self.folder / "home", self.folder / "root"
        self.program, self.units = self.folder / "opt/exclave/agent", self.folder / "units"
        for made in (self.home, self.units, self.program / "share", self.folder / "run"):
            made.mkdir(parents=True)
        self.home.chmod(0o700)
        (self.units / PATH_UNIT).touch()
        write_trust(self.root, _Anchor(self.repo.pin))
        self.installed = Installed("0.1.0", "amd64", whole=True)
        self.says(version="0.1.0", architecture="amd64", format="deb")
        self.machine = Machine(
            program=self.program,
            code=self.program / "runtime/exclave_agent/__init__.py",
            root_folder=self.root,
            manager=self.folder / "run",
            unit_folders=(self.units,),
        )
        self.ids = SequentialIds()
        self.desk = self.new_desk()

    def new_desk(self) -> UpgradeDesk:
        """As after a restart of the agent."""
        clock = FakeClock()
        source = self.repo.source
        return UpgradeDesk(
            self.home,
            repository=Repository(
                self.home / "tuf", self.repo.scope, source, clock=clock, executor=self.executor
            ),
            store=ArtifactStore(
                self.home / "upgrade" / "packages",
                source,
                clock=clock,
                rng=SeededRng(),
                executor=self.executor,
            ),
            incidents=self.incidents,
            ids=self.ids,
            machine=self.machine,
            free=lambda _: self.room,
        )

    def says(self, **package: Any) -> None:
        """What the installed tree says of the package it came in."""
        (self.program / "share" / "package.json").write_text(json.dumps(package))

    def sign(self, *versions: str, publish: bool = True, **more: Any) -> None:
        """Have packages of these versions signed."""
        for version in versions:
            data = deb(version, **more)
            package = package_of(data, version, **more)
            self.packages[version] = package
            add_package(self.repo, package, data)
        if publish:
            self.repo.publish()

    @property
    def shelf(self) -> Shelf:
        return Shelf(self.root)

    @property
    def mailbox(self) -> Mailbox:
        return Mailbox(self.home)

    def vetting(self) -> Vetting:
        """Root's judge, over a package manager that has `installed`."""
        site = self

        class Manager(Process):
            def installed(self, name: str) -> Installed | None:
                return site.installed

        return Vetting(
            self.root,
            self.mailbox,
            self.shelf,
            lambda: Manager(MemoryMachine(), inside=False),
            disks=(self.program, self.root),
            free=lambda _: self.room,
        )


@dataclass(frozen=True)
class _Anchor:
    root_pin: str
    tenant: str = "acme"
