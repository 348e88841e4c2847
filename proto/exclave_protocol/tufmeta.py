"""TUF metadata as both the operators' tool and the coordinator build, sign and check it.

One repository per tenant, consistent snapshots: root and targets are signed offline by a
threshold of people, snapshot and timestamp online by the coordinator. Only tuf's metadata
API is used (`tuf.repository` promises no stability). Time is always an argument, aware, UTC.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Role,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization import DeserializationError

from exclave_protocol.errors import MetadataError, SignaturesMissing
from exclave_protocol.wire import MAX_METADATA

ROOT: Final = "root"
TARGETS: Final = "targets"
SNAPSHOT: Final = "snapshot"
TIMESTAMP: Final = "timestamp"

MAX_TARGETS: Final = 4096
"""Most entries of one tenant's targets metadata."""
MAX_KEYS: Final = 32
"""Most offline keys of one tenant."""

S = TypeVar("S", Root, Targets, Snapshot, Timestamp)


# --- keys -----------------------------------------------------------------------------------


def key_from_public(raw: bytes) -> SSlibKey:
    """The TUF key of a raw Ed25519 public key (32 bytes), under its default key id.

    Raises: MetadataError.
    """
    try:
        return SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(raw))
    except ValueError as error:
        raise MetadataError("an Ed25519 public key must be 32 bytes") from error


def signer_from_private(key: Ed25519PrivateKey) -> CryptoSigner:
    """Signer of an Ed25519 key held in memory; its key id is that of `key_from_public`."""
    return CryptoSigner(key)


# --- reading --------------------------------------------------------------------------------


def load_root(data: bytes) -> Metadata[Root]:
    """Parse root metadata; signatures are not verified. Raises: MetadataError."""
    metadata = _load(data, Root)
    _check_root(metadata.signed)
    return metadata


def load_targets(data: bytes) -> Metadata[Targets]:
    """Parse targets metadata; signatures are not verified. Raises: MetadataError."""
    metadata = _load(data, Targets)
    if len(metadata.signed.targets) > MAX_TARGETS:
        raise MetadataError(f"targets metadata names more than {MAX_TARGETS} files")
    if metadata.signed.delegations is not None:
        raise MetadataError("targets metadata delegates; a tenant's repository does not")
    return metadata


def load_snapshot(data: bytes) -> Metadata[Snapshot]:
    """Parse snapshot metadata; signatures are not verified. Raises: MetadataError."""
    return _load(data, Snapshot)


def load_timestamp(data: bytes) -> Metadata[Timestamp]:
    """Parse timestamp metadata; signatures are not verified. Raises: MetadataError."""
    return _load(data, Timestamp)


def _load(data: bytes, role: type[S]) -> Metadata[S]:
    if len(data) > MAX_METADATA:
        raise MetadataError(f"{role.type} metadata is longer than {MAX_METADATA} bytes")
    try:
        metadata: Metadata[S] = Metadata.from_bytes(data)
    # RecursionError: the JSON decoder's answer to deep nesting, which tuf does not wrap.
    except (DeserializationError, RecursionError) as error:
        raise MetadataError(f"{role.type} metadata cannot be read") from error
    if not isinstance(metadata.signed, role):
        raise MetadataError(f"metadata is of role {metadata.signed.type}, not {role.type}")
    return metadata


def _check_root(root: Root) -> None:
    if root.consistent_snapshot is not True:
        raise MetadataError("root must ask for consistent snapshots")
    for name, role in root.roles.items():
        keys = {keyid: root.keys.get(keyid) for keyid in role.keyids}
        if None in keys.values():
            raise MetadataError(f"root's role {name} names a key that root does not hold")
        # TUF counts key ids: one person's key under two ids would count twice.
        distinct = {str(key.keyval.get("public")) for key in keys.values() if key is not None}
        if len(distinct) != len(keys):
            raise MetadataError(f"root's role {name} holds one key under two ids")
        if role.threshold > len(keys):
            raise MetadataError(
                f"root's role {name} needs {role.threshold} signatures and has {len(keys)} keys"
            )


def to_bytes(metadata: Metadata[Any]) -> bytes:
    """Compact JSON, as agents will read it. Raises: MetadataError (too long)."""
    data = metadata.to_bytes()
    if len(data) > MAX_METADATA:
        raise MetadataError(f"{metadata.signed.type} metadata is longer than {MAX_METADATA} bytes")
    return data


def root_pin(root_bytes: bytes) -> str:
    """SHA-256 (hex) of the canonical signed part of a root: what a join token pins.

    Signatures are outside, so the pin is known as soon as the root is drafted.
    Raises: MetadataError.
    """
    return hashlib.sha256(load_root(root_bytes).signed_bytes).hexdigest()


