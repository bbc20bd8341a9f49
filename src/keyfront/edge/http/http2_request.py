"""Requests over HTTP/2 (RFC 9113 section 8.3): header lists turned into `Request`s, or refused. Pure."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from keyfront.edge.http.request_target import (
    MAX_DIGITS,
    MAX_HEAD,
    MAX_TARGET,
    host_text,
    in_origin_form,
    parse_host,
)
from keyfront.edge.http.trusted_proxies import TrustedProxies
from keyfront.edge.semantics.header_limits import too_many_lines
from keyfront.edge.serving.fast_path import Caller
from keyfront.edge.types.messages import Headers, Request

VERSION: Final = "2.0"

_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_BREAKING: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]|\A[ \t]|[ \t]\Z")
"""What no value may contain (RFC 9113 §8.2.1), and other control characters, which an origin over HTTP/1.1 might take
for something else."""
_CONNECTION_SPECIFIC: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
_PSEUDO: Final = (b":method", b":scheme", b":path", b":authority")


class Parsed(NamedTuple):
    """A request, and the name of the refusal if it is not acceptable. `length` is its Content-Length, -1 if it has
    none; `expects`, whether the viewer waits for 100 Continue."""

    request: Request
    refusal: str
    length: int
    expects: bool


def parse(
    headers: Headers,
    caller: Caller,
    scheme: str,
    proxies: TrustedProxies | None,
    *,
    has_body: bool,
) -> Parsed:
    """The request that a header list describes, without its body."""
    pseudo: dict[bytes, bytes] = {}
    fields: Headers = []
    cookies: list[bytes] = []
    hosts: list[bytes] = []
    length = -1
    size = 26
    bad = regular = expects = False
    expectation = b""
    for name, value in headers:
        size += len(name) + len(value) + 4
        if name.startswith(b":"):
            bad = bad or regular or name in pseudo or name not in _PSEUDO
            pseudo[name] = value
            continue
        regular = True
        if name == b"host":
            hosts.append(value)
            continue
        if name == b"cookie":
            cookies.append(value)
        elif name == b"content-length":
            if length >= 0 or not value.isdigit() or len(value) > MAX_DIGITS:
                bad = True
            else:
                length = int(value)
        elif name == b"expect":
            expects, expectation = True, value.lower()
        elif name in _CONNECTION_SPECIFIC or (name == b"te" and value.lower() != b"trailers"):
            bad = True
        if _NAME.fullmatch(name) is None or _BREAKING.search(value) is not None:
            bad = True
        fields.append((name, value))
    authority = pseudo.get(b":authority")
    hosts += [authority] if authority is not None else []
    raw_host = hosts[0] if hosts else None
    raw = pseudo.get(b":path", b"")
    method = pseudo.get(b":method", b"").decode("latin-1")
    target = raw.decode("latin-1")
    host = parse_host.get(raw_host) or host_text(raw_host)
    asterisk = raw == b"*" and method == "OPTIONS"
    bad = (
        bad
        or b":scheme" not in pseudo
        or not host
        or any(other != raw_host for other in hosts)
        or re.fullmatch(r"[A-Z-]{1,32}", method) is None
        or method == "CONNECT"
        or not (in_origin_form(raw) or asterisk)
        or (length > 0 and not has_body)
    )
    client = caller.address
    if raw_host is not None:
        fields.insert(0, (b"host", raw_host))
    if proxies is not None:
        client, scheme, fields = proxies.viewer(client, fields, scheme)
    request = Request(
        method or "-",
        target[:MAX_TARGET] or "-",
        host,
        fields,
        scheme,
        client,
        caller.port,
        VERSION,
        b"; ".join(cookies).decode("latin-1") if cookies else "",
        None,
        length if length >= 0 else None,
        size,
        caller.tls,
        connection=caller.number,
    )
    if size > MAX_HEAD or len(raw) > MAX_TARGET:
        return Parsed(request, "too_large", length, expects)
    if too_many_lines(headers):
        return Parsed(request, "too_many_headers", length, expects)
    if bad:
        return Parsed(request, "bad_request", length, expects)
    if expects and expectation != b"100-continue":
        return Parsed(request, "expectation_failed", length, expects)
    return Parsed(request, "", length, expects)
