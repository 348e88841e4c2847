"""Engine: takes one upgrade through its phases, each durable before it begins.

Killed at any moment, the next start takes up the phase that is on disk; no phase minds being
begun twice.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

from exclave_agent.errors import AgentError, unforeseen
from exclave_agent.upgrade.check import Checker, Verdict
from exclave_agent.upgrade.errors import UpgradeRefused
from exclave_agent.upgrade.letters import MAX_TEXT, Request, Result
from exclave_agent.upgrade.ports import (
    Foothold,
    InstallFailed,
    ManagerBusy,
    Pace,
    PackageManager,
    Probe,
    Services,
    ServiceTrouble,
)
from exclave_agent.upgrade.settings import Patience
from exclave_agent.upgrade.shelf import Shelf
from exclave_agent.upgrade.state import Before, Book, Phase, State
from exclave_agent.upgrade.vet import Plan
from exclave_protocol.packages import AGENT, Package

log = logging.getLogger(__name__)

ATTEMPTS: Final = 2
"""Times that the former package is installed before giving up."""


class Counter(Protocol):
    """Where requests are found and results left: a Mailbox."""

    def request(self) -> Request | None:
        """Raises: UpgradeRefused."""
        ...

    def answer(self, result: Result) -> None:
        """Raises: OSError."""
        ...

    def clear(self, request_id: str) -> None:
        """Raises: OSError."""
        ...


class Engine:
    """One run of exclave-upgrade.service."""

    def __init__(
        self,
        *,
        counter: Counter,
        vet: Callable[[Request, int], Plan],
        book: Book,
        shelf: Shelf,
        packages: PackageManager,
        services: Services,
        probe: Probe,
        foothold: Foothold,
        pace: Pace,
        patience: Callable[[], Patience],
    ) -> None:
        """`patience` raises UpgradeRefused when the settings are wrong: that refuses a request,
        and never keeps an upgrade that was begun from its end."""
        self._counter = counter
        self._vet = vet
        self._book = book
        self._shelf = shelf
        self._packages = packages
        self._services = services
        self._probe = probe
        self._foothold = foothold
        self._pace = pace
        self._read_patience = patience
        self._steps: dict[Phase, Callable[[State], State]] = {
            Phase.VERIFIED: self._begin,
            Phase.INSTALLING: self._resume,
            Phase.INSTALLED: self._reload,
            Phase.CHECKING: self._check,
            Phase.REVERTING: self._revert,
        }

    def run(self) -> State | None:
        """Carry out what is asked for, or finish what was begun; None: there is nothing to do.

        Raises: Stopped (what is durable goes on at the next start), OSError (root's own folder
        cannot be written, so nothing more is begun; or the request cannot be taken away, so the
        path unit would have it carried out again at once).
        """
        state = self._take_up()
        if state is None:
            return None
        while not state.phase.final:
            self._pace.sleep(0)
            try:
                self._refuse_replaced(state)
                state = self._steps[state.phase](state)
            except UpgradeRefused as error:
                state = self._refuse(state, error)
        self._finish(state)
        return state

    def _take_up(self) -> State | None:
        if self._book.unfinished:
            if self._foothold.stands and not self._foothold.inside:
                self._foothold.enter()
            state = self._book.load()
            if state is not None:
                log.warning("going on with an upgrade that was interrupted (%s)", state.phase)
                return state
            log.error("an upgrade was begun, and its state cannot be read: it is given up")
            self._book.close()
        self._foothold.leave()
        return self._accept()

    def _accept(self) -> State | None:
        """A new request, verified or refused."""
        now = self._pace.now()
        request: Request | None = None
        try:
            request = self._counter.request()
            if request is None:
                log.info("nothing is asked for")
                return None
            deadline = request.deadline or self._read_patience().deadline_seconds
            plan = self._vet(request, now)
            before = self._look_before()
        except AgentError as error:
            return self._refuse(_nothing_yet(request, now), error)
        except Exception as error:  # noqa: BLE001 - a request that ends us would start us again
            log.error("a request cannot be judged: %s", unforeseen(error))
            refused = UpgradeRefused("the request cannot be judged: see the log", code="internal")
            return self._refuse(_nothing_yet(request, now), refused)
        state = State(
            Phase.VERIFIED,
            request.id,
            now,
            now,
            present=plan.present,
            target=plan.target,
            deadline=deadline,
            before=before,
        )
        return self._save(state, Phase.VERIFIED)

    def _look_before(self) -> Before:
        try:
            active = self._services.unit().active
        except ServiceTrouble as error:
            raise UpgradeRefused(
                f"the service manager does not answer: {error}", code="not_running"
            ) from error
        status = self._probe.status() if active == "active" else None
        if status is None:
            raise UpgradeRefused(
                "the agent's service does not run and answer: start it first, as a new version "
                "is judged by what the present one does",
                code="not_running",
            )
        return Before.of(status)

    # --- forward ------------------------------------------------------------------------------

    def _begin(self, state: State) -> State:
        """From here on this program runs from a copy that the package manager does not touch."""
        target = state.target
        assert target is not None
        if not self._foothold.inside:
            try:
                self._foothold.take()
                self._foothold.enter()
            except OSError as error:
                why = error.strerror or type(error).__name__
                refused = UpgradeRefused(
                    f"the upgrader cannot copy itself aside ({why})", code="copy_failed"
                )
                return self._refuse(state, refused)
        try:
            with self._packages.locked(self._patience().lock_seconds):
                self._refuse_replaced(state)
                state = self._save(state, Phase.INSTALLING)
                try:
                    self._packages.install(self._shelf.path(target))
                except InstallFailed as error:
                    return self._turn_back(state, "install_failed", str(error))
                return self._landed(state, "install_failed")
        except ManagerBusy as error:
            return self._refuse(state, UpgradeRefused(str(error), code="package_manager_busy"))

    def _resume(self, state: State) -> State:
        """An installation that was interrupted: finish it if that can be, else go back."""
        try:
            with self._packages.locked(self._patience().lock_seconds):
                self._repair()
                return self._landed(state, "interrupted")
        except ManagerBusy as error:
            return self._turn_back(state, "package_manager_busy", str(error))

    def _landed(self, state: State, code: str) -> State:
        if self._is_installed(state.target):
            return self._save(state, Phase.INSTALLED)
        return self._turn_back(state, code, "the package manager did not install the new version")

    def _reload(self, state: State) -> State:
        with contextlib.suppress(ServiceTrouble):  # the check that follows will tell
            self._services.daemon_reload()
        return self._save(state, Phase.CHECKING)

    def _check(self, state: State) -> State:
        assert state.target is not None
        verdict = self._judge(state.target, state)
        if not verdict.healthy:
            return self._turn_back(state, verdict.code, verdict.message)
        return self._save(replace(state, warnings=verdict.warnings), Phase.DONE)

    # --- back ---------------------------------------------------------------------------------

    def _turn_back(self, state: State, code: str, message: str) -> State:
        log.error("the upgrade did not go well (%s): %s; going back", code, message)
        state = replace(state, code=code, message=message[:MAX_TEXT])
        return self._save(state, Phase.REVERTING)

    def _revert(self, state: State) -> State:
        assert state.present is not None
        trouble = self._reinstall(state, state.present)
        with contextlib.suppress(ServiceTrouble):
            self._services.daemon_reload()
        # Also where nothing could be put back: whatever is installed shall at least be tried.
        verdict = self._judge(state.present, state)
        if trouble is None and verdict.healthy:
            return self._save(replace(state, warnings=verdict.warnings), Phase.REVERTED)
        code, why = trouble or ("former_unhealthy", verdict.message)
        message = f"{state.code}: {state.message}; and the former version: {why}"
        failed = replace(state, code=code, message=message[:MAX_TEXT])
        return self._save(failed, Phase.FAILED)

    def _reinstall(self, state: State, former: Package) -> tuple[str, str] | None:
        """Code and sentence of what went wrong; None: the former package is installed."""
        last = "it is not installed"
        try:
            with self._packages.locked(self._patience().lock_seconds):
                for _ in range(ATTEMPTS):
                    self._repair()
                    self._refuse_replaced(state)
                    try:
                        self._packages.install(self._shelf.path(former))
                    except InstallFailed as error:
                        last = str(error)
                    if self._is_installed(former):
                        return None
        except ManagerBusy as error:
            return ("package_manager_busy", str(error))
        return ("revert_failed", last)

    def _repair(self) -> None:
        try:
            self._packages.repair()
        except InstallFailed as error:
            log.warning("repairing the package manager's state: %s", error)

    def _is_installed(self, package: Package | None) -> bool:
        try:
            found = self._packages.installed(AGENT)
        except InstallFailed as error:
            log.warning("the package manager does not say what is installed: %s", error)
            return False
        return (
            package is not None
            and found is not None
            and found.whole
            and found.version == package.version
        )

    def _refuse_replaced(self, state: State) -> None:
        """Somebody's own repair is not undone. Asked before each step, and once more where the
        package manager was waited for: whoever held it may have installed another version.

        Raises: UpgradeRefused ("replaced_by_hand").
        """
        ours = [p.version for p in (state.present, state.target) if p is not None]
        try:
            found = self._packages.installed(AGENT)
        except InstallFailed:  # whoever needs an answer asks again
            return
        if found is not None and found.whole and found.version not in ours:
            raise UpgradeRefused(
                f"version {found.version} was installed by hand meanwhile, and is left alone; "
                "restart the agent if it does not run it yet",
                code="replaced_by_hand",
            )

    def _judge(self, package: Package, state: State) -> Verdict:
        settle = self._patience().settle_seconds
        checker = Checker(self._services, self._probe, self._pace, settle=settle)
        return checker.judge(package.version, state.before, state.deadline)

    # --- the end ------------------------------------------------------------------------------

    def _refuse(self, state: State, error: AgentError) -> State:
        log.warning("upgrade refused (%s): %s", error.code, error.message)
        refused = replace(state, code=error.code, message=error.message[:MAX_TEXT])
        return self._save(refused, Phase.REFUSED)

    def _finish(self, state: State) -> None:
        """Tell, tidy, and only then forget that there was something to finish."""
        said = f"{state.code}: {state.message}" if state.code else "healthy"
        level = {Phase.DONE: logging.INFO, Phase.FAILED: logging.CRITICAL}
        log.log(level.get(state.phase, logging.ERROR), "upgrade %s (%s)", state.phase, said)
        self._shelf.settle(self._worth_keeping(state))
        try:
            self._counter.answer(state.result())
        except OSError as error:
            log.error("the result cannot be left for the agent (%s)", error.strerror)
        left: OSError | None = None
        try:
            self._counter.clear(state.id)
        except OSError as error:
            log.error("the request cannot be taken away (%s)", error.strerror)
            left = error
        # This process may run from the copy: what is called after this is loaded already.
        try:
            self._foothold.remove()
        except OSError as error:
            log.error("the upgrader's copy cannot be removed (%s)", error.strerror)
        self._book.close()
        if left is not None:
            raise left

    def _worth_keeping(self, state: State) -> list[Package]:
        if state.phase is Phase.REFUSED or state.present is None or state.target is None:
            return self._shelf.kept()
        if state.phase is Phase.REVERTED:
            return [state.present]
        return [state.target, state.present]

    def _save(self, state: State, phase: Phase) -> State:
        state = replace(state, phase=phase, changed=self._pace.now())
        self._book.save(state)
        if not phase.final:
            log.info("upgrade %s: %s", state.id[:8], phase)
        return state

    def _patience(self) -> Patience:
        try:
            return self._read_patience()
        except UpgradeRefused as error:
            log.error("%s: the defaults count", error.message)
            return Patience()


def _nothing_yet(request: Request | None, now: int) -> State:
    """Of a request that came no further than to be read, if that."""
    return State(Phase.REFUSED, request.id if request is not None else "", now, now)
