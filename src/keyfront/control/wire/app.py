"""The control plane's HTTP application: authenticate, parse, run, render. Starlette and uvicorn speak HTTP.

    request ─ match (which operation) ─ verify (who) ─ read (parameters) ─ Service.run ─ write ─► answer

`Service.run` authorizes the call (`operations/authorization.py`). STS's GetCallerIdentity is at `/` (`sts.py`), and so
is CloudWatch's API for alarms (`cloudwatch.py`); Keyfront's own operations are below `/keyfront/` (`extensions.py`).
Everything except reading the request runs in a worker thread, so no call blocks the event loop. Three paths need no
signature: `GET /healthz`, `GET /livez` (the process responds), and `GET /metrics` (Prometheus).
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import ipaddress
import logging
import socket
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import msgspec
import uvicorn
from anyio import to_thread
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from keyfront.control.audit.records import CLOUDFRONT
from keyfront.control.audit.refused_calls import Refusal
from keyfront.control.call import Call, Caller, Result
from keyfront.control.wire import cloudwatch, codec, extensions, sigv4, sts
from keyfront.control.wire.extensions import ExtensionApi
from keyfront.control.wire.head_timeout import HeadTimeoutH11Protocol
from keyfront.control.wire.health import Calls, Health
from keyfront.control.wire.xml_body import BODY_LIMIT
from keyfront.errors import ApiError
from keyfront.monitoring.exposition import DENIED, exposition
from keyfront.monitoring.metrics_access import Audience
from keyfront.uvicorn_server import StoppableServer

log = logging.getLogger("keyfront.control")

BODY_TIMEOUT = 30.0
"""Seconds within which a request's body must arrive."""
DISCARD_LIMIT = 16 * BODY_LIMIT
"""Bytes of an oversized body that are read before the connection is closed."""
LONGEST_AGENT = 1024
"""Characters of a caller's User-Agent that are recorded and matched by policies."""
KEEP_ALIVE = 65
"""Seconds before an idle connection is closed; longer than SDKs keep connections in their pools."""
DRAIN = 20
LINGER = 0.5
"""Seconds for requests that are on their way on idle connections when the process is replaced."""
"""Seconds within which requests must finish after SIGTERM."""


class Runner(Protocol):
    """The part of `control.service.Service` that the application uses."""

    def run(self, call: Call) -> Result: ...

    def record(self, call: Call, outcome: dict[str, Any] | ApiError) -> None: ...


class Known(Protocol):
    """The callers at one time."""

    def secret_of(self, access_key_id: str) -> str | None: ...

    def caller(self, access_key_id: str) -> Caller: ...


class Callers(Protocol):
    """The part of a `CallerDirectory`, or of `Credentials` that never change, that the application uses."""

    def current(self, now: float) -> Known: ...

    def used(self, key_id: str, now: float) -> None: ...


class AlarmRunner(Protocol):
    """The part of `control.alarms.api.AlarmApi` that the application uses."""

    def run(self, call: Call) -> dict[str, Any]: ...

    def record(self, call: Call, outcome: dict[str, Any] | ApiError) -> None: ...


class Metrics:
    """The metrics of API calls. `operation` is the model's name, or `-` for a request that matches none."""

    LABELS: Final = {
        "keyfront_control_requests": ("operation", "code"),
        "keyfront_control_request_duration_seconds": ("operation",),
    }

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "keyfront_control_requests",
            "API requests answered, by operation and error code (OK for none).",
            self.LABELS["keyfront_control_requests"],
            registry=registry,
        )
        self.seconds = Histogram(
            "keyfront_control_request_duration_seconds",
            "Time from a request's arrival to its answer.",
            self.LABELS["keyfront_control_request_duration_seconds"],
            registry=registry,
        )


class Observability(msgspec.Struct, frozen=True):
    """The content of `/healthz` and `/metrics`.

    :param health: the checks of `/healthz`.
    :param calls: counts the running calls.
    :param registry: the metrics; the control plane's own are added.
    :param metrics_for: the clients that may read `/metrics`.
    """

    health: Health = msgspec.field(default_factory=lambda: Health({}))
    calls: Calls = msgspec.field(default_factory=lambda: Calls(1 << 30))
    registry: CollectorRegistry = msgspec.field(default_factory=CollectorRegistry)
    metrics_for: Audience = msgspec.field(default_factory=Audience)


