"""Traces: spans nest, say only what they may, and never what an exception says."""

import http.server
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from exclave_agent.telemetry.tracing import LONGEST, OtelTracer, open_tracer

SECRET = "the patient's name is Ada"


@contextmanager
def traced() -> Iterator[tuple[OtelTracer, InMemorySpanExporter]]:
    exporter = InMemorySpanExporter()
    tracer = OtelTracer(exporter, agent="spiffe://example.test/agent/a", version="1")
    try:
        yield tracer, exporter
    finally:
        tracer.close()


def test_spans_nest_and_carry_their_attributes() -> None:
    with traced() as (tracer, exporter):
        with tracer.span("decide") as outer:
            outer.set("exclave.model", "small")
            with tracer.span("infer") as inner:
                inner.set("exclave.tokens_out", 7)
        with tracer.span("decide"):
            pass
        tracer.close()
        infer, decide, other = exporter.get_finished_spans()
    assert infer.parent is not None and decide.context is not None and other.parent is None
    assert infer.parent.span_id == decide.context.span_id
    assert dict(decide.attributes or {}) == {"exclave.model": "small"}
    assert dict(infer.attributes or {}) == {"exclave.tokens_out": 7}
    assert decide.resource.attributes["service.instance.id"] == "spiffe://example.test/agent/a"


def test_an_attribute_that_is_not_on_the_list_is_refused() -> None:
    with traced() as (tracer, _), tracer.span("decide") as span:
        with pytest.raises(ValueError, match=r"exclave\.prompt"):
            span.set("exclave.prompt", SECRET)
        span.set("exclave.model", "x" * 1000)


def test_long_text_is_cut() -> None:
    with traced() as (tracer, exporter):
        with tracer.span("decide") as span:
            span.set("exclave.model", "x" * 1000)
        tracer.close()
        (done,) = exporter.get_finished_spans()
    assert len(str((done.attributes or {})["exclave.model"])) == LONGEST


def test_what_an_exception_says_is_never_told() -> None:
    with traced() as (tracer, exporter):
        with pytest.raises(RuntimeError), tracer.span("infer"):
            raise RuntimeError(SECRET)
        tracer.close()
        (span,) = exporter.get_finished_spans()
    assert span.events == ()
    assert span.status.description == "RuntimeError"
    assert SECRET not in span.to_json()


async def test_a_stream_closed_elsewhere_leaves_nothing_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    import asyncio

    with traced() as (tracer, exporter):

        async def stream() -> AsyncIterator[int]:
            with tracer.span("decide"):
                yield 1
                yield 2

        events = stream()
        await asyncio.create_task(anext(events))  # type: ignore[arg-type]  # it is a coroutine
        await asyncio.create_task(events.aclose())  # type: ignore[attr-defined]  # a generator
        tracer.close()
        assert [span.name for span in exporter.get_finished_spans()] == ["decide"]
    assert caplog.records == []


def test_spans_arrive_at_a_collector_over_http() -> None:
    bodies: list[tuple[str, bytes]] = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = int(self.headers["content-length"])
            bodies.append((self.path, self.rfile.read(size)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        tracer = open_tracer(url, agent="spiffe://example.test/agent/a", version="1")
        with tracer.span("decide") as span:
            span.set("exclave.rule", "allow-chat")
        tracer.close()
        server.shutdown()
    ((path, body),) = bodies
    assert path == "/v1/traces"
    assert b"decide" in body or body[:2] == b"\x1f\x8b"
