"""Content codings: what the viewer accepts, what is compressed, and the resulting ETag."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from keyfront.edge.semantics.fields import LONGEST_CACHED, connection_options
from keyfront.edge.types.messages import Headers, Request
from keyfront.model.snapshot import Behavior

ZERO_WEIGHT: Final = re.compile(rb"\s*q\s*=\s*0(?:\.0*+)?\s*")


def accepted_codings(value: bytes, gzip: bool, brotli: bool, legacy: bool) -> bytes | None:
    """Accept-Encoding, normalized: `br,gzip`, `br`, `gzip`, `identity`, or None, as for a field that was not sent
    (§5.11). Legacy settings know only `gzip` and None."""
    if len(value) > LONGEST_CACHED:
        return _normalised(value, gzip, brotli, legacy)
    return _normalised_before(value, gzip, brotli, legacy)


def _normalised(value: bytes, gzip: bool, brotli: bool, legacy: bool) -> bytes | None:
    if not value.strip(b", \t"):
        return None
    accepted = set()
    for item in value.lower().split(b","):
        coding, _, weight = item.partition(b";")
        if not weight or not ZERO_WEIGHT.fullmatch(weight):
            accepted.add(coding.strip())
    codings = [c for c, wanted in ((b"br", brotli), (b"gzip", gzip)) if wanted and c in accepted]
    return b",".join(codings) or (None if legacy else b"identity")


_normalised_before = lru_cache(maxsize=128)(_normalised)


def accepted_encoding(
    behavior: Behavior, request: Request, hidden: frozenset[bytes] | None = None
) -> bytes | None:
    """The normalized Accept-Encoding of a request, or None if there is none. Only for behaviors that normalize it.

    Responses to HTTP/1.0 are never compressed, so the field counts as not sent there (§5.11).

    :param hidden: the names that the request's Connection lists, if already known.
    """
    if request.version == "1.0":
        return None
    if b"accept-encoding" in (connection_options(request.headers) if hidden is None else hidden):
        return None
    value = b",".join([v for n, v in request.headers if n == b"accept-encoding"])
    return accepted_codings(value, behavior.accept_gzip, behavior.accept_brotli, behavior.legacy)


SMALLEST: Final = 1_000


LARGEST: Final = 10_000_000
"""Smallest and largest body that is compressed, in bytes, inclusive (§5.11)."""


IDENTITY: Final = b"identity"
"""The coding of compressible content for a viewer that does not accept compression."""


_STATUSES: Final = frozenset({200, 403, 404})


_TYPES: Final = frozenset(
    {
        b"application/dash+xml",
        b"application/eot",
        b"application/font",
        b"application/font-sfnt",
        b"application/javascript",
        b"application/json",
        b"application/opentype",
        b"application/otf",
        b"application/pkcs7-mime",
        b"application/protobuf",
        b"application/rss+xml",
        b"application/truetype",
        b"application/ttf",
        b"application/vnd.apple.mpegurl",
        b"application/vnd.mapbox-vector-tile",
        b"application/vnd.ms-fontobject",
        b"application/x-font-opentype",
        b"application/x-font-truetype",
        b"application/x-font-ttf",
        b"application/x-httpd-cgi",
        b"application/x-javascript",
        b"application/x-mpegurl",
        b"application/x-opentype",
        b"application/x-otf",
        b"application/x-perl",
        b"application/x-ttf",
        b"application/xhtml+xml",
        b"application/xml",
        b"font/eot",
        b"font/opentype",
        b"font/otf",
        b"font/ttf",
        b"image/svg+xml",
        b"text/css",
        b"text/csv",
        b"text/html",
        b"text/javascript",
        b"text/js",
        b"text/plain",
        b"text/richtext",
        b"text/tab-separated-values",
        b"text/x-component",
        b"text/x-java-source",
        b"text/x-script",
        b"text/xml",
        b"vnd.apple.mpegurl",
    }
)


_NO_TRANSFORM: Final = re.compile(rb"(?:^|[\s,])no-transform(?:$|[\s,;=])", re.IGNORECASE)


# Digests of the bytes that the origin sent, which would be wrong for compressed ones (RFC 9530).
_DIGESTS: Final = frozenset({b"content-digest", b"content-md5", b"digest", b"repr-digest"})


def compressible(behavior: Behavior, status: int, headers: Headers, length: int | None) -> bool:
    """Whether this answer of an origin would be compressed for a viewer that accepts compression (§5.11).

    `no-transform` forbids it for every viewer (RFC 9110 §7.7); CloudFront's documentation does not mention it.

    :param length: the size of the body in bytes if Content-Length frames it, else None.
    """
    if not behavior.compress or status not in _STATUSES:
        return False
    if length is None or not SMALLEST <= length <= LARGEST:
        return False
    content_type = b""
    for name, value in headers:
        if name == b"content-encoding" or (name == b"cache-control" and _NO_TRANSFORM.search(value)):
            return False
        if name == b"content-type" and not content_type:
            content_type = value.partition(b";")[0].strip().lower()
    return content_type in _TYPES


def coding_for(accepted: bytes | None) -> bytes:
    """The coding for a viewer: `br` in preference to `gzip`, otherwise `IDENTITY`.

    :param accepted: the normalized Accept-Encoding, as returned by `accepted_encoding`.
    """
    if accepted is None:
        return IDENTITY
    return b"br" if accepted.startswith(b"br") else b"gzip" if accepted == b"gzip" else IDENTITY


def compressed(coding: bytes) -> bool:
    """Whether this is the coding of something that the edge has compressed. Empty and `IDENTITY` are not."""
    return coding == b"gzip" or coding == b"br"


_ETAG: Final = re.compile(rb'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')


def entity_tag(etag: bytes | None, coding: bytes) -> bytes | None:
    """The origin's entity tag as viewers see it: weak if the edge compressed the body. An invalid tag of a compressed
    body is dropped (§5.11)."""
    if etag is None or not compressed(coding):
        return etag
    if not _ETAG.fullmatch(etag):
        return None
    return etag if etag.startswith(b"W/") else b"W/" + etag


def represented(headers: Headers, coding: bytes) -> Headers:
    """An origin's headers as viewers see them once the body has this coding; unchanged if the coding is empty.

    The body's length and digests are left out if it is compressed.
    """
    if not coding:
        return headers
    kept: Headers = []
    vary_lines: list[bytes] = []
    for name, value in headers:
        if name == b"vary":
            vary_lines.append(value)
        elif not compressed(coding):
            kept.append((name, value))
        elif name == b"etag":
            etag = entity_tag(value, coding)
            if etag is not None:
                kept.append((name, etag))
        elif name not in _DIGESTS and name != b"content-length" and name != b"content-encoding":
            kept.append((name, value))
    vary = b", ".join([line for line in vary_lines if line])
    members = {member.strip().lower() for member in vary.split(b",")}
    if not members & {b"*", b"accept-encoding"}:
        vary = vary + b", Accept-Encoding" if vary else b"Accept-Encoding"
    kept.append((b"vary", vary))
    if compressed(coding):
        kept.append((b"content-encoding", coding))
    return kept
