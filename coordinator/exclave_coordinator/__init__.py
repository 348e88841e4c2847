"""The Exclave coordinator: the centre that governs agents and never sees their data."""

from exclave_protocol.wire import require_tls13

# Before anything here imports grpc, which reads the setting only once.
require_tls13()
