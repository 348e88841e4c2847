"""Choosing what to roll out, and waiting until it has arrived."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from exclave_ctl.client import Client
from exclave_ctl.errors import CtlError

if TYPE_CHECKING:
    from exclave_protocol.pb import admin_pb2 as pb

LATEST: Final = "latest"
POLL_SECONDS: Final = 0.25


def resolve(client: Client, tenant: str, wanted: str) -> str:
    """The digest of `latest`, of a version number, or of the beginning of a digest.

    Only releases in the tenant's published targets count. Raises: CtlError.
    """
    from exclave_ctl.release import releases_in
    from exclave_protocol.tufmeta import load_targets

    data = client.metadata(tenant, "targets.json")
    if data is None:
        raise CtlError(
            f"tenant {tenant} has published no release", "run `exclave release publish` first"
        )
    releases = releases_in(load_targets(data).signed)
    if wanted == LATEST:
        found = releases[-1:]
    elif wanted.isdecimal() and len(wanted) < 8:
        found = [release for release in releases if release.version == int(wanted)]
    else:
        found = [release for release in releases if release.digest.startswith(wanted)]
    if len(found) != 1:
        raise CtlError(
            f"{len(found)} published releases match {wanted!r}",
            f"`exclave release show --published {tenant}` lists them",
        )
    return found[0].digest


def wait(
    client: Client,
    tenant: str,
    rollout: str,
    timeout: float,
    seen: Callable[[pb.Rollout], None],
) -> pb.Rollout:
    """Poll until every agent applied the release or reported failure.

    `seen` is told of each answer; `timeout` in seconds. Raises: CtlError (time is up).
    """
    deadline = time.monotonic() + timeout
    while True:
        state = client.rollout(tenant, rollout)
        seen(state)
        if state.applied + state.failed >= state.agents:
            return state
        if time.monotonic() >= deadline:
            raise CtlError(
                f"{state.applied} of {state.agents} agents had applied the release after "
                f"{timeout:.0f} s",
                "the rollout goes on; `exclave rollout status` shows what each agent says",
            )
        time.sleep(POLL_SECONDS)
