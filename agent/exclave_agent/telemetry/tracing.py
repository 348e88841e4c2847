"""OpenTelemetry traces, where an operator names a collector; the SDK stays in here.

Attributes are numbers and names from signed documents. What a span may say is a fixed list:
an attribute that is not on it never reaches the SDK, and what an exception says stays untold.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from exclave_agent.config import ConfigError
from exclave_agent.ports import Span

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span as OtelSpan

ATTRIBUTES = frozenset(
    {
        "exclave.action",
        "exclave.model",
        "exclave.route",
        "exclave.rule",
        "exclave.outcome",
        "exclave.decision",
        "exclave.cache",
        "exclave.degraded",
        "exclave.attempts",
        "exclave.priority",
        "exclave.error",
        "exclave.tokens_in",
        "exclave.tokens_out",
        "exclave.cached_tokens",
        "exclave.queued_us",
        "exclave.prefill_us",
        "exclave.decode_us",
    }
)
LONGEST = 128
"""Characters of an attribute's text; more is cut."""
QUEUE = 2048
"""Spans that wait for the collector; more are dropped, and nobody waits for it."""


_current: ContextVar[OtelSpan | None] = ContextVar("exclave_span", default=None)
"""Ours instead of the SDK's own: an abandoned stream would make the SDK log an error."""


class _Span:
    """A `ports.Span` over the SDK's."""

    __slots__ = ("_span",)

    def __init__(self, span: OtelSpan) -> None:
        self._span = span

    def set(self, key: str, value: str | int | float | bool) -> None:
        """See `ports.Span`. Raises: ValueError for a key that is not in `ATTRIBUTES`."""
        if key not in ATTRIBUTES:
            raise ValueError(f"{key} is not an attribute that a span may have")
        self._span.set_attribute(key, value[:LONGEST] if isinstance(value, str) else value)


class OtelTracer:
    """The `ports.Tracer`. `close` sends what waits."""

    def __init__(self, exporter: SpanExporter, *, agent: str, version: str) -> None:
        """`agent`: the SPIFFE ID, as the spans' service.instance.id."""
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        # `Resource.create` would add what the environment says of this machine.
        resource = Resource(
            {
                "service.name": "exclave-agent",
                "service.version": version,
                "service.instance.id": agent,
            }
        )
        self._provider: TracerProvider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=QUEUE))
        self._tracer = self._provider.get_tracer("exclave", version)

    @contextmanager
    def span(self, name: str) -> Iterator[Span]:
        """See `ports.Tracer`."""
        from opentelemetry.trace import Status, StatusCode, set_span_in_context

        parent = _current.get()
        context = None if parent is None else set_span_in_context(parent)
        span = self._tracer.start_span(name, context=context)
        token = _current.set(span)
        try:
            yield _Span(span)
        except BaseException as error:
            # Its type alone: the text may hold what the error was about.
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise
        finally:
            span.end()
            # A stream may be closed by another task than the one that read it, in whose
            # context the token means nothing (and needs no reset).
            with contextlib.suppress(ValueError):
                _current.reset(token)

    def close(self) -> None:
        """Send what waits, and stop; blocking, for some seconds when nobody answers."""
        self._provider.shutdown()


def open_tracer(endpoint: str, *, agent: str, version: str) -> OtelTracer:
    """A tracer that sends to an OTLP/HTTP collector, such as http://127.0.0.1:4318.

    Raises: ConfigError when the SDK is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise ConfigError(
            "otlp_endpoint is set, and the OpenTelemetry SDK is not installed: "
            "pip install 'exclave[otel]'"
        ) from error
    url = endpoint.rstrip("/") + "/v1/traces"
    return OtelTracer(OTLPSpanExporter(endpoint=url, timeout=5), agent=agent, version=version)
