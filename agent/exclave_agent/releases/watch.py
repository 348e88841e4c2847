"""Watch: bring what runs to what is desired, again and again; a push is only a hint to look.

One cycle: refresh TUF metadata > check the assignment > fetch the manifest > check it > fetch
its files > activate > collect garbage. Everything that can go wrong leaves the former release
answering and is reported under a stable code.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from exclave_agent.errors import AgentError, LinkError, ReleaseRefused, StorageError
from exclave_agent.ports import (
    ArtifactSource,
    AuditLog,
    Clock,
    Rng,
    Runtimes,
    StateStore,
)
from exclave_agent.releases import verify
from exclave_agent.releases.activate import Activator
from exclave_agent.releases.fetch import ArtifactStore, free_space
from exclave_agent.releases.prepare import kept_of, prepare
from exclave_agent.releases.report import Desired, Observed, Phase, Reporter
from exclave_agent.releases.state import Kept, ReleaseState, StateFile
from exclave_agent.slots import Backoff, Latest, pause
from exclave_protocol.release import (
    ArtifactRef,
    Assignment,
    ReleaseManifest,
    release_path,
)

log = logging.getLogger(__name__)

LINK_RETRY: Final = (1.0, 300.0)
"""Delay ceilings after the coordinator could not be reached, seconds."""
REFUSED_RETRY: Final = (30.0, 3600.0)
"""After a refusal: the same bytes will mostly be refused again."""

DAMAGED: Final = frozenset({"tampered", "fetch_failed"})
"""Refusals of a release on disk that fetching it again may cure."""


@dataclass(frozen=True, slots=True)
class ReleaseStatus:
    """One look at the releases, for `exclave-agent status`."""

    phase: Phase
    digest: str
    version: int
    generation: int
    generation_seen: int
    """Newest generation acted on, applied or refused."""
    error_code: str
    error_message: str
    checked_ns: int
    """Trusted time of the last good metadata check; 0: never."""
    grace_left: float
    """Seconds."""


class ReleaseManager:
    """Owns the releases of one agent: `restore` once, then `run`; `releases` is the port."""

    def __init__(
        self,
        home: Path,
        scope: verify.Scope,
        *,
        source: ArtifactSource,
        runtimes: Runtimes,
        audit: AuditLog,
        state: StateStore,
        clock: Clock,
        rng: Rng,
        desired: Latest[Desired],
        observed: Latest[Observed],
        interval: float = 300.0,
        free: Callable[[Path], int] = free_space,
    ) -> None:
        """`clock` must be the trusted time (system.TrustedTime): expiry is judged by it.

        `desired` is filled by the session, `observed` is sent by it; `interval` is the longest
        time between two looks at the signed metadata, seconds.
        """
        # One thread: cycles are serial, and hashing two models at once would only thrash.
        self._executor = ThreadPoolExecutor(1, "exclave-releases")
        self._scope = scope
        self._clock = clock
        self._rng = rng
        self._interval = interval
        self._desired = desired
        self._observed = observed
        self._report = Reporter(observed)
        self._state = StateFile(state)
        self._store = ArtifactStore(
            home / "artifacts" / "sha256",
            source,
            clock=clock,
            rng=rng,
            executor=self._executor,
            free=free,
        )
        self.repository = verify.Repository(
            home / "tuf", scope, source, clock=clock, executor=self._executor
        )
        """The tenant's signed metadata, for whoever else needs a target of it."""
        self.releases = Activator(
            runtimes, audit, self._state, clock=clock, executor=self._executor
        )
        """ports.Releases"""
        self._wake = asyncio.Event()
        self._changing = asyncio.Lock()
        self._failed_generation = 0
        self._link_backoff = Backoff(*LINK_RETRY)
        self._refused_backoff = Backoff(*REFUSED_RETRY)

    def status(self) -> ReleaseStatus:
        """Where the releases stand now."""
        seen = self._observed.value or Observed(0, Phase.EMPTY)
        active = self.releases.active
        return ReleaseStatus(
            phase=seen.phase,
            digest=active.digest if active else "",
            version=active.version if active else 0,
            generation=active.generation if active else 0,
            generation_seen=seen.generation,
            error_code=seen.error_code,
            error_message=seen.error_message,
            checked_ns=self.releases.checked_ns,
            grace_left=self.releases.grace_left(),
        )

    def set_interval(self, seconds: float) -> None:
        """Look at the signed metadata at another pace, and once now."""
        self._interval = seconds
        self._wake.set()

    # --- life ---------------------------------------------------------------------------

    async def restore(self) -> None:
        """Take up the last verified release from disk, without the coordinator.

        Every digest is checked again. Where the current release no longer loads, the last
        known good one answers instead (reported as REVERTED).
        Raises: StorageError.
        """
        self.releases.checked_ns = await self._state.load()
        state = self._state.now
        if state.current is None:
            self._report.say(Phase.EMPTY, 0, "")
            return
        try:
            await self._take_up(state.current, state)
            if state.reverted > state.current.generation:
                self._report.say(
                    Phase.REVERTED,
                    state.reverted,
                    state.current.digest,
                    code="reverted",
                    message="an earlier run of this agent left the assigned release",
                )
            else:
                self._report.say(Phase.APPLIED, state.current.generation, state.current.digest)
        except ReleaseRefused as error:
            log.warning("release not restored (%s): %s", error.code, error.message)
            await self._fall_back(error)

    async def run(self) -> None:
        """Reconcile until cancelled; `restore` has been called before."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_desired())
            group.create_task(self.releases.reap())
            while True:
                delay = await self.reconcile()
                await pause(self._clock, delay, self._wake)

    async def close(self) -> None:
        """Close the models and the thread. Call after `run` has ended."""
        await self.releases.close()
        self._executor.shutdown(wait=True, cancel_futures=True)

    async def _watch_desired(self) -> None:
        version = 0
        while True:
            version, _ = await self._desired.newer(version)
            self._wake.set()

    # --- one cycle ----------------------------------------------------------------------

    async def reconcile(self) -> float:
        """One cycle; returns the seconds to wait before the next one.

        Never raises for a bad release or a lost link: those are reported.
        """
        desired = self._desired.value
        generation = desired.generation if desired is not None else 0
        if generation != self._failed_generation:
            self._refused_backoff.reset()
        try:
            async with self._changing:
                await self._cycle(desired)
        except (ReleaseRefused, StorageError, LinkError) as error:
            return self._failed(generation, error)
        self._failed_generation = 0
        self._link_backoff.reset()
        self._refused_backoff.reset()
        return self._until_next()

    async def _cycle(self, desired: Desired | None) -> None:
        active = self.releases.active
        generation = desired.generation if desired is not None else 0
        new = desired is not None and generation > 0
        new = new and (active is None or active.generation != generation)
        new = new and generation != self._state.now.reverted
        if new:
            self._progress(Phase.VERIFYING, generation)
        targets = await self._refresh()
        if desired is None or not new:
            if active is not None and active.generation == generation:
                self._report.say(Phase.APPLIED, generation, active.digest)
            return
        assignment = verify.check_assignment(
            desired,
            self._scope,
            now=self._clock.now_ns() // 1_000_000_000,
            seen=self._state.now.generation,
        )
        await self._state.save(replace(self._state.now, generation=assignment.generation))
        # Before anything else: a release that its signers withdrew gets no new generation.
        ref = verify.find_manifest(assignment.release_digest, targets)
        if active is not None and active.digest == assignment.release_digest:
            await self._renumber(assignment)
        else:
            await self._change(assignment, ref, targets)
        digest = assignment.release_digest
        self._report.say(Phase.APPLIED, assignment.generation, digest)

    async def _refresh(self) -> verify.SignedTargets:
        """Verified, fresh metadata; renews the offline grace."""
        targets = await self.repository.refresh()
        state = self._state.now
        same_root = targets.root_version == state.root_version
        if targets.root_version < state.root_version or (
            same_root and targets.targets_version < state.targets_version
        ):
            raise ReleaseRefused(
                f"targets version {targets.targets_version} of root {targets.root_version} goes "
                f"back behind {state.targets_version} of root {state.root_version}",
                code="rolled_back",
            )
        await self._state.save(state.with_metadata(targets.root_version, targets.targets_version))
        now = self._clock.now_ns()
        await self._state.save_checked(now)
        self.releases.checked_ns = now
        return targets

    async def _renumber(self, assignment: Assignment) -> None:
        state = self._state.now
        assert state.current is not None
        kept = replace(state.current, generation=assignment.generation)
        await self.releases.renumber(assignment.generation, replace(state, current=kept))

    async def _change(
        self, assignment: Assignment, ref: ArtifactRef, targets: verify.SignedTargets
    ) -> None:
        generation = assignment.generation
        self._progress(Phase.FETCHING, generation)
        await self._store.ensure([ref])
        manifest = verify.check_manifest(
            await self._store.read(ref), ref.sha256, self._scope, floor=self._state.now.floor
        )
        verify.check_artifacts(manifest, targets)
        await self._store.ensure(manifest.targets(), trusted=self.releases.digests_in_use())
        self._progress(Phase.ACTIVATING, generation)
        prepared = await prepare(self._store, kept_of(manifest, ref, generation), manifest)
        state = self._state.now
        # Garbage goes once both releases to keep are durable, never before.
        await self.releases.activate(
            prepared,
            replace(
                state,
                current=prepared.kept,
                last_known_good=state.current if self.releases.active else state.last_known_good,
                floor=max(state.floor, manifest.minimum_version),
            ),
        )
        await self._collect()

    def _progress(self, phase: Phase, generation: int) -> None:
        """Say a step on the way, once: retries of a failed generation stay FAILED until done."""
        if generation != self._failed_generation:
            active = self.releases.active
            self._report.say(phase, generation, active.digest if active else "")

    def _failed(self, generation: int, error: AgentError) -> float:
        active = self.releases.active
        waiting = generation > 0 and (active is None or active.generation != generation)
        # A tenant without a first release is no fault, as long as nothing is desired.
        nothing_yet = generation == 0 and active is None and error.code == "fetch_failed"
        level = logging.INFO if nothing_yet else logging.WARNING
        log.log(level, "releases: %s: %s", error.code, error.message)
        if waiting or not (nothing_yet or isinstance(error, LinkError)):
            self._failed_generation = generation
            self._report.say(
                Phase.FAILED,
                generation,
                active.digest if active else "",
                code=error.code,
                message=error.message,
            )
        if not isinstance(error, LinkError):
            return self._rng.uniform(0.5, 1.0) * self._refused_backoff.ceiling()
        if waiting or active is None:
            return self._rng.uniform(0, self._link_backoff.ceiling())
        return self._until_next()

    def _until_next(self) -> float:
        """About `interval`, but often enough to renew a short offline grace in time."""
        longest = self._interval * self._rng.uniform(0.9, 1.1)
        left = self.releases.grace_left()
        return min(longest, max(1.0, left / 3)) if left > 0 else longest

    # --- falling back -------------------------------------------------------------------

    def fallback_has_other_models(self) -> bool:
        """Whether leaving the current release would change what runs in the workers."""
        current, good = self._state.now.current, self._state.now.last_known_good
        if current is None or good is None:
            return False
        return current.models_digest != good.models_digest

    async def revert(self, code: str, message: str) -> bool:
        """Leave a release that proved bad after activation for the last known good one.

        Works offline; the generation left is not tried again by itself. False: there is no
        other release above the security floor. Raises: StorageError.
        """
        async with self._changing:
            return await self._fall_back(ReleaseRefused(message, code=code))

    async def _fall_back(self, reason: ReleaseRefused) -> bool:
        state = self._state.now
        bad, good = state.current, state.last_known_good
        generation = bad.generation if bad is not None else 0
        if good is not None and (bad is None or good.digest != bad.digest):
            # A file that rotted on disk is fetched again; a release that does not work is left.
            left = state.reverted if reason.code in DAMAGED else generation
            after = replace(state, current=good, last_known_good=good, reverted=left)
            try:
                await self._take_up(good, after)
                self._report.say(
                    Phase.REVERTED,
                    generation,
                    good.digest,
                    code=reason.code,
                    message=reason.message,
                )
                return True
            except ReleaseRefused as error:
                log.warning("last known good not usable (%s): %s", error.code, error.message)
        active = self.releases.active
        self._report.say(
            Phase.FAILED,
            generation,
            active.digest if active else "",
            code=reason.code,
            message=reason.message,
        )
        return False

    async def _take_up(self, kept: Kept, state: ReleaseState) -> None:
        """Activate a release that is on disk, verifying every digest again.

        Raises: ReleaseRefused, StorageError.
        """
        ref = ArtifactRef(release_path(kept.digest), kept.digest, kept.length)
        manifest = verify.check_manifest(
            await self._store.read(ref), kept.digest, self._scope, floor=state.floor
        )
        for file in manifest.targets():
            await self._store.verify(file)
        await self.releases.activate(await prepare(self._store, kept, manifest), state)

    async def _collect(self) -> None:
        keep: set[str] = set(self.releases.digests_in_use())
        for kept in (self._state.now.current, self._state.now.last_known_good):
            if kept is None:
                continue
            keep.add(kept.digest)
            ref = ArtifactRef(release_path(kept.digest), kept.digest, kept.length)
            try:
                manifest = ReleaseManifest.decode(await self._store.read(ref))
            except ReleaseRefused as error:
                log.warning("manifest of a kept release is gone (%s)", error.code)
                continue
            keep.update(file.sha256 for file in manifest.targets())
        freed = self._store.collect(keep)
        if freed:
            log.info("removed %d bytes of artifacts that no release needs", freed)
