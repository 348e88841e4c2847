"""Settings: precedence, and refusals that name the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from exclave_agent.config import ConfigError, load_settings


def test_defaults_need_no_file(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, environ={})
    assert settings.home == tmp_path
    assert settings.listen == "127.0.0.1:8181"


def test_command_line_beats_environment_beats_file(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text('heartbeat = 10\nstop_grace = 3\nlog_level = "error"\n')
    env = {"EXCLAVE_HEARTBEAT": "20", "EXCLAVE_STOP_GRACE": "4"}
    settings = load_settings(tmp_path, {"heartbeat": 30, "socket": None}, env)
    assert (settings.heartbeat, settings.stop_grace, settings.log_level) == (30, 4, "error")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("heartbeet = 1", ["heartbeet", "did you mean 'heartbeat'"]),
        ('heartbeat = "1"', ["heartbeat", "int", "str"]),
        ("heartbeat = true", ["heartbeat", "int", "bool"]),
        ("heartbeat = 0", ["heartbeat", "from 1 to"]),
        ('listen = "0.0.0.0:80"', ["listen", "loopback"]),
        ('listen = "8181"', ["listen", "host:port"]),
        ('log_level = "loud"', ["log_level"]),
        ('listen = ""\nsocket = ""', ["nobody could reach"]),
        ("= 1", ["not valid TOML"]),
    ],
)
def test_bad_settings_are_refused_by_name(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "agent.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings(tmp_path, environ={})
    for word in words:
        assert word in caught.value.message


def test_bad_number_in_environment_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="EXCLAVE_HEARTBEAT"):
        load_settings(tmp_path, environ={"EXCLAVE_HEARTBEAT": "many"})
