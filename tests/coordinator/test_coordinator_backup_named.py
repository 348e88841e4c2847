"""A backup that lacks what the database names says so, or is not made."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from exclave_coordinator.backup.restore import restore
from exclave_coordinator.backup.save import Saved, backup
from exclave_coordinator.commands import main
from exclave_coordinator.errors import SetupError, StorageError
from exclave_coordinator.home import Home
from exclave_coordinator.system import SystemClock, SystemRng
from exclave_testing.coordinator import new_home, running_coordinator


def save(home: Home, file: Path) -> Saved:
    """A backup as the command makes it."""
    return backup(home, file, version="1.2.3", clock=SystemClock(), rng=SystemRng())


async def _published(path: Path) -> Home:
    """A home whose tenant has published a release."""
    async with running_coordinator(path) as centre:
        await centre.release(await centre.tenant("acme"))
        return centre.home


async def test_a_tenants_key_that_is_missing_is_not_left_out(tmp_path: Path) -> None:
    home = await _published(tmp_path / "home")
    key = home.keys / "tenants" / "acme" / "timestamp.key"
    key.rename(tmp_path / "kept")
    with pytest.raises(SetupError, match=r"keys/tenants/acme/timestamp\.key: missing.*put it back"):
        save(home, tmp_path / "b.tar")
    assert not (tmp_path / "b.tar").exists()
    (tmp_path / "kept").rename(key)
    assert save(home, tmp_path / "b.tar").missing == ()


async def test_published_artifacts_that_are_missing_are_named(tmp_path: Path) -> None:
    home = await _published(tmp_path / "home")
    names = sorted(str(p.relative_to(home.path)) for p in home.artifacts.rglob("*") if p.is_file())
    home.artifacts.rename(tmp_path / "disk")
    home.artifacts.symlink_to(tmp_path / "not mounted")
    done = CliRunner().invoke(main, ["backup", "--home", str(home.path), str(tmp_path / "b.tar")])
    assert done.exit_code == 1
    assert names
    for name in names:
        assert f"warning: {name} is missing" in done.output
    assert f"lacks {len(names)} artifacts" in done.output
    assert "mount the disk" in done.output
    # What could be had is there: the database and the keys are worth keeping.
    restored = restore(tmp_path / "b.tar", tmp_path / "again", clock=SystemClock(), rng=SystemRng())
    assert restored.home.database.exists()


def test_a_folder_that_cannot_be_listed_is_no_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = new_home(tmp_path / "home")
    scandir = os.scandir

    def failing(path: Any) -> Any:
        if path == str(home.operators / "admin"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)  # root, who runs tests, may list everything
    with pytest.raises(StorageError, match=r"no backup was written: .*operators/admin"):
        save(home, tmp_path / "b.tar")
    monkeypatch.undo()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home"]
