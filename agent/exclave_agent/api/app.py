"""The HTTP application: routes, keys, and the one place where errors become responses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from exclave_agent.decide.pipeline import Pipeline
from exclave_agent.errors import AgentError, Unauthenticated
from exclave_agent.ports import Clock, KeyRing, Releases
from exclave_agent.review.desk import Desk

from .errors import ClientGone, MethodNotAllowed, NoSuchRoute, tell
from .exchange import JSON, Exchange, Limits, Receive, Scope, Send, encode_json
from .health import Exposition, Health
from .inference_v2 import InferenceV2
from .openai import OpenAI
from .reviews import Reviews

Handler = Callable[[Exchange], Awaitable[None]]


def build_app(
    pipeline: Pipeline,
    releases: Releases,
    keys: KeyRing,
    clock: Clock,
    metrics: Exposition,
    limits: Limits | None = None,
    desk: Desk | None = None,
) -> Starlette:
    """The agent's HTTP interface. `pipeline` must be entered while requests are served. `desk`
    None: nobody reviews here."""
    gate = _Gate(pipeline, keys, limits or Limits())
    openai, v2 = OpenAI(pipeline, releases, clock), InferenceV2(pipeline, releases)
    health = Health(releases, metrics)
    model = "/v2/models/{model}"
    versioned = model + "/versions/{version}"
    routes = [
        gate.route("POST", "/v1/chat/completions", openai.chat),
        gate.route("POST", "/v1/completions", openai.completion),
        gate.route("POST", "/v1/embeddings", openai.embeddings),
        gate.route("POST", "/v1/rerank", openai.rerank),
        gate.route("POST", "/rerank", openai.rerank),
        gate.route("POST", model + "/infer", v2.infer),
        gate.route("GET", "/v1/models", openai.models),
        gate.route("GET", "/v1/models/{model:path}", openai.model),
        gate.route("GET", "/healthz", health.live, public=True),
        gate.route("GET", "/readyz", health.ready, public=True),
        gate.route("GET", "/metrics", health.metrics, public=True),
        gate.route("GET", "/v2/health/live", v2.live, public=True),
        gate.route("GET", "/v2/health/ready", v2.ready, public=True),
        gate.route("GET", "/v2", v2.server),
        gate.route("GET", model, v2.model),
        gate.route("GET", model + "/ready", v2.model_ready),
        gate.route("GET", versioned, v2.model),
        gate.route("GET", versioned + "/ready", v2.model_ready),
        gate.route("POST", versioned + "/infer", v2.infer),
    ]
    if desk is not None:
        reviews = Reviews(desk)
        one = "/v1/reviews/{decision}"
        routes += [
            gate.route("GET", "/v1/reviews", reviews.waiting),
            gate.route("GET", one, reviews.view),
            gate.route("POST", one, reviews.take),
            gate.route("GET", one + "/answer", reviews.answer),
        ]
    app = Starlette(routes=routes, exception_handlers={404: gate.no_route, 405: gate.wrong_method})
    app.router.redirect_slashes = False  # a redirect would lose a POST's body and key
    return app


class _Gate:
    """Between the server and the handlers: who calls, and how errors are told."""

    def __init__(self, pipeline: Pipeline, keys: KeyRing, limits: Limits) -> None:
        self._pipeline = pipeline
        self._keys = keys
        self._limits = limits

    def route(self, method: str, path: str, handler: Handler, *, public: bool = False) -> Route:
        """A route to `handler`; without a valid key it is reached only if `public`."""
        return Route(path, _Endpoint(self, handler, public), methods=[method])

    def authenticate(self, exchange: Exchange) -> None:
        """Find the caller by the bearer token. Raises: Unauthenticated."""
        scheme, _, secret = exchange.headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not secret.strip():
            raise Unauthenticated(
                "no API key: send `Authorization: Bearer exk_...`; "
                "`exclave-agent key create` makes one",
                code="missing_api_key",
            )
        exchange.caller = self._keys.authenticate(secret.strip().decode("latin-1"))
        if exchange.caller is None:
            raise Unauthenticated("the API key is unknown or revoked")

    async def serve(
        self, handler: Handler, public: bool, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Run one handler. Nothing but cancellation comes out of it: what a server logs of an
        escaped exception could hold raw data."""
        exchange = Exchange(scope, receive, send, self._limits, self._pipeline.new_id())
        try:
            try:
                if not public:
                    self.authenticate(exchange)
                await handler(exchange)
            except ClientGone:
                return
            except Exception as error:  # noqa: BLE001  # the boundary: told by the one table
                await _answer_error(exchange, scope["path"], error)
        except ClientGone:
            return

    async def no_route(self, request: Request, error: Exception) -> Response:
        """The answer to an unknown path."""
        return self._refuse(
            request,
            NoSuchRoute("no such path: try below /v1 (OpenAI) or /v2 (Open Inference Protocol)"),
        )

    async def wrong_method(self, request: Request, error: Exception) -> Response:
        """The answer to a known path with another method."""
        headers = (error.headers if isinstance(error, HTTPException) else None) or {}
        allowed = ", ".join(sorted(headers.get("Allow", "").split(", ")))
        response = self._refuse(request, MethodNotAllowed(f"this path takes {allowed}"))
        response.headers["allow"] = allowed
        return response

    def _refuse(self, request: Request, error: AgentError) -> Response:
        request_id = self._pipeline.new_id()
        told = tell(error, request_id)
        body = told.v2() if _is_v2(request.url.path) else told.openai()
        return Response(encode_json(body), told.status, {"x-request-id": request_id}, JSON.decode())


class _Endpoint:
    """A handler as a bare ASGI application, which Starlette mounts without wrapping it."""

    __slots__ = ("_gate", "_handler", "_public")

    def __init__(self, gate: _Gate, handler: Handler, public: bool) -> None:
        self._gate = gate
        self._handler = handler
        self._public = public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._gate.serve(self._handler, self._public, scope, receive, send)


async def _answer_error(exchange: Exchange, path: str, error: Exception) -> None:
    told = tell(error, exchange.request_id)
    if exchange.started:
        raise ClientGone  # a handler that has begun its response ends it itself
    body = told.v2() if _is_v2(path) else told.openai()
    await exchange.respond_json(told.status, body, told.headers)


def _is_v2(path: str) -> bool:
    return path == "/v2" or path.startswith("/v2/")
