"""Take in signed metadata as an agent would, then sign what the coordinator adds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import ParamSpec, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, Targets

from exclave_coordinator.errors import CoordinatorError, Invalid, NotFound, Precondition, Stale
from exclave_coordinator.ports import (
    Artifacts,
    Clock,
    Release,
    Store,
    Tenant,
    TenantKeys,
    TenantSeeds,
    Tx,
)
from exclave_coordinator.releases.contents import Contents
from exclave_protocol import tufmeta
from exclave_protocol.errors import MetadataError, SignaturesMissing

log = logging.getLogger(__name__)

T = TypeVar("T")
P = ParamSpec("P")

ONLINE_LIFE = 86_400
"""Seconds that snapshot and timestamp hold."""
KEPT_SNAPSHOTS = 4
"""Old snapshots kept for agents in the middle of an update."""
MAX_ROOTS = 32
"""Most roots of one publication."""


@dataclass(frozen=True, slots=True)
class Published:
    """Where the tenant's repository stands after a publication."""

    root_version: int
    targets_version: int
    snapshot_version: int


@dataclass(frozen=True, slots=True)
class Offer:
    """A publication that has passed every check and waits to be stored."""

    base: Tenant
    """What it was checked against: storing it against anything else is refused."""
    root: Metadata[Root]
    roots: Sequence[bytes]
    targets: bytes
    targets_version: int
    releases: Sequence[Release]
    seeds: TenantSeeds = field(repr=False)


