"""Remote models as doctor sees them: library, key, and the way there."""

from __future__ import annotations

import socket
from pathlib import Path

from exclave_agent.doctor.endpoints import endpoints
from exclave_agent.doctor.report import Check
from exclave_agent.identity.secrets import Secrets
from exclave_protocol.endpoint import Endpoint
from exclave_testing.doctor import Patient, model, patient, release
from exclave_testing.endpoints import document


async def made(tmp_path: Path, endpoint: Endpoint, *, key: bool = True) -> Patient:
    """An agent whose release has this remote model."""
    who = patient(tmp_path / "home")
    data = endpoint.encode()
    await release(who.home, model("cloud", data, runtime="remote"), files=[data])
    if key:
        Secrets(who.home, {}).set(endpoint.secret, "sk-1")
    who.machine.modules.add("openai")
    who.offline = False
    return who


def only(who: Patient) -> Check:
    (check,) = list(endpoints(who.site()))
    return check


async def test_none_where_the_release_has_none(tmp_path: Path) -> None:
    who = patient(tmp_path / "home")
    assert list(endpoints(who.site())) == []
    await release(who.home, model("m", b"weights"))
    assert list(endpoints(patient(tmp_path / "home").site())) == []


async def test_one_that_is_reached(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        who = await made(tmp_path, document(url))
        check = only(who)
        assert (check.result, check.name) == ("ok", "remote models")
        assert "cloud: 127.0.0.1:" in check.detail and "reached" in check.detail
        who.under_systemd(service={"IPAddressDeny": "::/0 0.0.0.0/0"})
        check = only(who)
        assert check.result == "warn" and "IPAddressAllow" in check.remedy


async def test_one_that_is_not(tmp_path: Path) -> None:
    check = only(await made(tmp_path, document("https://endpoint.example/v1")))
    assert (check.result, "DNS: endpoint.example" in check.detail) == ("warn", True)


async def test_offline_it_is_not_tried(tmp_path: Path) -> None:
    who = await made(tmp_path, document("https://endpoint.example/v1"))
    who.offline = True
    assert (only(who).result, "endpoint.example:443" in only(who).detail) == ("skip", True)


async def test_without_a_key(tmp_path: Path) -> None:
    who = await made(tmp_path, document("https://endpoint.example/v1"), key=False)
    assert (only(who).result, only(who).remedy) == ("warn", "exclave-agent secret set main")
    who.offline = True
    encrypted = {"LoadCredentialEncrypted": "seal.key:/a exclave-remote-main:/b"}
    who.under_systemd(service=encrypted)
    assert only(who).result == "skip"


async def test_without_the_library(tmp_path: Path) -> None:
    who = await made(tmp_path, document("https://endpoint.example/v1"))
    who.machine.modules.discard("openai")
    assert (only(who).result, "openai" in only(who).detail) == ("fail", True)