# --- drafting -------------------------------------------------------------------------------


def new_root(
    keys: Sequence[Key], threshold: int, snapshot_key: Key, timestamp_key: Key, expires: datetime
) -> Metadata[Root]:
    """Root version 1, unsigned: `keys` hold root and targets, `threshold` of them must sign.

    Raises: MetadataError (keys repeated, too many, or fewer than the threshold).
    """
    return _root(1, keys, threshold, snapshot_key, timestamp_key, expires)


def next_root(
    current: Root,
    keys: Sequence[Key],
    threshold: int,
    snapshot_key: Key,
    timestamp_key: Key,
    expires: datetime,
) -> Metadata[Root]:
    """The root after `current`, unsigned: it needs the thresholds of both to be accepted.

    Raises: MetadataError.
    """
    return _root(current.version + 1, keys, threshold, snapshot_key, timestamp_key, expires)


def _root(
    version: int,
    keys: Sequence[Key],
    threshold: int,
    snapshot_key: Key,
    timestamp_key: Key,
    expires: datetime,
) -> Metadata[Root]:
    keyids = [key.keyid for key in keys]
    if len(set(keyids)) != len(keyids):
        raise MetadataError("the same key is named twice")
    if not 1 <= threshold <= len(keys) <= MAX_KEYS:
        raise MetadataError(
            f"threshold must be between 1 and the number of keys ({len(keys)}, at most {MAX_KEYS})"
        )
    online = {snapshot_key.keyid, timestamp_key.keyid}
    if online & set(keyids):
        raise MetadataError("a coordinator's online key cannot also be an offline key")
    root = Root(
        version=version,
        expires=_seconds(expires),
        keys={key.keyid: key for key in (*keys, snapshot_key, timestamp_key)},
        roles={
            ROOT: Role(list(keyids), threshold),
            TARGETS: Role(list(keyids), threshold),
            SNAPSHOT: Role([snapshot_key.keyid], 1),
            TIMESTAMP: Role([timestamp_key.keyid], 1),
        },
        consistent_snapshot=True,
    )
    return Metadata(root)


def target_file(
    path: str, sha256: str, length: int, custom: Mapping[str, Any] | None = None
) -> TargetFile:
    """One entry of targets metadata; `custom` is signed with it. Raises: MetadataError."""
    fields = {"custom": dict(custom)} if custom else {}
    try:
        return TargetFile(length, {"sha256": sha256}, path, fields)
    except ValueError as error:
        raise MetadataError("a target needs a sha256 and a length of at least 0") from error


def new_targets(version: int, files: Iterable[TargetFile], expires: datetime) -> Metadata[Targets]:
    """Targets metadata of that version, unsigned. Raises: MetadataError."""
    named = {file.path: file for file in files}
    if len(named) > MAX_TARGETS:
        raise MetadataError(f"more than {MAX_TARGETS} targets")
    return Metadata(Targets(version=version, expires=_seconds(expires), targets=named))


def _seconds(moment: datetime) -> datetime:
    if moment.utcoffset() is None:
        raise MetadataError("expires must be an aware UTC time")
    return moment.replace(microsecond=0)


# --- signing --------------------------------------------------------------------------------


def add_signature(metadata: Metadata[Any], signer: Signer) -> None:
    """Sign, keeping the others' signatures. Raises: MetadataError."""
    try:
        metadata.sign(signer, append=True)
    except RepositoryError as error:
        raise MetadataError(f"signing {metadata.signed.type} failed: {error}") from error


def merge_signatures(into: Metadata[S], other: Metadata[S]) -> int:
    """Take over the other copy's signatures; returns how many were new.

    For drafts signed on two machines. Raises: MetadataError when the signed parts differ.
    """
    if into.signed_bytes != other.signed_bytes:
        raise MetadataError(
            f"the two {into.signed.type} drafts differ: their signatures cannot be joined"
        )
    new = [keyid for keyid in other.signatures if keyid not in into.signatures]
    for keyid in new:
        into.signatures[keyid] = other.signatures[keyid]
    return len(new)


@dataclass(frozen=True, slots=True)
class SignatureState:
    """How far a role's metadata is signed; only verified signatures count."""

    have: int
    need: int
    signed_keyids: tuple[str, ...]
    missing_keyids: tuple[str, ...]
    """The role's keys that have not (validly) signed, sorted."""

    @property
    def missing(self) -> int:
        """Signatures still needed."""
        return max(0, self.need - self.have)

    @property
    def complete(self) -> bool:
        """True once the threshold is reached."""
        return self.have >= self.need


