"""Desk: the agent's own side; asks for an upgrade, and tells how it ended.

`request` is the one door: the command line uses it over the control socket, and so may whoever
else decides on upgrades. Each result is recorded once, as an INCIDENT.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from exclave_agent.audit import drafts
from exclave_agent.disk import sync_folder
from exclave_agent.errors import ReleaseRefused
from exclave_agent.ports import Appended, Ids, LeafDraft
from exclave_agent.releases.fetch import ArtifactStore
from exclave_agent.releases.files import write_durably
from exclave_agent.upgrade.errors import UpgradeRefused
from exclave_agent.upgrade.letters import (
    DEADLINES,
    FOLDER,
    MAX_LETTER,
    REQUEST,
    RESULT,
    Request,
    Result,
    staging,
)
from exclave_agent.upgrade.machine import Machine
from exclave_agent.upgrade.refusals import cannot_revert, free_space, refuse_full, refuse_older
from exclave_protocol.errors import MetadataError, PackageError
from exclave_protocol.packages import AGENT, Package, compare, fitting, named, packages_in
from exclave_protocol.release import ArtifactRef

log = logging.getLogger(__name__)

ROOTS: Final = "root_history"
"""Folder in which tuf keeps all roots that it walked."""


class Repository(Protocol):
    """releases.verify.Repository."""

    async def refresh(self) -> object:
        """Fetch and verify the tenant's metadata. Raises: ReleaseRefused, LinkError."""
        ...


class Incidents(Protocol):
    """audit.append.Log."""

    async def append_once(self, evidence: bytes, draft: LeafDraft) -> Appended | None:
        """None: that evidence is recorded already. Raises: StorageError."""
        ...


@dataclass(frozen=True, slots=True)
class Choice:
    """What a request would do."""

    present: str
    """Version that runs."""
    target: Package | None
    """None: the present version is the newest."""
    former: Package | None
    """To be fetched as well; None: the root side keeps it."""


