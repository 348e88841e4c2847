"""What happens around every call: identity before, statuses and metrics after."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, NoReturn

import grpc

from exclave_coordinator.api.auth import Gatekeeper, RoleDenied, set_caller
from exclave_coordinator.api.errors import abort, status_of
from exclave_coordinator.errors import CoordinatorError
from exclave_coordinator.ports import Clock
from exclave_coordinator.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

Denial = Callable[[RoleDenied, str], Awaitable[None]]


class Gate(grpc.aio.ServerInterceptor):
    """Wraps every handler of our services; foreign ones (health, reflection) only see identity."""

    def __init__(
        self, keeper: Gatekeeper, metrics: Metrics, clock: Clock, on_denied: Denial
    ) -> None:
        """`on_denied` records an operator's denied attempt before it is answered."""
        self._keeper = keeper
        self._metrics = metrics
        self._clock = clock
        self._on_denied = on_denied

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Called by gRPC once a call, before its handler."""
        handler = await continuation(details)
        if handler is None or not details.method.startswith("/exclave."):
            return handler
        return self._wrapped(handler, details.method)

    def _wrapped(self, handler: Any, method: str) -> Any:
        codec = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.request_streaming and handler.response_streaming:
            call = self._stream(method, handler.stream_stream)
            return grpc.stream_stream_rpc_method_handler(call, **codec)
        if handler.response_streaming:
            call = self._stream(method, handler.unary_stream)
            return grpc.unary_stream_rpc_method_handler(call, **codec)
        if handler.request_streaming:
            call = self._single(method, handler.stream_unary)
            return grpc.stream_unary_rpc_method_handler(call, **codec)
        return grpc.unary_unary_rpc_method_handler(
            self._single(method, handler.unary_unary), **codec
        )

    def _single(self, method: str, inner: Any) -> Any:
        async def call(request: Any, context: Any) -> Any:
            begin = self._clock.monotonic()
            try:
                set_caller(self._keeper.identify(method, context))
                answer = await inner(request, context)
            except Exception as error:  # noqa: BLE001 (mapped to a status; unforeseen ones logged)
                await self._refuse(method, context, error)
            self._metrics.calls.labels(method, "OK").inc()
            self._metrics.seconds.labels(method).observe(self._clock.monotonic() - begin)
            return answer

        return call

    def _stream(self, method: str, inner: Any) -> Any:
        async def call(request: Any, context: Any) -> AsyncIterator[Any]:
            try:
                set_caller(self._keeper.identify(method, context))
                # Closed here, not when the collector finds it: sessions end with their stream.
                async with aclosing(inner(request, context)) as messages:
                    async for message in messages:
                        yield message
            except Exception as error:  # noqa: BLE001 (mapped to a status; unforeseen ones logged)
                await self._refuse(method, context, error)
            self._metrics.calls.labels(method, "OK").inc()

        return call

    async def _refuse(self, method: str, context: Any, error: Exception) -> NoReturn:
        if isinstance(error, grpc.aio.AbortError):
            raise error
        if isinstance(error, RoleDenied):
            try:
                await asyncio.shield(self._on_denied(error, method))
            except CoordinatorError as failed:
                # A denial that cannot be recorded is still a denial.
                log.error("denial not recorded (%s): %s", failed.code, failed.message)
        status = status_of(error) if isinstance(error, CoordinatorError) else None
        self._metrics.calls.labels(method, status.name if status else "INTERNAL").inc()
        await abort(context, error)
