"""A tenant's TUF repository that a test can sign well or badly, served as an ArtifactSource."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, Root, TargetFile

from exclave_agent.errors import LinkError
from exclave_agent.releases.report import Desired
from exclave_agent.releases.verify import Scope
from exclave_policy.pack import Pack, encode
from exclave_protocol import tufmeta
from exclave_protocol.packages import Package
from exclave_protocol.release import (
    ArtifactRef,
    Assignment,
    ModelEntry,
    ReleaseManifest,
    model_path,
    policy_path,
    release_path,
    sign_assignment,
)
from exclave_testing.clock import START_NS
from exclave_testing.policies import allow, document

NOW = datetime.fromtimestamp(START_NS / 1e9, UTC)
DOMAIN = "example.org"
TENANT = "acme"
AGENT = "edge-1"


def key(seed: str) -> Ed25519PrivateKey:
    """The same key for the same seed."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(seed.encode()).digest())


def signer(seed: str) -> Signer:
    """A TUF signer of that key."""
    return tufmeta.signer_from_private(key(seed))


def policy_pack(rule: str = "analysts-chat") -> bytes:
    """A pack whose one rule is named `rule`: other names, other digests."""
    return encode(Pack("test", "1", {"policy.yaml": json.dumps(document(allow(rule)))}))


@dataclass
class Source:
    """ports.ArtifactSource over two dictionaries, with every way a coordinator can fail."""

    files: dict[str, bytes] = field(default_factory=dict)
    targets: dict[str, bytes] = field(default_factory=dict)
    offline: bool = False
    """Every call raises LinkError."""
    break_after: int | None = None
    """The next read raises LinkError after this many bytes; reads after it are whole."""
    chunk: int = 1024
    reads: list[tuple[str, int]] = field(default_factory=list)
    """(sha256, offset) of every read."""
    sent: int = 0
    """Target bytes handed out."""
    asked: list[str] = field(default_factory=list)
    """Metadata names asked for."""
    gate: asyncio.Event | None = None
    """When set and cleared, metadata calls wait for it."""

    async def metadata(self, name: str) -> bytes | None:
        self.asked.append(name)
        await asyncio.sleep(0)
        if self.gate is not None:
            await self.gate.wait()
        self._check_link()
        return self.files.get(name)

    async def read(self, sha256: str, offset: int) -> AsyncIterator[bytes]:
        self.reads.append((sha256, offset))
        self._check_link()
        data = self.targets.get(sha256)
        if data is None:
            raise LinkError("coordinator: Read: not_found", code="not_found")
        limit, self.break_after = self.break_after, None
        at = offset
        while at < len(data):
            await asyncio.sleep(0)
            end = min(at + self.chunk, len(data))
            if limit is not None:
                end = min(end, offset + limit)
            if end == at:
                raise LinkError("the link broke", code="unreachable")
            self.sent += end - at
            yield data[at:end]
            at = end

    def _check_link(self) -> None:
        if self.offline:
            raise LinkError("the coordinator cannot be reached", code="unreachable")


