"""The bundle: canaries planted wherever one could be, and none that comes out."""

from __future__ import annotations

import io
import json
import stat
import tarfile
from pathlib import Path

import pytest

from exclave_agent.config import Settings
from exclave_agent.doctor import bundle, journal
from exclave_agent.doctor.collect import CONTENTS, Piece, collect, identifying
from exclave_agent.doctor.site import Site
from exclave_agent.identity import identity_folder
from exclave_agent.storage.home import VAULT_KEY
from exclave_agent.storage.keys import create_key
from exclave_testing.clock import SeededRng
from exclave_testing.doctor import Patient, enrolled, metadata, model, patient, release, running
from exclave_testing.homes import Home, intent, result

CANARY = "the patient is called Mabuse"
PASSWORD = "hunter2hunter2"
DROP_IN = "/etc/systemd/system/exclave-agent.service.d/site.conf"
AT = 1_900_000_000


async def lived(tmp_path: Path) -> tuple[Patient, Settings, list[str]]:
    """An agent that has seen much: its settings, and every text that must stay with it."""
    who = patient(tmp_path / "home")
    desk = await enrolled(who.home, host="centre.example")
    await release(who.home, model(CANARY.replace(" ", "-"), b"weights"), files=[b"weights"])
    async with Home(who.home) as home:
        appended = await home.log.append(intent("d1", CANARY, subject="Mabuse"))
        await home.log.append(result("d1", appended.seq, CANARY))
    metadata(who.home)
    key = create_key(
        who.home, roles=["analyst"], label=CANARY, clock=who.clock, rng=SeededRng(7)
    ).secret
    token = desk.new_token().encode()
    (who.home / f"{CANARY}.txt").write_text(CANARY)
    (who.home / "agent.toml").write_text(f'# {CANARY}\nlisten = "127.0.0.1:1"\n')
    (who.home / "tuf" / "metadata" / f"{CANARY}.json").write_text(CANARY)
    secrets = [CANARY, "Mabuse", PASSWORD, key, key[13:], token, token[5:]]
    for name in ("key.pem", "audit.key"):
        secrets += (identity_folder(who.home) / name).read_text().splitlines()[1:-1]
    secrets += [(who.home / VAULT_KEY).read_bytes().hex()]
    settings = Settings(home=who.home, socket=f"run/{key}")
    _plant(who, key, token, (identity_folder(who.home) / "key.pem").read_text())
    return who, settings, secrets


def _plant(who: Patient, key: str, token: str, pem: str) -> None:
    who.under_systemd(
        service={"DropInPaths": DROP_IN, "StatusText": f"answering; {key}"},
    )
    who.machine.environ = {"https_proxy": f"http://ann:{PASSWORD}@proxy:1", "SECRET": CANARY}
    who.machine.files[DROP_IN] = (
        f"# {CANARY}\n[Service]\nEnvironment=P={PASSWORD}\nMemoryMax=1G\n{CANARY}\n".encode()
    )
    who.machine.files["/etc/os-release"] = b'ID=debian\nPRETTY_NAME="Debian 12"\n'
    who.machine.files["/proc/cpuinfo"] = b"processor : 0\nflags : avx2 amx\n\nprocessor : 1\n"
    ours = {"LOGGER": "exclave_agent.agent", "_PID": "42"}
    lines: list[dict[str, object]] = [
        {**ours, "MESSAGE": f"exclave_agent.agent: Authorization: Bearer {key}"},
        {**ours, "MESSAGE": f"exclave_agent.agent: {token} and {pem}"},
        {"MESSAGE": CANARY, "_SYSTEMD_UNIT": "exclave-worker@1.service"},
        {"MESSAGE": list(CANARY.encode())},
        {"MESSAGE": f"site.conf:3: bad, ignoring: {PASSWORD}", "_PID": "1"},
        {**ours, "MESSAGE": "exclave_agent.agent: stopped", "EXTRA": CANARY, "_CMDLINE": CANARY},
    ]
    who.machine.commands["journalctl"] = "".join(f"{json.dumps(line)}\n" for line in lines)
    link = running()["coordinator"]
    who.status = running(coordinator={**link, "error": f"refused: {token}"})


def site_of(who: Patient, settings: Settings) -> Site:
    site = who.site()
    site.settings = settings
    return site


async def test_no_canary_comes_out(tmp_path: Path) -> None:
    who, settings, secrets = await lived(tmp_path)
    pieces = list(collect(site_of(who, settings)))
    assert [piece.name for piece in pieces] == [name for name, _, _ in CONTENTS]
    everything = "\n".join([*(piece.text for piece in pieces), bundle.manifest(pieces, AT)])
    assert [one for one in secrets if one in everything] == []
    by_name = {piece.name: piece for piece in pieces}
    assert by_name["journal.jsonl"].redacted == {"api key": 1, "join token": 1, "pem block": 1}
    assert by_name["settings.json"].redacted == {"api key": 1}
    assert not any('"not_taken"' in piece.text for piece in pieces)