class Publisher:
    """Verifies what operators signed and keeps the online metadata fresh."""

    def __init__(
        self,
        store: Store,
        artifacts: Artifacts,
        keys: TenantKeys,
        *,
        workers: Executor,
        clock: Clock,
    ) -> None:
        """`workers` run signature checks and policy compilation beside the event loop."""
        self._store = store
        self._contents = Contents(artifacts, workers)
        self._keys = keys
        self._workers = workers
        self._clock = clock

    async def check(self, name: str, roots: Sequence[bytes], targets: bytes) -> Offer:
        """Verify an offer; nothing is changed.

        1. the roots continue the trusted one, each signed by both thresholds; 2. the last
        root is not expired and names our online keys; 3. the targets are signed by its
        threshold, newer than the published ones and not expired; 4. every target is
        uploaded, with its length; 5. every release names only targets, with their digests,
        and its policy pack compiles.

        Raises: NotFound (tenant), Precondition (under_signed, root_keys, targets_missing,
        no_metadata), Invalid (unreadable, rolled back, expired, release or policy wrong).
        """
        tenant, trusted, current = await self._store.read(lambda tx: _standing(tx, name))
        if len(roots) > MAX_ROOTS:
            raise Invalid(f"roots: {len(roots)} where at most {MAX_ROOTS} are allowed")
        if not roots and not targets:
            raise Invalid("roots, targets: both are empty, there is nothing to publish")
        seeds = self._keys.load(name)
        root = await self._work(self._check_roots, tenant, trusted, roots)
        if not targets and current is None:
            return Offer(tenant, root, roots, b"", 0, (), seeds)
        checked = await self._work(self._check_targets, tenant, root, targets, current)
        # Without new targets the releases on record stay: `store` does not touch them.
        releases = await self._contents.check(name, checked) if targets else ()
        return Offer(tenant, root, roots, targets, checked.signed.version, releases, seeds)

    def store(self, tx: Tx, offer: Offer) -> Published:
        """Write an offer and its fresh snapshot and timestamp: all files or none.

        Raises: Stale when another publication came in between.
        """
        tenant = tx.tenants.get(offer.base.name)
        base = offer.base
        if tenant is None or (tenant.root_version, tenant.targets_version) != (
            base.root_version,
            base.targets_version,
        ):
            raise Stale("another publication came first: look at the metadata again", size=0)
        files = [
            (f"{tenant.root_version + 1 + i}.root.json", tenant.root_version + 1 + i, data)
            for i, data in enumerate(offer.roots)
        ]
        root_version = offer.root.signed.version
        if offer.roots:
            files.append(("root.json", root_version, offer.roots[-1]))
        if offer.targets:
            version = offer.targets_version
            files.append((f"{version}.targets.json", version, offer.targets))
            files.append(("targets.json", version, offer.targets))
        pin = tenant.root_pin
        if not pin and offer.roots:
            pin = bytes.fromhex(tufmeta.root_pin(offer.roots[0]))
        after = replace(
            tenant,
            root_version=root_version,
            targets_version=offer.targets_version,
            root_pin=pin,
        )
        if offer.targets_version:
            after, signed = self._sign(after, offer.seeds)
            files += signed
        tx.releases.put_metadata(tenant.name, files, after)
        tx.releases.prune_metadata(
            tenant.name, "snapshot", after.snapshot_version - KEPT_SNAPSHOTS + 1
        )
        if offer.targets:
            tx.releases.replace_releases(tenant.name, offer.releases)
        return Published(after.root_version, after.targets_version, after.snapshot_version)

    async def refresh(self) -> int:
        """Re-sign snapshot and timestamp where half their life is over; returns how many.

        A tenant whose keys cannot be used does not keep the others from being served: its
        failure is raised once all have had their turn.
        Raises: CoordinatorError, the first of them; the others are logged.
        """
        limit = self._clock.now() + ONLINE_LIFE // 2
        tenants = await self._store.read(lambda tx: tx.tenants.all())
        due = [t for t in tenants if t.targets_version and t.timestamp_expires <= limit]
        failures: list[CoordinatorError] = []
        for tenant in due:
            try:
                await self._refresh(tenant.name, self._keys.load(tenant.name))
            except CoordinatorError as error:
                failures.append(error)
        for also in failures[1:]:
            log.error("online metadata not re-signed (%s): %s", also.code, also.message)
        if failures:
            raise failures[0]
        return len(due)

    async def _refresh(self, name: str, seeds: TenantSeeds) -> None:
        def job(tx: Tx) -> None:
            tenant = tx.tenants.get(name)
            assert tenant is not None, "tenants are never deleted"
            after, files = self._sign(tenant, seeds)
            tx.releases.put_metadata(name, files, after)
            tx.releases.prune_metadata(
                name, "snapshot", after.snapshot_version - KEPT_SNAPSHOTS + 1
            )

        await self._store.write(job)

    def _sign(
        self, tenant: Tenant, seeds: TenantSeeds
    ) -> tuple[Tenant, list[tuple[str, int, bytes]]]:
        expires = self._now() + timedelta(seconds=ONLINE_LIFE)
        after = replace(
            tenant,
            snapshot_version=tenant.snapshot_version + 1,
            timestamp_version=tenant.timestamp_version + 1,
            timestamp_expires=int(expires.timestamp()),
        )
        snapshot, timestamp = tufmeta.sign_snapshot_timestamp(
            targets_version=after.targets_version,
            snapshot_version=after.snapshot_version,
            timestamp_version=after.timestamp_version,
            snapshot_signer=_signer(seeds.snapshot),
            timestamp_signer=_signer(seeds.timestamp),
            snapshot_expires=expires,
            timestamp_expires=expires,
        )
        version = after.snapshot_version
        return after, [
            (f"{version}.snapshot.json", version, snapshot),
            ("timestamp.json", after.timestamp_version, timestamp),
        ]

    def _check_roots(
        self, tenant: Tenant, trusted: bytes | None, roots: Sequence[bytes]
    ) -> Metadata[Root]:
        if trusted is None and not roots:
            raise Precondition(
                "roots: the tenant has no root yet; publish root version 1 first",
                code="no_metadata",
            )
        root = _refusing(tufmeta.verify_roots, trusted, roots)
        _refusing(tufmeta.require_fresh, root.signed, self._now())
        for role, key in (
            (tufmeta.SNAPSHOT, tenant.snapshot_key),
            (tufmeta.TIMESTAMP, tenant.timestamp_key),
        ):
            ours = tufmeta.key_from_public(key).keyid
            named = root.signed.roles[role]
            if ours not in named.keyids or named.threshold != 1:
                raise Precondition(
                    f"root: its role {role} must name the coordinator's key {ours} with "
                    "threshold 1 (see the tenant's public keys)",
                    code="root_keys",
                )
            offline = {*root.signed.roles["root"].keyids, *root.signed.roles["targets"].keyids}
            if ours in offline:
                raise Precondition(
                    f"root: the coordinator's {role} key may not sign root or targets",
                    code="root_keys",
                )
        return root

    def _check_targets(
        self, tenant: Tenant, root: Metadata[Root], targets: bytes, current: bytes | None
    ) -> Metadata[Targets]:
        """The offered targets; without any, those published must still hold under the root."""
        newer_than = tenant.targets_version if targets else 0
        return _refusing(
            tufmeta.verify_targets,
            root.signed,
            targets or current or b"",
            now=self._now(),
            newer_than=newer_than,
        )

    async def _work(self, call: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._workers, call, *args)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now(), UTC)


def metadata_name(name: str) -> str:
    """`name`, if it can name a metadata file. Raises: Invalid."""
    parts = name.split(".")
    known = {
        1: {"timestamp", "root", "targets"},
        2: {"root", "targets", "snapshot"},
    }
    numbered = len(parts) == 3 and parts[0].isascii() and parts[0].isdigit() and len(parts[0]) < 10
    if parts[-1] == "json" and (
        (len(parts) == 2 and parts[0] in known[1]) or (numbered and parts[1] in known[2])
    ):
        return name
    raise Invalid("name: not timestamp.json or <version>.(root|targets|snapshot).json")


def _standing(tx: Tx, name: str) -> tuple[Tenant, bytes | None, bytes | None]:
    tenant = tx.tenants.get(name)
    if tenant is None:
        raise NotFound("no tenant of this name")
    return (
        tenant,
        tx.releases.metadata(name, "root.json"),
        tx.releases.metadata(name, "targets.json"),
    )


def _refusing(check: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a check of the protocol room; its refusals become ours."""
    try:
        return check(*args, **kwargs)
    except SignaturesMissing as error:
        raise Precondition(error.message, code="under_signed") from error
    except MetadataError as error:
        raise Invalid(error.message, code="metadata") from error


def _signer(seed: bytes) -> CryptoSigner:
    return tufmeta.signer_from_private(Ed25519PrivateKey.from_private_bytes(seed))