class OtherApis(msgspec.Struct, frozen=True):
    """The APIs beside CloudFront's: CloudWatch's for alarms, and Keyfront's own operations. None: there are none."""

    alarms: AlarmRunner | None = None
    extensions: ExtensionApi | None = None


def build_app(
    service: Runner,
    callers: Callers,
    *,
    others: OtherApis = OtherApis(),
    observability: Observability | None = None,
    on_refused: Callable[[Refusal], None] = lambda _: None,
    clock: Callable[[], float] = time.time,
    beside: Callable[[ASGIApp], Sequence[BaseRoute]] = lambda _: (),
) -> Starlette:
    """The control plane as an ASGI application.

    :param others: the APIs beside CloudFront's.
    :param beside: gets the API, and returns the routes of its clients in this process, such as the console.
    :param on_refused: called with each call whose caller is unknown.
    :param clock: epoch seconds.
    """
    shown = observability or Observability()
    api = Api(service, others, callers, Metrics(shown.registry), clock, shown.calls, on_refused)
    own = service_routes(api, shown.health, shown.registry, shown.metrics_for)
    return Starlette(routes=[*beside(api), *own])


def service_routes(
    api: Any, health: Health, registry: CollectorRegistry, metrics_for: Audience
) -> list[Route]:
    """`/healthz`, `/livez`, and `/metrics`; `api` answers everything else."""

    async def healthz(_: Request) -> Response:
        healthy, body = await health.answer()
        return Response(
            msgspec.json.format(msgspec.json.encode(body)) + b"\n",
            200 if healthy else 503,
            {"Cache-Control": "no-store"},
            "application/json",
        )

    async def livez(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def metrics(request: Request) -> Response:
        headers = request.scope["headers"]
        if not metrics_for.admits(request.client, headers):
            return PlainTextResponse(DENIED, 403)
        found = await to_thread.run_sync(exposition, registry, headers)
        return Response(found.body, headers=found.headers)

    return [
        Route("/healthz", healthz),
        Route("/livez", livez),
        Route("/metrics", metrics),
        Route("/{path:path}", api, methods=None),
    ]


class Api:
    """The API itself: the ASGI application for all other paths."""

    def __init__(
        self,
        service: Runner,
        others: OtherApis,
        callers: Callers,
        metrics: Metrics,
        clock: Callable[[], float],
        calls: Calls,
        on_refused: Callable[[Refusal], None],
    ) -> None:
        self._on_refused = on_refused
        self._calls = calls
        self._extensions = others.extensions
        self._alarms = others.alarms
        self._service = service
        self._callers = callers
        self._metrics = metrics
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        request_id = str(uuid.uuid4())
        try:
            body = await _body(Request(scope, receive))
        except ApiError as error:
            answer, name, code = codec.write_error(error, request_id), "-", error.code
            answer = msgspec.structs.replace(answer, headers=(*answer.headers, ("Connection", "close")))
        except ClientDisconnect:
            return
        else:
            self._calls.begin(time.monotonic())
            try:
                answer, name, code = await to_thread.run_sync(self._answer, scope, body, request_id)
            finally:
                self._calls.end(time.monotonic())
        response = Response(b"" if scope["method"] == "HEAD" else answer.body, answer.status)
        response.headers["x-amzn-RequestId"] = request_id
        for key, value in answer.headers:
            response.headers[key] = value
        await response(scope, receive, send)
        self._metrics.requests.labels(name, code).inc()
        seconds = time.perf_counter() - began
        self._metrics.seconds.labels(name).observe(seconds)
        log.debug(
            "API call",
            extra={
                "action": name,
                "caller": scope.get("caller", "-"),
                "status": answer.status,
                "error": code,
                "ms": round(seconds * 1000, 1),
                "request_id": request_id,
            },
        )

    def _answer(self, scope: Scope, body: bytes, request_id: str) -> tuple[codec.Answer, str, str]:
        """The response, with the operation's name and the error code for the metrics."""
        name, write_error = "-", codec.write_error
        try:
            line = _line(scope)
            if self._alarms is not None:
                service = sigv4.claimed_service(scope["headers"], line[2])
                watched = cloudwatch.match(*line, _texts(scope), body, service)
                if watched is not None:
                    write_error = functools.partial(cloudwatch.write_error, watched.protocol)
                    name = cloudwatch.operation_of(watched).name
                    return self._watch(self._alarms, scope, line, watched, body, request_id), name, "OK"
            if sts.is_query_call(*line, body):
                name, write_error = sts.OPERATION, sts.write_error
                return self._identify(scope, line, body, request_id), name, "OK"
            if self._extensions is not None and extensions.has_path(line[1]):
                write_error = extensions.write_error
                found = self._extensions.match(line[0], line[1])
                name = found.operation.name
                call = self._authenticated(scope, line, body, sigv4.SERVICE, name, request_id)
                return self._extensions.run(call, found, line[2], body), name, "OK"
            matched = codec.match(*line)
            name = matched.operation.name
            return self._run(scope, line, matched, body, request_id), name, "OK"
        except ApiError as error:
            return write_error(error, request_id), name, error.code
        except Exception:
            log.exception("request %s (%s) failed", request_id, name)
            failure = ApiError(
                "InternalFailure",
                "The request processing has failed because of an unknown error, exception or failure.",
                500,
            )
            return write_error(failure, request_id), name, failure.code

    def _run(
        self, scope: Scope, line: tuple[str, str, str], matched: codec.Matched, body: bytes, request_id: str
    ) -> codec.Answer:
        call = self._authenticated(scope, line, body, sigv4.SERVICE, matched.operation.name, request_id)
        texts = _texts(scope)
        try:
            params = codec.read(matched, texts, body)
        except ApiError as error:
            self._service.record(call, error)
            raise
        result = self._service.run(msgspec.structs.replace(call, params=params))
        answer = codec.write(matched.operation, result.output)
        return msgspec.structs.replace(
            answer,
            headers=tuple((name, _absolute(name, value, scope, texts)) for name, value in answer.headers),
        )

    def _identify(
        self, scope: Scope, line: tuple[str, str, str], body: bytes, request_id: str
    ) -> codec.Answer:
        """STS's GetCallerIdentity."""
        call = self._authenticated(scope, line, body, sts.SERVICE, sts.OPERATION, request_id)
        call = msgspec.structs.replace(call, source=sts.SOURCE)
        try:
            sts.check(line[2], body)
        except ApiError as error:
            self._service.record(call, error)
            raise
        self._service.record(call, {})
        return sts.write(call.caller, request_id)

    def _watch(
        self,
        alarms: AlarmRunner,
        scope: Scope,
        line: tuple[str, str, str],
        matched: cloudwatch.Matched,
        body: bytes,
        request_id: str,
    ) -> codec.Answer:
        """A call of CloudWatch's API."""
        operation = cloudwatch.operation_of(matched)
        call = self._authenticated(scope, line, body, cloudwatch.SERVICE, operation.name, request_id)
        call = msgspec.structs.replace(call, source=cloudwatch.SOURCE)
        try:
            params = cloudwatch.read(matched.protocol, operation, line[2], body)
        except ApiError as error:
            alarms.record(call, error)
            raise
        output = alarms.run(msgspec.structs.replace(call, params=params))
        return cloudwatch.write(matched.protocol, operation, output, request_id)

    def _authenticated(
        self,
        scope: Scope,
        line: tuple[str, str, str],
        body: bytes,
        service: str,
        operation: str,
        request_id: str,
    ) -> Call:
        """The call, still without parameters, if a known key has signed the request for `service`.

        :raises ApiError: if not (see `sigv4.verify`), or ServiceUnavailable if the callers cannot be read.
        """
        now = self._clock()
        callers = self._callers.current(now)
        headers: list[sigv4.Header] = scope["headers"]
        digest = hashlib.sha256(body).hexdigest()
        try:
            signed = sigv4.SignedRequest(*line, headers, digest)
            key_id = sigv4.verify(signed, callers.secret_of, now, service)
        except ApiError as error:
            self._on_refused(
                Refusal(
                    operation=operation,
                    error=error,
                    access_key_id=sigv4.claimed_key(headers, line[2]),
                    source_ip=scope["client"][0] if scope["client"] else "",
                    user_agent=next((value for name, value in _texts(scope) if name == "user-agent"), ""),
                    request_id=request_id,
                    now=now,
                    source=_SOURCES.get(service, CLOUDFRONT),
                )
            )
            raise
        self._callers.used(key_id, now)
        caller = callers.caller(key_id)
        scope["caller"] = caller.arn
        return Call(
            operation=operation,
            params={},
            caller=caller,
            source_ip=scope["client"][0] if scope["client"] else "",
            # Every record contains it and policies match it, so its length must be limited.
            user_agent=next((v for name, v in _texts(scope) if name == "user-agent"), "")[:LONGEST_AGENT],
            request_id=request_id,
            now=now,
            secure=scope["scheme"] == "https",
        )


_SOURCES = {sts.SERVICE: sts.SOURCE, cloudwatch.SERVICE: cloudwatch.SOURCE}


def _texts(scope: Scope) -> list[tuple[str, str]]:
    """The headers as text, names in lower case."""
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]


