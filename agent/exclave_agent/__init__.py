"""The Exclave agent: AI decisions made beside the data, recorded before they leave."""

import os
from typing import TYPE_CHECKING

from exclave_protocol.wire import require_tls13

# Both are read once, while grpc is imported.
require_tls13()
# The agent forks only to start its workers, which never speak gRPC; gRPC's fork handlers
# would run in the child between fork and exec, and abort it when a call is in progress.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

__version__: str
"""Of the installed distribution; looked up when it is asked for."""

if not TYPE_CHECKING:

    def __getattr__(name: str) -> str:
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from exclave_service.version import installed

        return installed()
