"""Check what signed targets point at: everything is there, and every release hangs together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Executor

from tuf.api.metadata import Metadata, TargetFile, Targets

from exclave_coordinator.errors import Invalid, Precondition
from exclave_coordinator.ports import Artifacts, Release
from exclave_policy.compile import compile_pack
from exclave_policy.errors import PolicyInvalid
from exclave_policy.pack import unpack
from exclave_protocol.errors import ReleaseError
from exclave_protocol.release import ReleaseManifest, release_path

_RELEASES = "releases/"
_MAX_SMALL = 1 << 20
"""Most bytes of a manifest or a policy pack."""


class Contents:
    """Reads uploaded targets and holds them against what was signed."""

    def __init__(self, artifacts: Artifacts, workers: Executor) -> None:
        self._artifacts = artifacts
        self._workers = workers
        self._compiled: set[str] = set()
        """Digests of packs that compile: old releases stay in the targets for long."""

    async def check(self, tenant: str, targets: Metadata[Targets]) -> Sequence[Release]:
        """The releases that the targets name.

        Raises: Precondition (targets_missing), Invalid (release, policy).
        """
        files = targets.signed.targets
        await self._check_uploaded(tenant, files)
        releases = []
        for path, file in sorted(files.items()):
            if path.startswith(_RELEASES):
                manifest = await self._check_release(tenant, path, file, files)
                releases.append(
                    Release(
                        tenant,
                        file.hashes["sha256"],
                        manifest.version,
                        targets.signed.version,
                    )
                )
        return releases

    async def _check_uploaded(self, tenant: str, files: Mapping[str, TargetFile]) -> None:
        missing = []
        for path, file in sorted(files.items()):
            digest = file.hashes.get("sha256")
            if digest is None:
                raise Invalid(f"targets: {path} has no sha256")
            length = await self._artifacts.length(tenant, digest)
            if length is None:
                missing.append(path)
            elif length != file.length:
                raise Invalid(f"targets: {path} says {file.length} bytes, uploaded are {length}")
        if missing:
            shown = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
            raise Precondition(
                f"targets: {len(missing)} not uploaded yet: {shown}", code="targets_missing"
            )

    async def _check_release(
        self, tenant: str, path: str, file: TargetFile, files: Mapping[str, TargetFile]
    ) -> ReleaseManifest:
        content = await self._small(tenant, path, file)
        try:
            manifest = ReleaseManifest.decode(content)
        except ReleaseError as error:
            raise Invalid(f"targets: {path}: {error.message}", code="release") from error
        if path != release_path(file.hashes["sha256"]):
            # Agents look a release up by its digest: under another name none would find it.
            raise Invalid(f"targets: {path} is not named after its digest", code="release")
        if manifest.tenant != tenant:
            raise Invalid(f"targets: {path} is a release of another tenant", code="release")
        for ref in manifest.targets():
            target = files.get(ref.path)
            if target is None:
                raise Invalid(
                    f"targets: {path} names {ref.path}, which is no target", code="release"
                )
            if target.hashes.get("sha256") != ref.sha256 or target.length != ref.length:
                raise Invalid(
                    f"targets: {path} names {ref.path} with another digest or length",
                    code="release",
                )
        policy = manifest.policy
        pack = await self._small(tenant, policy.path, files[policy.path])
        if policy.sha256 not in self._compiled:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._workers, _check_policy, policy.path, pack)
            self._compiled.add(policy.sha256)
        return manifest

    async def _small(self, tenant: str, path: str, file: TargetFile) -> bytes:
        if file.length > _MAX_SMALL:
            raise Invalid(f"targets: {path} is longer than {_MAX_SMALL} bytes", code="release")
        return await gather(self._artifacts.read(tenant, file.hashes["sha256"], 0, file.length))


async def gather(pieces: AsyncIterator[bytes]) -> bytes:
    """All pieces as one."""
    return b"".join([piece async for piece in pieces])


def _check_policy(path: str, pack: bytes) -> None:
    try:
        compile_pack(unpack(pack))
    except PolicyInvalid as error:
        raise Invalid(f"targets: {path} does not compile: {error}", code="policy") from error
