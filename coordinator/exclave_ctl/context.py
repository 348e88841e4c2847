"""What all commands share: the chosen profile and the connection made with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from exclave_ctl.client import Client
    from exclave_ctl.profile import Profile


@dataclass(frozen=True, slots=True)
class Session:
    """The command line's global options."""

    profile_folder: Path | None

    def profile(self) -> Profile:
        """The operator's profile. Raises: CtlError (none given, unreadable)."""
        from exclave_ctl.profile import Profile

        return Profile.load(self.profile_folder)

    @contextmanager
    def connect(self) -> Iterator[Client]:
        """The coordinator, for the length of a command. Raises: CtlError."""
        from exclave_ctl.client import connect

        with connect(self.profile()) as client:
            yield client


pass_session = click.make_pass_decorator(Session)


def utc_now() -> datetime:
    """The wall clock: what expiry dates are reckoned from."""
    return datetime.now(UTC)
