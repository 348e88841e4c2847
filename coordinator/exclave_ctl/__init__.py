"""What people at the centre type: keys, tenants, releases, rollouts, audit bundles."""

from exclave_protocol.wire import require_tls13

# Before anything here imports grpc, which reads the setting only once.
require_tls13()