class TufRepo:
    """Three people, two of whom must sign; snapshot and timestamp as the coordinator signs them.

    `publish` writes a consistent state into `source`; whatever a test wants wrong, it either
    asks `publish` for or alters in `source.files`.
    """

    def __init__(self, people: tuple[str, ...] = ("ann", "bob", "cho"), threshold: int = 2) -> None:
        self.people = people
        self.threshold = threshold
        self.source = Source()
        self.entries: dict[str, TargetFile] = {}
        self.versions = {"targets": 0, "snapshot": 0, "timestamp": 0}
        self.releases = 0
        self.root = self._draft_root(None, people)
        self._write_root(self.root, people)
        self.pin = tufmeta.root_pin(self.source.files["1.root.json"])

    @property
    def scope(self) -> Scope:
        """What an agent of this tenant accepts."""
        director = key("director").public_key().public_bytes_raw()
        return Scope(DOMAIN, TENANT, AGENT, self.pin, director)

    # --- root -----------------------------------------------------------------------------

    def _draft_root(self, before: Root | None, people: tuple[str, ...]) -> Metadata[Root]:
        offline = [tufmeta.key_from_public(key(p).public_key().public_bytes_raw()) for p in people]
        snapshot, timestamp = (
            tufmeta.key_from_public(key(k).public_key().public_bytes_raw())
            for k in ("snapshot", "timestamp")
        )
        expires = NOW + timedelta(days=365)
        if before is None:
            return tufmeta.new_root(offline, self.threshold, snapshot, timestamp, expires)
        return tufmeta.next_root(before, offline, self.threshold, snapshot, timestamp, expires)

    def _write_root(self, root: Metadata[Root], signers: tuple[str, ...]) -> None:
        for person in signers:
            tufmeta.add_signature(root, signer(person))
        self.source.files[f"{root.signed.version}.root.json"] = tufmeta.to_bytes(root)

    def rotate(self, people: tuple[str, ...], signers: tuple[str, ...] | None = None) -> None:
        """Root N+1 with other people; signed by everyone old and new unless told otherwise."""
        self.root = self._draft_root(self.root.signed, people)
        self._write_root(self.root, signers or tuple(dict.fromkeys((*self.people, *people))))
        self.people = people

    # --- publication ------------------------------------------------------------------------

    def publish(
        self,
        *,
        signers: tuple[str, ...] | None = None,
        targets_days: float = 90,
        snapshot_days: float = 1,
        timestamp_days: float = 1,
        version: int | None = None,
        now: datetime = NOW,
    ) -> None:
        """Sign and write new targets, snapshot and timestamp."""
        self.versions = {role: number + 1 for role, number in self.versions.items()}
        if version is not None:
            self.versions["targets"] = version
        number = self.versions["targets"]
        targets = tufmeta.new_targets(
            number, self.entries.values(), now + timedelta(days=targets_days)
        )
        for person in self.people if signers is None else signers:
            tufmeta.add_signature(targets, signer(person))
        self.source.files[f"{number}.targets.json"] = tufmeta.to_bytes(targets)
        self.resign(snapshot_days=snapshot_days, timestamp_days=timestamp_days, now=now)

    def resign(
        self, *, snapshot_days: float = 1, timestamp_days: float = 1, now: datetime = NOW
    ) -> None:
        """The coordinator's part over the present targets, snapshot and timestamp versions."""
        snapshot, timestamp = tufmeta.sign_snapshot_timestamp(
            targets_version=self.versions["targets"],
            snapshot_version=self.versions["snapshot"],
            timestamp_version=self.versions["timestamp"],
            snapshot_signer=signer("snapshot"),
            timestamp_signer=signer("timestamp"),
            snapshot_expires=now + timedelta(days=snapshot_days),
            timestamp_expires=now + timedelta(days=timestamp_days),
        )
        self.source.files[f"{self.versions['snapshot']}.snapshot.json"] = snapshot
        self.source.files["timestamp.json"] = timestamp

    def refresh_timestamp(self, *, days: float = 1, now: datetime = NOW) -> None:
        """The daily chore: a new timestamp over new snapshot bytes of the same targets."""
        self.versions["snapshot"] += 1
        self.versions["timestamp"] += 1
        self.resign(snapshot_days=days, timestamp_days=days, now=now)

    # --- content ------------------------------------------------------------------------------

    def add(self, path: str, data: bytes) -> ArtifactRef:
        """A target, signed with the next publication."""
        digest = hashlib.sha256(data).hexdigest()
        self.source.targets[digest] = data
        self.entries[path] = tufmeta.target_file(path, digest, len(data))
        return ArtifactRef(path, digest, len(data))

    def release(
        self,
        *,
        policy: bytes | None = None,
        models: Mapping[str, bytes] | None = None,
        version: int | None = None,
        minimum: int = 0,
        grace: int = 3600,
        tenant: str = TENANT,
        publish: bool = True,
        alter: Callable[[ReleaseManifest], ReleaseManifest] = lambda manifest: manifest,
    ) -> str:
        """Build a release, add its files, publish; returns the manifest's digest."""
        self.releases = version or self.releases + 1
        pack = policy if policy is not None else policy_pack(f"rule-{self.releases}")
        digest = hashlib.sha256(pack).hexdigest()
        entries = []
        for name, data in ({"m": b"weights"} if models is None else models).items():
            sha256 = hashlib.sha256(data).hexdigest()
            ref = self.add(model_path(sha256), data)
            entries.append(ModelEntry(name, "onnx", ref.path, ref.sha256, ref.length))
        manifest = ReleaseManifest(
            tenant=tenant,
            version=self.releases,
            created="2030-03-17T00:00:00Z",
            minimum_version=minimum,
            offline_grace_seconds=grace,
            policy=self.add(policy_path(digest), pack),
            models=tuple(entries),
        )
        data = alter(manifest).encode()
        release = hashlib.sha256(data).hexdigest()
        self.add(release_path(release), data)
        if publish:
            self.publish()
        return release


def assign(
    digest: str,
    generation: int = 1,
    *,
    agent: str = AGENT,
    tenant: str = TENANT,
    domain: str = DOMAIN,
    director: str = "director",
    announced: int | None = None,
    seconds: int = 3600,
) -> Desired:
    """What a coordinator sends to have `digest` run."""
    issued = START_NS // 1_000_000_000
    assignment = Assignment(
        trust_domain=domain,
        tenant=tenant,
        agent=agent,
        generation=generation,
        release_digest=digest,
        rollout="r1",
        issued=issued,
        expires=issued + seconds,
    )
    number = generation if announced is None else announced
    return Desired(number, sign_assignment(assignment, key(director)))


def add_package(repo: TufRepo, package: Package, data: bytes) -> None:
    """A signed package, as the operators' tool describes it."""
    repo.source.targets[package.sha256] = data
    repo.entries[package.path] = tufmeta.target_file(
        package.path, package.sha256, package.length, package.custom()
    )