async def test_what_helps_is_inside(tmp_path: Path) -> None:
    who, settings, _ = await lived(tmp_path)
    inside = {piece.name: piece.text for piece in collect(site_of(who, settings))}
    record = json.loads(inside["record.json"])
    assert [(row["type"], row["count"]) for row in record["records"]] == [
        ("GENESIS", 1),
        ("INTENT", 1),
        ("RESULT", 1),
    ]
    assert json.loads(inside["release.json"])["current"]["version"] == 3
    assert {row["role"] for row in json.loads(inside["tuf.json"])} == {
        "root",
        "timestamp",
        "snapshot",
        "targets",
    }
    units = json.loads(inside["units.json"])
    assert "MemoryMax=1G" in units["exclave-agent.service"]["files"][DROP_IN]
    assert json.loads(inside["system.json"])["cpu"] == {
        "count": 2,
        "flags": ["amx", "avx2"],
        "model": "",
    }
    assert json.loads(inside["doctor.json"])["schema"] == "exclave.doctor/v1"
    assert "exclave_agent.agent: stopped" in inside["journal.jsonl"]
    home = json.loads(inside["home.json"])
    assert home["files"]["state.db"]["mode"] == "0600"
    assert home["artifacts"]["count"] == 3


async def test_names_can_be_left_out(tmp_path: Path) -> None:
    who, settings, _ = await lived(tmp_path)
    site = site_of(who, settings)
    names = identifying(site)
    assert names["acme"] == "<tenant>"
    everything = "".join(piece.text for piece in collect(site, names))
    for word in ("example.org", "acme", "edge-1", "centre", str(who.home)):
        assert word not in everything
    assert "spiffe://<domain>/tenant/<tenant>/agent/<agent>" in everything


async def test_what_cannot_be_had_says_why(tmp_path: Path) -> None:
    who = patient(tmp_path / "home")
    inside = {piece.name: piece.text for piece in collect(who.site())}
    assert json.loads(inside["units.json"]) == {"not_taken": "systemd does not run this machine"}
    assert "journalctl ended with 127" in inside["journal.jsonl"]
    (who.home / "state.db").write_bytes(b"not a database")
    inside = {piece.name: piece.text for piece in collect(who.site())}
    assert "not_taken" in inside["release.json"]
    assert "not_taken" in inside["record.json"]


def test_a_long_journal_keeps_its_end(tmp_path: Path) -> None:
    who = patient(tmp_path / "home")
    line = {"MESSAGE": "exclave_agent.x: " + "y" * 5000, "LOGGER": "exclave_agent.x"}
    who.machine.commands["journalctl"] = "".join(
        json.dumps({**line, "PRIORITY": str(number)}) + "\n" for number in range(700)
    )
    (text,) = (piece.text for piece in collect(who.site()) if piece.name == "journal.jsonl")
    assert len(text.encode()) <= journal.LARGEST + 100
    first, *_, last = text.splitlines()
    assert "older lines" in json.loads(first)["left_out"]
    assert json.loads(last)["priority"] == "699"


# --- the file -----------------------------------------------------------------------------

PIECES = [Piece("a.json", "for a", "{}\n", {"api key": 2}), Piece("b.jsonl", "for b", "", {})]


def test_equal_pieces_give_equal_bytes() -> None:
    data = bundle.pack(PIECES, AT)
    assert data == bundle.pack(list(PIECES), AT)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        entries = tar.getmembers()
        (first, *_) = entries
        text = tar.extractfile(first)
        assert text is not None
        manifest = text.read().decode()
    folder = "exclave-support-20300317-174640"
    assert [entry.name for entry in entries] == [
        f"{folder}/{name}" for name in ("MANIFEST.txt", "a.json", "b.jsonl")
    ]
    assert {(entry.mode, entry.uid, entry.uname, entry.mtime) for entry in entries} == {
        (0o600, 0, "", AT)
    }
    assert "a.json  3 bytes\n    for a\n    redacted: 2 api key\n" in manifest
    assert "Redacted in all: 2 api key" in manifest
    assert list(bundle.listing(PIECES)) == [
        "a.json           3 bytes  for a (redacted: 2 api key)",
        "b.jsonl          0 bytes  for b",
    ]


def test_the_file_is_its_owners_and_new(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    bundle.write(path, b"data")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        bundle.write(path, b"other")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        bundle.write(tmp_path / "link", b"other")
    assert path.read_bytes() == b"data"
