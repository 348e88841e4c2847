"""Join tokens: what the coordinator grants, tied to what this operator already trusts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from exclave_ctl.client import Client
from exclave_ctl.errors import CtlError
from exclave_ctl.profile import Profile
from exclave_ctl.workspace import Workspace
from exclave_protocol.errors import IdentityFormatError
from exclave_protocol.identity import JoinToken


@dataclass(frozen=True, slots=True)
class Granted:
    """A token ready to be handed over."""

    token: JoinToken
    expires: int
    """Seconds since the epoch."""
    pinned_by_workspace: bool
    """False: the root pin is the coordinator's word alone."""


def create(
    client: Client, tenant: str, agent: str, ttl: int, workspace: Workspace | None
) -> Granted:
    """Have a token made and add the anchors: CA digest and root pin.

    The CA must be one of the profile's; the root must be the workspace's. So neither anchor
    rests on what the coordinator says today, except the root when there is no workspace.
    Raises: CtlError.
    """
    if workspace is not None and workspace.tenant != tenant:
        raise CtlError(f"this workspace is of tenant {workspace.tenant}, not {tenant}")
    pin = _pin(client, tenant, workspace)
    reply = client.create_token(tenant, agent, ttl)
    ca_sha256 = hashlib.sha256(reply.ca_certificate).hexdigest()
    try:
        if ca_sha256 not in ca_digests(client.profile):
            raise CtlError(
                "the coordinator offers agents a CA that is not in this profile",
                "if the CA was renewed, have the profile issued again",
            )
        token = JoinToken(
            tenant=tenant,
            token_id=reply.token_id,
            secret=reply.secret,
            endpoint=reply.enroll_endpoint,
            ca_sha256=ca_sha256,
            root_pin=pin,
            agent=agent,
        )
    except (CtlError, IdentityFormatError) as error:
        client.revoke_token(reply.token_id)
        if isinstance(error, CtlError):
            raise
        raise CtlError(f"the coordinator's answer: {error.message}") from error
    return Granted(token, reply.expires, workspace is not None)


def _pin(client: Client, tenant: str, workspace: Workspace | None) -> str:
    theirs = client.tenant(tenant).root_pin.hex()
    if workspace is None:
        if not theirs:
            raise CtlError(
                f"tenant {tenant} has no published root to pin",
                "pass --workspace DIR: its root draft can be pinned before it is published",
            )
        return theirs
    mine = workspace.root_pin()
    if theirs and theirs != mine:
        raise CtlError(
            f"the coordinator's root of {tenant} is not this workspace's",
            "an agent joined with either would refuse the other: find out who published it",
        )
    return mine


def ca_digests(profile: Profile) -> set[str]:
    """SHA-256 (hex, DER) of the certificates in the profile's CA bundle. Raises: CtlError."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        certificates = x509.load_pem_x509_certificates(profile.ca())
    except ValueError as error:
        raise CtlError(f"{profile.folder}/ca.pem holds no certificate") from error
    return {hashlib.sha256(c.public_bytes(Encoding.DER)).hexdigest() for c in certificates}