class UpgradeDesk:
    """One agent's upgrades."""

    def __init__(
        self,
        home: Path,
        *,
        repository: Repository,
        store: ArtifactStore,
        incidents: Incidents,
        ids: Ids,
        machine: Machine | None = None,
        free: Callable[[Path], int] = free_space,
    ) -> None:
        """`repository` keeps its metadata in `<home>/tuf`; `store` MUST be of this desk alone:
        what is no longer needed is removed from it."""
        self._folder = home / FOLDER
        self._tuf = home / "tuf"
        self._repository = repository
        self._store = store
        self._incidents = incidents
        self._ids = ids
        self._machine = machine or Machine()
        self._free = free
        self._asking = asyncio.Lock()
        self._told = ""
        """Id of the newest result that is on record."""

    # --- asking -------------------------------------------------------------------------------

    async def answer(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What the command line asks over the control socket: `version` (or null), `downgrade`,
        `deadline` and `check`, all of which may be left out.

        Raises: as `request`; UpgradeRefused ("request_invalid") for values of another type.
        """
        version, deadline = asked.get("version"), asked.get("deadline", 0)
        if not (version is None or isinstance(version, str)) or type(deadline) is not int:
            raise UpgradeRefused(
                "version must be a string, deadline a whole number", code="request_invalid"
            )
        downgrade = asked.get("downgrade") is True
        if asked.get("check") is True:
            return await self.check(version, downgrade=downgrade)
        return await self.request(version, downgrade=downgrade, deadline=deadline)

    async def check(self, version: str | None = None, *, downgrade: bool = False) -> dict[str, Any]:
        """What a request would do, JSON-ready; nothing is fetched but metadata.

        Raises: as `request`, but for what only fetching can find.
        """
        self._machine.require_root_side()
        choice = await self._choose(version, downgrade=downgrade)
        target = choice.target.version if choice.target is not None else None
        return {"present": choice.present, "target": target}

    async def request(
        self, version: str | None = None, *, downgrade: bool = False, deadline: int = 0
    ) -> dict[str, Any]:
        """Have the newest signed version (or a named one) installed; returns once it is asked
        for, with the id under which `status` tells of it.

        Raises: UpgradeRefused, ReleaseRefused (metadata or files refused), LinkError.
        """
        low, high = DEADLINES
        if deadline and not low <= deadline <= high:
            raise UpgradeRefused(
                f"deadline must be from {low} to {high} seconds", code="request_invalid"
            )
        if self._asking.locked():
            raise _in_progress()
        async with self._asking:
            self._machine.require_root_side()
            if self._machine.busy() or await asyncio.to_thread(self._waiting):
                raise _in_progress()
            choice = await self._choose(version, downgrade=downgrade)
            target, former = choice.target, choice.former
            if target is None:
                raise UpgradeRefused(
                    f"version {choice.present} runs, and no newer one is signed for this machine",
                    code="already_running",
                )
            for disk in (self._machine.program, self._machine.root_folder, self._folder):
                refuse_full(disk, self._free(disk), target.length)
            self._folder.mkdir(mode=0o700, exist_ok=True)
            needed = [target] if former is None else [target, former]
            await self._store.ensure([ArtifactRef(p.path, p.sha256, p.length) for p in needed])
            request = Request(
                id=self._ids.new(),
                package=target.sha256,
                former=former.sha256 if former is not None else "",
                downgrade=downgrade,
                deadline=deadline,
            )
            await asyncio.to_thread(self._stage, request, needed)
        log.info("upgrade %s: asked for %s", request.id[:8], target.version)
        return {"id": request.id, "from": choice.present, "to": target.version}

    async def _choose(self, version: str | None, *, downgrade: bool) -> Choice:
        present = self._machine.present()
        await self._repository.refresh()
        fits = fitting(
            await asyncio.to_thread(self._signed),
            name=AGENT,
            form=present.format,
            architecture=present.architecture,
        )
        target = fits[-1] if fits and version is None else None
        if version is not None:
            target = named(fits, version)
        if target is None:
            what = "no package" if version is None else f"no package of version {version}"
            raise UpgradeRefused(
                f"{what} is signed for this machine ({present.format}, {present.architecture})",
                code="no_package",
            )
        kept = named(self._machine.kept(), present.version)
        former = kept or named(fits, present.version)
        # With its packaging revision, where the installation does not say it.
        installed = former.version if former is not None else present.version
        order = compare(present.format, target.version, installed)
        if order == 0 or (order < 0 and version is None):
            return Choice(installed, None, None)
        refuse_older(present.format, target.version, installed, downgrade=downgrade)
        if former is None:
            raise cannot_revert(installed)
        return Choice(installed, target, former if kept is None else None)

    def _signed(self) -> list[Package]:
        from exclave_protocol.tufmeta import load_targets

        try:
            data = (self._tuf / "metadata" / "targets.json").read_bytes()
            return packages_in(load_targets(data).signed)
        except (MetadataError, PackageError) as error:
            raise ReleaseRefused(f"signed metadata: {error.message}", code="tampered") from error

    # --- staging ------------------------------------------------------------------------------

    def _waiting(self) -> bool:
        return (self._folder / REQUEST).exists()

    def _stage(self, request: Request, packages: list[Package]) -> None:
        """MUST write the request last: with it everything else is in place, or never counts."""
        self._sweep()
        staged = self._folder / staging(request.id)
        for folder in (staged, staged / "metadata", staged / "packages"):
            folder.mkdir(mode=0o700)
        for name, file in self._metadata().items():
            shutil.copyfile(file, staged / "metadata" / name)
        for package in packages:
            try:
                os.link(self._store.path(package.sha256), staged / "packages" / package.file_name)
            except FileNotFoundError as error:
                raise ReleaseRefused(
                    f"{package.path} is gone again: ask once more", code="fetch_failed"
                ) from error
        for folder in (staged / "metadata", staged / "packages", staged):
            sync_folder(folder)
        write_durably(self._folder / REQUEST, request.encode())

    def _metadata(self) -> dict[str, Path]:
        """The verified metadata under its published names."""
        from exclave_protocol.tufmeta import load_snapshot, load_targets

        seen = self._tuf / "metadata"
        files = {path.name: path for path in (seen / ROOTS).glob("*.root.json")}
        files["timestamp.json"] = seen / "timestamp.json"
        snapshot = load_snapshot((seen / "snapshot.json").read_bytes()).signed.version
        targets = load_targets((seen / "targets.json").read_bytes()).signed.version
        files[f"{snapshot}.snapshot.json"] = seen / "snapshot.json"
        files[f"{targets}.targets.json"] = seen / "targets.json"
        return files

    def _sweep(self) -> None:
        """What requests before have staged."""
        for folder in self._folder.glob(f"{staging('')}*"):
            shutil.rmtree(folder, ignore_errors=True)

    # --- telling ------------------------------------------------------------------------------

    async def report(self) -> None:
        """Record a result that has come, once; call at the start and now and then.

        Raises: StorageFull, StorageError: it is tried again by the next call.
        """
        data = await asyncio.to_thread(self._read_result)
        if data is None:
            return
        result = _decode(data)
        if result is None or result.id == self._told:
            return
        draft = drafts.incident(f"upgrade_{result.outcome}", _detail(result), evidence=data)
        if await self._incidents.append_once(data, draft) is not None:
            log.warning("upgrade %s: %s %s", result.id[:8], result.outcome, result.message)
        self._told = result.id
        if not self._asking.locked() and not await asyncio.to_thread(self._waiting):
            await asyncio.to_thread(self._sweep)
            self._store.collect(())

    def status(self) -> dict[str, Any] | None:
        """The newest upgrade, JSON-ready; None: there never was one."""
        with contextlib.suppress(OSError, UpgradeRefused):
            waiting = Request.decode(_small(self._folder / REQUEST))
            state = self._machine.progress()
            if state is None or state.id != waiting.id:
                return _shown(waiting.id, "waiting")
            if not state.phase.final:
                present, target = state.present, state.target
                return _shown(
                    waiting.id,
                    str(state.phase),
                    present=present.version if present is not None else "",
                    target=target.version if target is not None else "",
                    code=state.code,
                    reason=state.message,
                )
        data = self._read_result()
        result = None if data is None else _decode(data)
        if result is None:
            return None
        return _shown(
            result.id,
            "finished",
            present=result.present,
            target=result.target,
            outcome=str(result.outcome),
            code=result.code,
            reason=result.message,
            warnings=result.warnings,
        )

    def _read_result(self) -> bytes | None:
        try:
            return _small(self._folder / RESULT)
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("the result of an upgrade cannot be read (%s)", error.strerror)
            return None


def _small(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_LETTER)


def _decode(data: bytes) -> Result | None:
    try:
        return Result.decode(data)
    except UpgradeRefused as error:
        log.warning("the result of an upgrade is not one (%s)", error.message)
        return None


def _detail(result: Result) -> str:
    versions = f"{AGENT} {result.present or '?'} > {result.target or '?'}"
    reason = f": {result.code}: {result.message}" if result.code else ""
    return f"{versions} ({result.id or 'no id'}){reason}"


def _shown(
    request_id: str,
    state: str,
    *,
    present: str = "",
    target: str = "",
    outcome: str = "",
    code: str = "",
    reason: str = "",
    warnings: tuple[str, ...] = (),
) -> dict[str, Any]:
    return {
        "id": request_id,
        "state": state,
        "from": present,
        "to": target,
        "outcome": outcome,
        "code": code,
        "reason": reason,
        "warnings": list(warnings),
    }


def _in_progress() -> UpgradeRefused:
    return UpgradeRefused(
        "an upgrade is in progress: see `exclave-agent status`", code="in_progress"
    )
