"""Bring a workspace up to what the coordinator has published, believing only signatures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exclave_ctl.client import Client
from exclave_ctl.errors import CtlError
from exclave_ctl.workspace import Workspace
from exclave_protocol.errors import MetadataError

if TYPE_CHECKING:
    from exclave_protocol.pb import admin_pb2 as pb

_LYING = "the coordinator may have been restored from an old copy, or tampered with: find out first"
_OTHER_ROOT = "use the workspace that its keyholders signed; if there is none, make a new tenant"


@dataclass(frozen=True, slots=True)
class Lost:
    """Publications of one role that this workspace saw and the coordinator no longer has.

    There and seen are equal where others have taken the version since the coordinator lost it.
    """

    role: str
    there: int
    """The coordinator's version; 0: none."""
    seen: int

    @property
    def forked(self) -> bool:
        """Two publications have the same version: only a higher one can follow both."""
        return self.there == self.seen

    def __str__(self) -> str:
        if self.forked:
            return (
                f"{self.role} {self.there} at the coordinator are others than those that this "
                "workspace saw"
            )
        return (
            f"the coordinator has {self.role} {self.there or 'of no version'}, "
            f"this workspace saw {self.seen}"
        )


def sync(client: Client, workspace: Workspace) -> None:
    """As `survey`, for whoever needs a coordinator that has lost nothing.

    Raises: CtlError (as `survey`; and publications are lost).
    """
    lost = survey(client, workspace)
    refuse_fork(lost, workspace)
    if lost:
        raise CtlError(
            "; ".join(map(str, lost.values())),
            "if it was restored from a backup, `exclave release publish "
            f"{workspace.folder}` publishes again what it lacks; if not, find out who changed it",
        )


def refuse_fork(lost: Mapping[str, Lost], workspace: Workspace) -> None:
    """Raises: CtlError (a version was published twice with different content)."""
    for gap in lost.values():
        if gap.forked:
            raise CtlError(
                str(gap),
                "if the coordinator was restored from a backup: build again with `exclave release "
                f"build {workspace.folder} --offline ...`, the next version must follow both; if "
                "not, find out who changed it",
            )


def survey(client: Client, workspace: Workspace) -> Mapping[str, Lost]:
    """Walk roots forward from the one we trust, then take targets they vouch for.

    Root version 1 must be the one drafted in this workspace. Expired metadata is taken (a new
    release may be what renews it); older than what we saw, or other content under the same
    version, is not. Returns what was lost, by role.
    Raises: CtlError (other root, unsigned, coordinator away).
    """
    tenant = client.tenant(workspace.tenant)
    if tenant.trust_domain != workspace.trust_domain:
        raise CtlError(
            f"this workspace belongs to trust domain {workspace.trust_domain}, the coordinator "
            f"is {tenant.trust_domain}",
            "use the profile of the workspace's coordinator",
        )
    try:
        seen_root = _sync_roots(client, workspace, tenant)
        lost_targets = _sync_targets(client, workspace)
    except MetadataError as error:
        raise CtlError(f"what the coordinator published: {error.message}", _LYING) from error
    lost_root = Lost("root", tenant.root_version, seen_root)
    both = (lost_root if lost_root.there < lost_root.seen else None, lost_targets)
    return {lost.role: lost for lost in both if lost is not None}


def _sync_roots(client: Client, workspace: Workspace, tenant: pb.Tenant) -> int:
    """Take newer roots; returns the newest version that this workspace has seen."""
    from exclave_protocol.tufmeta import load_root, verify_roots

    trusted = workspace.published_root()
    version = 0 if trusted is None else load_root(trusted).signed.version
    if 0 < tenant.root_version < version:
        _require_ours(_root(client, workspace, tenant.root_version), workspace, tenant.root_version)
    while version < tenant.root_version:
        data = _root(client, workspace, version + 1)
        if version == 0:
            _require_ours(data, workspace, 1)
        verify_roots(trusted, [data])
        version += 1
        workspace.record_root(data, version)
        trusted = data
    return version


def _root(client: Client, workspace: Workspace, version: int) -> bytes:
    data = client.metadata(workspace.tenant, f"{version}.root.json")
    if data is None:
        raise CtlError(f"the coordinator lacks root version {version}", _LYING)
    return data


def _require_ours(data: bytes, workspace: Workspace, version: int) -> None:
    """The coordinator's root is the one of this workspace; signatures may differ."""
    from exclave_protocol.tufmeta import root_pin

    ours = workspace.root_pin() if version == 1 else root_pin(workspace.seen_root(version))
    if root_pin(data) != ours:
        raise CtlError(
            f"tenant {workspace.tenant} was published with another root than this workspace's",
            _OTHER_ROOT,
        )


def _sync_targets(client: Client, workspace: Workspace) -> Lost | None:
    """Take newer targets; returns what was lost."""
    from exclave_protocol.tufmeta import TARGETS, load_root, load_targets, require_signatures

    root = workspace.published_root()
    known = workspace.published_targets()
    ours = None if known is None else load_targets(known)
    seen = 0 if ours is None else ours.signed.version
    data = None if root is None else client.metadata(workspace.tenant, "targets.json")
    if data is None or root is None:
        return Lost(TARGETS, 0, seen) if seen else None
    if data == known:
        return None
    targets = load_targets(data)
    version = targets.signed.version
    other = ours is not None and ours.signed_bytes != targets.signed_bytes
    if version < seen or (version == seen and other):
        # Not believed, only compared: a root that we saw may no longer vouch for it.
        return Lost(TARGETS, version, seen)
    require_signatures(targets, load_root(root).signed, TARGETS)
    workspace.record_targets(data)
    return None
