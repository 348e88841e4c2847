"""Looking for records: by what stands in them, by their values, and as they come."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from exclave_agent.audit.disclose import show
from exclave_agent.audit.search import Wanted, commitments_of, search, with_field
from exclave_agent.cli import audit
from exclave_agent.errors import BadRequest
from exclave_agent.ports import LeafDraft
from exclave_protocol.canonical import JsonValue
from exclave_testing.clock import FakeClock
from exclave_testing.homes import Home, intent

ANSWERS = ("answered", "denied", "answered")


async def filled(path: Path) -> list[int]:
    """Three decisions, an hour apart, of two models; the seqs of their RESULTs."""
    seqs: list[int] = []
    async with Home(path) as home:
        assert isinstance(home.clock, FakeClock)
        for number, outcome in enumerate(ANSWERS):
            model: dict[str, JsonValue] = {"name": "small" if number else "big"}
            policy: dict[str, JsonValue] = {"rule": f"rule-{number}"}
            body: dict[str, JsonValue] = {"decision": f"d{number}", "model": model}
            body["policy"] = policy
            private: dict[str, JsonValue] = {"prompt": f"Question {number} about Übergänge"}
            await home.log.append(LeafDraft("INTENT", body, private, "ada"))
            answer: dict[str, JsonValue] = {"output": {"said": [f"answer {number}"]}}
            ended = await home.log.append(
                LeafDraft("RESULT", body | {"outcome": outcome}, answer, "ada")
            )
            seqs.append(ended.seq)
            home.clock.step(3600)
    return seqs


def run(home: Path, *words: str, code: int = 0) -> Result:
    done = CliRunner().invoke(audit.command, [*words, "--home", str(home)])
    assert done.exit_code == code, done.output
    return done


def found(home: Path, *words: str) -> list[int]:
    return [row["seq"] for row in json.loads(run(home, "search", "--json", *words).output)]


async def test_records_are_found_by_what_stands_in_them(tmp_path: Path) -> None:
    first, second, third = await filled(tmp_path)
    assert found(tmp_path, "--type", "result") == [first, second, third]
    assert found(tmp_path, "--outcome", "denied") == [second]
    assert found(tmp_path, "--model", "small", "--type", "RESULT") == [second, third]
    assert found(tmp_path, "--rule", "rule-2", "--type", "RESULT") == [third]
    assert found(tmp_path, "--type", "RESULT", "--limit", "2") == [second, third], "the newest"
    assert found(tmp_path, "--model", "absent") == []


async def test_records_are_found_by_their_values_in_any_case(tmp_path: Path) -> None:
    _, second, _ = await filled(tmp_path)
    assert found(tmp_path, "--text", "ANSWER 1") == [second]
    assert found(tmp_path, "--text", "übergänge", "--type", "INTENT") == [1, 3, 5]
    line = run(tmp_path, "search", "--text", "answer 1", "--values").output
    assert "answer 1" in line and "denied" in line
    assert "answer 1" not in run(tmp_path, "search", "--text", "answer 1").output


async def test_times_are_of_the_records(tmp_path: Path) -> None:
    seqs = await filled(tmp_path)
    rows: list[dict[str, Any]] = json.loads(run(tmp_path, "search", "--json").output)
    middle = next(row["time"] for row in rows if row["seq"] == seqs[1])
    at = middle[:19] + "Z"
    assert found(tmp_path, "--type", "RESULT", "--since", at) == seqs[1:]
    assert found(tmp_path, "--type", "RESULT", "--until", at) == seqs[:1]
    assert found(tmp_path, "--since", "2000-01-01", "--until", "2000-01-02") == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--since", "yesterday"), "ISO 8601"),
        (("--type", "SECRET"), "no record is of type SECRET"),
        (("--limit", "many"), "--limit"),
    ],
)
async def test_what_cannot_be_meant_is_said(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    await filled(tmp_path)
    assert said in run(tmp_path, "search", *words, code=2).output


async def test_the_tail_goes_on_from_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(tmp_path)
    assert run(tmp_path, "tail", "--no-follow", "-n", "2").output.count("\n") == 2
    turns = 0

    def more(_: float) -> None:
        nonlocal turns
        turns += 1
        if turns > 2:
            raise KeyboardInterrupt
        writer = threading.Thread(target=append, args=(tmp_path, turns))
        writer.start()
        writer.join()

    monkeypatch.setattr("exclave_agent.cli.audit.time.sleep", more)
    done = CliRunner().invoke(
        audit.command, ["tail", "-n", "1", "--json", "--type", "RESULT", "--home", str(tmp_path)]
    )
    rows = [json.loads(line) for line in done.output.splitlines() if line.startswith("{")]
    assert [row["body"]["decision"] for row in rows] == ["d2", "late-1", "late-2"]


def append(home: Path, turn: int) -> None:
    async def write() -> None:
        async with Home(home) as opened:
            for kind in ("INTENT", "RESULT"):
                await opened.log.append(LeafDraft(kind, {"decision": f"late-{turn}"}))

    asyncio.run(write())


async def test_a_record_is_disclosed_by_its_decision(tmp_path: Path) -> None:
    first, *_ = await filled(tmp_path)
    async with Home(tmp_path) as home:
        read = home.database.read
        assert await read(with_field("output", "d0")) == first
        assert await read(with_field("prompt", "d0")) == first - 1
        assert await read(with_field("absent", str(first))) == first
        with pytest.raises(BadRequest, match="they have: output, prompt"):
            await read(with_field("absent", "d0"))


async def test_a_search_sees_what_was_erased_as_not_there(tmp_path: Path) -> None:
    await filled(tmp_path)
    async with Home(tmp_path) as home:
        await home.storage.subjects.destroy_key("ada")
        hits = await home.database.read(lambda log: search(log, Wanted(text="answer"), 9))
        assert hits == []


async def test_one_of_the_two_names_the_record(tmp_path: Path) -> None:
    await filled(tmp_path)
    for words in ((), ("--seq", "1", "--record", "d0")):
        done = run(tmp_path, "disclose", *words, "--field", "x", "-o", str(tmp_path / "f"), code=2)
        assert "--record" in done.output


async def test_the_commitments_to_what_is_kept_of_a_subject(tmp_path: Path) -> None:
    async with Home(tmp_path) as home:
        hers = await home.log.append(intent("one", subject="ada"))
        await home.log.append(intent("two", subject="bob"))
        found = await home.database.read(lambda r: commitments_of(r, "ada"))
        leaf = (await home.database.read(lambda r: show(r, hers.seq))).leaf
        assert len(found) == 1
        assert set(found) < set(leaf.sd)
        with pytest.raises(BadRequest, match="nothing is kept"):
            await home.database.read(lambda r: commitments_of(r, "eve"))
