"""Join: trade a single-use token for an identity, safe to repeat after any interruption."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exclave_agent.errors import IdentityError
from exclave_agent.identity import certificates, keys
from exclave_agent.identity.store import Identity, identity_folder, load, write_record
from exclave_agent.identity.transport import EnrollQuery, Issued, JoinTransport
from exclave_protocol.errors import IdentityFormatError
from exclave_protocol.identity import JoinToken, SpiffeId, check_endpoint


async def join(
    home: Path,
    token: JoinToken,
    transport: JoinTransport,
    *,
    agent: str = "",
    again: bool = False,
) -> Identity:
    """Enroll this home with a join token; returns the identity, durable on disk.

    Joining again with the same token returns the identity that is there. Keys are written
    before the token is spent, so a lost answer is repeated with the same key, which the
    coordinator accepts. `agent` asks for a name where the token leaves it open. `again` lets
    an evicted agent come back with a new token of its tenant, under its old name and keys, so
    that its audit log goes on.

    Raises: IdentityError (already_enrolled, ca_mismatch, token_unknown, token_spent,
    token_expired, banned, bad_certificate, wrong_tenant), LinkError.
    """
    if token.agent and agent and agent != token.agent:
        raise IdentityError(
            f"the token is for the agent named {token.agent}: join without another name",
            code="token_wrong_agent",
        )
    folder = identity_folder(home)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(folder):
        present = _present(home)
        if present is not None and present.token_id == token.token_id:
            return present
        if present is not None:
            agent = _same_agent(present, token, again=again)
        key, audit_key = _keys(folder)
        ca = certificates.pinned_authority(
            await transport.presented_chain(token.endpoint), token.ca_sha256
        )
        query = EnrollQuery(
            tenant=token.tenant,
            token_id=token.token_id,
            token_secret=token.secret,
            csr=keys.certificate_request(key),
            agent=token.agent or agent,
            audit_public_key=audit_key.public_key().public_bytes_raw(),
        )
        issued = await transport.enroll(token.endpoint, ca, query)
        _keep(folder, token, ca, key.public_key(), issued, query.agent)
        return load(home)


def _present(home: Path) -> Identity | None:
    """The identity that is already there."""
    if not (identity_folder(home) / "join.json").exists():
        return None
    return load(home)


def _same_agent(present: Identity, token: JoinToken, *, again: bool) -> str:
    """The name under which an enrolled agent may enroll again. Raises: IdentityError."""
    if again and token.tenant == present.tenant and token.agent in ("", present.agent):
        return present.agent
    raise IdentityError(
        f"this home is already agent {present.agent} of tenant {present.tenant}; "
        "use another home, or remove its identity folder to give that agent up",
        code="already_enrolled",
    )


def _keys(folder: Path) -> tuple[ec.EllipticCurvePrivateKey, Ed25519PrivateKey]:
    """The keys of an interrupted join, or fresh ones, durable either way."""
    identity_file, audit_file = folder / "key.pem", folder / "audit.key"
    if not identity_file.exists():
        keys.write_key(identity_file, keys.private_pem(keys.new_identity_key()))
    if not audit_file.exists():
        keys.write_key(audit_file, keys.private_pem(keys.new_audit_key()))
    return (
        keys.load_identity_key(keys.read_private(identity_file)),
        keys.load_audit_key(keys.read_private(audit_file)),
    )


def _keep(
    folder: Path,
    token: JoinToken,
    ca: bytes,
    key: ec.EllipticCurvePublicKey,
    issued: Issued,
    wanted: str,
) -> None:
    """Check the answer and write it, join.json last."""
    try:
        spiffe = SpiffeId.parse(issued.spiffe_id)
        check_endpoint(issued.session_endpoint)
    except IdentityFormatError as error:
        raise IdentityError(f"enrollment answer: {error.message}", code="bad_answer") from error
    if spiffe.kind != "agent" or spiffe.tenant != token.tenant:
        raise IdentityError("enrollment answer names another tenant", code="wrong_tenant")
    if wanted and spiffe.name != wanted:
        raise IdentityError("enrollment answer names another agent", code="bad_answer")
    if len(issued.director_key) != 32 or not issued.witness_vkey:
        raise IdentityError(
            "enrollment answer lacks the director's or the witness's key", code="bad_answer"
        )
    certificates.check_issued(issued.chain, [ca], key, spiffe)
    keys.write_private(folder / "ca.pem", certificates.to_pem([ca]))
    keys.write_private(folder / "cert.pem", certificates.to_pem(issued.chain))
    write_record(
        {
            "spiffe_id": str(spiffe),
            "token_id": token.token_id,
            "enroll_endpoint": token.endpoint,
            "session_endpoint": issued.session_endpoint,
            "ca_sha256": token.ca_sha256,
            "root_pin": token.root_pin,
            "witness_vkey": issued.witness_vkey,
            "director_key": issued.director_key.hex(),
        },
        folder,
    )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two joins at once would each make a key: only one may run."""
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, keys.PRIVATE_MODE)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise IdentityError(
                "another join is running in this home", code="join_running"
            ) from error
        yield
    finally:
        os.close(handle)
