"""Databases, the record, the running agent; and that looking changes nothing."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from exclave_agent.doctor import records
from exclave_agent.errors import StorageError
from exclave_testing.doctor import Patient, enrolled, patient, release, running, said


async def _lived(tmp_path: Path) -> Patient:
    who = patient(tmp_path / "home")
    await enrolled(who.home)
    await release(who.home)
    return who


def test_databases_that_are_not_made_yet(tmp_path: Path) -> None:
    checks = list(records.databases(patient(tmp_path / "home").site()))
    assert [(check.name, check.detail) for check in checks] == [
        ("state.db", "not made yet"),
        ("vault.db", "not made yet"),
    ]


async def test_databases_that_are_ours(tmp_path: Path) -> None:
    who = await _lived(tmp_path)
    assert said(list(records.databases(who.site()))) == {"state.db": "ok", "vault.db": "ok"}
    (check,) = records.record(who.site())
    assert check.detail == "7 leaves verify"


async def test_a_file_that_is_not_ours(tmp_path: Path) -> None:
    who = await _lived(tmp_path)
    (who.home / "vault.db").write_bytes(b"x" * 4096)
    assert said(list(records.databases(who.site()))) == {"state.db": "ok", "vault.db": "fail"}


async def test_an_older_schema_is_left_to_the_agent(tmp_path: Path) -> None:
    who = await _lived(tmp_path)
    with closing(sqlite3.connect(who.home / "state.db")) as connection:
        connection.execute("PRAGMA user_version = 0")
    assert said(list(records.databases(who.site())))["state.db"] == "ok"
    assert said(list(records.record(who.site()))) == {"record": "skip"}
    with closing(sqlite3.connect(who.home / "state.db")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (0,)


async def test_a_record_that_was_altered(tmp_path: Path) -> None:
    who = await _lived(tmp_path)

    def altered() -> int:
        raise StorageError("leaf 3 was altered")

    who.verified = altered
    (check,) = records.record(who.site())
    assert (check.result, check.detail) == ("fail", "leaf 3 was altered")


async def test_a_record_whose_key_is_out_of_reach(tmp_path: Path) -> None:
    who = await _lived(tmp_path)
    (who.home / "identity" / "audit.key").chmod(0o644)
    assert said(list(records.record(who.site()))) == {"record": "skip"}


LINK: dict[str, Any] = running()["coordinator"]


@pytest.mark.parametrize(
    ("status", "results"),
    [
        (None, {"agent": "ok"}),
        (running(), {"agent": "ok"}),
        (running(models=[{"name": "m", "digest": "d", "network": "none"}]), {"workers": "ok"}),
        (
            running(models=[{"name": "m", "digest": "d", "network": "shared"}]),
            {"workers": "fail"},
        ),
        (running(coordinator={**LINK, "state": "waiting", "error": "refused"}), {"agent": "warn"}),
        (
            running(
                coordinator={
                    **LINK,
                    "observed": {"phase": "FAILED", "error_code": "expired", "error_message": "x"},
                }
            ),
            {"release": "warn"},
        ),
        (running(audit={"error": "head_forked"}), {"witness": "fail"}),
        (running(audit={"error": "unreachable"}), {"agent": "ok"}),
    ],
)
def test_what_the_running_agent_says(
    tmp_path: Path, status: dict[str, Any] | None, results: dict[str, str]
) -> None:
    who = patient(tmp_path / "home")
    who.status = status
    assert said(list(records.running(who.site()))) == {"agent": "ok", **results}
