"""Replies to viewers from stored responses.

Preconditions are evaluated in the order of RFC 9110 §13.2.2, then ranges (§14) with CloudFront's leniency
(cloudfront-semantics §5.10). A gateway acts as the origin server toward viewers (RFC 9110 §3.7), so If-Match and
If-Unmodified-Since are evaluated here too: a resumed download must not mix two versions.

A reply to HEAD carries the body of the reply to GET; the caller counts its bytes and does not send it. A reply with no
`length` (304) gets no Content-Length.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from typing import Final

from keyfront.edge.rules.encoding import entity_tag
from keyfront.edge.rules.freshness import age
from keyfront.edge.semantics.fields import CONDITIONAL
from keyfront.edge.semantics.http_dates import format_date, parse_date
from keyfront.edge.semantics.ranges import Part, parse_ranges
from keyfront.edge.semantics.structured_fields import item
from keyfront.edge.types.messages import Headers, Reply, Request
from keyfront.edge.types.stored import Meta

# -- from a stored response ----------------------------------------------------------------------------------


def is_unconditional(request: Request) -> bool:
    """Whether the request is for the whole response, without conditions."""
    for name, _ in request.headers:  # noqa: SIM110 - at every request, and `all` is slower
        if name in CONDITIONAL:
            return False
    return True


def answer(
    request: Request, meta: Meta, body: bytes, now: float, result: str = "Hit", boundary: str = ""
) -> Reply:
    """The reply to a request from a stored response and its complete body.

    :param result: the value for X-Cache. Age is added unless this is `Miss`.
    :param boundary: for several ranges. By default, one is derived that does not occur in them.
    """
    chosen = _choose(request, meta, len(body), now, result)
    if isinstance(chosen, Reply):
        return chosen
    if chosen is None:
        return _whole(meta, body, now, result)
    if len(chosen) > 1 and not boundary:
        boundary = _unused_boundary(meta, body, chosen)
    reply, parts = _partial(meta, len(body), chosen, now, result, boundary)
    reply.body = b"".join([p if isinstance(p, bytes) else body[p[0] : p[1] + 1] for p in parts])
    return reply


def layout(
    request: Request, meta: Meta, size: int, now: float, result: str, boundary: str
) -> tuple[Reply, list[Part] | None]:
    """Like `answer`, for a stored body of `size` bytes that is not in memory. Returns the reply without its body, with
    `length` set, and the parts that make up its body, in the order of the stored body. The parts are None if the reply
    is already complete (304, 412, 416).

    :param boundary: for several ranges. It is not checked against their content, so it must be random.
    """
    chosen = _choose(request, meta, size, now, result)
    if isinstance(chosen, Reply):
        return chosen, None
    if chosen is None:
        reply = _whole(meta, b"", now, result)
        reply.length = size
        return reply, [(0, size - 1)] if size else []
    return _partial(meta, size, chosen, now, result, boundary)


def _choose(
    request: Request, meta: Meta, size: int, now: float, result: str
) -> Reply | list[tuple[int, int]] | None:
    """The ranges of a stored body that the request gets, None for the whole body, or a reply that contains none of
    it."""
    if not 200 <= meta.status < 300 or is_unconditional(request):
        return None
    reply = unmodified(request, meta, now, result)
    if reply is not None:
        return reply
    value = _only(request, b"range")
    if value is None or meta.status != 200 or request.method != "GET":
        return None
    if not _if_range(request, meta, now):
        return None
    ranges = parse_ranges(value, size)
    if ranges is None or ranges:
        return ranges
    headers = _kept_with_errors(meta)
    headers.append((b"content-range", b"bytes */%d" % size))
    return Reply(416, headers, b"", x_cache="Error", reason="range_not_satisfiable")


def _partial(
    meta: Meta, size: int, ranges: list[tuple[int, int]], now: float, result: str, boundary: str
) -> tuple[Reply, list[Part]]:
    headers = [h for h in with_age(meta, now, result) if h[0] not in _OF_THE_WHOLE]
    if len(ranges) == 1:
        first, last = ranges[0]
        headers.append((b"content-range", _content_range(first, last, size)))
        return Reply(206, headers, b"", x_cache=result, length=last - first + 1), [ranges[0]]
    content_type = next((v for n, v in headers if n == b"content-type"), None)
    headers = [h for h in headers if h[0] != b"content-type"]
    mark = boundary.encode("latin-1")
    headers.append((b"content-type", b"multipart/byteranges; boundary=" + mark))
    parts: list[Part] = []
    length = 0
    for first, last in ranges:
        lines = [b"\r\n--", mark]
        if content_type is not None:
            lines += [b"\r\nContent-Type: ", content_type]
        lines += [b"\r\nContent-Range: ", _content_range(first, last, size), b"\r\n\r\n"]
        parts += [b"".join(lines), (first, last)]
        length += len(parts[-2]) + last - first + 1
    parts.append(b"\r\n--" + mark + b"--\r\n")
    length += len(mark) + 8
    return Reply(206, headers, b"", x_cache=result, length=length), parts


# Digests of a message's content, not of the whole representation (RFC 9530 §2).
_OF_THE_WHOLE: Final = frozenset({b"content-digest", b"content-md5"})


def unmodified(request: Request, meta: Meta, now: float, result: str = "Hit") -> Reply | None:
    """The 304 or 412 that results from the request's preconditions, or None if they pass (RFC 9110 §13.2.2).

    Preconditions apply only if the answer without them would be a success (§13.2.1).
    """
    if not 200 <= meta.status < 300:
        return None
    match = _list(request, b"if-match")
    if match is not None:
        if not _matches(match, entity_tag(meta.etag, meta.coding), strong=True):
            return _precondition_failed(meta)
    else:
        since = _date(request, b"if-unmodified-since", now)
        modified = parse_date(meta.last_modified, now) if meta.last_modified is not None else None
        if since is not None and modified is not None and modified > since:
            return _precondition_failed(meta)
    reading = request.method in ("GET", "HEAD")
    none_match = _list(request, b"if-none-match")
    if none_match is not None:
        if not _matches(none_match, meta.etag, strong=False):
            return None
        return _not_modified(meta, now, result) if reading else _precondition_failed(meta)
    if not reading:
        return None
    since = _date(request, b"if-modified-since", now)
    if since is None:
        return None
    # Without Last-Modified, the response counts as last modified at its Date (RFC 9111 §4.3.2).
    modified = parse_date(meta.last_modified, now) if meta.last_modified is not None else meta.date
    return _not_modified(meta, now, result) if modified is not None and modified <= since else None


def cache_status(
    name: str,
    forwarded: str,
    status: int,
    ttl: float | None,
    *,
    stored: bool = False,
    collapsed: bool = False,
    detail: str = "",
) -> bytes:
    """This cache's member of Cache-Status (RFC 9211 §2). It omits the key, which may hold cookies.

    :param name: of the edge.
    :param forwarded: why the request went to the origin, as one of the RFC's `fwd` values; empty for a hit.
    :param status: the origin's status code; 0 if there was no answer.
    :param ttl: the remaining freshness lifetime in seconds (negative if the response is stale), if known.
    :param collapsed: whether another viewer's request to the origin served this one as well.
    :param detail: what went wrong, by its name in the log.
    """
    parameters: dict[str, bool | int | str] = {"hit": True} if not forwarded else {"fwd": forwarded}
    if forwarded and status:
        parameters["fwd-status"] = status
    if ttl is not None:
        parameters["ttl"] = math.floor(ttl)
    parameters["stored"] = bool(forwarded) and stored
    parameters["collapsed"] = bool(forwarded) and collapsed
    parameters["detail"] = detail or False
    return item(name, parameters)


def dated(reply: Reply, now: float) -> Reply:
    """The reply with a Date, if neither the origin nor the cache set one (RFC 9110 §6.6.1).

    :param now: epoch seconds.
    """
    if all(name != b"date" for name, _ in reply.headers):
        reply.headers.append((b"date", format_date(now)))
    return reply


def _whole(meta: Meta, body: bytes, now: float, result: str) -> Reply:
    return Reply(meta.status, with_age(meta, now, result), body, x_cache=_word(meta, result))


def _word(meta: Meta, result: str) -> str:
    """CloudFront logs and marks every error as `Error`, stored or not (§5.6)."""
    return result if meta.status < 400 else "Error"


def with_age(meta: Meta, now: float, result: str) -> Headers:
    """The stored headers with Age: always for responses from this cache, and also for those that came from a cache
    before it."""
    headers = list(meta.headers)
    if result != "Miss" or meta.initial_age >= 1:
        headers.append((b"age", b"%d" % age(meta, now)))
    return headers


def _not_modified(meta: Meta, now: float, result: str) -> Reply:
    """304: fields that describe the body are left out; the rest may update the viewer's copy (RFC 9110 §15.4.5)."""
    headers = [h for h in with_age(meta, now, result) if h[0] not in _DESCRIBES_BODY]
    reply = Reply(304, headers, b"", x_cache=result)
    reply.length = None
    return reply


