"""The Exclave agent: AI decisions made beside the data, recorded before they leave."""

import os

from exclave_protocol.wire import require_tls13

# Both are read once, while grpc is imported.
require_tls13()
# The agent forks only to start its workers, which never speak gRPC; gRPC's fork handlers
# would run in the child between fork and exec, and abort it when a call is in progress.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

__version__ = "0.1.0"
