"""The same edge as an ASGI application: for HTTP/2 under any ASGI server, and for tests without a socket.

The raw target is `raw_path` and `query_string`, as the ASGI specification has them. The server below must not rewrite
them; uvicorn, hypercorn and granian's ASGI mode keep them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from time import perf_counter
from typing import Any

from keyfront.edge import respond
from keyfront.edge.edge import Edge, Visit
from keyfront.edge.exchange import Headers, Reply, Request
from keyfront.edge.http1 import MAX_HEAD, MAX_TARGET, Peers, host_text

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class EdgeApp:
    """`EdgeApp(edge)` is the application. `peers` are the trusted proxies; the server's own proxy handling must be
    off, or the viewer's address would be decided twice."""

    def __init__(self, edge: Edge, *, peers: Peers | None = None) -> None:
        self.edge = edge
        self.peers = peers or Peers()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise ValueError(f"the edge serves http, not {scope['type']}")
        request, refusal = self._request(scope, receive)
        if refusal:
            visit = self.edge.unreadable(request)
            reply = respond.dated(respond.refused(refusal, None, request, visit.request_id), visit.now)
        else:
            visit = self.edge.visit(request)
            stored = visit.hit
            if stored is not None:
                reply = respond.answer(request, stored.meta, stored.body, visit.now, "Hit")
            else:
                reply = await self._serve(visit)
        sent = 0
        detail = reply.detail
        try:
            sent = await self._write(visit, reply, send)
        except BaseException:
            detail = "ClientCommError"
            raise
        finally:
            close = getattr(reply.body, "aclose", None)
            if close is not None:
                await close()
            self.edge.done(visit, reply.status, sent, reply.x_cache, detail, refusal or reply.reason)

    async def _serve(self, visit: Visit) -> Reply:
        try:
            return await self.edge.serve(visit)
        except Exception as error:
            return respond.internal_error(error, visit.request_id)

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
        """The request, and the name of what is wrong with it, if anything is."""
        target = scope["raw_path"].decode("latin-1")
        if scope["query_string"]:
            target += "?" + scope["query_string"].decode("latin-1")
        hosts: list[bytes] = []
        cookies: list[bytes] = []
        headers: Headers = []
        length: int | None = None
        chunked = False
        size = len(target)
        for name, value in scope["headers"]:
            size += len(name) + len(value) + 4
            if name == b"host":
                hosts.append(value)
            elif name == b"cookie":
                cookies.append(value)
            elif name == b"content-length":
                length = int(value)
            elif name == b"transfer-encoding":
                chunked = True
            headers.append((name, value))
        version = scope["http_version"]
        has_body = (
            chunked
            or bool(length)
            or (version == "2" and length is None and scope["method"] not in _BODILESS)
        )
        scheme, client = scope["scheme"], scope["client"][0] if scope.get("client") else ""
        if self.peers.trusts(client):
            client, scheme, headers = self.peers.viewer(client, headers, scheme)
        request = Request(
            scope["method"],
            target,
            hosts[0].decode("latin-1") if hosts else "",
            headers,
            scheme=scheme,
            client_ip=client,
            client_port=scope["client"][1] if scope.get("client") else 0,
            version=version,
            cookie=b"; ".join(cookies).decode("latin-1"),
            body=_body(receive) if has_body else None,
            length=length,
            wire_bytes=size,
        )
        if size > MAX_HEAD or len(target) > MAX_TARGET:
            return request, "too_large"
        if len(hosts) != 1 or not host_text(hosts[0]) or not target.startswith("/"):
            return request, "bad_request"
        return request, ""

    async def _write(self, visit: Visit, reply: Reply, send: Send) -> int:
        bodiless = visit.request.method == "HEAD" or reply.status in (204, 304)
        headers = [h for h in reply.headers if h[0] != b"content-length"]
        if reply.length is not None and reply.status != 204:
            headers.append((b"content-length", b"%d" % reply.length))
        headers += [
            (b"x-cache", f"{reply.x_cache} from cloudfront".encode()),
            (b"via", self.edge.via.encode()),
            (b"x-amz-cf-pop", self.edge.settings.pop.encode()),
            (b"x-amz-cf-id", visit.request_id.encode()),
        ]
        visit.first_byte = perf_counter()
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        if bodiless or isinstance(reply.body, bytes):
            body = reply.body if isinstance(reply.body, bytes) and not bodiless else b""
            await send({"type": "http.response.body", "body": body})
            return len(body)
        sent = 0
        async for chunk in reply.body:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            sent += len(chunk)
        await send({"type": "http.response.body", "body": b""})
        return sent


_BODILESS = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionResetError("the viewer broke off its request")
        if message.get("body"):
            yield message["body"]
        if not message.get("more_body"):
            return