_DESCRIBES_BODY: Final = frozenset(
    {
        b"content-encoding",
        b"content-language",
        b"content-length",
        b"content-md5",
        b"content-range",
        b"content-type",
    }
)


def _precondition_failed(meta: Meta) -> Reply:
    return Reply(412, _kept_with_errors(meta), b"", x_cache="Error", reason="precondition_failed")


def _kept_with_errors(meta: Meta) -> Headers:
    """The headers that a page's script needs in order to read a 412 or 416 at all, and those that identify the
    version."""
    return [
        h
        for h in meta.headers
        if h[0] in (b"date", b"etag", b"server", b"vary", b"accept-ranges", b"timing-allow-origin")
        or h[0].startswith((b"access-control-", b"cross-origin-"))
    ]


# -- preconditions -------------------------------------------------------------------------------------------

_TAG: Final = re.compile(rb'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')


def _list(request: Request, name: bytes) -> bytes | None:
    """All field lines of a list-based field, joined into one value."""
    lines = [value for key, value in request.headers if key == name]
    return b",".join(lines) if lines else None


def _only(request: Request, name: bytes) -> bytes | None:
    """The value of a field that may be sent only once; None if it is absent or repeated."""
    lines = [value for key, value in request.headers if key == name]
    return lines[0].strip(b" \t") if len(lines) == 1 else None


