"""Channels to the coordinator: mutual TLS 1.3, replaced whenever the certificate is renewed.

The session has a channel of its own, so that a large download never delays a push.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import grpc

from exclave_agent.identity.certificates import to_pem
from exclave_agent.identity.store import Identity, IdentityStore
from exclave_protocol.wire import CLIENT_OPTIONS

log = logging.getLogger(__name__)

RETIRE_GRACE: Final = 60.0
"""Seconds that calls on a replaced channel may go on: downloads finish, or resume."""

# Each channel has its own connection: otherwise gRPC could reuse one that was opened with
# the former certificate.
_OPTIONS: Final = [
    *CLIENT_OPTIONS,
    ("grpc.use_local_subchannel_pool", 1),
    # While a channel backs off it fails every call at once. Our callers back off themselves,
    # with jitter and up to minutes; gRPC's own 2 minutes on top would outlast theirs.
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


def anonymous_channel(endpoint: str, ca: bytes) -> grpc.aio.Channel:
    """A channel to the enrollment port that trusts only `ca` (DER), and shows no certificate."""
    credentials = grpc.ssl_channel_credentials(root_certificates=to_pem([ca]))
    return grpc.aio.secure_channel(endpoint, credentials, options=_OPTIONS)


def mutual_channel(identity: Identity) -> grpc.aio.Channel:
    """A channel to the mTLS port with the identity's present certificate."""
    credentials = grpc.ssl_channel_credentials(
        root_certificates=identity.ca_pem,
        private_key=identity.key_pem,
        certificate_chain=identity.cert_pem,
    )
    return grpc.aio.secure_channel(identity.session_endpoint, credentials, options=_OPTIONS)


class Channels:
    """The agent's open channels. Follows the identity store; close it last."""

    def __init__(
        self,
        store: IdentityStore,
        *,
        dial: Callable[[Identity], grpc.aio.Channel] = mutual_channel,
    ) -> None:
        """`dial` opens a channel; tests give one without TLS."""
        self._store = store
        self._dial = dial
        self._session: grpc.aio.Channel | None = None
        self._bulk: grpc.aio.Channel | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._listeners: list[Callable[[], None]] = []
        store.subscribe(self._renewed)

    @property
    def identity(self) -> Identity:
        """Whose certificate new channels carry."""
        return self._store.current

    def session(self) -> grpc.aio.Channel:
        """For the session and other small calls."""
        if self._session is None:
            self._session = self._dial(self._store.current)
        return self._session

    def bulk(self) -> grpc.aio.Channel:
        """For artifacts and audit uploads."""
        if self._bulk is None:
            self._bulk = self._dial(self._store.current)
        return self._bulk

    def on_renewed(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever the channels have been replaced."""
        self._listeners.append(listener)

    async def close(self) -> None:
        """Close everything, cancelling what still runs."""
        for task in list(self._closing):
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        for channel in (self._session, self._bulk):
            if channel is not None:
                await channel.close()
        self._session = self._bulk = None

    def _renewed(self, identity: Identity) -> None:
        log.debug("replacing channels: the certificate now holds until %d", identity.not_after)
        for channel in (self._session, self._bulk):
            if channel is not None:
                task = asyncio.get_running_loop().create_task(_retire(channel))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
        self._session = self._bulk = None
        for listener in self._listeners:
            listener()


async def _retire(channel: grpc.aio.Channel) -> None:
    try:
        await channel.close(RETIRE_GRACE)
    except asyncio.CancelledError:
        await channel.close()
        raise
