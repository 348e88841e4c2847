"""Publications that a restore lost come back from the workspace, and agents go on with them."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from exclave_agent.errors import ReleaseRefused
from exclave_agent.releases.verify import Repository, Scope, SignedTargets
from exclave_coordinator.backup.restore import restore
from exclave_coordinator.backup.resume import JUMP
from exclave_coordinator.backup.save import backup
from exclave_coordinator.system import SystemClock, SystemRng
from exclave_ctl.workspace import Workspace
from exclave_protocol import tufmeta
from exclave_protocol.pb import artifact_pb2
from exclave_testing.coordinator import (
    DOMAIN,
    TIMEOUT,
    Member,
    running_coordinator,
)
from exclave_testing.ctl import Ctl
from exclave_testing.processes import ROOT

RUNBOOK = ROOT / "docs" / "coordinator-runbook.md"


class Source:
    """The agent's view of its coordinator, as `ports.ArtifactSource`."""

    def __init__(self, member: Member) -> None:
        self._artifact = member.artifact

    async def metadata(self, name: str) -> bytes | None:
        """One metadata file; None: there is none of that name."""
        try:
            answer = await self._artifact.Metadata(
                artifact_pb2.MetadataRequest(name=name), timeout=TIMEOUT
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise
        content: bytes = answer.content
        return content

    def read(self, sha256: str, offset: int) -> AsyncIterator[bytes]:
        """No artifact is read here."""
        raise NotImplementedError


class Agent:
    """An agent's TUF client with the folder in which it remembers what it saw."""

    def __init__(self, folder: Path, pin: str) -> None:
        self._folder = folder
        self._scope = Scope(DOMAIN, "acme", "north", pin, b"")

    async def refresh(self, member: Member) -> SignedTargets:
        """One TUF cycle."""
        with ThreadPoolExecutor(1) as executor:
            repository = Repository(
                self._folder,
                self._scope,
                Source(member),
                clock=SystemClock(),
                executor=executor,
            )
            return await repository.refresh()

    def snapshot_version(self) -> int:
        """Of the newest snapshot that it accepted."""
        data = (self._folder / "metadata" / "snapshot.json").read_bytes()
        version: int = tufmeta.load_snapshot(data).signed.version
        return version


def _publish(ctl: Ctl, workspace: Path) -> str:
    built = ctl.build(workspace)
    ctl.sign(workspace, "alice", "bob")
    ctl("release", "publish", workspace)
    digest: str = built["digest"]
    return digest


@pytest.fixture
def ctl(tmp_path: Path) -> Ctl:
    """`exclave` with the first administrator's profile of the coordinator that serves."""
    return Ctl(tmp_path / "home" / "operators" / "admin", tmp_path)


def _as_the_runbook_says(ctl: Ctl, workspace: Path) -> str:
    """The commands below "Publish again", as they stand there; returns what they said."""
    page = RUNBOOK.read_text().partition("### Publish again\n")[2]
    block = page.partition("```bash\n")[2].partition("```")[0]
    block = block.replace("WORKSPACE", str(workspace)).replace("TENANT", "acme")
    said = ""
    for line in block.splitlines():
        program, *words = shlex.split(line, comments=True) or [""]
        assert program in ("exclave", ""), line
        said += ctl(*words).output if words else ""
    return said


async def _publish_many(ctl: Ctl, workspace: Path, count: int) -> str:
    digests = [await asyncio.to_thread(_publish, ctl, workspace) for _ in range(count)]
    return digests[-1]


async def test_agents_take_what_is_published_again(ctl: Ctl, tmp_path: Path) -> None:
    async with running_coordinator(tmp_path / "home") as centre:
        workspace = await asyncio.to_thread(ctl.make_workspace)
        await _publish_many(ctl, workspace, 3)
        saved = await asyncio.to_thread(
            backup,
            centre.home,
            tmp_path / "b.tar",
            version="1",
            clock=SystemClock(),
            rng=SystemRng(),
        )
        newest = await _publish_many(ctl, workspace, 2)
        member = await centre.enroll("acme", "north")
        agent = Agent(tmp_path / "agent", Workspace.load(workspace).root_pin())
        assert (await agent.refresh(member)).targets_version == 5
        seen = agent.snapshot_version()
    # What follows the backup is lost: targets 4 and 5, and the agent itself.
    centre.home.path.rename(tmp_path / "lost")
    restore(saved.path, tmp_path / "home", clock=SystemClock(), rng=SystemRng())
    async with running_coordinator(tmp_path / "home") as centre:
        member = await centre.enroll("acme", "north")
        with pytest.raises(ReleaseRefused) as refused:
            await agent.refresh(member)
        assert refused.value.code == "rolled_back"
        said = await asyncio.to_thread(_as_the_runbook_says, ctl, workspace)
        assert "has targets 3, this workspace saw 5: publishing 5 again" in said
        assert "published root 1 and targets 5; 2 files uploaded" in said
        targets = await agent.refresh(member)
        assert targets.targets_version == 5
        assert agent.snapshot_version() > max(seen, JUMP)
        assert targets.find(f"releases/{newest}.json") is not None
        assert (
            await centre.read(lambda tx: tx.tenants.get("acme"))
        ).desired.release_digest == newest
        # From here on all is as ever.
        await _publish_many(ctl, workspace, 1)
        assert (await agent.refresh(member)).targets_version == 6
