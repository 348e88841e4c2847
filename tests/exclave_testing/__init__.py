"""Fakes and builders that tests share; fakes pass the same contract suites as the adapters."""

from exclave_protocol.wire import require_tls13

# Before anything here imports grpc, which reads the setting only once.
require_tls13()
