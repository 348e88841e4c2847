"""The keys of remote endpoints: kept in the agent's home, sealed, or given as credentials."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from exclave_agent.errors import BadRequest, IdentityError
from exclave_agent.identity.keys import read_private, write_key
from exclave_agent.identity.store import identity_folder
from exclave_protocol.endpoint import check_secret_name
from exclave_protocol.errors import ReleaseError

CREDENTIAL: Final = "exclave-remote-"
"""A systemd credential `exclave-remote-NAME` counts before the home's key of that NAME."""
MAX_KEY: Final = 8192
"""Characters; tokens of identity providers are the longest."""
_PREFIX, _SUFFIX = "remote-", ".key"
_KEY = re.compile(rf"[!-~]{{1,{MAX_KEY}}}")


@dataclass(frozen=True, slots=True)
class KeptKey:
    """A key as lists show it: never the key."""

    name: str
    source: str
    """"home" or "credential"."""


class RemoteKeys:
    """Looks a key up at every request, so that one that was set or replaced counts at once.

    A key is read again only when its file is another one: one `stat` in the usual case.
    """

    def __init__(self, home: Path, environ: Mapping[str, str] | None = None) -> None:
        """`environ` says where the service manager's credentials are; None: the process's."""
        given = (os.environ if environ is None else environ).get("CREDENTIALS_DIRECTORY")
        self._credentials = Path(given) if given else None
        self._folder = identity_folder(home)
        self._seen: dict[str, tuple[tuple[int, int, int, int], str]] = {}

    def has(self, name: str) -> bool:
        """Whether there is a key of that NAME, good or not."""
        return any(path.is_file() for path in self._paths(name))

    def get(self, name: str) -> str | None:
        """The key; None when there is none.

        Raises: IdentityError ("identity_sealed", "identity_exposed", "identity_damaged").
        """
        for path in self._paths(name):
            try:
                found = path.stat()
            except OSError:
                self._seen.pop(str(path), None)  # a key that was removed is not kept here
                continue
            # A change of mode, which may open the file to others, changes `ctime` alone.
            state = (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
            known = self._seen.get(str(path))
            if known is None or known[0] != state:
                known = (state, self._read(path))
                self._seen[str(path)] = known
            return known[1]
        return None

    def list(self) -> list[KeptKey]:
        """The keys that there are, by name."""
        found = {}
        for path in self._folder.glob(f"{_PREFIX}*{_SUFFIX}"):
            name = path.name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
            found[name] = KeptKey(name, "home")
        if self._credentials is not None:
            for path in self._credentials.glob(f"{CREDENTIAL}*"):
                name = path.name.removeprefix(CREDENTIAL)
                found[name] = KeptKey(name, "credential")
        return [found[name] for name in sorted(found)]

    def set(self, name: str, key: str) -> None:
        """Keep a key in the home, sealed where this process can seal. Blocking.

        Raises: BadRequest (name, key), IdentityError, OSError.
        """
        _check(name)
        if not _KEY.fullmatch(key):
            raise BadRequest(
                f"key: not 1 to {MAX_KEY} printable ASCII characters without spaces", param="key"
            )
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_key(self._path(name), key.encode("ascii"))

    def remove(self, name: str) -> None:
        """Forget the home's key. Raises: BadRequest when there is none."""
        _check(name)
        try:
            self._path(name).unlink()
        except FileNotFoundError:
            raise BadRequest(
                "the home has no key of that name; `exclave-agent remote list` shows them",
                param="name",
            ) from None

    def _path(self, name: str) -> Path:
        return self._folder / f"{_PREFIX}{name}{_SUFFIX}"

    def _paths(self, name: str) -> tuple[Path, ...]:
        if self._credentials is None:
            return (self._path(name),)
        return self._credentials / f"{CREDENTIAL}{name}", self._path(name)

    def _read(self, path: Path) -> str:
        try:
            ours = path.parent == self._folder
            # A credential's mode is the service manager's; it is in no folder of others.
            data = read_private(path) if ours else path.read_bytes()
            text = data.decode("ascii").strip()
        except OSError as error:
            raise IdentityError(
                f"{path.name} cannot be read: {error.strerror}", code="identity_damaged"
            ) from error
        except UnicodeDecodeError:
            text = ""
        if not _KEY.fullmatch(text):
            raise IdentityError(
                f"{path.name} holds no key of printable ASCII characters", code="identity_damaged"
            )
        return text


def _check(name: str) -> None:
    try:
        check_secret_name(name)
    except ReleaseError as error:
        raise BadRequest(error.message, param="name") from None
