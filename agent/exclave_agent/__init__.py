"""The Exclave agent: AI decisions made beside the data, recorded before they leave."""

from exclave_protocol.wire import require_tls13

# Before anything here imports grpc, which reads the setting only once.
require_tls13()

__version__ = "0.1.0"
