"""The way to one remote endpoint: the `openai` client over a connection that goes nowhere else.

Imported when a remote model is asked for the first time: no other agent needs these libraries.
"""

from __future__ import annotations

import email.utils
import logging
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast

import httpx2
import openai

from exclave_agent.errors import AgentError, RemoteFailed, TooManyTokens
from exclave_protocol.endpoint import Endpoint

SENT: Final = frozenset(
    (
        *("host", "content-type", "content-length", "transfer-encoding", "connection", "accept"),
        *("authorization", "api-key", "openai-organization", "openai-project"),
    )
)
"""Headers that may leave, beside the document's. The client's own tell of this machine's system,
and its environment could add others."""
AGENT: Final = "exclave-agent"
MAX_REFUSAL: Final = 16_384
"""Bytes of an error's body that are read; its `code` alone is looked at."""
MAX_RETRY_AFTER: Final = 3600.0
BUNDLES: Final = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
"""The system's CA certificates, of Debian's and of Red Hat's family."""
PLACEHOLDER: Final = "none"
"""The client insists on a key; without a secret its header does not leave."""

LIBRARIES: Final = ("openai", "httpx2", "httpcore2")
"""They log whole requests and headers from `debug` on, whatever our own level is."""

for _name in LIBRARIES:
    logging.getLogger(_name).setLevel(logging.WARNING)

Key = Callable[[], Awaitable[str]]


class Connection:
    """Requests to one endpoint. `close` MUST be awaited."""

    def __init__(
        self, endpoint: Endpoint, key: Key, *, proxy: str = "", authority: Path | None = None
    ) -> None:
        """`key` is asked at every request. `authority`: the only CA certificates to trust, PEM;
        None: the system's.

        Blocking. Raises: RemoteFailed (the certificates cannot be read, the proxy is no URL).
        """
        timeouts = endpoint.timeouts
        connect, silence = timeouts.connect / 1000, timeouts.first_token / 1000
        limits = httpx2.Limits(
            max_connections=endpoint.max_concurrency,
            max_keepalive_connections=endpoint.max_concurrency,
            keepalive_expiry=30.0,
        )
        try:
            transport = httpx2.AsyncHTTPTransport(
                verify=_tls(endpoint, authority),
                trust_env=False,
                limits=limits,
                proxy=proxy or None,
                retries=0,
            )
        except (httpx2.InvalidURL, ValueError):
            raise RemoteFailed("remote_proxy is no URL of a proxy") from None
        http = httpx2.AsyncClient(
            transport=_Guarded(transport, endpoint),
            timeout=httpx2.Timeout(silence, connect=connect, pool=connect),
            follow_redirects=False,
            trust_env=False,
        )
        self._client = _client(endpoint, key, http)

    async def send(self, path: str, body: Mapping[str, Any]) -> httpx2.Response:
        """POST; a successful answer, its body unread. The caller closes it.

        Raises: RemoteFailed, TooManyTokens.
        """
        try:
            # `cast_to` a response hands it over as it is: what is in it is read by us.
            answer: object = await self._client.post(
                path,
                cast_to=httpx2.Response,
                body=body,
                stream=True,
                stream_cls=openai.AsyncStream[Any],
            )
        except openai.APIStatusError as error:
            raise refusal(error.status_code, error.code, error.response.headers) from None
        except openai.APITimeoutError:
            raise late() from None
        except openai.APIConnectionError:
            raise RemoteFailed(
                "the remote model's endpoint cannot be reached",
                code="remote_unreachable",
                retry_after=5.0,
            ) from None
        except openai.OpenAIError as error:
            raise RemoteFailed(f"the remote model: {type(error).__name__}") from None
        return cast(httpx2.Response, answer)

    async def close(self) -> None:
        """Idempotent."""
        await self._client.close()


async def pieces(response: httpx2.Response) -> AsyncGenerator[bytes, None]:
    """The body as it comes. Raises: RemoteFailed."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise RemoteFailed("the remote model's answer is compressed, which it was asked not to be")
    try:
        async for piece in response.aiter_raw():
            yield piece
    except httpx2.TimeoutException:
        raise late() from None
    except httpx2.HTTPError:
        raise RemoteFailed(
            "the connection to the remote model broke during its answer", retry_after=1.0
        ) from None


def late() -> RemoteFailed:
    """Nothing came within the document's time."""
    return RemoteFailed(
        "the remote model did not answer in time", code="remote_timeout", retry_after=5.0
    )


def refusal(status: int, code: str | None, headers: Mapping[str, str]) -> AgentError:
    """What a status means. The provider's words are not repeated: they may quote the prompt."""
    told = f"the remote model's endpoint answered {status}"
    if code == "context_length_exceeded":
        return TooManyTokens("prompt and answer do not fit the remote model's context")
    if status in (401, 403):
        return RemoteFailed(f"{told}: it does not take our key", code="remote_unauthorized")
    if status == 408:
        return late()
    if status in (429, 503, 529):
        wait = retry_after(headers)
        return RemoteFailed(f"{told}: overloaded", code="remote_overloaded", retry_after=wait)
    if 300 <= status < 400:
        return RemoteFailed(f"{told}: a redirect, and none is followed")
    if status < 500:
        return RemoteFailed(f"{told}: it refuses the request", code="remote_refused")
    return RemoteFailed(told, retry_after=1.0)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from `retry-after-ms` or `retry-after`; None: not said, or not to be read."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) / unit
        except ValueError:
            continue
        if seconds >= 0:
            return min(seconds, MAX_RETRY_AFTER)
    date, there = headers.get("date", ""), headers.get("retry-after", "")
    try:
        # By the provider's own clock: ours may be off.
        begin, end = (
            email.utils.parsedate_to_datetime(date),
            email.utils.parsedate_to_datetime(there),
        )
        return min(max(0.0, (end - begin).total_seconds()), MAX_RETRY_AFTER)
    except (ValueError, TypeError, OverflowError):
        return None


