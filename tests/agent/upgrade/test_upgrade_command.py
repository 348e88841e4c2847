"""`exclave-agent upgrade`, and the root side's program put together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from exclave_agent.cli import control
from exclave_agent.cli import upgrade as cli
from exclave_agent.upgrade import root
from exclave_agent.upgrade.errors import UpgradeRefused
from exclave_agent.upgrade.foothold import LinkedCopy
from exclave_agent.upgrade.pace import SystemPace
from exclave_agent.upgrade.state import Book, Phase, State
from exclave_testing.upgrade import NEW, OLD, package

ID = "a" * 32


class Agent:
    """A running agent as the command meets it."""

    def __init__(self) -> None:
        self.answer: dict[str, Any] | None = {"id": ID, "from": "0.1.0", "to": "0.2.0"}
        self.asked: list[dict[str, Any]] = []
        self.statuses: Iterator[dict[str, Any] | None] = iter(())
        self.runs = True

    def post(self, _: Path, target: str, body: Any, *, seconds: float) -> dict[str, Any] | None:
        assert target == "/upgrade"
        assert seconds > 600
        self.asked.append(dict(body))
        return self.answer

    def status(self, _: Path) -> dict[str, Any] | None:
        if not self.asked:
            return {"upgrade": None} if self.runs else None
        return next(self.statuses)


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Agent:
    made = Agent()
    monkeypatch.setattr(control, "post", made.post)
    monkeypatch.setattr(control, "status", made.status)
    monkeypatch.setattr(cli, "_refuse_disabled", lambda: None)
    monkeypatch.setattr(cli, "POLL_SECONDS", 0.001)
    return made


def run(tmp_path: Path, *words: str, code: int = 0) -> Result:
    done = CliRunner().invoke(cli.command, [*words, "--home", str(tmp_path)])
    if isinstance(done.exception, UpgradeRefused):
        assert code == 1
    else:
        assert done.exit_code == code, done.output
    return done


def upgrade(state: str, **more: Any) -> dict[str, Any]:
    shown = {"id": ID, "state": state, "from": "0.1.0", "to": "0.2.0", "outcome": ""}
    return {"upgrade": shown | {"code": "", "reason": "", "warnings": []} | more}


def test_it_is_asked_for(agent: Agent, tmp_path: Path) -> None:
    said = run(tmp_path).stdout
    assert "asked for 0.2.0 in place of 0.1.0" in said
    assert agent.asked == [{"version": None, "downgrade": False, "deadline": 0, "check": False}]
    agent.asked.clear()
    run(tmp_path, "--version", "0.1.0", "--allow-downgrade", "--deadline", "90")
    assert agent.asked == [{"version": "0.1.0", "downgrade": True, "deadline": 90, "check": False}]
    agent.asked.clear()
    assert json.loads(run(tmp_path, "--json").stdout)["id"] == ID
    run(tmp_path, "--deadline", "1", code=2)


def test_what_would_be_done(agent: Agent, tmp_path: Path) -> None:
    agent.answer = {"present": "0.1.0", "target": "0.2.0"}
    assert "0.2.0 would be installed in place of 0.1.0" in run(tmp_path, "--check").stdout
    assert agent.asked[0]["check"] is True
    agent.answer = {"present": "0.1.0", "target": None}
    agent.asked.clear()
    assert "0.1.0 is the newest" in run(tmp_path, "--check").stdout


def test_a_refusal_is_told(agent: Agent, tmp_path: Path) -> None:
    agent.answer = {"error": "cannot revert: ...", "code": "cannot_revert"}
    error = run(tmp_path, code=1).exception
    assert isinstance(error, UpgradeRefused)
    assert (error.code, error.message) == ("cannot_revert", "cannot revert: ...")
    agent.answer = None
    agent.asked.clear()
    assert "did not answer" in str(run(tmp_path, code=1).exception)


def test_no_agent_runs(agent: Agent, tmp_path: Path) -> None:
    agent.runs = False
    assert "no agent runs" in run(tmp_path, code=3).stderr


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ({"outcome": "done"}, 0, "upgraded from 0.1.0 to 0.2.0"),
        ({"outcome": "done", "warnings": ["not connected"]}, 0, "warning: not connected"),
        ({"outcome": "reverted", "code": "crash_loop", "reason": "x"}, 1, "0.1.0 runs again"),
        ({"outcome": "failed", "code": "f", "reason": "y"}, 1, "reason: f: y"),
        ({"outcome": "refused", "code": "expired", "reason": "z"}, 1, "nothing was changed"),
    ],
)
def test_the_end_is_waited_for_over_the_agents_restart(
    agent: Agent, tmp_path: Path, end: dict[str, Any], code: int, said: str
) -> None:
    def statuses() -> Iterator[dict[str, Any] | None]:
        yield upgrade("waiting")
        yield upgrade("installing")
        yield None  # the agent is restarted
        yield {}  # an older agent, which tells nothing
        yield upgrade("finished", id="b" * 32, outcome="done")  # of an upgrade before
        yield upgrade("checking")
        yield upgrade("finished", **end)

    agent.statuses = statuses()
    done = run(tmp_path, "--wait", code=code)
    assert said in done.stdout
    assert [line for line in done.stderr.splitlines() if line.endswith("...")] == [
        "waiting ...",
        "installing ...",
        "checking ...",
    ]


def test_a_request_that_nobody_picks_up(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "PICKED_UP_SECONDS", 0.01)
    agent.statuses = iter([upgrade("waiting")] * 1000)
    error = run(tmp_path, "--wait", code=1).exception
    assert isinstance(error, UpgradeRefused)
    assert error.code == "unit_missing"


def test_a_path_unit_that_is_not_active_is_known_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "systemctl"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for status in (0, 1, 4):  # active; no systemd; whatever else
        script.write_text(f"#!/bin/sh\nexit {status}\n")
        script.chmod(0o755)
        cli._refuse_disabled()
    script.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(UpgradeRefused, match="systemctl enable --now"):
        cli._refuse_disabled()


# --- the root side's program --------------------------------------------------------------------


def test_nothing_asked_for_is_nothing_done(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "home/upgrade").mkdir(parents=True)
    caplog.set_level("INFO")
    copy = LinkedCopy(tmp_path / "agent", tmp_path / ".copy")
    home = tmp_path / "home"
    engine = root.build(SystemPace(), folder=tmp_path / "root", home=home, foothold=copy)
    assert engine.run() is None
    assert "nothing is asked for" in caplog.text


def test_an_unfinished_upgrade_keeps_its_package_manager(tmp_path: Path) -> None:
    pace, book = SystemPace(), Book(tmp_path)
    state = State(Phase.REVERTING, ID, 1, 1, present=package(OLD), target=package(NEW))
    assert root._begun_with(book, tmp_path / "log", pace) is None
    book.save(state)
    assert book.load() == state
    found = root._begun_with(book, tmp_path / "log", pace)
    assert found is not None
    assert found.form == "deb"
    book.close()
    assert not book.unfinished
    assert book.load() == state, "everyone may still read how it ended"


def test_only_root_may_run_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("os.umask", lambda mask: mask)
    assert root.main() == 1
    assert "only root" in caplog.text
