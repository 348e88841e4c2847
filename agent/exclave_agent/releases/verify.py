"""Verify: what the people signed and what the director assigned, and that both agree.

Pure checks over bytes, in the order in which they are numbered; only `Repository` touches the
network and the disk.
"""

from __future__ import annotations

import asyncio
import hashlib
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from exclave_agent.errors import ReleaseRefused
from exclave_agent.ports import ArtifactSource, Clock
from exclave_agent.releases.files import write_durably
from exclave_agent.releases.report import Desired
from exclave_protocol.errors import MetadataError, ReleaseError
from exclave_protocol.release import (
    ArtifactRef,
    Assignment,
    ReleaseManifest,
    open_assignment,
    release_path,
)

MAX_MANIFEST: Final = 65_535
FIRST_ROOT: Final = "1.root.json"


class Enrolled(Protocol):
    """What releases need of an identity (identity.store.Identity has it all)."""

    @property
    def trust_domain(self) -> str: ...
    @property
    def tenant(self) -> str: ...
    @property
    def agent(self) -> str: ...
    @property
    def root_pin(self) -> str: ...
    @property
    def director_key(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Scope:
    """For whom releases are accepted, and whose word counts; all from the identity."""

    trust_domain: str
    tenant: str
    agent: str
    root_pin: str
    """SHA-256 (hex) of the canonical signed part of the tenant's root version 1."""
    director_key: bytes
    """Raw Ed25519 public key."""

    @classmethod
    def of(cls, identity: Enrolled) -> Scope:
        """The scope of an enrolled agent."""
        return cls(
            trust_domain=identity.trust_domain,
            tenant=identity.tenant,
            agent=identity.agent,
            root_pin=identity.root_pin,
            director_key=identity.director_key,
        )


class SignedTarget(Protocol):
    """One file that the signed metadata names."""

    @property
    def sha256(self) -> str: ...
    @property
    def length(self) -> int: ...


class SignedTargets(Protocol):
    """The tenant's verified metadata (tuf_client.TrustedTargets)."""

    root_version: int
    targets_version: int

    def find(self, path: str) -> SignedTarget | None:
        """The target of that path."""
        ...


def check_assignment(desired: Desired, scope: Scope, *, now: int, seen: int) -> Assignment:
    """The director's assignment, once it is found to be for this agent and not a replay.

    1. signed by the director; 2. names this trust domain, tenant and agent; 3. carries the
    generation that the coordinator announced; 4. its generation is not below `seen`, the
    newest one accepted; 5. not expired at `now` (seconds since the epoch).

    Raises: ReleaseRefused (assignment_invalid, wrong_tenant, expired).
    """
    try:
        key = Ed25519PublicKey.from_public_bytes(scope.director_key)
        assignment = open_assignment(desired.assignment, [key])
    except (ReleaseError, ValueError) as error:
        raise _invalid(f"assignment: {error}") from error
    if (assignment.trust_domain, assignment.tenant) != (scope.trust_domain, scope.tenant):
        raise ReleaseRefused("assignment is for another tenant", code="wrong_tenant")
    if assignment.agent != scope.agent:
        raise _invalid("assignment is for another agent")
    if assignment.generation != desired.generation:
        raise _invalid("assignment carries another generation than the coordinator announced")
    if assignment.generation < seen:
        raise _invalid(
            f"assignment of generation {assignment.generation} is replayed: {seen} was accepted"
        )
    if now >= assignment.expires:
        raise ReleaseRefused("assignment has expired", code="expired")
    return assignment


def find_manifest(digest: str, targets: SignedTargets) -> ArtifactRef:
    """6. the assigned release is among the tenant's signed targets.

    Raises: ReleaseRefused ("mismatch").
    """
    path = release_path(digest)
    target = targets.find(path)
    if target is None or target.sha256 != digest:
        raise ReleaseRefused(
            "the assigned release is not among the tenant's signed targets: the director and the "
            "signers must name the same one",
            code="mismatch",
        )
    if target.length > MAX_MANIFEST:
        raise ReleaseRefused("the release manifest is longer than allowed", code="tampered")
    return ArtifactRef(path, digest, target.length)


def check_manifest(data: bytes, digest: str, scope: Scope, *, floor: int) -> ReleaseManifest:
    """The manifest's bytes as a release that this agent may run.

    7. bytes have the assigned digest; 8. well-formed and of this tenant; 9. not below the
    security floor that releases run before have set.

    Raises: ReleaseRefused (tampered, wrong_tenant, below_floor).
    """
    if hashlib.sha256(data).hexdigest() != digest:
        raise ReleaseRefused("the release manifest has another digest", code="tampered")
    try:
        manifest = ReleaseManifest.decode(data)
    except ReleaseError as error:
        raise ReleaseRefused(f"release manifest: {error.message}", code="tampered") from error
    if manifest.tenant != scope.tenant:
        raise ReleaseRefused("the release is for another tenant", code="wrong_tenant")
    if manifest.version < floor:
        raise ReleaseRefused(
            f"release version {manifest.version} is below the security floor {floor}",
            code="below_floor",
        )
    return manifest


def check_artifacts(manifest: ReleaseManifest, targets: SignedTargets) -> None:
    """10. every file of the release is itself a signed target, digest and length equal.

    Raises: ReleaseRefused ("mismatch").
    """
    for ref in manifest.targets():
        target = targets.find(ref.path)
        if target is None or (target.sha256, target.length) != (ref.sha256, ref.length):
            raise ReleaseRefused(
                f"the release names {ref.path}, which the signed targets do not name so",
                code="mismatch",
            )


def _invalid(message: str) -> ReleaseRefused:
    return ReleaseRefused(message, code="assignment_invalid")


class Repository:
    """The tenant's TUF repository as this agent sees it through the coordinator."""

    def __init__(
        self,
        folder: Path,
        scope: Scope,
        source: ArtifactSource,
        *,
        clock: Clock,
        executor: Executor,
    ) -> None:
        """`folder` keeps the pinned root and what was seen; `clock` must be the trusted time."""
        self._folder = folder
        self._scope = scope
        self._source = source
        self._clock = clock
        self._executor = executor

    async def refresh(self) -> SignedTargets:
        """One TUF cycle.

        Raises: ReleaseRefused (see tuf_client.refresh; root_mismatch), LinkError.
        """
        root = await self._pinned_root()
        # Late: without a root there is nothing to verify, and an idle agent stays small.
        from exclave_agent.releases import tuf_client

        loop = asyncio.get_running_loop()
        fetcher = tuf_client.SourceFetcher(self._source, loop)
        now = datetime.fromtimestamp(self._clock.now_ns() / 1e9, UTC)
        work = loop.run_in_executor(
            self._executor, tuf_client.refresh, self._folder / "metadata", root, fetcher, now
        )
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            fetcher.stop()
            await asyncio.wait([work])  # the thread must not outlive the cycle
            if not work.cancelled():
                work.exception()  # cancelled: how the thread ended no longer matters
            raise

    async def _pinned_root(self) -> bytes:
        """Root version 1, whose digest the join token fixed. Nothing else is ever a start."""
        file = self._folder / FIRST_ROOT
        if file.exists():
            root = file.read_bytes()
            self._check_pin(root)
            return root
        fetched = await self._source.metadata(FIRST_ROOT)
        if fetched is None:
            raise ReleaseRefused(
                "the tenant has no published root metadata yet", code="fetch_failed"
            )
        self._check_pin(fetched)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(file, fetched)
        return fetched

    def _check_pin(self, root: bytes) -> None:
        from exclave_protocol.tufmeta import root_pin

        try:
            pin = root_pin(root)
        except MetadataError as error:
            raise ReleaseRefused(f"root version 1: {error.message}", code="tampered") from error
        if pin != self._scope.root_pin:
            raise ReleaseRefused(
                "root version 1 is not the one that the join token pins: ask whoever made the "
                "token, then join again",
                code="root_mismatch",
            )
