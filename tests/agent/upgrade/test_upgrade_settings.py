"""Patience, and what is wrong with a settings file."""

from __future__ import annotations

from pathlib import Path

import pytest

from exclave_agent.upgrade.errors import UpgradeRefused
from exclave_agent.upgrade.settings import Patience, read_patience


def test_defaults_and_what_is_set(tmp_path: Path) -> None:
    file = tmp_path / "upgrade.toml"
    assert read_patience(file) == Patience(10, 60, 600)
    file.write_text("settle_seconds = 1\n")
    assert read_patience(file) == Patience(1, 60, 600)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("settle_second = 1", "did you mean 'settle_seconds'"),
        ("deadline_seconds = 0", "from 1 to 86400"),
        ("deadline_seconds = true", "from 1 to 86400"),
        ('deadline_seconds = "60"', "from 1 to 86400"),
        ("= 1", "cannot be read as TOML"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "upgrade.toml"
    file.write_text(text)
    with pytest.raises(UpgradeRefused, match=said) as caught:
        read_patience(file)
    assert caught.value.code == "config_invalid"
