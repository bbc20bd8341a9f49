"""Response heads: the headers that name the edge, and the HTTP/1.1 status line and header spelling."""

from __future__ import annotations

from typing import Final

from keyfront.edge.rules.response_headers import ResponseHeaders
from keyfront.edge.types.messages import Headers, Request
from keyfront.edge.types.stored import Stored

_REASONS = {
    100: b"Continue", 101: b"Switching Protocols", 102: b"Processing", 103: b"Early Hints",
    200: b"OK", 201: b"Created", 202: b"Accepted", 204: b"No Content", 206: b"Partial Content",
    300: b"Multiple Choices", 301: b"Moved Permanently", 302: b"Found", 303: b"See Other", 304: b"Not Modified",
    307: b"Temporary Redirect", 308: b"Permanent Redirect", 400: b"Bad Request", 401: b"Unauthorized",
    403: b"Forbidden", 404: b"Not Found", 405: b"Method Not Allowed", 408: b"Request Timeout", 409: b"Conflict",
    410: b"Gone", 411: b"Length Required", 412: b"Precondition Failed", 413: b"Content Too Large",
    414: b"URI Too Long", 415: b"Unsupported Media Type", 416: b"Range Not Satisfiable",
    417: b"Expectation Failed", 421: b"Misdirected Request", 422: b"Unprocessable Content",
    429: b"Too Many Requests", 431: b"Request Header Fields Too Large", 500: b"Internal Server Error",
    501: b"Not Implemented", 502: b"Bad Gateway", 503: b"Service Unavailable", 504: b"Gateway Timeout",
}  # fmt: skip

MAX_SPELLED: Final = 64
"""Bytes of a header name up to which its HTTP/1.1 spelling is cached."""
MAX_REMEMBERED_REQUEST: Final = 300
"""Bytes of the request data that a policy reads, up to which the resulting head is cached."""

_SPELLED = {
    b"etag": b"ETag", b"www-authenticate": b"WWW-Authenticate", b"content-md5": b"Content-MD5",
    b"sec-websocket-accept": b"Sec-WebSocket-Accept", b"sec-websocket-protocol": b"Sec-WebSocket-Protocol",
    b"sec-websocket-extensions": b"Sec-WebSocket-Extensions", b"sec-websocket-version": b"Sec-WebSocket-Version",
}  # fmt: skip


class Identity:
    """The headers in each response that name the edge that sent it: X-Cache, Via, X-Amz-Cf-Pop and X-Amz-Cf-Id
    (cloudfront-semantics §4.2).

    `prefix` is the HTTP/1.1 text between the value of X-Cache and the request ID.
    """

    __slots__ = ("_pop", "prefix", "via")

    def __init__(self, via: str, pop: str) -> None:
        self.via = via.encode()
        self._pop = pop.encode()
        self.prefix = b"\r\nVia: %b\r\nX-Amz-Cf-Pop: %b\r\nX-Amz-Cf-Id: " % (self.via, self._pop)

    def lines(self, x_cache: str, request_id: str) -> bytes:
        """All four headers for HTTP/1.1, and the blank line that ends the head."""
        return b"X-Cache: %b from cloudfront%b%b\r\n\r\n" % (
            x_cache.encode(),
            self.prefix,
            request_id.encode(),
        )

    def headers(self, x_cache: str, request_id: str) -> Headers:
        """All four as a header list."""
        return [
            (b"x-cache", b"%b from cloudfront" % x_cache.encode()),
            (b"via", self.via),
            (b"x-amz-cf-pop", self._pop),
            (b"x-amz-cf-id", request_id.encode()),
        ]


def head_bytes(status: int, headers: Headers | tuple[tuple[bytes, bytes], ...], length: int | None) -> bytes:
    """The status line and the end-to-end headers in HTTP/1.1 spelling, including Content-Length, without the blank
    line."""
    lines = [b"HTTP/1.1 %d %b" % (status, _REASONS.get(status, b""))]
    for name, value in headers:
        if name == b"content-length":
            continue
        spelled = _SPELLED.get(name)
        if spelled is None:
            spelled = name.title()
            if len(name) <= MAX_SPELLED and len(_SPELLED) < 1024:
                _SPELLED[name] = spelled
        lines.append(spelled + b": " + value)
    if length is not None:
        lines.append(b"Content-Length: %d" % length)
    lines.append(b"")
    return b"\r\n".join(lines)


def policy_head(stored: Stored, policy: ResponseHeaders, request: Request) -> bytes:
    """The head of a stored response after a deterministic response headers policy has been applied. Nearly all requests
    for a response give the policy the same input, so the head for the last request is cached."""
    dependencies = policy.dependencies_in(request)
    cached = stored.policy_head
    if cached is not None and cached[0] is policy and cached[1] == dependencies:
        return cached[2]
    status = stored.meta.status
    head = head_bytes(status, policy.applied(request, status, list(stored.meta.headers)), len(stored.body))
    if len(dependencies) <= MAX_REMEMBERED_REQUEST:
        stored.policy_head = (policy, dependencies, head)
    return head
