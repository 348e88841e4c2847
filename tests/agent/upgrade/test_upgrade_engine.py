"""The engine on a machine in memory: every way to end, and every moment to be killed at."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import pytest

from exclave_agent.upgrade.letters import Outcome, Request
from exclave_agent.upgrade.ports import Stopped
from exclave_agent.upgrade.state import Phase, State, decode, encode
from exclave_testing.upgrade import NEW, OLD, Entered, Machine, Process, package, run

KINDS = ("good", "crashing", "failed", "silent", "impostor", "bare", "uninstallable", "unlinked")
CODES = {
    "crashing": "crash_loop",
    "failed": "unit_failed",
    "silent": "no_answer",
    "impostor": "wrong_version",
    "bare": "release_lost",
    "uninstallable": "install_failed",
}
BY_HAND = "0.3.0-1"


def begun(phase: Phase) -> Machine:
    """An upgrade that was interrupted there."""
    machine = Machine(kept=[package(OLD)], unfinished=True, stands=True)
    now, request = int(machine.time), machine.request
    assert request is not None
    state = State(phase, request.id, now, now, present=package(OLD), target=package(NEW))
    machine.state = encode(state)
    return machine


def ended(machine: Machine) -> Outcome:
    """What the agent is told, after checking that nothing is left lying about."""
    assert machine.request is None
    assert not machine.unfinished
    assert not machine.stands, "the copy of the upgrader is still there"
    assert machine.answers
    assert len(set(machine.answers)) == 1, "the same result, however often it is told"
    return machine.answers[-1].outcome


@pytest.mark.parametrize("kind", KINDS)
def test_a_version_stays_if_it_is_healthy_and_leaves_if_it_is_not(kind: str) -> None:
    machine = Machine(behaviour={NEW: kind})
    run(machine)
    outcome, result = ended(machine), machine.answers[-1]
    assert (result.present, result.target) == (OLD, NEW)
    assert machine.unpacked == "installed"
    if kind in ("good", "unlinked"):
        assert outcome is Outcome.DONE
        assert (machine.installed, machine.running) == (NEW, NEW)
        assert [p.version for p in machine.kept] == [NEW, OLD]
        assert bool(result.warnings) == (kind == "unlinked")
    else:
        assert outcome is Outcome.REVERTED
        assert result.code == CODES[kind]
        assert (machine.installed, machine.running) == (OLD, OLD)
        assert [p.version for p in machine.kept] == [OLD]


@pytest.mark.parametrize("kind", ["crashing", "silent", "uninstallable"])
def test_a_former_version_that_is_not_healthy_either_is_a_loud_failure(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine(behaviour={NEW: "silent"})
    # It was well when it was looked at before the upgrade, and no longer is.
    good = machine.start

    def start() -> None:
        good()
        machine.behaviour[OLD] = kind

    machine.start = start  # type: ignore[method-assign]  # the machine turns bad
    run(machine)
    assert ended(machine) is Outcome.FAILED
    result = machine.answers[-1]
    assert result.code == ("revert_failed" if kind == "uninstallable" else "former_unhealthy")
    assert "no_answer" in result.message
    assert [p.version for p in machine.kept] == [NEW, OLD], "whoever looks may need either"
    assert "CRITICAL" in caplog.text


def test_a_refused_request_changes_nothing() -> None:
    machine = Machine(refusal="under_signed", kept=[package(OLD)])
    run(machine)
    assert ended(machine) is Outcome.REFUSED
    assert machine.answers[-1].code == "under_signed"
    assert machine.installs == []
    assert machine.invocation == 1, "the agent was not restarted"
    assert machine.kept == [package(OLD)]


def test_an_agent_that_does_not_run_is_no_measure_for_a_new_version() -> None:
    for kind in ("failed", "silent"):
        machine = Machine(behaviour={OLD: kind})
        run(machine)
        assert machine.answers[-1].code == "not_running"
        assert machine.installs == []


def test_a_busy_package_manager_is_waited_for_and_then_refused() -> None:
    machine = Machine()
    machine.locked_until = machine.time + 25
    run(machine)
    assert ended(machine) is Outcome.DONE
    machine = Machine()
    machine.locked_until = machine.time + 3600
    run(machine)
    assert ended(machine) is Outcome.REFUSED
    assert machine.answers[-1].code == "package_manager_busy"


def test_an_agent_that_was_not_connected_need_not_be() -> None:
    machine = Machine(connected=False)
    run(machine)
    assert ended(machine) is Outcome.DONE
    assert machine.answers[-1].warnings == ()


def test_a_request_that_cannot_be_judged_is_refused_and_not_tried_for_ever() -> None:
    machine = Machine()

    def vet(request: Request, now: int) -> object:
        raise ZeroDivisionError

    machine.vet = vet  # type: ignore[method-assign,assignment]  # a fault of ours
    run(machine)
    assert ended(machine) is Outcome.REFUSED
    assert machine.answers[-1].code == "internal"


def test_told_to_stop_it_leaves_what_the_next_start_takes_up() -> None:
    machine = Machine()
    machine.stands = True
    with pytest.raises(Entered):
        Process(machine, inside=True).engine().run()  # a left-over copy is not used
    with pytest.raises(Entered):
        Process(machine, inside=False).engine().run()
    assert decode(machine.state or b"").phase is Phase.VERIFIED
    process = Process(machine, inside=True)
    process.told = True
    with pytest.raises(Stopped):
        process.engine().run()
    assert machine.installs == []
    run(machine)
    assert ended(machine) is Outcome.DONE


def test_a_state_that_cannot_be_read_is_given_up() -> None:
    machine = Machine()
    machine.unfinished = True
    machine.state = None
    run(machine)
    assert ended(machine) is Outcome.DONE


@pytest.mark.parametrize("phase", [phase for phase in Phase if not phase.final])
def test_what_somebody_installed_by_hand_meanwhile_is_left_alone(phase: Phase) -> None:
    machine = begun(phase)
    machine.installed = machine.running = BY_HAND
    run(machine)
    assert ended(machine) is Outcome.REFUSED
    assert machine.answers[-1].code == "replaced_by_hand"
    assert machine.installs == []
    assert (machine.installed, machine.invocation) == (BY_HAND, 1), "it was not even restarted"
    assert machine.kept == [package(OLD)]


@pytest.mark.parametrize("phase", [Phase.VERIFIED, Phase.INSTALLING, Phase.REVERTING])
def test_what_was_installed_while_the_lock_was_waited_for_is_left_alone(phase: Phase) -> None:
    class Waiting(Process):
        @contextlib.contextmanager
        def locked(self, patience: float) -> Iterator[None]:
            with super().locked(patience):
                self.machine.installed = BY_HAND
                yield

    machine = begun(phase)
    Waiting(machine, inside=True).engine().run()
    assert ended(machine) is Outcome.REFUSED
    assert machine.answers[-1].code == "replaced_by_hand"
    assert (machine.installs, machine.installed) == ([], BY_HAND)


def test_half_of_another_version_is_nobodys_repair() -> None:
    machine = begun(Phase.INSTALLING)
    machine.installed, machine.unpacked = BY_HAND, "half-installed"
    run(machine)
    assert ended(machine) is Outcome.REVERTED
    assert (machine.installed, machine.unpacked) == (OLD, "installed")


def test_a_request_that_cannot_be_taken_away_is_an_error_and_no_spin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The path unit starts the service again at once; after an error it is systemd, and later."""
    machine = Machine(refusal="under_signed")
    cleared = machine.act

    def act(name: str) -> None:
        if name == "cleared":
            raise OSError(30, "Read-only file system")
        cleared(name)

    monkeypatch.setattr(machine, "act", act)
    with pytest.raises(OSError, match="Read-only"):
        Process(machine, inside=False).engine().run()
    assert not machine.unfinished