def missing_signatures(metadata: Metadata[Any], delegator: Root, role: str) -> SignatureState:
    """Whose signatures `metadata` has and lacks for `role` as `delegator` defines it."""
    result = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    return SignatureState(
        have=len(result.signed),
        need=result.threshold,
        signed_keyids=tuple(sorted(result.signed)),
        missing_keyids=tuple(sorted(result.unsigned)),
    )


def sign_snapshot_timestamp(
    *,
    targets_version: int,
    snapshot_version: int,
    timestamp_version: int,
    snapshot_signer: Signer,
    timestamp_signer: Signer,
    snapshot_expires: datetime,
    timestamp_expires: datetime,
) -> tuple[bytes, bytes]:
    """(snapshot, timestamp), signed: the coordinator's part after a publication.

    The versions are those of the new files. The snapshot names targets by version (they are
    signed on their own), the timestamp names the snapshot by version, length and digest.
    Raises: MetadataError.
    """
    snapshot = Metadata(
        Snapshot(
            version=snapshot_version,
            expires=_seconds(snapshot_expires),
            meta={"targets.json": MetaFile(targets_version)},
        )
    )
    add_signature(snapshot, snapshot_signer)
    snapshot_bytes = to_bytes(snapshot)
    timestamp_bytes = sign_timestamp(
        snapshot_bytes=snapshot_bytes,
        snapshot_version=snapshot_version,
        timestamp_version=timestamp_version,
        timestamp_signer=timestamp_signer,
        timestamp_expires=timestamp_expires,
    )
    return snapshot_bytes, timestamp_bytes


def sign_timestamp(
    *,
    snapshot_bytes: bytes,
    snapshot_version: int,
    timestamp_version: int,
    timestamp_signer: Signer,
    timestamp_expires: datetime,
) -> bytes:
    """A fresh timestamp over an unchanged snapshot: the coordinator's daily chore.

    Raises: MetadataError.
    """
    timestamp = Metadata(
        Timestamp(
            version=timestamp_version,
            expires=_seconds(timestamp_expires),
            snapshot_meta=MetaFile.from_data(snapshot_version, snapshot_bytes, ["sha256"]),
        )
    )
    add_signature(timestamp, timestamp_signer)
    return to_bytes(timestamp)


# --- checking, as an agent would (TUF client workflow 5.3 and 5.6) --------------------------


def verify_roots(trusted: bytes | None, offered: Sequence[bytes]) -> Metadata[Root]:
    """Walk from the trusted root through the offered ones; returns the last.

    `trusted` None: the first offered must be version 1, signed by its own threshold.
    5.3.4 and 5.3.5: each next version is one higher, and signed by the thresholds of the
    root before it and of itself. Expiry is the caller's to check, on the last one only.
    Raises: SignaturesMissing, MetadataError.
    """
    current = load_root(trusted) if trusted is not None else None
    for data in offered:
        root = load_root(data)
        expected = 1 if current is None else current.signed.version + 1
        if root.signed.version != expected:
            raise MetadataError(
                f"root version {root.signed.version} was offered where {expected} must follow"
            )
        if current is not None:
            require_signatures(root, current.signed, ROOT)
        require_signatures(root, root.signed, ROOT)
        current = root
    if current is None:
        raise MetadataError("no root metadata: neither a trusted one nor a new one")
    return current


def verify_targets(
    root: Root, data: bytes, *, now: datetime, newer_than: int = 0
) -> Metadata[Targets]:
    """Targets metadata that `root` vouches for, not expired, of a version above `newer_than`.

    Raises: SignaturesMissing, MetadataError.
    """
    targets = load_targets(data)
    require_signatures(targets, root, TARGETS)
    if targets.signed.version <= newer_than:
        raise MetadataError(
            f"targets version {targets.signed.version} is rolled back: "
            f"version {newer_than} is already published"
        )
    require_fresh(targets.signed, now)
    return targets


def require_signatures(metadata: Metadata[Any], delegator: Root, role: str) -> None:
    """Raises SignaturesMissing unless `role`'s threshold is reached."""
    state = missing_signatures(metadata, delegator, role)
    if not state.complete:
        raise SignaturesMissing(role, state.have, state.need, state.missing_keyids)


def require_fresh(signed: Signed, now: datetime) -> None:
    """Raises MetadataError when the metadata has expired at `now`."""
    if signed.is_expired(now):
        raise MetadataError(f"{signed.type} metadata version {signed.version} has expired")
