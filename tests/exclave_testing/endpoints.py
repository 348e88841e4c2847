"""A remote endpoint over real sockets that does what a test says, and remembers what it got."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from exclave_agent.identity.secrets import Secrets
from exclave_agent.ports import Delta, Finished, Generate, ModelSpec
from exclave_agent.runtimes.remote import RemoteModel, RemoteRuntime
from exclave_agent.system import SystemClock, SystemRng
from exclave_protocol.endpoint import Endpoint, EndpointTimeouts
from exclave_protocol.release import digest_of

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
KEY = "sk-test-0123456789"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it came over the wire."""

    method: str
    target: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


@dataclass
class FakeEndpoint:
    """`answer` writes the response; the connection closes when it returns."""

    answer: Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]
    asked: list[Asked] = field(default_factory=list)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    """A client closed its connection."""
    port: int = 0
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @contextlib.asynccontextmanager
    async def open(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[FakeEndpoint]:
        """Listen until the block ends; then every connection is cut."""
        tasks: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                await self._serve(reader, writer)
            finally:
                tasks.discard(task)
                writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        self.scheme = "http" if tls is None else "https"
        try:
            yield self
        finally:
            server.close()
            for task in tuple(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, *lines = head.strip().split("\r\n")
            method, target, _ = line.split(" ")
            headers = {k.lower(): v.strip() for k, _, v in (one.partition(":") for one in lines)}
            raw = await reader.readexactly(int(headers.get("content-length", "0")))
        except asyncio.IncompleteReadError:
            return
        self.asked.append(Asked(method, target, headers, raw))
        answering = asyncio.ensure_future(self.answer(self.asked[-1], writer))
        gone = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait((answering, gone), return_when="FIRST_COMPLETED")
            if not answering.done():
                self.hung_up.set()
                return
            try:
                answering.result()
                await writer.drain()
            except ConnectionError:
                self.hung_up.set()
        finally:
            answering.cancel()
            gone.cancel()
            await asyncio.gather(answering, gone, return_exceptions=True)


def says(*chunks: bytes) -> Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]:
    """Write these bytes, one after the other, and close."""

    async def answer(_: Asked, writer: asyncio.StreamWriter) -> None:
        for chunk in chunks:
            writer.write(chunk)
            await writer.drain()

    return answer


def refuses(
    status: int, body: bytes = b"", headers: Sequence[str] = ()
) -> Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]:
    """A whole answer with a status."""
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", "connection: close", *headers]
    return says("\r\n".join([*lines, "", ""]).encode() + body)


def event(value: object) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def piece(
    text: str | None = None, finish: str | None = None, usage: object = None, **delta: object
) -> bytes:
    """One chunk of a chat completion."""
    part = delta if text is None else {"content": text, **delta}
    chunk: dict[str, object] = {
        "id": "c",
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": part, "finish_reason": finish}],
    }
    if usage is not None:
        chunk["usage"] = usage
    return event(chunk)


def count(prompt: object = 7, completion: object = 2, cached: object = 3) -> bytes:
    """The chunk that counts."""
    details = {"cached_tokens": cached}
    return event(
        {
            "choices": [],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "prompt_tokens_details": details,
            },
        }
    )


DONE = b"data: [DONE]\n\n"
GOOD = (HEAD, piece("", role="assistant"), piece("hel"), piece("lo", "stop"), count(), DONE)
"""An honest answer of two tokens."""


def document(url: str, **fields: Any) -> Endpoint:
    """An endpoint document that permits everything."""
    given: dict[str, Any] = {
        "provider": "compatible",
        "base_url": url,
        "model": "m-1",
        "actions": ("chat", "complete", "embed"),
        "data_classes": ("", "public"),
        "secret": "main",
        "timeouts": EndpointTimeouts(2_000, 5_000, 20_000),
    }
    return Endpoint(**(given | fields))


class Opened:
    """A runtime in a home of its own."""

    def __init__(self, home: Path, **settings: Any) -> None:
        self.home = home
        self.keys = Secrets(home, {})
        self.runtime = RemoteRuntime(self.keys, clock=SystemClock(), rng=SystemRng(), **settings)

    def spec(self, endpoint: Endpoint, name: str = "remote") -> ModelSpec:
        """The document as a verified file."""
        data = endpoint.encode()
        path = self.home / digest_of(data)
        path.write_bytes(data)
        return ModelSpec(name, "remote", path, digest_of(data))

    def model(self, endpoint: Endpoint, key: str | None = KEY) -> RemoteModel:
        """Opened, with its key set."""
        if key is not None:
            self.keys.set(endpoint.secret or "main", key)
        return self.runtime.open(self.spec(endpoint))


async def ask(model: RemoteModel, request: Generate) -> tuple[list[Delta], Finished]:
    """The whole answer."""
    deltas: list[Delta] = []
    async with contextlib.aclosing(model.generate(request)) as events:
        async for one in events:
            if isinstance(one, Finished):
                return deltas, one
            deltas.append(one)
    raise AssertionError("no Finished")


def text_of(deltas: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def authority(folder: Path, host: str = "127.0.0.1") -> tuple[ssl.SSLContext, Path]:
    """A server's TLS context for an address, and the PEM file of who vouches for it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "endpoint")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "endpoint-ca.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret = folder / "endpoint-key.pem"
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, secret)
    return context, pem