# --- killed at every moment -----------------------------------------------------------------


def acts_of(kind: str) -> int:
    """How many moments there are to be killed at."""
    machine = Machine(behaviour={NEW: kind})
    run(machine)
    return machine.acts


def check(machine: Machine, kind: str, where: object) -> None:
    outcome = ended(machine)
    assert machine.unpacked == "installed", where
    assert machine.installed == machine.running, where
    if kind in ("good", "unlinked"):
        # An installation that was cut off may be left for the former version.
        assert outcome in (Outcome.DONE, Outcome.REVERTED), where
    else:
        assert outcome is Outcome.REVERTED, where
    assert machine.installed == (NEW if outcome is Outcome.DONE else OLD), where


@pytest.mark.parametrize("power", [True, False], ids=["power cut", "kill -9"])
@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_moment_it_ends_well_after_the_next_start(kind: str, power: bool) -> None:
    moments = acts_of(kind)
    assert moments > 20
    for at in range(1, moments + 1):
        machine = Machine(behaviour={NEW: kind}, cuts=[at], power=power)
        run(machine)
        assert machine.cuts == [], at
        check(machine, kind, at)


@pytest.mark.parametrize("kind", ["good", "silent", "uninstallable"])
def test_killed_twice_it_still_ends_well(kind: str) -> None:
    moments = acts_of(kind)
    for first, second in itertools.product(range(1, moments + 1), range(1, moments + 1, 2)):
        machine = Machine(behaviour={NEW: kind}, cuts=[first, second])
        run(machine)
        check(machine, kind, (first, second))


def test_killed_before_anything_is_changed_the_upgrade_is_still_made() -> None:
    machine = Machine(cuts=[3])
    run(machine)
    assert ended(machine) is Outcome.DONE


def test_states_survive_the_disk() -> None:
    machine = Machine(cuts=[30])
    run(machine)
    state = decode(machine.state or b"")
    assert decode(encode(state)) == state
    for broken in (b"", b"{}", b"[1]", encode(state).replace(b"v1", b"v2")):
        with pytest.raises(ValueError):
            decode(broken)
