"""How patient the root side is: /etc/exclave/upgrade.toml, which only root may write."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final

from exclave_agent.upgrade.errors import UpgradeRefused

SETTINGS_FILE: Final = Path("/etc/exclave/upgrade.toml")


@dataclass(frozen=True, slots=True)
class Patience:
    """All in seconds; each from 1 to 86400."""

    settle_seconds: int = 10
    """A version is healthy once it has been so for as long, without a restart."""
    deadline_seconds: int = 60
    """A version must have become healthy by then, or it is left; a request may say otherwise."""
    lock_seconds: int = 600
    """How long to wait for another user of the package manager."""


def read_patience(file: Path = SETTINGS_FILE) -> Patience:
    """The defaults where there is no file. Raises: UpgradeRefused ("config_invalid")."""
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Patience()
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _invalid(f"{file} cannot be read as TOML ({type(error).__name__})") from error
    known = [field.name for field in fields(Patience)]
    for key, value in document.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise _invalid(f"{file} sets the unknown key {key!r}{hint}")
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 86_400:
            raise _invalid(f"{file}: {key} must be a whole number of seconds from 1 to 86400")
    return replace(Patience(), **document)


def _invalid(message: str) -> UpgradeRefused:
    return UpgradeRefused(message, code="config_invalid")
