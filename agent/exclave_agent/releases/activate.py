"""Activate: compile the policy, load the models, record the change, then swap all at once.

The order is a promise: nothing answers under a release before its POLICY_CHANGE and
MODEL_CHANGE leaves and the new state are durable; when any step fails, the release before it
goes on untouched.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from types import TracebackType
from typing import Final

from exclave_agent.audit import drafts
from exclave_agent.errors import NoRelease, ReleaseRefused
from exclave_agent.ports import (
    ActiveRelease,
    AuditLog,
    Clock,
    ModelSet,
    ModelSpec,
    Runtimes,
)
from exclave_agent.releases.prepare import Prepared
from exclave_agent.releases.state import ReleaseState, StateFile
from exclave_policy.beside import Known, problems_of
from exclave_policy.compile import compile_pack
from exclave_policy.errors import PolicyInvalid
from exclave_policy.evaluate import CompiledPolicy
from exclave_policy.pack import unpack

log = logging.getLogger(__name__)

_SHOWN_PROBLEMS: Final = 3


class _Loaded:
    """A model set and how many releases (live or leased) stand on it."""

    def __init__(self, models: ModelSet, specs: tuple[ModelSpec, ...]) -> None:
        self.models = models
        self.specs = specs
        self.users = 0


class _Live:
    """One release and its leases."""

    def __init__(self, release: ActiveRelease, loaded: _Loaded, grace: int) -> None:
        self.release = release
        self.loaded = loaded
        self.grace_ns = grace * 1_000_000_000
        self.leases = 0
        self.retired = False


class Lease:
    """Holds one release for one decision."""

    __slots__ = ("_activator", "_live")

    def __init__(self, activator: Activator, live: _Live) -> None:
        self._activator = activator
        self._live = live

    def __enter__(self) -> ActiveRelease:
        self._live.leases += 1
        return self._live.release

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.leases -= 1
        self._activator._settle(self._live)


class Activator:
    """ports.Releases: the release that answers now, and the one way to replace it."""

    def __init__(
        self,
        runtimes: Runtimes,
        audit: AuditLog,
        state: StateFile,
        *,
        clock: Clock,
        executor: Executor,
    ) -> None:
        """`clock` must be the trusted time: the offline grace is measured on it."""
        self._runtimes = runtimes
        self._audit = audit
        self._state = state
        self._clock = clock
        self._executor = executor
        self._live: _Live | None = None
        self._unused: list[ModelSet] = []
        self._unused_event = asyncio.Event()
        self.checked_ns = 0
        """Trusted time at which signed metadata was last verified as fresh; 0: never."""

    # --- what answers -------------------------------------------------------------------

    def lease(self) -> Lease:
        """The current release, held until the lease ends.

        Raises: NoRelease.
        """
        live = self._live
        if live is None:
            raise NoRelease("no release is active yet: nothing verified has been assigned")
        if self._clock.now_ns() - self.checked_ns > live.grace_ns:
            raise NoRelease(
                "offline grace ended: signed metadata has not been checked for longer than the "
                "release allows; the agent serves again once it reaches the coordinator",
                code="offline_grace_ended",
            )
        return Lease(self, live)

    @property
    def active(self) -> ActiveRelease | None:
        """The current release, whether or not its grace has ended."""
        return self._live.release if self._live is not None else None

    def grace_left(self) -> float:
        """Seconds for which the current release may still answer without the centre."""
        if self._live is None:
            return 0.0
        return max(0, self.checked_ns + self._live.grace_ns - self._clock.now_ns()) / 1e9

    def digests_in_use(self) -> frozenset[str]:
        """Digests of the model files that are loaded now."""
        if self._live is None:
            return frozenset()
        return frozenset(spec.sha256 for spec in self._live.loaded.specs)

    # --- replacing it -------------------------------------------------------------------

    async def activate(self, prepared: Prepared, state: ReleaseState) -> None:
        """Make `prepared` answer; `state` becomes durable with it.

        Leases taken before keep their release to the end.
        Raises: ReleaseRefused (policy_invalid, model_load_failed), StorageError.
        """
        policy = await self._compile(prepared.pack)
        loaded = await self._load(prepared.specs)
        loaded.users += 1
        try:
            _check_models(policy, loaded.models)
            await self._record(prepared, loaded.models)
            await self._state.save(state)
        except BaseException:
            self._release(loaded)
            raise
        kept = prepared.kept
        release = ActiveRelease(
            digest=kept.digest,
            version=kept.version,
            generation=kept.generation,
            policy=policy,
            policy_digest=kept.policy_digest,
            models=loaded.models,
        )
        former = self._live
        self._live = _Live(release, loaded, prepared.manifest.offline_grace_seconds)
        if former is not None:
            former.retired = True
            self._settle(former)
        log.info("release %s version %d answers now", kept.digest[:12], kept.version)

    async def renumber(self, generation: int, state: ReleaseState) -> None:
        """The same release under a newer assignment: nothing is reloaded, nothing recorded.

        Raises: StorageError.
        """
        await self._state.save(state)
        assert self._live is not None
        self._live.release = replace(self._live.release, generation=generation)

    async def reap(self) -> None:
        """Close model sets that nothing uses any more, until cancelled."""
        while True:
            await self._unused_event.wait()
            self._unused_event.clear()
            await self._close_unused()

    async def close(self) -> None:
        """Let go of everything; leases still running keep their models until they end."""
        live, self._live = self._live, None
        if live is not None:
            live.retired = True
            self._settle(live)
        await self._close_unused()

    # --- steps --------------------------------------------------------------------------

    async def _compile(self, pack: bytes) -> CompiledPolicy:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._executor, lambda: compile_pack(unpack(pack)))
        except PolicyInvalid as error:
            raise ReleaseRefused(f"policy: {_problems(error)}", code="policy_invalid") from error

    async def _load(self, specs: tuple[ModelSpec, ...]) -> _Loaded:
        """The live models where they are the same: a policy push reloads nothing."""
        if self._live is not None and self._live.loaded.specs == specs:
            return self._live.loaded
        return _Loaded(await self._runtimes.load(specs), specs)

    async def _record(self, prepared: Prepared, models: ModelSet) -> None:
        """One or two leaves; none when a restart takes up what is already on record."""
        kept, before = prepared.kept, self._state.now.current
        if before is not None and before.digest == kept.digest:
            return
        new_models = before is None or before.models_digest != kept.models_digest
        if before is None or before.policy_digest != kept.policy_digest or not new_models:
            await self._audit.append(
                drafts.policy_change(
                    from_digest=before.policy_digest if before is not None else None,
                    to_digest=kept.policy_digest,
                    release=kept.digest,
                    generation=kept.generation,
                )
            )
        if new_models:
            loaded = [
                {"name": info.name, "digest": info.sha256, "runtime": info.runtime}
                for info in sorted(models.models().values(), key=lambda info: info.name)
            ]
            await self._audit.append(
                drafts.model_change(loaded, release=kept.digest, generation=kept.generation)
            )

    # --- reference counts ---------------------------------------------------------------

    def _settle(self, live: _Live) -> None:
        if live.retired and live.leases == 0:
            self._release(live.loaded)

    def _release(self, loaded: _Loaded) -> None:
        loaded.users -= 1
        if loaded.users == 0:
            self._unused.append(loaded.models)
            self._unused_event.set()

    async def _close_unused(self) -> None:
        while self._unused:
            await self._unused.pop().close()


def _check_models(policy: CompiledPolicy, models: ModelSet) -> None:
    """Raises: ReleaseRefused when the policy does not fit the release's models."""
    problems = problems_of(
        policy,
        {name: Known(info.actions, info.remote) for name, info in models.models().items()},
    )
    if problems:
        raise ReleaseRefused(f"policy: {_shown(problems)}", code="policy_invalid")


def _problems(error: PolicyInvalid) -> str:
    return _shown(error.problems)


def _shown(problems: Sequence[object]) -> str:
    shown = "; ".join(str(problem) for problem in problems[:_SHOWN_PROBLEMS])
    more = len(problems) - _SHOWN_PROBLEMS
    return f"{shown}; and {more} more" if more > 0 else shown
