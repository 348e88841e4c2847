"""Signing keys of people: made here, kept by them, named in each tenant's root."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from exclave_ctl import files
from exclave_ctl.errors import CtlError
from exclave_protocol.errors import IdentityFormatError, MetadataError
from exclave_protocol.identity import check_name

if TYPE_CHECKING:
    from securesystemslib.signer import Key, Signer, SSlibKey

SCHEMA: Final = "exclave.key/v1"
OWNER_FIELD: Final = "x-exclave-owner"
"""Where a key's name stands in root metadata, signed with it."""
MAX_KEY_FILE: Final = 64 << 10


def generate(name: str, folder: Path, passphrase: bytes | None) -> tuple[Path, Path, str]:
    """Make an Ed25519 key pair: NAME.key (PKCS#8 PEM, 0600, encrypted unless `passphrase`
    is None) and NAME.pub. Returns both paths and the key id.

    Raises: CtlError (bad name, empty passphrase, a file exists).
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        KeySerializationEncryption,
        NoEncryption,
        PrivateFormat,
    )

    from exclave_protocol.tufmeta import key_from_public

    _check_name(name)
    if passphrase == b"":
        raise CtlError("the passphrase is empty", "choose one, or pass --no-passphrase")
    private = Ed25519PrivateKey.generate()
    encryption: KeySerializationEncryption = NoEncryption()
    if passphrase is not None:
        encryption = BestAvailableEncryption(passphrase)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    key = key_from_public(private.public_key().public_bytes_raw())
    secret, public = folder / f"{name}.key", folder / f"{name}.pub"
    if public.exists():
        raise CtlError(f"{public} exists and is not overwritten", "choose another name")
    folder.mkdir(parents=True, exist_ok=True)
    files.create(secret, pem, mode=0o600)
    value = {"schema": SCHEMA, "name": name, "keyid": key.keyid, **key.to_dict()}
    files.create(public, files.json_bytes(value))
    return secret, public, key.keyid


def load_public(path: Path) -> SSlibKey:
    """A public key from NAME.pub, or from a PEM file (a key of a KMS or HSM).

    The owner's name (from the file) travels with the key into root metadata.
    Raises: CtlError.
    """
    from securesystemslib.signer import SSlibKey

    data = files.read(path, MAX_KEY_FILE, "public key")
    try:
        if data.lstrip().startswith(b"-----BEGIN PUBLIC KEY"):
            from cryptography.hazmat.primitives.serialization import load_pem_public_key

            key, name = SSlibKey.from_crypto(load_pem_public_key(data)), path.stem
        else:
            key, name = _from_pub(json.loads(data), path)
    except (ValueError, MetadataError) as error:
        if b"PRIVATE KEY" in data:
            raise CtlError(
                f"{path} holds a private key",
                "name the .pub file: private keys stay where they are",
            ) from error
        raise CtlError(f"{path} is not a public key (NAME.pub or PEM)") from error
    key.unrecognized_fields[OWNER_FIELD] = name
    return key


def _from_pub(value: object, path: Path) -> tuple[SSlibKey, str]:
    from exclave_protocol.tufmeta import key_from_public

    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise CtlError(f"{path} is not a public key: schema must be {SCHEMA}")
    name, keyval = value.get("name"), value.get("keyval")
    if not isinstance(name, str) or not isinstance(keyval, dict):
        raise CtlError(f"{path} is damaged: name or keyval is missing")
    key = key_from_public(bytes.fromhex(str(keyval.get("public"))))
    if key.keyid != value.get("keyid"):
        raise CtlError(f"{path} is damaged: its key id is not that of its key")
    return key, _check_name(name)


def _check_name(name: str) -> str:
    try:
        return check_name(name, "key name")
    except IdentityFormatError as error:
        raise CtlError(error.message) from error


def owner(key: Key) -> str:
    """`alice (51cc5c78)`, or the short id alone."""
    name = key.unrecognized_fields.get(OWNER_FIELD)
    short = key.keyid[:8]
    return f"{name} ({short})" if isinstance(name, str) else short


def load_signer(key: str, public: Path | None, passphrase: Callable[[], bytes]) -> Signer:
    """A signer from a private key file, or from a signer URI (`awskms:`, `gcpkms://`, `hsm:`,
    `hv:`, `file2:`...), which needs the public key too.

    `passphrase` is asked only when the file is encrypted. Raises: CtlError.
    """
    from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, Signer

    scheme = key.partition(":")[0]
    if ":" in key and scheme in SIGNER_FOR_URI_SCHEME:
        if public is None:
            raise CtlError("a signer URI needs its public key", "pass --pub FILE (NAME.pub or PEM)")
        try:
            return Signer.from_priv_key_uri(key, load_public(public))
        except CtlError:
            raise
        except Exception as error:  # signers wrap clouds and hardware: any error type may come
            raise CtlError(f"the signer {scheme}: failed to open the key: {error}") from error
    return _from_file(Path(key), passphrase)


def _from_file(path: Path, passphrase: Callable[[], bytes]) -> Signer:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner

    pem = files.read(path, MAX_KEY_FILE, "private key")
    encrypted = b"BEGIN ENCRYPTED PRIVATE KEY" in pem
    if not encrypted and b"PRIVATE KEY" in pem:
        files.refuse_exposed(path, "unencrypted private key")
    try:
        return CryptoSigner(load_pem_private_key(pem, passphrase() if encrypted else None))
    except (ValueError, TypeError) as error:
        if encrypted:
            raise CtlError(f"the passphrase does not open {path}", "type it again") from error
        raise CtlError(f"{path} is not a private key in PKCS#8 PEM") from error
