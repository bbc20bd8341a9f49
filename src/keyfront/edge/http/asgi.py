"""The edge as an ASGI application: for HTTP/2 under any ASGI server, and for tests without a socket.

The raw target consists of `raw_path` and `query_string`, as the ASGI specification defines them. The server must not
rewrite them; uvicorn, hypercorn and granian's ASGI mode leave them unchanged. A `?` with nothing after it is lost.

`create_app` is for servers that load an application by name. It creates a worker like those of `keyfront up`: it
follows the feed in the data folder and reports to it, but listens where its server does (guide: tls.md).
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from time import perf_counter
from typing import Any

import msgspec

from keyfront.edge.http.request_target import MAX_HEAD, MAX_TARGET, host_text, in_origin_form
from keyfront.edge.http.response_head import Identity
from keyfront.edge.http.timeouts import Limits
from keyfront.edge.http.trusted_proxies import TrustedProxies
from keyfront.edge.limits.rates import Floor
from keyfront.edge.rules import error_pages, respond
from keyfront.edge.semantics.header_limits import too_many_lines
from keyfront.edge.semantics.websocket import WEBSOCKET, upgrade_of
from keyfront.edge.serving.edge import Edge
from keyfront.edge.serving.exchange import Exchange
from keyfront.edge.types.files import FileRange
from keyfront.edge.types.messages import Headers, Reply, Request
from keyfront.errors import clear_traceback

logger = logging.getLogger("keyfront.edge")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


EARLY_HINT = "http.response.early_hint"
"""The ASGI extension for sending 103. ASGI has none for other interim responses, and this one carries only Link."""


class EarlyHints:
    """Accepts interim responses and sends those that ASGI has a message for, in order."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._last: asyncio.Task[None] | None = None

    def __call__(self, status: int, headers: Headers) -> None:
        links = [value for name, value in headers if name == b"link"]
        if status == 103 and links:
            self._last = asyncio.ensure_future(self._after(self._last, links))

    async def _after(self, before: asyncio.Task[None] | None, links: list[bytes]) -> None:
        if before is not None:
            await before
        await self._send({"type": EARLY_HINT, "links": links})

    async def sent(self) -> None:
        """Wait until all of them are sent. If the viewer has left, that is noticed when the response is sent."""
        if self._last is not None:
            await asyncio.gather(self._last, return_exceptions=True)


SILENCE = 30.0
"""Seconds without any request body data after which the request is abandoned."""
RATE = Limits().rate
"""Minimum bytes of a body per second that a viewer must send, measured over `SILENCE` seconds of waiting for it."""


