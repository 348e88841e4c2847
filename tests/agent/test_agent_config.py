"""Settings: precedence, and refusals that name the key."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from exclave_agent.config import LARGEST_BODY, ConfigError, Settings, load_settings
from exclave_agent.runtimes import frames


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


def test_the_page_of_settings_is_the_code(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \| (.+) \|$", page, re.MULTILINE)
    defaults = {spec.name: spec.default for spec in fields(Settings) if spec.name != "home"}
    assert {name: json.loads(value) for name, value, _ in rows} == defaults
    for name, _, meaning in rows:
        for low, high in re.findall(r"(\d+) to (\d+)", meaning):
            for value in (low, high):
                load_settings(tmp_path, environ={f"EXCLAVE_{name.upper()}": value})
            for value in (int(low) - 1, int(high) + 1):
                with pytest.raises(ConfigError, match=f"{name} must be from {low} to {high}"):
                    load_settings(tmp_path, environ={f"EXCLAVE_{name.upper()}": str(value)})
    example = re.search(r"```toml\n(.+?)```", page, re.DOTALL)
    assert example is not None
    (tmp_path / "agent.toml").write_text(example[1])
    assert load_settings(tmp_path, environ={}).stop_grace == 60


def test_the_largest_body_is_what_a_frame_holds() -> None:
    assert LARGEST_BODY == frames.MAX_FRAME


def test_a_file_that_cannot_be_read_is_a_setting_that_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").mkdir()
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_settings(tmp_path, environ={})
