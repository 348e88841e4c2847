"""The witness's settings: off by default, loopback alone, and every list checked by place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from exclave_coordinator.config import Settings, check, load, outside_witnesses, render
from exclave_coordinator.errors import SetupError
from exclave_testing.witnesses import FakeWitness, OutsideTree


def test_the_interface_is_off_by_default_and_loopback_alone(tmp_path: Path) -> None:
    assert Settings().witness_listen == ""
    for good in ("127.0.0.1:7446", "[::1]:7446", "localhost:7446"):
        check({"witness_listen": good}, "t")
    for bad in ("0.0.0.0:7446", "192.0.2.1:1", "w.example:1", "[::]:1", "127.0.0.1"):
        with pytest.raises(SetupError, match="witness_listen"):
            check({"witness_listen": bad}, "t")


def test_the_lists_are_checked_by_place() -> None:
    log, witness = OutsideTree(), FakeWitness()
    ours = OutsideTree("example.org/acme/north/e1")
    quoted = OutsideTree('log.example/"')
    check({"witness_logs": [log.vkey]}, "t")
    for bad, what in (
        ([log.vkey, "x"], "entry 2: vkey"),
        ([log.vkey[:-4] + "AAA="], "entry 1: vkey"),
        ([ours.vkey], "entry 1: a log of our own"),
        ([quoted.vkey], "entry 1: its name"),
        ([log.vkey] * 5000, "more than 4096"),
        ("x", "list of strings"),
        ([1], "list of strings"),
    ):
        with pytest.raises(SetupError, match=what):
            check({"witness_logs": bad}, "t")
    entry = f"https://w.example/prefix/ {witness.key.vkey}"
    checked = check({"outside_witnesses": [entry]}, "t")
    assert outside_witnesses(checked) == (("https://w.example/prefix", witness.key),)
    for bad, what in (
        ([entry, entry], "entry 2: this witness"),
        ([witness.key.vkey], "entry 1: must be"),
        ([f"ftp://w {witness.key.vkey}"], "entry 1: must be"),
        ([f"https://u:p@w {witness.key.vkey}"], "entry 1: must be"),
        ([f"https://w:x {witness.key.vkey}"], "entry 1: must be"),
        ([f"https://w/?q {witness.key.vkey}"], "entry 1: must be"),
        ([f"https://w {log.vkey}"], "entry 1: a log's key"),
        ([f"https://w {witness.key.vkey} x"], "entry 1"),
    ):
        with pytest.raises(SetupError, match=what):
            check({"outside_witnesses": bad}, "t")


def test_settings_with_lists_are_written_and_read_again(tmp_path: Path) -> None:
    wanted = replace(Settings(), witness_logs=(OutsideTree().vkey, OutsideTree("b.example/x").vkey))
    file = tmp_path / "coordinator.toml"
    file.write_text(render(wanted))
    assert load(file) == wanted
