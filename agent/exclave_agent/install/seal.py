"""The credential that seals the agent's private keys: made, and replaced by a new one.

Replacing takes four steps, each durable before the next: the new credential under a name of its
own; the agent stopped; the keys sealed anew, each file at once and whole; the new credential in
the old one's place. After a power cut anywhere both credentials are there, and every key opens with
one of the two. While the keys are a mixture the service refuses to start; `install` goes on where
it stopped.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from exclave_agent import sealing
from exclave_agent.config import DEFAULT_HOME
from exclave_agent.errors import AgentError, IdentityError
from exclave_agent.identity.keys import write_private
from exclave_agent.identity.store import identity_folder, private_keys
from exclave_agent.install import units
from exclave_agent.install.change import Change, InstallRefused, must
from exclave_agent.install.host import Host
from exclave_agent.sealing import CREDENTIAL, CREDENTIAL_FILE, KEY_BYTES

KINDS: Final = {"auto": "the TPM or this host's secret", "tpm2": "the TPM", "host": "its secret"}
NEXT: Final = CREDENTIAL_FILE.with_name("seal.key.next.cred")
"""A replacement that has begun; gone when it has ended."""
UPGRADING: Final = Path("/run/exclave-upgrade/running")
# Isolated: neither root's environment nor the folder that it stands in is looked at.
HELPER: Final = ("/opt/exclave/agent/runtime/bin/python3", "-I", "-m", "exclave_agent.install.seal")


class Seal:
    """What an installation does about the credential."""

    def __init__(self, host: Host, kind: str, random: Callable[[int], bytes]) -> None:
        """`kind` is one of KINDS or "none"; `random` gives keys' bytes."""
        self._host = host
        self._kind = kind
        self._random = random

    @property
    def begun(self) -> bool:
        """Whether a replacement was interrupted."""
        return self._host.exists(NEXT)

    def check(self, *, anew: bool) -> None:
        """Raises: InstallRefused, before anything is changed."""
        host = self._host
        if not host.exists(CREDENTIAL_FILE):
            vault = host.read(identity_folder(DEFAULT_HOME) / "vault.key")
            if vault is not None and sealing.is_sealed(vault):
                raise InstallRefused(
                    f"the keys in {DEFAULT_HOME} are sealed, and {CREDENTIAL_FILE} is missing: "
                    "restore it from the backup of this machine; a new one would not open them"
                )
            if anew:
                raise InstallRefused("nothing is sealed yet: run install without --reseal")
        if not (anew or self.begun):
            return
        if self._kind == "none":
            raise InstallRefused("--seal none would write the keys as they are: choose another")
        if host.exists(UPGRADING):
            raise InstallRefused("an upgrade of the agent runs: wait until it has ended")

    def first(self) -> Iterator[Change]:
        """A credential where there is none."""
        if self._kind == "none" or self._host.exists(CREDENTIAL_FILE):
            return
        yield Change(
            f"make {CREDENTIAL_FILE}, a key under {KINDS[self._kind]}, which seals the agent's "
            "keys",
            lambda: self._make(CREDENTIAL_FILE),
        )

    def anew(self) -> Iterator[Change]:
        """Another credential in the place of the one that is there."""
        if not self.begun:
            yield Change(
                f"make {NEXT}, a new key under {KINDS[self._kind]}", lambda: self._make(NEXT)
            )
        yield Change("stop the agent", lambda: must(self._host, ["systemctl", "stop", units.AGENT]))
        yield Change(
            f"seal the keys in {identity_folder(DEFAULT_HOME)} with the new key", self._rewrite
        )
        yield Change(f"put it in the place of {CREDENTIAL_FILE}", self._switch)

    def _make(self, path: Path) -> None:
        # Bound to the TPM, and not to its register of Secure Boot's keys, which older systemds
        # take by themselves: a firmware update would close the vault for good.
        kind = [f"--with-key={self._kind}", "--tpm2-pcrs="]
        done = must(
            self._host,
            ["systemd-creds", "encrypt", f"--name={CREDENTIAL}", *kind, "-", "-"],
            self._random(KEY_BYTES),
        )
        self._host.write(path, done.out, 0o600)

    def _rewrite(self) -> None:
        old, new = self._open(CREDENTIAL_FILE), self._open(NEXT)
        done = self._host.run(HELPER, old + new)
        if done.code != 0:
            raise InstallRefused(f"the keys were not sealed anew: {done.last_line}")

    def _switch(self) -> None:
        data = self._host.read(NEXT)
        assert data is not None, "it was opened just now"
        self._host.write(CREDENTIAL_FILE, data, 0o600)
        self._host.remove(NEXT)

    def _open(self, path: Path) -> bytes:
        argv = ["systemd-creds", "decrypt", f"--name={CREDENTIAL}", str(path), "-"]
        key = must(self._host, argv).out
        if len(key) != KEY_BYTES:
            raise InstallRefused(f"{path} holds {len(key)} bytes where {KEY_BYTES} are expected")
        return key


def rewrite(folder: Path, old: bytes, new: bytes) -> None:
    """Seal the private keys of an identity folder with `new`; idempotent.

    All are opened before one is written: a key that neither opens stops it with nothing changed.
    Raises: IdentityError ("identity_sealed").
    """
    former, fresh = sealing.Sealer(old), sealing.Sealer(new)
    waiting = {}
    for name in private_keys(folder):
        path = folder / name
        if not path.exists():
            continue
        data = path.read_bytes()
        if not sealing.is_sealed(data) or not _opens(fresh, name, data):
            waiting[name] = former.open(name, data)
    for name, key in waiting.items():
        write_private(folder / name, fresh.seal(name, key))


def _opens(sealer: sealing.Sealer, name: str, data: bytes) -> bool:
    try:
        sealer.open(name, data)
    except IdentityError:
        return False
    return True


def become(owner: os.stat_result) -> None:
    """Give up root for the user of the home: it alone may own what is written there."""
    if os.geteuid() == owner.st_uid:
        return
    os.setgroups([])
    os.setresgid(owner.st_gid, owner.st_gid, owner.st_gid)
    os.setresuid(owner.st_uid, owner.st_uid, owner.st_uid)


def main(home: Path = DEFAULT_HOME) -> int:
    """HELPER: both keys on standard input, the old one first. Returns the exit code."""
    given = sys.stdin.buffer.read()
    folder = identity_folder(home)
    try:
        become(home.stat())
        rewrite(folder, given[:KEY_BYTES], given[KEY_BYTES:])
    except AgentError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
