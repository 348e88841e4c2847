"""Limits and transport settings that both ends of every connection must agree on."""

from __future__ import annotations

import os
import sys
from typing import Final

CHUNK: Final = 1 << 20
"""Most bytes of one artifact or upload message."""

MAX_METADATA: Final = 4 << 20
"""Most bytes of one TUF metadata file."""

MAX_BATCH_LEAVES: Final = 1024
"""Most leaves of one audit upload."""

MAX_BATCH_BYTES: Final = 2 << 20
"""Most leaf bytes of one audit upload."""

MAX_NONCES: Final = 16
"""Most nonces of former terms that an agent tells when it begins one."""

MAX_CSR: Final = 4 << 10
"""Most bytes of a certificate request, DER."""

MAX_MESSAGE: Final = 2 * MAX_METADATA + (64 << 10)
"""Most bytes of one gRPC message: new root and targets together, and their framing."""

MAX_JOIN_MESSAGE: Final = 16 << 10
"""Most bytes of one message to the enrollment port: a request, its proof, some names."""

DEFAULT_ADMIN_PORT: Final = 7443
DEFAULT_ENROLL_PORT: Final = 7444

_COMMON: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # An idle session carries no data for hours: pings must not be limited by it.
    ("grpc.http2.max_pings_without_data", 0),
)

CLIENT_OPTIONS: Final[tuple[tuple[str, int], ...]] = _COMMON
"""Channel options of agents and operators."""

SERVER_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    *_COMMON,
    # gRPC's default of 5 min answers the clients' 60 s keepalive with
    # GOAWAY too_many_pings.
    ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
    # Bounds what one connection may ask for at a time: gRPC itself sets no limit.
    ("grpc.max_concurrent_streams", 128),
    # Without this, a second coordinator on the same port would silently share its traffic.
    ("grpc.so_reuseport", 0),
)
"""Server options of the coordinator."""

JOIN_OPTIONS: Final[tuple[tuple[str, int], ...]] = tuple(
    (name, MAX_JOIN_MESSAGE if name == "grpc.max_receive_message_length" else value)
    for name, value in SERVER_OPTIONS
)
"""Server options of the enrollment port, where nobody has shown a certificate yet."""

_CIPHER_VARIABLE: Final = "GRPC_SSL_CIPHER_SUITES"
_UNUSABLE_TLS12_SUITE: Final = "ECDHE-RSA-AES256-GCM-SHA384"


def require_tls13() -> None:
    """Make TLS 1.2 impossible in this process; MUST run before grpc is imported.

    gRPC core has no switch for the lowest TLS version. Its cipher list governs TLS 1.2
    only (the TLS 1.3 suites are fixed), so a list holding nothing but an RSA suite leaves
    TLS 1.2 without any suite that our ECDSA certificates could serve: a peer that offers
    1.2 fails the handshake. The list is read while grpc is imported and never again,
    which is why the packages that speak gRPC call this in their `__init__`.

    Raises: RuntimeError when it is too late, rather than leave TLS 1.2 open in silence.
    """
    if os.environ.get(_CIPHER_VARIABLE) == _UNUSABLE_TLS12_SUITE:
        return
    if "grpc" in sys.modules:
        raise RuntimeError(
            "grpc was imported before require_tls13(): import exclave_agent, "
            "exclave_coordinator or exclave_ctl first, or call require_tls13() yourself"
        )
    os.environ[_CIPHER_VARIABLE] = _UNUSABLE_TLS12_SUITE
