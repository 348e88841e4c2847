"""Run the real coordinator with a tap: every message it receives is also appended to a file.

    python -m exclave_testing.tapped_coordinator TAP-FILE serve --home ...

The tap sits where gRPC hands decrypted request bytes to the service code, so the file holds
the plaintext exactly as received. The product itself has no such switch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc


def install(tap: Path) -> None:
    """Wrap gRPC's method-handler factories so that request bytes are written to `tap`."""
    out = tap.open("ab", buffering=0)

    def tapped(factory: Callable[..., Any]) -> Callable[..., Any]:
        def make(behavior: Any, request_deserializer: Any = None, **more: Any) -> Any:
            def read(data: bytes) -> Any:
                out.write(data)
                return request_deserializer(data) if request_deserializer else data

            return factory(behavior, request_deserializer=read, **more)

        return make

    for arity in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
        name = f"{arity}_rpc_method_handler"
        setattr(grpc, name, tapped(getattr(grpc, name)))


def main() -> None:
    """Install the tap, then be `exclave-coordinator`."""
    install(Path(sys.argv[1]))
    sys.argv = ["exclave-coordinator", *sys.argv[2:]]
    from exclave_coordinator.cli import main as coordinator

    coordinator()


if __name__ == "__main__":
    main()
