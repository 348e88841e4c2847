"""Bad tokens, foreign certificates, banned agents: refused by name, against real processes."""

from __future__ import annotations

import json
import time
from pathlib import Path

import grpc
import pytest

from exclave_protocol.pb import artifact_pb2, artifact_pb2_grpc
from exclave_testing.processes import Agent, World, wait_for


@pytest.fixture
def stranger(tmp_path: Path) -> Agent:
    """A home that has not joined."""
    return Agent(tmp_path / "stranger")


def test_unknown_token_is_refused(world: World, stranger: Agent) -> None:
    from dataclasses import replace

    from exclave_protocol.identity import JoinToken

    real = JoinToken.decode(world.token("acme"))
    said = stranger.join(replace(real, token_id="0" * 32).encode(), code=1)
    assert "token" in said
    assert "Traceback" not in said
    assert real.secret.hex() not in said


def test_reused_token_is_refused(world: World, tmp_path: Path) -> None:
    token = world.token("acme", "once")
    Agent(tmp_path / "first").join(token)
    said = Agent(tmp_path / "second").join(token, code=1)
    assert "spent" in said or "used" in said
    assert "Traceback" not in said


def test_expired_token_is_refused(world: World, stranger: Agent) -> None:
    made = world.coordinator.ctl_json(
        "token", "create", "acme", "--ttl", "1s", "--workspace", world.workspace("acme")
    )
    wait_for("the token's second to pass", lambda: time.time() > made["expires"] + 1)
    said = stranger.join(made["token"], code=1)
    assert "expired" in said
    assert "ask for a new token" in said


def test_malformed_token_is_refused_without_a_connection(stranger: Agent) -> None:
    assert "exj1." in stranger.join("hello", code=1)
    assert "copy" in stranger.join("exj1.e30x", code=1)


def test_token_pinned_to_another_ca_is_refused(world: World, stranger: Agent) -> None:
    from dataclasses import replace

    from exclave_protocol.identity import JoinToken

    real = JoinToken.decode(world.token("acme"))
    said = stranger.join(replace(real, ca_sha256="ab" * 32).encode(), code=1)
    assert "Traceback" not in said
    assert not (stranger.home / "identity" / "join.json").exists()


def channel_of(world: World, agent: Agent) -> grpc.Channel:
    """A channel with an agent's own certificate."""
    folder = agent.home / "identity"
    credentials = grpc.ssl_channel_credentials(
        (folder / "ca.pem").read_bytes(),
        (folder / "key.pem").read_bytes(),
        (folder / "cert.pem").read_bytes(),
    )
    endpoint = json.loads((folder / "join.json").read_text())["session_endpoint"]
    return grpc.secure_channel(endpoint, credentials)


def test_certificate_of_another_tenant_reads_nothing(world: World, tmp_path: Path) -> None:
    world.tenant("rival", ("dora",), 1)
    rival = Agent(tmp_path / "rival")
    rival.join(world.token("rival", "spy"))
    manifest = world.agents["south"].status()["release"]["digest"]
    with channel_of(world, world.agents["south"]) as channel:
        stub = artifact_pb2_grpc.ArtifactStub(channel)
        assert list(stub.Read(artifact_pb2.ReadRequest(sha256=manifest)))
    with channel_of(world, rival) as channel:
        stub = artifact_pb2_grpc.ArtifactStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.Read(artifact_pb2.ReadRequest(sha256=manifest)))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.RpcError) as caught:
            stub.Metadata(artifact_pb2.MetadataRequest(name="timestamp.json"))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_banned_agent_loses_its_stream_and_cannot_return(world: World, tmp_path: Path) -> None:
    agent = Agent(tmp_path / "outcast")
    agent.join(world.token("acme", "outcast"))
    agent.start()
    try:
        wait_for("the session", lambda: agent.status()["coordinator"]["connected"])
        world.coordinator.ctl("agent", "ban", "acme", "outcast", "--reason", "test", "--yes")

        def banned() -> bool:
            seen = agent.status()["coordinator"]
            return not seen["connected"] and "banned" in json.dumps(seen)

        wait_for("the ban to arrive", banned)
        with channel_of(world, agent) as channel, pytest.raises(grpc.RpcError) as caught:
            artifact_pb2_grpc.ArtifactStub(channel).Metadata(
                artifact_pb2.MetadataRequest(name="timestamp.json")
            )
        assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
    finally:
        agent.service.kill()
