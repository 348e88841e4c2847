"""Who may call what, over which TLS, and that every operator's act is on record."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from exclave_coordinator.api import auth
from exclave_coordinator.api.server import SERVICES
from exclave_protocol.checkpoint import operator_origin
from exclave_protocol.leaf import LeafType, check_follows, decode_leaf
from exclave_protocol.note import open_note, split_note
from exclave_protocol.pb import admin_pb2, artifact_pb2, audit_pb2
from exclave_protocol.pb.admin_pb2_grpc import AdminServicer, AdminStub
from exclave_protocol.pb.artifact_pb2_grpc import ArtifactStub
from exclave_protocol.pb.audit_pb2_grpc import AuditStub
from exclave_protocol.tree import leaf_hash, root_of
from exclave_testing.coordinator import (
    TIMEOUT,
    RunningCoordinator,
    chain_pem,
    csr,
    key_pem,
    new_key,
    refused,
    running_coordinator,
)


def _methods() -> Iterator[str]:
    return (name for name in vars(AdminServicer) if name[0].isupper())


def test_every_admin_method_has_a_rule_and_no_rule_is_left_over() -> None:
    assert set(_methods()) == set(auth.ROLES)
    assert set(SERVICES) == auth.OPERATOR_SERVICES | auth.AGENT_SERVICES


async def _read_log(centre: RunningCoordinator) -> list[Any]:
    answer = await centre.admin.ReadOperatorLog(admin_pb2.ReadOperatorLogRequest(), timeout=TIMEOUT)
    leaves = [decode_leaf(data) for data in answer.leaves]
    prev = bytes(32)
    for seq, (data, leaf) in enumerate(zip(answer.leaves, leaves, strict=True)):
        check_follows(leaf, log=operator_origin("example.org"), epoch=1, seq=seq, prev=prev)
        prev = leaf_hash(data)
    text = split_note(answer.checkpoint)[0]
    opened = open_note(answer.checkpoint, [centre.up.parts.operators._key.verify_key])
    assert opened.text == text
    size, root = text.split("\n")[1:3]
    assert int(size) == answer.size == len(leaves)
    assert base64.b64decode(root) == root_of(leaf_hash(data) for data in answer.leaves)
    return leaves


async def test_wrong_role_is_refused_and_recorded(centre: RunningCoordinator) -> None:
    await centre.tenant("acme")
    auditor = await centre.operator("auditor", "eve")
    status, code, message = await refused(
        auditor.StartRollout(admin_pb2.StartRolloutRequest(tenant="acme", release_digest="a" * 64))
    )
    assert (status, code) == ("PERMISSION_DENIED", "role")
    assert "auditor" in message
    manager = await centre.operator("release-manager")
    attempts: list[Any] = [
        lambda: manager.CreateTenant(admin_pb2.CreateTenantRequest(name="x")),
        lambda: manager.BanAgent(admin_pb2.AgentRequest(tenant="acme", agent="a")),
        lambda: manager.ExportAudit(admin_pb2.ExportAuditRequest(tenant="acme")).read(),
    ]
    for call in attempts:
        assert (await refused(call()))[:2] == ("PERMISSION_DENIED", "role")
    assert (await auditor.ListTenants(admin_pb2.ListTenantsRequest())).tenants[0].name == "acme"
    leaves = await _read_log(centre)
    assert leaves[0].type is LeafType.GENESIS
    told = [(x.body["operator"], x.body["action"], x.body["outcome"]) for x in leaves[1:]]
    name = "spiffe://example.org/operator/"
    assert told == [
        (f"{name}admin", "CreateTenant", "ok"),
        (f"{name}admin", "IssueOperator", "ok"),
        (f"{name}eve", "StartRollout", "denied"),
        (f"{name}admin", "IssueOperator", "ok"),
        (f"{name}release-manager", "CreateTenant", "denied"),
        (f"{name}release-manager", "BanAgent", "denied"),
        (f"{name}release-manager", "ExportAudit", "denied"),
    ]


async def test_refused_acts_are_recorded_with_their_reason(centre: RunningCoordinator) -> None:
    await centre.tenant("acme")
    assert (await refused(centre.tenant("acme")))[:2] == ("ALREADY_EXISTS", "exists")
    unknown = admin_pb2.AgentRequest(tenant="acme", agent="nobody", reason="seen\x1bodd")
    assert (await refused(centre.admin.BanAgent(unknown)))[0] == "NOT_FOUND"
    last = (await _read_log(centre))[-1]
    assert last.body["outcome"] == "refused"
    assert last.body["code"] == "not_found"
    assert last.body["target"] == "tenant/acme/agent/nobody"
    assert last.body["details"] == {"reason": "seen odd"}


async def test_agents_and_operators_do_not_enter_each_others_doors(
    centre: RunningCoordinator,
) -> None:
    await centre.tenant("acme")
    member = await centre.enroll("acme", "north")
    assert (await refused(AdminStub(member.channel).ListTenants(admin_pb2.ListTenantsRequest())))[
        :2
    ] == ("PERMISSION_DENIED", "not_an_operator")
    folder = centre.home.operators / "admin"
    channel = centre.channel((folder / "key.pem").read_bytes(), (folder / "cert.pem").read_bytes())
    assert (await refused(AuditStub(channel).Head(audit_pb2.HeadRequest(epoch=1))))[:2] == (
        "PERMISSION_DENIED",
        "not_an_agent",
    )


async def test_an_agent_reads_only_its_own_tenants_artifacts(centre: RunningCoordinator) -> None:
    tenant = await centre.tenant("acme")
    await centre.tenant("other")
    ours, theirs = await centre.enroll("acme", "north"), await centre.enroll("other", "north")
    digest = await centre.release(tenant)
    read = artifact_pb2.ReadRequest(sha256=digest)
    assert (await ours.artifact.Read(read).read()).offset == 0
    assert (await refused(theirs.artifact.Read(read).read()))[0] == "NOT_FOUND"
    asked = artifact_pb2.MetadataRequest(name="timestamp.json")
    assert (await ours.artifact.Metadata(asked)).content
    assert (await refused(theirs.artifact.Metadata(asked)))[0] == "NOT_FOUND"


async def test_certificates_of_another_authority_do_not_connect(
    centre: RunningCoordinator, tmp_path: Path
) -> None:
    async with running_coordinator(tmp_path / "other") as stranger:
        await stranger.tenant("acme")
        member = await stranger.enroll("acme", "north")
        channel = centre.channel(key_pem(member.key), chain_pem(member.answer.certificate_chain))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ArtifactStub(channel).Metadata(
                artifact_pb2.MetadataRequest(name="root.json"), timeout=3
            )
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_the_mtls_port_wants_a_certificate_and_the_join_port_has_no_other_services(
    centre: RunningCoordinator,
) -> None:
    credentials = grpc.ssl_channel_credentials(centre.ca)
    async with grpc.aio.secure_channel(centre.up.session, credentials) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await AdminStub(channel).ListTenants(admin_pb2.ListTenantsRequest(), timeout=3)
    async with grpc.aio.secure_channel(centre.up.enroll, credentials) as channel:
        status, _, _ = await refused(AdminStub(channel).ListTenants(admin_pb2.ListTenantsRequest()))
        assert status == "UNIMPLEMENTED"


async def test_issue_operator_refuses_bad_names_roles_and_lives(
    centre: RunningCoordinator,
) -> None:
    good: dict[str, Any] = {"name": "eve", "role": "auditor", "csr": csr(new_key()), "ttl": 0}
    for change in (
        {"name": "Eve"},
        {"role": "root"},
        {"csr": b"x"},
        {"ttl": 366 * 86_400},
    ):
        request = admin_pb2.IssueOperatorRequest(**{**good, **change})
        assert (await refused(centre.admin.IssueOperator(request)))[0] == "INVALID_ARGUMENT"


async def test_an_expired_operator_certificate_is_refused(centre: RunningCoordinator) -> None:
    await centre.admin.ListTenants(admin_pb2.ListTenantsRequest())
    centre.clock.offset = 366 * 86_400
    assert (await refused(centre.admin.ListTenants(admin_pb2.ListTenantsRequest())))[:2] == (
        "UNAUTHENTICATED",
        "certificate_expired",
    )


async def test_health_reflection_and_metrics(centre: RunningCoordinator) -> None:
    folder = centre.home.operators / "admin"
    channel = centre.channel((folder / "key.pem").read_bytes(), (folder / "cert.pem").read_bytes())
    health = health_pb2_grpc.HealthStub(channel)
    answer = await health.Check(health_pb2.HealthCheckRequest(service="exclave.v1.Fleet"))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    listed = {s.name for s in (await call.read()).list_services_response.service}
    assert set(SERVICES) <= listed
    call.cancel()
    await centre.tenant("acme")
    await refused(centre.tenant("acme"))
    text = await asyncio.to_thread(_scrape, centre.up.metrics)
    line = (
        'exclave_coordinator_calls_total{method="/exclave.v1.Admin/CreateTenant",status="%s"} 1.0'
    )
    assert line % "OK" in text
    assert line % "ALREADY_EXISTS" in text
    assert "exclave_coordinator_sessions 0.0" in text


def _scrape(endpoint: str) -> str:
    with urllib.request.urlopen(f"http://{endpoint}/metrics", timeout=TIMEOUT) as answer:
        body: bytes = answer.read()
        return body.decode()


def _handshake(endpoint: str, version: ssl.TLSVersion) -> str | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    host, _, port = endpoint.rpartition(":")
    with (
        closing(socket.create_connection((host, int(port)), timeout=TIMEOUT)) as raw,
        context.wrap_socket(raw) as secure,
    ):
        return secure.version()


@pytest.mark.parametrize("port", ["session", "enroll"])
async def test_tls_1_2_is_refused_and_1_3_accepted(centre: RunningCoordinator, port: str) -> None:
    endpoint = getattr(centre.up, port)
    accepted = await asyncio.to_thread(_handshake, endpoint, ssl.TLSVersion.TLSv1_3)
    assert accepted == "TLSv1.3"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.to_thread(_handshake, endpoint, ssl.TLSVersion.TLSv1_2)


async def test_the_server_certificate_is_replaced_in_process(centre: RunningCoordinator) -> None:
    first = await asyncio.to_thread(_serial, centre.up.session)
    assert await asyncio.to_thread(_serial, centre.up.session) == first
    centre.clock.offset = 302_401  # half of seven days
    assert await asyncio.to_thread(_serial, centre.up.session) != first


def _serial(endpoint: str) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    host, _, port = endpoint.rpartition(":")
    with (
        closing(socket.create_connection((host, int(port)), timeout=TIMEOUT)) as raw,
        context.wrap_socket(raw) as secure,
    ):
        der = secure.getpeercert(binary_form=True)
        assert der is not None
        return der