class _Guarded(httpx2.AsyncBaseTransport):
    """Lets nothing out but to the endpoint, with the headers that are meant; lets no long error
    in."""

    def __init__(self, inner: httpx2.AsyncHTTPTransport, endpoint: Endpoint) -> None:
        self._inner = inner
        self._most = endpoint.max_concurrency + 1
        self._base = httpx2.URL(endpoint.base_url)
        self._secret = bool(endpoint.secret)
        self._bare = endpoint.auth == "api-key"
        self._fixed = dict(endpoint.headers)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """See `httpx2.AsyncBaseTransport`."""
        base, url = self._base, request.url
        if (url.scheme, url.host, url.port) != (base.scheme, base.host, base.port):
            raise httpx2.UnsupportedProtocol("not the endpoint's host", request=request)
        kept = [
            (name, value)
            for name, value in request.headers.multi_items()
            if name in SENT and (self._secret or name not in ("authorization", "api-key"))
        ]
        if self._bare:
            kept = [_bare(name, value) for name, value in kept]
        fixed = [("user-agent", AGENT), ("accept-encoding", "identity"), *self._fixed.items()]
        request.headers = httpx2.Headers(kept + fixed)
        response = await self._sent(request)
        if 200 <= response.status_code < 300:
            return response
        try:
            return await _short(response)
        finally:
            await response.aclose()

    async def _sent(self, request: httpx2.Request) -> httpx2.Response:
        """The head of the answer. A server may close a connection that it kept at the moment when
        it is used again (llama.cpp's does so after each stream): what was sent there met nobody,
        and is sent over another, as RFC 9112 (9.3.1) lets a client do. A connection that was made
        for this very request is never given a second chance."""
        left = self._most
        while True:
            left -= 1
            made = _Made()
            request.extensions = {**request.extensions, "trace": made.trace}
            try:
                return await self._inner.handle_async_request(request)
            except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError):
                if made.anew or not left:
                    raise

    async def aclose(self) -> None:
        """See `httpx2.AsyncBaseTransport`."""
        await self._inner.aclose()


class _Made:
    """Whether a request had a connection made for it."""

    anew = False

    async def trace(self, event: str, _: Mapping[str, Any]) -> None:
        """See httpcore's extension `trace`."""
        if event == "connection.connect_tcp.started":
            self.anew = True


def _bare(name: str, value: str) -> tuple[str, str]:
    """A bearer's header as the one that has the key alone."""
    return ("api-key", value.removeprefix("Bearer ")) if name == "authorization" else (name, value)


async def _short(response: httpx2.Response) -> httpx2.Response:
    """The beginning of an error's body is all that is ever held of it."""
    body = bytearray()
    stream = cast(httpx2.AsyncByteStream, response.stream)
    async for piece in stream:
        body += piece
        if len(body) >= MAX_REFUSAL:
            break
    kept = [
        (name, value)
        for name, value in response.headers.multi_items()
        if name in ("retry-after", "retry-after-ms", "date")
    ]
    return httpx2.Response(response.status_code, headers=kept, content=bytes(body[:MAX_REFUSAL]))


def _tls(endpoint: Endpoint, authority: Path | None) -> ssl.SSLContext:
    if endpoint.base_url.startswith("http:"):
        # Loopback, and the transport lets no other scheme out: no certificate is ever asked for.
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context = ssl.create_default_context(cafile=None if authority is None else str(authority))
        for bundle in BUNDLES if authority is None else ():
            # A Python of its own does not know where this system keeps them.
            if Path(bundle).is_file():
                context.load_verify_locations(bundle)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise RemoteFailed(f"remote_ca cannot be read: {reason}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _client(endpoint: Endpoint, key: Key, http: httpx2.AsyncClient) -> openai.AsyncOpenAI:
    """Every retry is the route's: the client makes none."""
    if endpoint.provider == "azure":
        bearer = endpoint.auth == "bearer"
        client: openai.AsyncOpenAI = openai.AsyncAzureOpenAI(
            azure_endpoint=endpoint.base_url,
            azure_deployment=endpoint.deployment or endpoint.model,
            api_version=endpoint.api_version,
            api_key=None if bearer else key,
            azure_ad_token_provider=key if bearer else None,
            max_retries=0,
            http_client=http,
        )
    else:
        client = openai.AsyncOpenAI(
            api_key=key, base_url=endpoint.base_url, max_retries=0, http_client=http
        )
    # The constructor takes these from the environment where it is given none.
    client.organization = endpoint.organization or None
    client.project = endpoint.project or None
    return client