def _line(scope: Scope) -> tuple[str, str, str]:
    """Method, path and query as sent."""
    return scope["method"], scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1")


def _absolute(name: str, value: str, scope: Scope, headers: list[tuple[str, str]]) -> str:
    """A Location header as a whole URL, like CloudFront's; the signed Host header names the endpoint."""
    if name != "Location" or not value.startswith("/"):
        return value
    host = next((text for header, text in headers if header == "host"), "")
    return f"{scope['scheme']}://{host}{value}"


async def _body(request: Request) -> bytes:
    """The whole body.

    A body that is slightly too long is still read and discarded, because a client whose connection closes while it is
    sending never sees the response.

    :raises ApiError: RequestTimeout (408) or RequestEntityTooLarge (413).
    """
    chunks, size = [], 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= BODY_LIMIT:
                    chunks.append(chunk)
                elif size > DISCARD_LIMIT:
                    break
    except TimeoutError:
        raise ApiError("RequestTimeout", "The body did not arrive in time.", 408) from None
    if size > BODY_LIMIT:
        raise ApiError("RequestEntityTooLarge", f"The body is longer than {BODY_LIMIT} bytes.", 413)
    return b"".join(chunks)


# ---- the process


async def serve(
    app: Starlette,
    sock: socket.socket,
    on_ready: Callable[[], None],
    *,
    stop: asyncio.Event,
    has_successor: Callable[[], bool] = lambda: False,
    trusted_proxies: Sequence[str] = (),
) -> None:
    """Serve `app` on the bound `sock` until `stop` is set, then give running requests DRAIN seconds to finish.

    :param has_successor: called when `stop` is set; returns whether another process will serve on the same socket.
        Idle connections then stay open for LINGER seconds.
    :param trusted_proxies: networks (CIDR) whose X-Forwarded-For and X-Forwarded-Proto are trusted.
    """
    config = uvicorn.Config(
        app,
        http=HeadTimeoutH11Protocol,  # h11 bounds the size of a request's head, which httptools does not
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        # Without a trusted network, no client is trusted, not even this machine: otherwise any process on it could
        # claim any
        # address in the audit log and before policies.
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=[str(ipaddress.ip_network(one, strict=False)) for one in trusted_proxies],
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=DRAIN,
    )
    # A response is two writes, head and body: the second must not wait until the client has acknowledged the first
    # (40 ms). asyncio ensures this only if the listener was created with an explicit protocol; connections inherit it.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server = StoppableServer(config, on_ready)
    stopping = asyncio.create_task(stop.wait())
    stopping.add_done_callback(lambda _: server.stop(LINGER if has_successor() else 0.0))
    try:
        await server.serve([sock])
    finally:
        stopping.cancel()
