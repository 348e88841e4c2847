"""The way to the coordinator: each stage broken in turn, over real sockets on loopback."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from exclave_agent.doctor import network
from exclave_agent.doctor.report import Check
from exclave_agent.doctor.site import Known
from exclave_agent.errors import LinkError
from exclave_agent.identity import join
from exclave_agent.link.enroll import GrpcJoin
from exclave_testing.audit import FakeAuditSink, signing_key
from exclave_testing.clock import FakeClock
from exclave_testing.coordinator_fake import FakeCoordinator
from exclave_testing.desk import Ca, Desk
from exclave_testing.doctor import Patient, enrolled, patient, said


@pytest.fixture
async def coordinator() -> AsyncIterator[FakeCoordinator]:
    made = FakeCoordinator(Desk(time.time), sink=FakeAuditSink(signing_key().verify_key))
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def who(tmp_path: Path, coordinator: FakeCoordinator) -> Patient:
    """An agent that has joined that coordinator."""
    made = patient(tmp_path / "home")
    made.clock, made.offline = FakeClock(time.time_ns()), False
    await join(made.home, coordinator.desk.token, GrpcJoin())
    return made


async def looked(who: Patient) -> list[Check]:
    """As in a process of its own: doctor blocks, and the coordinator runs on this loop."""
    return await asyncio.to_thread(lambda: list(network.ports(who.site())))


async def test_everything_is_reached(who: Patient) -> None:
    session, enrollment = await looked(who)
    assert (session.name, session.result) == ("coordinator", "ok")
    assert "reached: DNS, TCP, TLSv1.3, gRPC: the coordinator knows this agent" in session.detail
    assert "holds 0 of its records" in session.detail
    assert (enrollment.name, enrollment.result) == ("enrollment", "ok")
    assert enrollment.detail.endswith("gRPC: ready")


async def test_offline_stays_off_the_network(who: Patient, coordinator: FakeCoordinator) -> None:
    who.offline = True
    await coordinator.stop()
    assert said(await looked(who)) == {"coordinator": "skip", "enrollment": "skip"}


def test_before_the_join_there_is_no_coordinator(tmp_path: Path) -> None:
    assert said(list(network.ports(patient(tmp_path / "home").site()))) == {"coordinator": "skip"}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "not known"),
        (TimeoutError(), "no answer"),
    ],
)
async def test_no_name(who: Patient, answer: OSError, words: str) -> None:
    who.machine.names["127.0.0.1"] = answer
    checks = await looked(who)
    assert said(checks) == {"coordinator DNS": "fail", "enrollment DNS": "fail"}
    assert words in checks[0].detail


async def test_nobody_listens(who: Patient, coordinator: FakeCoordinator) -> None:
    await coordinator.stop()
    checks = await looked(who)
    assert said(checks) == {"coordinator TCP": "fail", "enrollment TCP": "fail"}
    assert "Connection refused" in checks[0].detail
    assert "is the coordinator running" in checks[0].remedy


@contextmanager
def listener(context: ssl.SSLContext | None) -> Iterator[int]:
    """A port where someone else answers: with TLS of that context, or not at all."""
    server = socket.create_server(("127.0.0.1", 0))
    held: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                plain, _ = server.accept()
            except OSError:
                return
            held.append(plain)
            if context is not None:
                try:
                    held.append(context.wrap_socket(plain, server_side=True))
                except OSError:
                    plain.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(10)
        for one in held:
            one.close()


def _context(folder: Path, ca: Ca, *protocols: str) -> ssl.SSLContext:
    key, chain = ca.server()
    (folder / "k").write_bytes(key)
    (folder / "c").write_bytes(chain)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "c", folder / "k")
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def _stop(known: Known, port: int) -> network.Broken:
    """What breaks on that port of this machine after TCP."""
    there = network.Port("coordinator", "127.0.0.1", port)
    plain = socket.create_connection(("127.0.0.1", port), timeout=network.STAGE_SECONDS)
    with pytest.raises(network.Broken) as caught:
        network._tls(known, there, plain)
    return caught.value


async def _known(tmp_path: Path, desk: Desk) -> Known:
    who = patient(tmp_path / "home")
    await join(who.home, desk.token, desk)
    known = who.site().known
    assert isinstance(known, Known)
    return known


async def test_another_authority(tmp_path: Path) -> None:
    known = await _known(tmp_path, Desk(time.time))
    with listener(_context(tmp_path, Ca(time.time), "h2")) as port:
        stop = await asyncio.to_thread(_stop, known, port)
    assert stop.stage == "TLS"
    assert "certificate" in stop.detail
    assert "is it the coordinator this agent joined" in stop.remedy


async def test_a_proxy_that_opens_tls_speaks_no_http2(tmp_path: Path) -> None:
    desk = Desk(time.time)
    known = await _known(tmp_path, desk)
    with listener(_context(tmp_path, desk.ca)) as port:
        stop = await asyncio.to_thread(_stop, known, port)
    assert (stop.stage, "not HTTP/2" in stop.detail) == ("TLS", True)


async def test_an_older_tls(tmp_path: Path) -> None:
    desk = Desk(time.time)
    known = await _known(tmp_path, desk)
    context = _context(tmp_path, desk.ca, "h2")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with listener(context) as port:
        stop = await asyncio.to_thread(_stop, known, port)
    assert stop.stage == "TLS"
    assert "TLS 1.3 must pass" in stop.remedy


async def test_something_that_never_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = await _known(tmp_path, Desk(time.time))
    monkeypatch.setattr(network, "STAGE_SECONDS", 0.2)
    with listener(None) as port:
        stop = await asyncio.to_thread(_stop, known, port)
    assert stop.stage == "TLS"


async def test_the_coordinator_refuses_this_agent(
    who: Patient, coordinator: FakeCoordinator
) -> None:
    assert coordinator.sink is not None
    coordinator.sink.failure = LinkError("a reason", code="witness_denied")
    checks = await looked(who)
    assert said(checks) == {"coordinator gRPC": "fail", "enrollment": "ok"}
    assert checks[0].detail == "coordinator: Head: permission_denied: a reason"


async def test_keys_that_cannot_be_used_leave_the_stages_before(who: Patient) -> None:
    (who.home / "identity" / "key.pem").chmod(0o640)
    session, enrollment = await looked(who)
    assert session.result == "ok"
    assert "gRPC not tried" in session.detail
    assert enrollment.detail.endswith("gRPC: ready")


# --- proxies ------------------------------------------------------------------------------

SECRET = "http://ann:hunter2hunter2@proxy.example:3128"


@pytest.mark.parametrize(
    ("env", "result"),
    [
        ({}, None),
        ({"HTTPS_PROXY": SECRET}, None),  # gRPC does not ask for it
        ({"https_proxy": SECRET}, "warn"),
        ({"http_proxy": SECRET, "no_proxy": "example.org, 127.0.0.1"}, "ok"),
        ({"grpc_proxy": SECRET, "no_proxy": "127.0.0.0/8"}, "ok"),
        ({"https_proxy": SECRET, "no_proxy": "10.0.0.0/8,localhost"}, "warn"),
        ({"https_proxy": SECRET, "no_grpc_proxy": "x", "no_proxy": "127.0.0.1"}, "warn"),
    ],
)
async def test_proxies_in_the_environment(
    tmp_path: Path, env: dict[str, str], result: str | None
) -> None:
    who = patient(tmp_path / "home")
    await enrolled(who.home)
    who.machine.environ = env
    checks = list(network.proxies(who.site()))
    assert [check.result for check in checks] == ([] if result is None else [result])
    assert "hunter2" not in str(checks), "a proxy's address may hold a password"
    if result == "warn":
        assert "no_grpc_proxy=127.0.0.1" in checks[0].remedy
