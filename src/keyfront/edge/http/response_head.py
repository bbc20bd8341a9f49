"""Response heads: the headers that name the edge, the HTTP/1.1 status line and header spelling, the HTTP/2 blocks."""

from __future__ import annotations

from typing import Final

from keyfront.edge.http.hpack import literal_start, literals, string
from keyfront.edge.rules.response_headers import ResponseHeaders
from keyfront.edge.semantics.fields import HOP_BY_HOP
from keyfront.edge.types.messages import Header, Headers, Request
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

_AGE: Final = literal_start(b"age")
_AGES: Final = [_AGE + string(b"%d" % age) for age in range(3600)]


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


class HitBlocks:
    """The heads of hits over HTTP/2, as header blocks that neither use nor change a compression table.

    A stored response's part is encoded once, with the Huffman code. What differs from hit to hit is not worth the code.
    """

    def __init__(self, identity: Identity) -> None:
        *constant, (request_id, _) = identity.headers("Hit", "")
        self._tail = literals(constant) + literal_start(request_id)

    def block(
        self, stored: Stored, request_id: bytes, now: float, policy: ResponseHeaders | None, request: Request
    ) -> bytes:
        """The header block of a stored response unchanged, or as a response headers policy modifies it.

        :param now: the time, in epoch seconds, that decides its age.
        """
        if policy is not None:
            head = _policy_block(stored, policy, request)
        else:
            head = stored.block
            if not head:
                head = stored.block = _hit_block(stored, stored.meta.headers)
        age = int(now - stored.born)
        field = _AGES[age] if 0 <= age < len(_AGES) else _AGE + string(b"%d" % max(age, 0))
        return b"".join((head, self._tail, string(request_id), field))

    def size(
        self, stored: Stored, request_id: bytes, now: float, policy: ResponseHeaders | None, request: Request
    ) -> int:
        """Bytes of the frame with this header block."""
        return 9 + len(self.block(stored, request_id, now, policy, request))


def _policy_block(stored: Stored, policy: ResponseHeaders, request: Request) -> bytes:
    """Like `policy_head`."""
    dependencies = policy.dependencies_in(request)
    cached = stored.policy_block
    if cached is not None and cached[0] is policy and cached[1] == dependencies:
        return cached[2]
    block = _hit_block(stored, policy.applied(request, stored.meta.status, list(stored.meta.headers)))
    if len(dependencies) <= MAX_REMEMBERED_REQUEST:
        stored.policy_block = (policy, dependencies, block)
    return block


def _hit_block(stored: Stored, headers: Headers | tuple[Header, ...]) -> bytes:
    kept = [h for h in headers if h[0] != b"content-length" and h[0] not in HOP_BY_HOP]
    length = (b"content-length", b"%d" % len(stored.body))
    return literals([(b":status", b"%d" % stored.meta.status), *kept, length])
