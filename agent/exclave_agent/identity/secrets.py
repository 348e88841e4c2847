"""The agent's secrets: keys of remote endpoints and of redactions, by name, encrypted at rest.

Each lies in a file of its own, AES-256-GCM under a key that is derived (HKDF, RFC 5869) from
`secrets.key`, and bound to its name: a file that was renamed, or swapped for another one, does not
open. `secrets.key` is sealed with the agent's other private keys. A systemd credential
`exclave-remote-NAME` counts before the home's secret of that NAME.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from exclave_agent.disk import sync_folder
from exclave_agent.errors import BadRequest, IdentityError, NoTarget
from exclave_agent.identity.keys import read_private, write_key, write_private
from exclave_agent.identity.store import SECRETS_KEY, identity_folder
from exclave_protocol.endpoint import check_secret_name
from exclave_protocol.errors import ReleaseError

log = logging.getLogger(__name__)

CREDENTIAL: Final = "exclave-remote-"
MAX_SECRET: Final = 8192
"""Characters; tokens of identity providers are the longest."""
MAGIC: Final = b"exclave-secret/v1\n"
KEY_BYTES: Final = 32
_NONCE: Final = 12
_FORMER, _FORMER_SUFFIX = "remote-", ".key"
"""How versions before this one named the files, which held the secret itself."""
_SUFFIX: Final = ".secret"
_SECRET = re.compile(rf"[!-~]{{1,{MAX_SECRET}}}")


@dataclass(frozen=True, slots=True)
class KeptSecret:
    """A secret as lists show it: never the secret."""

    name: str
    source: str
    """"home" or "credential"."""


def files_of(home: Path, name: str) -> tuple[Path, ...]:
    """Where the home's secret of that name may lie; the second is a former version's."""
    folder = identity_folder(home)
    return folder / "secrets" / f"{name}{_SUFFIX}", folder / f"{_FORMER}{name}{_FORMER_SUFFIX}"


class Secrets:
    """Looks a secret up at every use, so that one that was set or replaced counts at once.

    A file is read again only when it is another one: one `stat` in the usual case.
    """

    def __init__(self, home: Path, environ: Mapping[str, str] | None = None) -> None:
        """`environ` says where the service manager's credentials are; None: the process's."""
        given = (os.environ if environ is None else environ).get("CREDENTIALS_DIRECTORY")
        self._credentials = Path(given) if given else None
        self._home = home
        self._identity = identity_folder(home)
        self._folder = self._identity / "secrets"
        self._seen: dict[str, tuple[tuple[int, int, int, int], str]] = {}

    def has(self, name: str) -> bool:
        """Whether there is a secret of that NAME, good or not."""
        return any(path.is_file() for path in self._paths(name))

    def get(self, name: str) -> str | None:
        """The secret; None when there is none.

        Raises: IdentityError ("identity_sealed", "identity_exposed", "identity_damaged").
        """
        for path in self._paths(name):
            try:
                found = path.stat()
            except OSError:
                self._seen.pop(str(path), None)  # one that was removed is not kept here
                continue
            # A change of mode, which may open the file to others, changes `ctime` alone.
            state = (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
            known = self._seen.get(str(path))
            if known is None or known[0] != state:
                known = (state, self._read(name, path))
                self._seen[str(path)] = known
            return known[1]
        return None

    def key(self, name: str) -> bytes:
        """What a redaction makes keyed tokens with (`ports.RedactionKeys`).

        Raises: NoTarget ("secret_missing"), IdentityError as `get`.
        """
        if not name:
            return self._derived(b"exclave pseudonyms v1")
        secret = self.get(name)
        if secret is None:
            raise NoTarget(
                f"a redaction of the policy needs the secret {name}, which is not set: "
                f"exclave-agent secret set {name}",
                code="secret_missing",
            )
        return _hkdf(secret.encode(), b"exclave redaction tokens v1")

    def list(self) -> list[KeptSecret]:
        """The secrets that there are, by name."""
        found = {}
        for name in (*self._former(), *(path.stem for path in self._folder.glob(f"*{_SUFFIX}"))):
            found[name] = KeptSecret(name, "home")
        if self._credentials is not None:
            for path in self._credentials.glob(f"{CREDENTIAL}*"):
                name = path.name.removeprefix(CREDENTIAL)
                found[name] = KeptSecret(name, "credential")
        return [found[name] for name in sorted(found)]

    def set(self, name: str, secret: str) -> None:
        """Keep a secret in the home. Blocking; durable when it returns.

        Raises: BadRequest (name, secret), IdentityError, OSError.
        """
        _check(name)
        if not _SECRET.fullmatch(secret):
            raise BadRequest(
                f"secret: not 1 to {MAX_SECRET} printable ASCII characters without spaces",
                param="secret",
            )
        self._write(name, secret)
        self._former_path(name).unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Forget the home's secret. Raises: BadRequest when there is none."""
        _check(name)
        there = [path for path in (self._path(name), self._former_path(name)) if path.exists()]
        if not there:
            raise BadRequest(
                "the home has no secret of that name; `exclave-agent secret list` shows them",
                param="name",
            )
        for path in there:
            path.unlink()

    def take_over(self) -> tuple[str, ...]:
        """Encrypt what a former version left as it was; the names of those. Blocking. One that is
        damaged stays as it is, and whoever uses it is told: the others must not wait for it.

        A kill between the two steps leaves both files, and the next call ends it: what a former
        version wrote after a downgrade is the newer secret. Raises: OSError; IdentityError when
        nothing can be encrypted.
        """
        taken: list[str] = []
        for name in self._former():
            former, path = self._former_path(name), self._path(name)
            if not path.exists() or path.stat().st_mtime_ns < former.stat().st_mtime_ns:
                try:
                    secret = self._read_former(former)
                except IdentityError as error:
                    log.warning("secret %s is not taken over: %s", name, error.message)
                    continue
                self._write(name, secret)
            former.unlink()
            taken.append(name)
        return tuple(taken)

    # --- files ---------------------------------------------------------------------------------

    def _path(self, name: str) -> Path:
        return files_of(self._home, name)[0]

    def _former_path(self, name: str) -> Path:
        return files_of(self._home, name)[1]

    def _former(self) -> tuple[str, ...]:
        paths = self._identity.glob(f"{_FORMER}*{_FORMER_SUFFIX}")
        return tuple(
            sorted(path.name.removeprefix(_FORMER).removesuffix(_FORMER_SUFFIX) for path in paths)
        )

    def _paths(self, name: str) -> tuple[Path, ...]:
        kept = (self._path(name), self._former_path(name))
        if self._credentials is None:
            return kept
        return (self._credentials / f"{CREDENTIAL}{name}", *kept)

    def _write(self, name: str, secret: str) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        nonce = os.urandom(_NONCE)
        cipher = AESGCM(self._derived(b"exclave secrets v1"))
        sealed = cipher.encrypt(nonce, secret.encode("ascii"), MAGIC + name.encode())
        write_private(self._path(name), MAGIC + nonce + sealed)

    def _read(self, name: str, path: Path) -> str:
        if path.parent == self._identity:
            return self._read_former(path)
        if path.parent == self._folder:
            return self._open(name, path)
        # A credential's mode is the service manager's; it is in no folder of others.
        return _text(path.name, _bytes(path, Path.read_bytes))

    def _read_former(self, path: Path) -> str:
        return _text(path.name, _bytes(path, read_private))

    def _open(self, name: str, path: Path) -> str:
        data = _bytes(path, read_private)
        again = f"set it anew: exclave-agent secret set {name}"
        if not data.startswith(MAGIC):
            raise _damaged(f"{path.name} is no secret that this agent wrote: {again}")
        nonce, sealed = data[len(MAGIC) : len(MAGIC) + _NONCE], data[len(MAGIC) + _NONCE :]
        try:
            cipher = AESGCM(self._derived(b"exclave secrets v1"))
            secret = cipher.decrypt(nonce, sealed, MAGIC + name.encode())
        except (InvalidTag, ValueError):
            raise _damaged(
                f"{path.name} was altered, renamed, or written under another {SECRETS_KEY}: {again}"
            ) from None
        return _text(path.name, secret)

    def _derived(self, info: bytes) -> bytes:
        path = self._identity / SECRETS_KEY
        # In this order: whoever keeps the first secret meanwhile has made the key before.
        kept = any(self._folder.glob(f"*{_SUFFIX}"))
        if not path.exists():
            if kept:
                raise _damaged(
                    f"{SECRETS_KEY} is missing, and nothing else opens the secrets: restore it "
                    "from a backup, or remove identity/secrets and set every secret anew"
                )
            self._identity.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make_once(path)
        secret = read_private(path)
        if len(secret) != KEY_BYTES:
            raise _damaged(f"{SECRETS_KEY} holds {len(secret)} bytes, not {KEY_BYTES}")
        return _hkdf(secret, info)


def _make_once(path: Path) -> None:
    """Make the key file; of two who make it at once, one's is kept, and both use that."""
    draft = path.with_name(f".{path.name}.{os.urandom(8).hex()}.new")
    write_key(draft, os.urandom(KEY_BYTES), name=path.name)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass  # the other one's
    finally:
        draft.unlink()
    sync_folder(path.parent)


def _hkdf(secret: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)


def _bytes(path: Path, read: Callable[[Path], bytes]) -> bytes:
    try:
        return read(path)
    except OSError as error:
        raise _damaged(f"{path.name} cannot be read: {error.strerror}") from error


def _text(name: str, data: bytes) -> str:
    try:
        text = data.decode("ascii").strip()
    except UnicodeDecodeError:
        text = ""
    if not _SECRET.fullmatch(text):
        raise _damaged(
            f"{name} holds no secret of printable ASCII characters: set it anew with "
            "exclave-agent secret set"
        )
    return text


def _damaged(message: str) -> IdentityError:
    return IdentityError(message, code="identity_damaged")


def _check(name: str) -> None:
    try:
        check_secret_name(name)
    except ReleaseError as error:
        raise BadRequest(error.message, param="name") from None
