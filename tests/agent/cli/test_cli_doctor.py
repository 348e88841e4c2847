"""Doctor: a failure is told once, with the remedy that mends it."""

from __future__ import annotations

import json
from pathlib import Path

from exclave_testing.processes import BIN, run


def test_a_home_that_has_keys_but_has_not_joined_is_told_to_join(tmp_path: Path) -> None:
    home = tmp_path / "home"
    run([BIN / "exclave-agent", "key", "create", "--role", "analyst", "--home", home])
    done = run([BIN / "exclave-agent", "doctor", "--json", "--home", home], code=1)
    failed = [check for check in json.loads(done.stdout) if not check["ok"]]
    assert [check["name"] for check in failed] == ["identity"]
    assert "join" in failed[0]["remedy"]
    assert str(home) in failed[0]["detail"]
