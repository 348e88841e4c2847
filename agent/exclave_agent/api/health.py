"""Whether the agent lives, whether it can answer, and its figures; for this machine only."""

from __future__ import annotations

import ipaddress
from typing import Protocol

from exclave_agent.ports import Releases

from .errors import ForbiddenPeer
from .exchange import Exchange


class Exposition(Protocol):
    """Where the figures come from."""

    content_type: str

    def render(self) -> bytes:
        """All of them, in Prometheus' text format."""
        ...


class Health:
    """The handlers; none needs a key."""

    def __init__(self, releases: Releases, metrics: Exposition) -> None:
        self._releases = releases
        self._metrics = metrics

    async def live(self, exchange: Exchange) -> None:
        """GET /healthz: the process answers."""
        await exchange.respond_json(200, {"status": "live"})

    async def ready(self, exchange: Exchange) -> None:
        """GET /readyz: a release is active. Raises: NoRelease."""
        with self._releases.lease() as release:
            version = release.version
        await exchange.respond_json(200, {"status": "ready", "release": version})

    async def metrics(self, exchange: Exchange) -> None:
        """GET /metrics. Raises: ForbiddenPeer for other machines."""
        if not _local(exchange.peer):
            raise ForbiddenPeer("the metrics are for this machine only")
        await exchange.respond(
            200, self._metrics.content_type.encode("ascii"), self._metrics.render()
        )


def _local(peer: str | None) -> bool:
    """A Unix socket's peers have no address, and are on this machine."""
    if peer is None:
        return True
    try:
        return ipaddress.ip_address(peer).is_loopback
    except ValueError:
        return False
