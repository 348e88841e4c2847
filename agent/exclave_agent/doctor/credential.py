"""The sealed key: which key of this machine it is encrypted with, told by its first bytes."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from enum import StrEnum
from typing import Final

from exclave_agent.config import DEFAULT_HOME
from exclave_agent.doctor.report import Check, fail, ok, skip, warn
from exclave_agent.doctor.site import Site
from exclave_agent.identity.store import PRIVATE_KEYS, identity_folder
from exclave_agent.sealing import CREDENTIAL_FILE, MAGIC, is_sealed

SEAL: Final = "exclave-agent install makes a seal; systemctl restart exclave-agent then uses it"
ANEW: Final = (
    "stop the agent, make the seal anew with `systemd-creds encrypt --with-key=host --tpm2-pcrs=` "
    "(host+tpm2 where there is a TPM) from the same 32 bytes, or restore /etc/exclave from a backup"
)
_ID_BYTES: Final = 16


class SealedWith(StrEnum):
    """What a thief of the disk lacks, or not."""

    HOST = "host key"
    """A file of root's on this machine."""
    TPM2 = "tpm2"
    """This machine's TPM."""
    HOST_AND_TPM2 = "host key and tpm2"
    NULL = "null"
    """A key that everybody knows."""


# sd-creds writes one of these ids first (systemd, src/shared/creds-util.h); the scoped ones
# are for users' credentials, which a system service cannot open.
IDS: Final = {
    "5a1c6a86df9d4096b1d5a65e0862f19a": SealedWith.HOST,
    "0c7cc07b117645919c4b0bea08bc20fe": SealedWith.TPM2,
    "faf7eb9341e3412ca1a436f95a29362f": SealedWith.TPM2,
    "93a894094874449090caf2fc93cab553": SealedWith.HOST_AND_TPM2,
    "af4950a849134eb1a73846304ff30c05": SealedWith.HOST_AND_TPM2,
    "058469daf6f54324800549da0f8ea2fb": SealedWith.NULL,
}


def sealed_with(text: bytes) -> SealedWith | None:
    """From the file's text; None when it is no system credential that we know."""
    try:
        data = base64.b64decode(b"".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None
    return IDS.get(data[:_ID_BYTES].hex())


def seal(site: Site) -> Iterator[Check]:
    """The credential that opens the agent's private keys, and whether they are sealed with it."""
    if site.no_service or site.home != DEFAULT_HOME:
        yield skip("seal", site.no_service or "this home is not the system service's")
        return
    bare = _bare(site)
    found = site.machine.stat(CREDENTIAL_FILE)
    if found is None:
        yield _without(bare)
        return
    if found.uid != 0 or found.permissions & 0o077:
        owner = site.machine.user_name(found.uid)
        yield warn(
            "seal",
            f"{CREDENTIAL_FILE} is of {owner}, mode {found.permissions:03o}",
            f"chown root: {CREDENTIAL_FILE} && chmod 600 {CREDENTIAL_FILE}",
        )
    yield _kind(site)
    if bare:
        yield warn(
            "seal",
            f"not sealed yet: {', '.join(bare)}",
            "systemctl restart exclave-agent: it seals them at its start",
        )


def _bare(site: Site) -> list[str]:
    """Private keys that lie in the home as they are."""
    folder, length = identity_folder(site.home), len(MAGIC)
    heads = {name: site.machine.read(folder / name, length) for name in PRIVATE_KEYS}
    return [name for name, head in heads.items() if head is not None and not is_sealed(head)]


def _without(bare: list[str]) -> Check:
    """There is no credential file."""
    if bare:
        told = f"keys in the home are not sealed ({', '.join(bare)}): a copy of the disk has them"
        return warn("seal", told, SEAL)
    return warn("seal", "keys in the home will not be sealed: there is no credential", SEAL)


def _kind(site: Site) -> Check:
    try:
        text = site.machine.read(CREDENTIAL_FILE) or b""
    except PermissionError:
        return skip("seal", "which key it is made with is root's to see", "run doctor as root")
    kind = sealed_with(text)
    if kind is None:
        return fail("seal", f"{CREDENTIAL_FILE} is no credential that systemd wrote", ANEW)
    if kind is SealedWith.NULL:
        told = "sealed with the null key, which everybody knows: no protection"
        return fail("seal", told, ANEW)
    return ok("seal", f"sealed with the {kind}")
