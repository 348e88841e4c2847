"""A command that root runs on the agent's home becomes the home's user first.

Root would leave files there that the service could no longer open, and needs none of its rights
for them. What only root can do is done before: decrypting the credential that seals the keys.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from exclave_agent import sealing
from exclave_agent.config import DEFAULT_HOME
from exclave_agent.errors import IdentityError
from exclave_service import owner

DECRYPT_SECONDS = 30.0


def become_owner(home: Path) -> None:
    """Give up root for the user that owns `home`, for good; nothing to do for anyone else.

    Raises: IdentityError ("identity_sealed"), the credential does not open.
    """
    if not owner.is_anothers(home):
        return
    if home == DEFAULT_HOME and sealing.CREDENTIAL_FILE.exists():
        sealing.use(sealing.Sealer(decrypt(sealing.CREDENTIAL_FILE)))
    owner.become_owner(home)


def decrypt(file: Path) -> bytes:
    """The credential's content. Raises: IdentityError ("identity_sealed")."""
    command = ["systemd-creds", "decrypt", f"--name={sealing.CREDENTIAL}", str(file), "-"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=DECRYPT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _unopened(file, type(error).__name__) from error
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise _unopened(file, said[-1] if said else f"exit status {done.returncode}")
    return done.stdout


def _unopened(file: Path, why: str) -> IdentityError:
    return IdentityError(
        f"the credential {file} does not open on this machine ({why}): was it made on another "
        "one, or was its TPM cleared?",
        code="identity_sealed",
    )
