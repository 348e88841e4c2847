"""Private files: written whole, with mode 0600, and refused when others could read them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exclave_coordinator.errors import SetupError
from exclave_coordinator.ports import Rng, TenantSeeds

PRIVATE = 0o600
PRIVATE_FOLDER = 0o700


def write(path: Path, data: bytes, mode: int = PRIVATE) -> None:
    """Replace a file as a whole; on disk when this returns."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_private(path: Path) -> bytes:
    """A key file's bytes. Raises: SetupError (missing, or readable by others)."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise SetupError(
            f"{_short(path)} is missing: restore it from a backup", code="file_missing"
        ) from error
    except PermissionError as error:
        raise SetupError(
            f"{_short(path)} cannot be read: run as the user that owns the home", code="file_denied"
        ) from error
    except OSError as error:
        raise SetupError(
            f"{_short(path)} cannot be read ({error.strerror}): restore it from a backup"
        ) from error
    if mode & 0o077:
        raise SetupError(
            f"{_short(path)} may be read by others (mode {mode:04o}): chmod 600 it",
            code="file_exposed",
        )
    return data


def ed25519_pem(key: Ed25519PrivateKey) -> bytes:
    """PKCS#8 PEM, unencrypted: the file's mode protects it."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def load_ed25519(path: Path) -> Ed25519PrivateKey:
    """An Ed25519 key file. Raises: SetupError."""
    data = read_private(path)
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SetupError(f"{_short(path)} is no readable key: restore it from a backup") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SetupError(f"{_short(path)} is not an Ed25519 key: restore it from a backup")
    return key


class FileTenantKeys:
    """`ports.TenantKeys`: <keys>/tenants/<tenant>/{snapshot,timestamp}.key."""

    def __init__(self, folder: Path, rng: Rng) -> None:
        self._folder = folder / "tenants"
        self._rng = rng

    def create(self, tenant: str) -> TenantSeeds:
        """New keys, or those that an interrupted creation left behind."""
        folder = self._folder / tenant
        folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        for name in ("snapshot", "timestamp"):
            path = folder / f"{name}.key"
            if not path.exists():
                seed = self._rng.token(32)
                write(path, ed25519_pem(Ed25519PrivateKey.from_private_bytes(seed)))
        return self.load(tenant)

    def load(self, tenant: str) -> TenantSeeds:
        """Raises: SetupError (missing or readable by others)."""
        folder = self._folder / tenant
        return TenantSeeds(
            load_ed25519(folder / "snapshot.key").private_bytes_raw(),
            load_ed25519(folder / "timestamp.key").private_bytes_raw(),
        )


def _short(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
