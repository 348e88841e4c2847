"""Seals the home's private keys, so that a copy of the disk alone opens nothing.

The key comes from the service manager as credential `seal.key`; systemd keeps it encrypted under
the machine's TPM, or a secret of the host's, and hands it to the service at start
(systemd.exec(5), LoadCredentialEncrypted=). Without one, keys lie in the home as they are, for
its user alone.

A sealed file: MAGIC, a 12-byte nonce, AES-256-GCM over the content, bound to the file's name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from exclave_agent.errors import IdentityError

CREDENTIAL: Final = "seal.key"
CREDENTIAL_FILE: Final = Path("/etc/exclave/seal.key.cred")
"""Where `exclave-agent install` leaves the credential, encrypted by systemd-creds."""
UNSET: Final = b"unset"
"""What the unit hands over when no credential was made."""
MAGIC: Final = b"exclave-sealed/v1\n"
KEY_BYTES: Final = 32
_NONCE: Final = 12


class Sealer:
    """Seals and opens; without a key it leaves everything as it is, and opens nothing sealed."""

    def __init__(self, key: bytes | None) -> None:
        """Raises: IdentityError ("identity_sealed"), not a key."""
        if key is not None and len(key) != KEY_BYTES:
            raise _refused(f"the credential {CREDENTIAL} holds {len(key)} bytes, not {KEY_BYTES}")
        self._aead = None if key is None else AESGCM(key)

    @property
    def present(self) -> bool:
        """Whether there is a key to seal with."""
        return self._aead is not None

    def seal(self, name: str, data: bytes) -> bytes:
        """The bytes to write into the file of that name."""
        if self._aead is None:
            return data
        nonce = os.urandom(_NONCE)
        return MAGIC + nonce + self._aead.encrypt(nonce, data, _bound(name))

    def open(self, name: str, data: bytes) -> bytes:
        """What the bytes of that file say. Raises: IdentityError ("identity_sealed")."""
        if not is_sealed(data):
            return data
        if self._aead is None:
            raise _refused(
                f"{name} is sealed, and the credential {CREDENTIAL} is not at hand: start the "
                "agent as its service, or run this as root"
            )
        nonce, rest = data[len(MAGIC) : len(MAGIC) + _NONCE], data[len(MAGIC) + _NONCE :]
        try:
            return self._aead.decrypt(nonce, rest, _bound(name))
        except (InvalidTag, ValueError):
            raise _refused(
                f"{name} was sealed with another credential than this machine's {CREDENTIAL}, or "
                "was altered: run `exclave-agent install` as root, which finishes a change of "
                "keys that was interrupted; or restore the home and /etc/exclave from the same "
                "backup"
            ) from None


def is_sealed(data: bytes) -> bool:
    """Whether a file's bytes are sealed."""
    return data.startswith(MAGIC)


def from_environment(environ: Mapping[str, str]) -> Sealer:
    """The sealer of a service. Raises: IdentityError ("identity_sealed")."""
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        return Sealer(None)
    try:
        key = (Path(folder) / CREDENTIAL).read_bytes()
    except FileNotFoundError:
        return Sealer(None)
    except OSError as error:
        raise _refused(f"the credential {CREDENTIAL} cannot be read: {error.strerror}") from error
    return Sealer(None if key == UNSET else key)


_given: list[Sealer] = []


def use(sealer: Sealer) -> None:
    """Take another sealer than the environment's in this process: a command that root started
    decrypts the credential itself, before it becomes the home's user."""
    _given[:] = [sealer]
    current.cache_clear()


@cache
def current() -> Sealer:
    """The sealer of this process: a credential is the process's, as its environment is.

    Raises: IdentityError ("identity_sealed").
    """
    return _given[0] if _given else from_environment(os.environ)


def _bound(name: str) -> bytes:
    return MAGIC + name.encode()


def _refused(message: str) -> IdentityError:
    return IdentityError(message, code="identity_sealed")
