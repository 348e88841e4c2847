"""Whose signatures count on the root side: written once at install, by root, from the join token.

/var/lib/exclave-upgrade/trust.json: {"schema", "tenant", "root_pin"}. The agent cannot write it,
so a subverted agent cannot bring a repository of its own.
"""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from exclave_agent.releases.files import write_durably
from exclave_agent.upgrade.errors import UpgradeRefused

ROOT_FOLDER: Final = Path("/var/lib/exclave-upgrade")
"""The root side's folder; the agent may read it."""
FILE: Final = "trust.json"
SCHEMA: Final = "exclave.upgrade-trust/v1"
_HEX64: Final = re.compile(r"[0-9a-f]{64}")


class Anchored(Protocol):
    """A join token or an identity."""

    @property
    def tenant(self) -> str: ...
    @property
    def root_pin(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Trust:
    """The one repository whose packages are installed."""

    tenant: str
    root_pin: str
    """SHA-256 (hex) of the canonical signed part of the tenant's TUF root, version 1."""

    def encode(self) -> bytes:
        """The file's bytes: the same trust is always the same bytes."""
        value = {"schema": SCHEMA, "tenant": self.tenant, "root_pin": self.root_pin}
        return (json.dumps(value, sort_keys=True) + "\n").encode()


def write_trust(folder: Path, anchored: Anchored, *, replace: bool = False) -> None:
    """Trust this tenant's signers with what root installs; blocking, for root.

    Safe to repeat. Raises: UpgradeRefused ("not_trusted") when others are trusted already and
    `replace` is not said; OSError.
    """
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    folder.chmod(0o755)  # the agent reads how its upgrade goes
    wanted = Trust(anchored.tenant, anchored.root_pin)
    if (folder / FILE).exists() and not replace and read_trust(folder) != wanted:
        raise UpgradeRefused(
            f"{folder / FILE} trusts another tenant's signers: this machine was another agent "
            "before; remove the file if that one is gone for good",
            code="not_trusted",
        )
    write_durably(folder / FILE, wanted.encode())
    (folder / FILE).chmod(0o644)


def read_trust(folder: Path) -> Trust:
    """Raises: UpgradeRefused ("not_trusted"): there is none, or others could have written it."""
    file = folder / FILE
    try:
        with file.open("rb") as opened:
            status = os.fstat(opened.fileno())
            value = json.loads(opened.read(4096))
    except FileNotFoundError as error:
        raise _refused(
            "this machine trusts nobody's packages yet: run `exclave-agent install` as root"
        ) from error
    except (OSError, ValueError) as error:
        raise _refused(f"{file} cannot be read ({type(error).__name__})") from error
    if status.st_uid not in (0, os.geteuid()) or stat.S_IMODE(status.st_mode) & 0o022:
        raise _refused(f"{file} may be written by others than root: what it says is not believed")
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise _refused(f"{file} is not of schema {SCHEMA}")
    tenant, pin = value.get("tenant"), value.get("root_pin")
    if not isinstance(tenant, str) or not isinstance(pin, str) or not _HEX64.fullmatch(pin):
        raise _refused(f"{file} must name tenant and root_pin")
    return Trust(tenant, pin)


def _refused(message: str) -> UpgradeRefused:
    return UpgradeRefused(message, code="not_trusted")