class EdgeApp:
    """The ASGI application: `EdgeApp(edge)`. `peers` are the trusted proxies. The server's own proxy handling must be
    off, or the viewer's address would be determined twice."""

    def __init__(self, edge: Edge, *, peers: TrustedProxies | None = None) -> None:
        self.edge = edge
        self.peers = peers or TrustedProxies()
        self._identity = Identity(edge.via, edge.settings.pop)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] == "websocket":
            await self._refuse_websocket(scope, receive, send)
            return
        if scope["type"] != "http":
            raise ValueError(f"the edge serves http, not {scope['type']}")
        request, refusal = self._request(scope, receive)
        if not refusal and request.body is None and request.version not in ("1.0", "1.1"):
            try:
                body = await _body_unannounced(receive)
                request = msgspec.structs.replace(request, body=body)
            except ConnectionResetError as error:
                clear_traceback(error)
                refusal = "bad_request"
            except BaseException:
                self._log_lost(self.edge.unreadable(request))
                raise
        if refusal:
            exchange = self.edge.unreadable(request)
            reply = self.edge.refused(exchange, refusal)
        else:
            exchange = self.edge.lookup(request)
            stored, plan = exchange.hit, exchange.plan
            if stored is not None and plan is not None and plan.route.response_headers is None:
                reply = respond.answer(request, stored.meta, stored.body, exchange.now, "Hit")
            elif exchange.health_check:
                reply = await self.edge.serve(exchange)
            else:
                over = self.edge.viewers.requests.enter(address := self.peers.counted_as(request.client_ip))
                if over:
                    self.edge.reached.add(over, request.client_ip, exchange.now)
                    reply = self.edge.limited(exchange, over)
                else:
                    try:
                        try:
                            reply = await self._serve(exchange, scope, send)
                        except BaseException:
                            self._log_lost(exchange)
                            raise
                        await self._answer(exchange, reply, refusal, receive, send)
                    finally:
                        self.edge.viewers.requests.leave(address)
                    return
        await self._answer(exchange, reply, refusal, receive, send)

    async def _answer(
        self, exchange: Exchange, reply: Reply, refusal: str, receive: Receive, send: Send
    ) -> None:
        """Send the reply and write its access record."""
        detail = reply.detail
        try:
            await self._write(exchange, reply, receive, send)
        except ConnectionError:
            detail = "ClientHungUpRequest"
        except BaseException:
            detail = "ClientCommError"
            raise
        finally:
            reason = refusal or reply.reason
            self.edge.log_access(exchange, reply.status, exchange.sent, reply.x_cache, detail, reason)
            close = getattr(reply.body, "aclose", None)
            if close is not None:
                await close()

    def _log_lost(self, exchange: Exchange) -> None:
        """Write the access record of a request that the server abandoned before there was a response, as by
        cancelling it when its connection was lost."""
        self.edge.log_access(exchange, 0, 0, "Error", "ClientHungUpRequest", "")

    async def _refuse_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a WebSocket: only the native shell supports them. The handshake gets a 501. If the server cannot send
        that response, it sends its own refusal (403). The access record is written in either case."""
        await receive()  # websocket.connect
        request, _ = self._request({**scope, "method": "GET"}, receive)
        scheme = {"ws": "http", "wss": "https"}.get(request.scheme, request.scheme)
        request = msgspec.structs.replace(request, scheme=scheme)
        exchange = self.edge.unreadable(request)
        name = "websocket_over_asgi"
        reply = self.edge.refused(exchange, name)
        status = reply.status
        try:
            if "websocket.http.response" in (scope.get("extensions") or {}):
                body = reply.body if isinstance(reply.body, bytes) else b""
                headers = [*reply.headers, (b"content-length", b"%d" % len(body))]
                await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
                await send({"type": "websocket.http.response.body", "body": body})
                exchange.sent = len(body)
            else:
                status = 403
                await send({"type": "websocket.close", "code": 1000, "reason": ""})
        finally:
            self.edge.log_access(exchange, status, exchange.sent, reply.x_cache, reply.detail, name)

    async def _serve(self, exchange: Exchange, scope: Scope, send: Send) -> Reply:
        hints = EarlyHints(send) if EARLY_HINT in (scope.get("extensions") or ()) else None
        exchange.interim = hints
        try:
            return await self.edge.serve(exchange)
        except ConnectionError:
            # The request body failed: a response may still reach the viewer.
            return self.edge.refused(exchange, "bad_request")
        except Exception as error:
            logger.exception("request %s failed", exchange.request_id)
            return error_pages.internal_error(error, exchange.request_id)
        finally:
            exchange.interim = None
            if hints is not None:
                await hints.sent()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self.edge.aclose()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def _request(self, scope: Scope, receive: Receive) -> tuple[Request, str]:
        """The request, and the name of the problem with it, if there is one."""
        raw = scope["raw_path"]
        if scope["query_string"]:
            raw += b"?" + scope["query_string"]
        target = raw.decode("latin-1")
        hosts: list[bytes] = []
        cookies: list[bytes] = []
        headers: Headers = []
        length: int | None = None
        chunked = bad = False
        size = len(target)
        for name, value in scope["headers"]:
            size += len(name) + len(value) + 4
            if name == b"host":
                hosts.append(value)
            elif name == b"cookie":
                cookies.append(value)
            elif name == b"content-length":
                # Anything but one plain number may be framed differently by others (RFC 9112 §6.3).
                if length is None and len(value) < 19 and value.isdigit():
                    length = int(value)
                else:
                    bad = True
            elif name == b"transfer-encoding":
                bad = bad or chunked or value.strip(b" \t").lower() != b"chunked"
                chunked = True
            bad = bad or _FIELD_NAME.fullmatch(name) is None or _BREAKING.search(value) is not None
            headers.append((name, value))
        bad = bad or (chunked and length is not None)
        version = scope["http_version"]
        has_body = chunked or bool(length)
        scheme, client = scope["scheme"], scope["client"][0] if scope.get("client") else ""
        if self.peers.trusts(client):
            client, scheme, headers = self.peers.viewer(client, headers, scheme)
        request = Request(
            scope["method"],
            target,
            host_text(hosts[0]) if hosts else "",
            headers,
            scheme=scheme,
            client_ip=client,
            client_port=scope["client"][1] if scope.get("client") else 0,
            version=version,
            upgrade=_passed_over(scope["method"], version, headers),
            cookie=b"; ".join(cookies).decode("latin-1"),
            body=_body(receive) if has_body else None,
            length=length,
            wire_bytes=size,
        )
        if size > MAX_HEAD or len(target) > MAX_TARGET:
            return request, "too_large"
        if too_many_lines(scope["headers"]):
            return request, "too_many_headers"
        asterisk = target == "*" and request.method == "OPTIONS"
        if bad or len(hosts) != 1 or not request.host or not (in_origin_form(raw) or asterisk):
            return request, "bad_request"
        return request, ""

    async def _write(self, exchange: Exchange, reply: Reply, receive: Receive, send: Send) -> None:
        bodiless = exchange.request.method == "HEAD" or reply.status in (204, 304)
        headers = [h for h in reply.headers if h[0] != b"content-length"]
        if reply.length is not None and reply.status != 204:
            headers.append((b"content-length", b"%d" % reply.length))
        headers += self._identity.headers(reply.x_cache, exchange.request_id)
        # The server writes the head: this is its size in HTTP/1.1, without the status line.
        exchange.reply = reply
        exchange.head_bytes = sum([len(name) + len(value) + 4 for name, value in headers]) + 2
        exchange.timings.first_byte = perf_counter()
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        if bodiless or isinstance(reply.body, bytes):
            body = reply.body if isinstance(reply.body, bytes) and not bodiless else b""
            await send({"type": "http.response.body", "body": body})
            exchange.sent = len(body)
            return
        # Servers need not report in `send` that the viewer has left; without this, the body would be fetched for no
        # viewer.
        leaving = None if exchange.request.body is not None else asyncio.ensure_future(_left(receive))
        try:
            async for chunk in reply.body:
                for piece in chunk if isinstance(chunk, FileRange) else (chunk,):
                    if leaving is not None and leaving.done():
                        raise ConnectionResetError("the viewer has left")
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                    exchange.sent += len(piece)
            await send({"type": "http.response.body", "body": b""})
        finally:
            if leaving is not None:
                leaving.cancel()


_FIELD_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
# A value is one line, without control characters (RFC 9110 §5.5).
_BREAKING = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def _passed_over(method: str, version: str, headers: Headers) -> str:
    """The value of `Request.upgrade` for a request that is never upgraded."""
    if not any(name == b"upgrade" for name, _ in headers):
        return ""
    asked = upgrade_of(method, version, headers, named=True, has_body=False)
    return "passed over: upgrade to websocket (over ASGI)" if asked == WEBSOCKET else asked


async def _body_unannounced(receive: Receive) -> AsyncIterator[bytes] | None:
    """The body of a request whose headers announce none, or None if it has none. HTTP/2 and HTTP/3 frame a body without
    Content-Length (RFC 9113 §8.1), for every method, so only the first message shows whether there is one."""
    message = await _received(receive)
    if message["type"] == "http.disconnect" or message.get("body") or message.get("more_body"):
        return _body(receive, message)
    return None


async def _body(receive: Receive, first: MutableMapping[str, Any] | None = None) -> AsyncIterator[bytes]:
    """The chunks of a request's body. `first` is a message that was already received."""
    clock = asyncio.get_running_loop().time
    floor = Floor()
    waited, size = 0.0, 0
    while True:
        began = clock()
        message = first or await _received(receive)
        waited += clock() - began  # the time in between is the origin's
        first = None
        if message["type"] == "http.disconnect":
            raise ConnectionResetError("the viewer broke off its request")
        body = message.get("body")
        if body:
            size += len(body)
            yield body
        if not message.get("more_body"):
            return
        if floor.slow(waited, size, RATE, SILENCE):
            raise ConnectionResetError("the viewer sends its request too slowly")


async def _received(receive: Receive) -> MutableMapping[str, Any]:
    """The next message from a viewer that the edge is waiting for.

    :raises ConnectionResetError: if none arrives within `SILENCE` seconds.
    """
    try:
        async with asyncio.timeout(SILENCE):
            return await receive()
    except TimeoutError as error:
        raise ConnectionResetError("the viewer sent nothing for too long") from error


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