def _date(request: Request, name: bytes, now: float) -> float | None:
    value = _only(request, name)
    return parse_date(value, now) if value is not None else None


def _matches(tags: bytes, etag: bytes | None, *, strong: bool) -> bool:
    """Whether the stored entity tag is among these (RFC 9110 §8.8.3.2). `*` matches any, since a response exists."""
    if tags.strip(b" \t") == b"*":
        return True
    if etag is None:
        return False
    weak, own = etag.startswith(b"W/"), etag.removeprefix(b"W/")
    if strong and weak:
        return False
    return any(tag == own and not (strong and mark) for mark, tag in _TAG.findall(tags))


def _if_range(request: Request, meta: Meta, now: float) -> bool:
    """Whether the range may be served: there is no If-Range, or it names exactly this version (RFC 9110 §13.1.5).

    Only strong validators count: an entity tag that is not weak, or a Last-Modified at least one second before the
    response's Date (§8.8.2.2).
    """
    if request.header(b"if-range") is None:
        return True
    value = _only(request, b"if-range")
    if value is None:
        return False
    if value.startswith((b'"', b"W/")):
        return value == entity_tag(meta.etag, meta.coding) and value.startswith(b'"')
    date = parse_date(value, now)
    modified = parse_date(meta.last_modified, now) if meta.last_modified is not None else None
    return date is not None and date == modified and meta.date - date >= 1


# -- ranges --------------------------------------------------------------------------------------------------


def _content_range(first: int, last: int, size: int) -> bytes:
    return b"bytes %d-%d/%d" % (first, last, size)


def _unused_boundary(meta: Meta, body: bytes, ranges: Sequence[tuple[int, int]]) -> str:
    """A boundary that occurs in none of the ranges (RFC 2046 §5.1.1)."""
    pieces = [body[first : last + 1] for first, last in ranges]
    seed = b"%b %d %d %r" % (meta.etag or b"", len(body), int(meta.date), ranges)
    mark = b""
    while not mark or any(mark in piece for piece in pieces):
        seed = hashlib.sha256(seed).digest()
        mark = seed.hex()[:32].encode()
    return mark.decode()
