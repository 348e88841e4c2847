"""Bring a workspace up to what the coordinator has published, believing only signatures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exclave_ctl.client import Client
from exclave_ctl.errors import CtlError
from exclave_ctl.workspace import Workspace
from exclave_protocol.errors import MetadataError

if TYPE_CHECKING:
    from exclave_protocol.pb import admin_pb2 as pb

_LYING = "the coordinator may have been restored from an old copy, or tampered with: find out first"


def sync(client: Client, workspace: Workspace) -> None:
    """Walk roots forward from the one we trust, then take targets they vouch for.

    Root version 1 must be the one drafted in this workspace. Expired metadata is taken (a new
    release may be what renews it); older than what we saw is not.
    Raises: CtlError (other root, rolled back, unsigned, coordinator away).
    """
    tenant = client.tenant(workspace.tenant)
    if tenant.trust_domain != workspace.trust_domain:
        raise CtlError(
            f"this workspace belongs to trust domain {workspace.trust_domain}, the coordinator "
            f"is {tenant.trust_domain}",
            "use the profile of the workspace's coordinator",
        )
    try:
        _sync_roots(client, workspace, tenant)
        _sync_targets(client, workspace)
    except MetadataError as error:
        raise CtlError(f"what the coordinator published: {error.message}", _LYING) from error


def _sync_roots(client: Client, workspace: Workspace, tenant: pb.Tenant) -> None:
    from exclave_protocol.tufmeta import load_root, root_pin, verify_roots

    trusted = workspace.published_root()
    version = 0 if trusted is None else load_root(trusted).signed.version
    if tenant.root_version < version:
        raise CtlError(
            f"the coordinator has root version {tenant.root_version}, this workspace has seen "
            f"{version}",
            _LYING,
        )
    while version < tenant.root_version:
        data = client.metadata(workspace.tenant, f"{version + 1}.root.json")
        if data is None:
            raise CtlError(f"the coordinator lacks root version {version + 1}", _LYING)
        if version == 0 and root_pin(data) != workspace.root_pin():
            raise CtlError(
                f"tenant {workspace.tenant} was published with another root than this workspace's",
                "use the workspace that its keyholders signed; if there is none, make a new tenant",
            )
        verify_roots(trusted, [data])
        version += 1
        workspace.record_root(data, version)
        trusted = data


def _sync_targets(client: Client, workspace: Workspace) -> None:
    from exclave_protocol.tufmeta import TARGETS, load_root, load_targets, require_signatures

    root = workspace.published_root()
    known = workspace.published_targets()
    data = None if root is None else client.metadata(workspace.tenant, "targets.json")
    if data is None or root is None:
        if known is not None:
            raise CtlError("the coordinator no longer has this tenant's targets", _LYING)
        return
    if data == known:
        return
    targets = load_targets(data)
    require_signatures(targets, load_root(root).signed, TARGETS)
    if known is not None and targets.signed.version < load_targets(known).signed.version:
        raise CtlError(
            f"the coordinator has targets version {targets.signed.version}, this workspace has "
            "seen a newer one",
            _LYING,
        )
    workspace.record_targets(data)
