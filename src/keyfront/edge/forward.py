"""Which headers, cookies and parameters cross the edge, in both directions, and which of them make the cache
key.

Toward the origin a behavior sends what it selects (cloudfront-semantics §5.7, §5.8), never what a viewer
could use to speak for the edge: fields of the connection (RFC 9110 §7.6.1), and names that the edge itself
fills in. Names are compared as CGI-like origins would read them, so `X_Real_IP` counts as `X-Real-IP`.

What enters the key is taken from the same view of the request as what is sent: a field that is nominated in
`Connection`, and so will not reach the origin, is not in the key either. Otherwise a viewer could have an
answer made without a field stored under the key of one made with it.

Back toward the viewer, `viewer_headers` is the one place where an origin's fields are held back.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from keyfront.edge.exchange import Headers, Request
from keyfront.edge.overrides import names_client, overrides_request, varies_answer
from keyfront.model.pattern import compile_pattern
from keyfront.model.snapshot import Behavior, Origin, Select

Country = Callable[[str], str]
"""The ISO code of the country of an address, or "" if unknown."""

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Fields that speak about one connection: they cross the edge in neither direction."""

CONDITIONAL: Final = frozenset(
    {b"if-match", b"if-modified-since", b"if-none-match", b"if-range", b"if-unmodified-since", b"range"}
)
"""Fields with which a request asks for less than the whole response."""

SIGNING_COOKIES: Final = frozenset(
    {
        "CloudFront-Expires",
        "CloudFront-Hash-Algorithm",
        "CloudFront-Key-Pair-Id",
        "CloudFront-Policy",
        "CloudFront-Signature",
    }
)

# Fields that the edge makes: a viewer's value is built upon (Via, X-Forwarded-For) or thrown away.
_OURS: Final = HOP_BY_HOP | {
    b"accept-encoding",
    b"content-length",
    b"cookie",
    b"expect",
    b"host",
    b"user-agent",
    b"via",
    b"x-amz-cf-id",
    b"x-forwarded-for",
}
_OUR_PREFIXES: Final = (b"cloudfront-", b"x-edge-")
_LONGEST_CACHED: Final = 1024
"""Bytes of a viewer's value up to which what follows from it is remembered."""
# What only the edge can know. A viewer's word for it passes only if the behavior names the field (§5.8).
_SPOOFABLE: Final = frozenset({b"x-forwarded-proto", b"x-real-ip"})
# Legacy settings forward every other field that they do not list (§5.8).
_LEGACY_REMOVED: Final = _SPOOFABLE | {
    b"accept",
    b"accept-charset",
    b"accept-language",
    b"referer",
    b"x-http-method-override",
}
# They describe a body, and go where it goes.
_OF_BODY: Final = frozenset(
    {b"content-encoding", b"content-language", b"content-md5", b"content-range", b"content-type"}
)

_DEVICE: Final = frozenset(
    {
        b"cloudfront-is-android-viewer",
        b"cloudfront-is-desktop-viewer",
        b"cloudfront-is-ios-viewer",
        b"cloudfront-is-mobile-viewer",
        b"cloudfront-is-smarttv-viewer",
        b"cloudfront-is-tablet-viewer",
    }
)


# -- selections ----------------------------------------------------------------------------------------------


def select_query(select: Select, query: str) -> str:
    """The part of a raw query string (no `?`) that is selected: order, case, encoding and repeats as sent.

    `&` is the only delimiter; names are compared raw and case-sensitively (§5.7).
    """
    mode = select.mode
    if mode == "all" or not query:
        return query
    if mode == "none":
        return ""
    names = select.names
    if mode == "whitelist":
        return "&".join([p for p in query.split("&") if p.partition("=")[0] in names])
    return "&".join([p for p in query.split("&") if p.partition("=")[0] not in names])


def select_cookies(select: Select, cookie: str, *, signing: bool = False) -> str:
    """The cookies of a Cookie header that are selected, sorted by name, repeats in their order (§5.7).

    Names are case-sensitive; `*` and `?` in a listed name are wildcards.

    :param signing: keep the cookies that carry a signature (`CloudFront-Policy` and its kin), else they are
    dropped.
    """
    mode = select.mode
    if mode == "none" or not cookie:
        return ""
    matches = _cookie_matcher(select.names) if mode != "all" else None
    pairs = []
    for piece in cookie.split(";"):
        piece = piece.strip(" \t")
        name = piece.partition("=")[0].rstrip(" \t")
        if not piece or (not signing and name in SIGNING_COOKIES):
            continue
        if matches is not None and matches(name) == (mode == "allExcept"):
            continue
        pairs.append((name, piece))
    pairs.sort(key=_name)
    return "; ".join([piece for _, piece in pairs])


def _name(pair: tuple[str, str]) -> str:
    return pair[0]


@lru_cache(maxsize=1024)
def _cookie_matcher(names: tuple[str, ...]) -> Callable[[str], bool]:
    exact = frozenset(n for n in names if "*" not in n and "?" not in n)
    wild = [compile_pattern("/" + n) for n in names if n not in exact]
    if not wild:
        return exact.__contains__
    return lambda name: name in exact or any(matches("/" + name) for matches in wild)


@lru_cache(maxsize=1024)
def _bytes_names(names: tuple[str, ...]) -> frozenset[bytes]:
    return frozenset(n.encode("latin-1") for n in names)


_NOTHING: Final = Select()


@lru_cache(maxsize=1024)
def _listed(key: Select, forward: Select) -> frozenset[bytes]:
    """Names that the behavior lists as wanted, in its key or beside it."""
    names: frozenset[bytes] = frozenset()
    if key.mode in ("whitelist", "all"):
        names |= _bytes_names(key.names)
    if forward.mode in ("whitelist", "all"):
        names |= _bytes_names(forward.names)
    return names


# -- the request as the edge sees it -------------------------------------------------------------------------


# What almost every Connection field says; it names no field.
_PERSISTENCE: Final = frozenset({b"keep-alive", b"Keep-Alive", b"close"})
_NONE: Final[frozenset[bytes]] = frozenset()


def connection_options(headers: Headers) -> frozenset[bytes]:
    """The lower-case options of Connection: names of fields that are for the next hop alone (RFC 9110 §7.6.1)."""
    options: list[bytes] = []
    for name, value in headers:
        if name == b"connection" and value not in _PERSISTENCE:
            options += [option.strip(b" \t").lower() for option in value.split(b",")]
    return frozenset(options) - {b"close", b"keep-alive", b"host", b""} if options else _NONE


_ZERO: Final = re.compile(rb"\s*q\s*=\s*0(?:\.0*+)?\s*")


def _accepted(value: bytes, gzip: bool, brotli: bool, legacy: bool) -> bytes | None:
    """Accept-Encoding normalised: `br,gzip`, `br`, `gzip`, `identity` or, as for a field that was not sent, nothing
    (§5.11). Legacy settings know only `gzip` and nothing."""
    if len(value) > _LONGEST_CACHED:
        return _normalised(value, gzip, brotli, legacy)
    return _normalised_before(value, gzip, brotli, legacy)


def _normalised(value: bytes, gzip: bool, brotli: bool, legacy: bool) -> bytes | None:
    if not value.strip(b", \t"):
        return None
    accepted = set()
    for item in value.lower().split(b","):
        coding, _, weight = item.partition(b";")
        if not weight or not _ZERO.fullmatch(weight):
            accepted.add(coding.strip())
    codings = [c for c, wanted in ((b"br", brotli), (b"gzip", gzip)) if wanted and c in accepted]
    return b",".join(codings) or (None if legacy else b"identity")


_normalised_before = lru_cache(maxsize=128)(_normalised)


def accepted_encoding(
    behavior: Behavior, request: Request, hidden: frozenset[bytes] | None = None
) -> bytes | None:
    """The normalised Accept-Encoding of a request, None for none at all. Only where the behavior normalises it.

    A viewer that speaks HTTP/1.0 gets nothing compressed, so its field counts as not sent (§5.11).

    :param hidden: what the request's Connection names, if that is known already.
    """
    if request.version == "1.0":
        return None
    if b"accept-encoding" in (connection_options(request.headers) if hidden is None else hidden):
        return None
    value = b",".join([v for n, v in request.headers if n == b"accept-encoding"])
    return _accepted(value, behavior.accept_gzip, behavior.accept_brotli, behavior.legacy)


def _made(name: bytes, request: Request, country: Country) -> bytes | None:
    """The value of a CloudFront-* header (§5.15), None if the edge does not know it."""
    if name in _DEVICE:
        return b"true" if name in devices(request.header(b"user-agent") or b"") else b"false"
    if name == b"cloudfront-viewer-country":
        return country(request.client_ip).encode("latin-1") or None
    if name == b"cloudfront-forwarded-proto":
        return request.scheme.encode("latin-1")
    if name == b"cloudfront-viewer-address":
        return f"{request.client_ip}:{request.client_port}".encode("latin-1")
    if name == b"cloudfront-viewer-http-version":
        version = request.version
        return (version if "." in version else version + ".0").encode("latin-1")
    if name == b"cloudfront-viewer-header-count":
        return b"%d" % len(request.headers)
    if name == b"cloudfront-viewer-header-order":
        return b":".join([n for n, _ in request.headers])[:7680]
    return None


def devices(user_agent: bytes) -> frozenset[bytes]:
    """The CloudFront-Is-*-Viewer headers that are true for this User-Agent. A guess from its usual marks, which are
    looked for in its first 1,024 bytes."""
    return _devices(user_agent[:_LONGEST_CACHED])


@lru_cache(maxsize=128)
def _devices(user_agent: bytes) -> frozenset[bytes]:
    agent = user_agent.lower()
    kinds = set()
    android = b"android" in agent
    if android:
        kinds.add(b"cloudfront-is-android-viewer")
    if b"iphone" in agent or b"ipad" in agent or b"ipod" in agent:
        kinds.add(b"cloudfront-is-ios-viewer")
    television = any(mark in agent for mark in _TELEVISION)
    tablet = b"ipad" in agent or b"tablet" in agent or b"kindle" in agent or b"silk/" in agent
    tablet = tablet or (android and b"mobile" not in agent)
    if television:
        kinds.add(b"cloudfront-is-smarttv-viewer")
    elif tablet:
        kinds.add(b"cloudfront-is-tablet-viewer")
    elif b"mobi" in agent or b"iphone" in agent or b"ipod" in agent:
        kinds.add(b"cloudfront-is-mobile-viewer")
    else:
        kinds.add(b"cloudfront-is-desktop-viewer")
    return frozenset(kinds)


_TELEVISION: Final = (
    b"smart-tv",
    b"smarttv",
    b"googletv",
    b"appletv",
    b"apple tv",
    b"hbbtv",
    b"netcast",
    b"web0s",
    b"webos.tv",
    b"bravia",
    b"roku",
    b"aftb",
    b"aftm",
    b"afts",
    b"aftt",
    b"crkey",
)


def _no_country(address: str) -> str:
    return ""


# -- the cache key -------------------------------------------------------------------------------------------


def key_suffix(behavior: Behavior, request: Request, query: str, country: Country = _no_country) -> str:
    """What the selected headers, cookies and parameters and the normalised Accept-Encoding add to a cache
    key.

    "" where nothing is selected or nothing selected was sent. Otherwise each part is a line break, its kind,
    its length and its text, so no two different selections spell the same suffix, whatever bytes they hold.

    :param query: the viewer's own raw query string, signing parameters removed.
    """
    text = query_part(behavior, query) if query else ""
    cookie = request.cookie if behavior.key_cookies.mode != "none" else ""
    gzip, brotli = behavior.accept_gzip, behavior.accept_brotli
    selects = behavior.key_headers.mode != "none"
    overridden = keys_overrides(behavior)
    if not (gzip or brotli or selects or cookie or overridden):
        return text
    # One look at the headers, since this is asked at every request.
    encoding = b""
    repeated = names_fields = False
    for name, value in request.headers:
        if name == b"accept-encoding":
            repeated = repeated or encoding != b""
            encoding = encoding or value
        elif name == b"connection" and value not in _PERSISTENCE:
            names_fields = True
    hidden = connection_options(request.headers) if names_fields else _NONE
    if repeated:
        encoding = b",".join([value for name, value in request.headers if name == b"accept-encoding"])
    if cookie and b"cookie" not in hidden:
        cookie = select_cookies(behavior.key_cookies, cookie)
        if cookie:
            text += f"\nc{len(cookie)}:{cookie}"
    if encoding and (gzip or brotli) and b"accept-encoding" not in hidden and request.version != "1.0":
        accepted = _accepted(encoding, gzip, brotli, behavior.legacy)
        if accepted is not None:
            text += _ENCODING_PARTS[accepted]
    if selects:
        text += _key_headers(behavior.key_headers, request, hidden, country)
    if overridden:
        text += _override_part(behavior, request, hidden)
    return text


def keys_overrides(behavior: Behavior) -> bool:
    """Does the behavior send on headers that it neither lists nor has in its key, and keep the answers?

    What of them makes an origin answer for another request (`overrides_request`) is in the key here, unlike at
    CloudFront, and so is Host: else one viewer could choose what all others get.
    """
    return behavior.caches and behavior.forward_headers.mode in ("all", "allExcept")


def _override_part(behavior: Behavior, request: Request, hidden: frozenset[bytes]) -> str:
    names = _listed(behavior.key_headers, _NOTHING)
    select = behavior.forward_headers
    parts = [
        (name, value.strip(b" \t"))
        for name, value in request.headers
        if overrides_request(name) and name not in hidden and name not in names
    ]
    if b"host" not in names and not (select.mode == "allExcept" and b"host" in _bytes_names(select.names)):
        parts.append((b"host", request.host.encode("latin-1")))
    parts.sort(key=_first)
    return "".join([f"\no{len(n)}:{n.decode('latin-1')}{len(v)}:{v.decode('latin-1')}" for n, v in parts])


def query_part(behavior: Behavior, query: str) -> str:
    """What the selected parameters of a raw query string add to a cache key: the first part of `key_suffix`."""
    if behavior.key_query.mode != "none":
        query = select_query(behavior.key_query, query)
        if query:
            return f"\nq{len(query)}:{query}"
    return ""


_ENCODING_PARTS: Final = {b"br,gzip": "\ne7:br,gzip", b"br": "\ne2:br", b"gzip": "\ne4:gzip", b"identity": ""}


def _key_headers(select: Select, request: Request, hidden: frozenset[bytes], country: Country) -> str:
    names = _bytes_names(select.names)
    mode = select.mode
    parts: list[tuple[bytes, bytes]] = []
    for name, value in request.headers:
        if (
            name in HOP_BY_HOP
            or name in hidden
            or name in (b"cookie", b"host")
            or name.startswith(_OUR_PREFIXES)
        ):
            continue
        if mode == "all" or (name in names) == (mode == "whitelist"):
            parts.append((name, value.strip(b" \t")))
    if mode == "all" or (b"host" in names) == (mode == "whitelist"):
        # Not the field: an absolute-form target may name another host, or there may be no field.
        parts.append((b"host", request.host.encode("latin-1")))
    if mode != "allExcept":
        for name in names:
            if name.startswith(b"cloudfront-"):
                made = _made(name, request, country)
                if made is not None:
                    parts.append((name, made))
    parts.sort(key=_first)
    return "".join([f"\nh{len(n)}:{n.decode('latin-1')}{len(v)}:{v.decode('latin-1')}" for n, v in parts])


def _first(pair: tuple[bytes, bytes]) -> bytes:
    return pair[0]


# -- toward the origin ---------------------------------------------------------------------------------------


def storable_method(behavior: Behavior, method: str) -> bool:
    """May answers to this method be stored? GET and HEAD, OPTIONS where the behavior caches it (§5.3)."""
    return behavior.caches and method in ("GET", "HEAD", "OPTIONS") and method in behavior.cached_methods


def origin_host(origin: Origin, viewer_scheme: str) -> str:
    """The Host that belongs to the origin: its domain name, with the port if it is not the scheme's own."""
    scheme = origin_scheme(origin, viewer_scheme)
    port = origin.https_port if scheme == "https" else origin.http_port
    name = origin.domain_name
    if ":" in name and not name.startswith("["):
        name = f"[{name}]"
    return name if port == (443 if scheme == "https" else 80) else f"{name}:{port}"


def origin_scheme(origin: Origin, viewer_scheme: str) -> str:
    """`http` or `https`, as the origin's protocol policy says (§5.14)."""
    policy = origin.protocol_policy
    return viewer_scheme if policy == "match-viewer" else policy.removesuffix("-only")


def origin_headers(
    behavior: Behavior,
    origin: Origin,
    request: Request,
    *,
    request_id: str,
    via: str,
    country: Country = _no_country,
    restricted: bool | None = None,
    guarded: bool | None = None,
) -> Headers:
    """The headers to ask the origin with (§5.8), Host first, everything but framing and Connection.

    A viewer's conditions and ranges are among them: who fills the cache leaves out `CONDITIONAL`.

    :param request_id: the value of X-Amz-Cf-Id.
    :param via: the edge's own entry for Via.
    :param country: asked only if CloudFront-Viewer-Country is selected.
    :param restricted: whether a signature was needed; signed cookies never go further then. Default: the
    behavior's.
    :param guarded: whether some path of the site needs a signature, or its origins' files are in part only for it:
        then no viewer may have an origin answer for another path. Default: whether this path needs one.
    """
    method = request.method
    if guarded is None:
        guarded = behavior.restricted if restricted is None else restricted
    stored = storable_method(behavior, method)
    select = behavior.forward_headers
    listed = _listed(behavior.key_headers, select)
    own = {_canonical(n.lower().encode("latin-1")) for n, _ in origin.custom_headers}
    hidden = connection_options(request.headers)

    has_body = request.body is not None

    def wanted(name: bytes) -> bool:
        return name in listed or _passes(
            behavior, name, method, stored=stored, guarded=guarded, has_body=has_body
        )

    host = request.host if wanted(b"host") else origin_host(origin, request.scheme)
    headers: Headers = [(b"host", host.encode("latin-1"))]
    via_before: list[bytes] = []
    for_before: list[bytes] = []
    agent_wanted = wanted(b"user-agent")
    normalises = behavior.accept_gzip or behavior.accept_brotli
    encoding_wanted = not normalises and wanted(b"accept-encoding")
    for name, value in request.headers:
        if name in hidden:
            continue
        if name in _OURS:
            if name == b"via":
                via_before.append(value)
            elif name == b"x-forwarded-for":
                for_before.append(value)
            elif (name == b"user-agent" and agent_wanted) or (name == b"accept-encoding" and encoding_wanted):
                headers.append((name, value))
            continue
        canonical = _canonical(name)
        if canonical is not name and _shadows(canonical, listed, own) and name not in listed:
            continue
        if canonical in own or canonical.startswith(_OUR_PREFIXES):
            continue
        if wanted(name):
            headers.append((name, value))

    if not agent_wanted:
        headers.append((b"user-agent", b"Amazon CloudFront"))
    if normalises:
        accepted = accepted_encoding(behavior, request, hidden)
        if accepted is not None:
            headers.append((b"accept-encoding", accepted))
    if request.cookie and b"cookie" not in hidden:
        needed = behavior.restricted if restricted is None else restricted
        cookies = select_cookies(behavior.forward_cookies, request.cookie, signing=not needed and not stored)
        if cookies:
            headers.append((b"cookie", cookies.encode("latin-1")))
    for name in sorted(listed):
        if name.startswith(b"cloudfront-"):
            made = _made(name, request, country)
            if made is not None:
                headers.append((name, made))
    for_before.append(request.client_ip.encode("latin-1"))
    headers.append((b"x-forwarded-for", b",".join([v.strip(b" \t") for v in for_before if v.strip(b" \t")])))
    via_before.append(via.encode("latin-1"))
    headers.append((b"via", b", ".join([v.strip(b" \t") for v in via_before if v.strip(b" \t")])))
    headers.append((b"x-amz-cf-id", request_id.encode("latin-1")))
    if own:
        headers = [h for h in headers if h[0] not in own or h[0] == b"host"]
        headers += [(n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in origin.custom_headers]
    if origin.signing == "always":
        headers = [h for h in headers if h[0] != b"authorization"]  # the edge's own takes its place (§5.14)
    return headers


_NOT_OF_NAMES: Final = re.compile(rb"[^0-9a-z-]")


def _canonical(name: bytes) -> bytes:
    """The name as an origin behind CGI or WSGI reads it, where `_` and `-` are one, and with some servers (lighttpd,
    Apache 2.2) so is all that is neither letter nor digit; `name` itself if it has none of these but `-`."""
    return name if name.replace(b"-", b"").isalnum() else _NOT_OF_NAMES.sub(b"-", name)


def _shadows(canonical: bytes, listed: frozenset[bytes], own: set[bytes]) -> bool:
    """Would a field of this name be mistaken for one that the edge makes, removes or keys on?"""
    return (
        canonical in _OURS
        or canonical in _LEGACY_REMOVED
        or overrides_request(canonical)
        or names_client(canonical)
        or varies_answer(canonical)
        or canonical in CONDITIONAL
        or canonical in listed
        or canonical in own
        or canonical == b"authorization"
        or canonical.startswith(_OUR_PREFIXES)
    )


def _passes(
    behavior: Behavior,
    name: bytes,
    method: str,
    *,
    stored: bool,
    guarded: bool = False,
    has_body: bool = False,
) -> bool:
    """Does a viewer's field of this name, which is not listed, go to the origin (§5.8)?

    `stored`: the answer may be stored; `guarded`: as in `origin_headers`. Not asked for fields that the edge makes
    itself, except Host, User-Agent and Accept-Encoding.
    """
    select = behavior.forward_headers
    mode = select.mode
    if mode in ("all", "allExcept"):
        if mode == "allExcept" and name in _bytes_names(select.names):
            return False
        # Where the answer may be stored these are in the key (`keys_overrides`).
        return name not in _SPOOFABLE and not (guarded and overrides_request(name))
    if name in (b"host", b"user-agent", b"accept-encoding"):
        return False
    if name == b"authorization":
        if method in ("GET", "HEAD"):
            return False
        return method != "OPTIONS" or "OPTIONS" not in behavior.cached_methods
    if name in CONDITIONAL or (has_body and name in _OF_BODY):
        return True
    if not behavior.legacy or name in _LEGACY_REMOVED or names_client(name):
        return False
    if (stored or guarded) and overrides_request(name):
        return False
    return not (stored and varies_answer(name))


def reaches_origin(behavior: Behavior, name: bytes) -> bool:
    """Can a viewer's request for something storable change what the origin sees in this lower-case field?

    Vary keeps only such names (§5.9): what is always the same cannot make answers differ.
    """
    if name in (b"accept-encoding", b"cookie"):
        return True
    if name in HOP_BY_HOP or name in (b"expect", b"content-length", b"x-amz-cf-id") or name in CONDITIONAL:
        return False
    if name in (b"via", b"x-forwarded-for"):
        return True
    listed = _listed(behavior.key_headers, behavior.forward_headers)
    if name.startswith(_OUR_PREFIXES):
        return name in listed
    if name in listed or (name == b"user-agent" and not _DEVICE.isdisjoint(listed)):
        return True
    return _passes(behavior, name, "GET", stored=True)


def differs_under_one_key(behavior: Behavior, name: bytes) -> bool:
    """Can two requests with the same cache key show the origin different values of this field?

    Only such fields need be compared when an answer varies on them; for the others the key has already done it.
    That a viewer takes `identity` and that it says nothing count as the same, as in the key (§5.11).
    """
    if name == b"cookie":
        return behavior.forward_cookies != behavior.key_cookies
    if name == b"accept-encoding" and (behavior.accept_gzip or behavior.accept_brotli):
        return False
    key = behavior.key_headers
    if (
        key.mode == "whitelist"
        and name in _bytes_names(key.names)
        and name not in (b"via", b"x-forwarded-for")
    ):
        return False
    if name in (b"accept-encoding", b"user-agent"):
        listed = _listed(key, behavior.forward_headers)
        return name in listed or _passes(behavior, name, "GET", stored=True)
    return reaches_origin(behavior, name)


def device_headers(behavior: Behavior) -> tuple[bytes, ...]:
    """The CloudFront-Is-*-Viewer headers that this behavior sends to the origin, in order of their names."""
    return tuple(sorted(_DEVICE & _listed(behavior.key_headers, behavior.forward_headers)))


MAX_CHAIN: Final = 2
"""Distributions that a request may pass in a row (§3.3)."""


def chained_too_long(request: Request) -> bool:
    """Has the request already passed as many distributions as it may? So ends also a distribution whose
    origin is itself. Via is a viewer's to send, so this protects the edge and proves nothing."""
    passed = 0
    for name, value in request.headers:
        if name == b"via":
            passed += value.count(b".cloudfront.net (CloudFront)")
    return passed >= MAX_CHAIN


# -- toward the viewer ---------------------------------------------------------------------------------------

_NOT_FOR_VIEWERS: Final = HOP_BY_HOP | {
    b"content-length",  # framing is the shell's
    b"via",
    b"x-amz-cf-id",
    b"x-amz-cf-pop",
    b"x-cache",
}


def viewer_headers(behavior: Behavior, headers: Headers) -> Headers:
    """An origin's response headers as a viewer may see them (§5.9): on a pass-through, and as they are
    stored.

    Held back: fields of the connection and those that Connection names, framing (the shell writes it), fields
    that the edge fills in itself, Set-Cookie unless the behavior forwards cookies. Vary keeps the names that
    can differ. `Server: CloudFront` is added where the origin names no server.
    """
    hidden = connection_options(headers)
    cookies = behavior.forward_cookies.mode != "none"
    kept: Headers = []
    named = False
    vary: list[bytes] = []
    for header in headers:
        name = header[0]
        if name in _NOT_FOR_VIEWERS or name in hidden:
            continue
        if name == b"vary":
            vary.append(header[1])
            continue
        if name == b"set-cookie" and not cookies:
            continue
        if name == b"server":
            named = True
        kept.append(header)
    if vary:
        names = vary_names(behavior, b",".join(vary))
        if names:
            kept.append((b"vary", b", ".join(names)))
    if not named:
        kept.append((b"server", b"CloudFront"))
    return kept


def interim_headers(behavior: Behavior, headers: Headers) -> Headers:
    """The headers of an origin's interim answer (1xx) as a viewer may see them: as `viewer_headers`, nothing added."""
    named = any(name == b"server" for name, _ in headers)
    return [header for header in viewer_headers(behavior, headers) if named or header[0] != b"server"]


def vary_names(behavior: Behavior, value: bytes) -> list[bytes]:
    """The members of a Vary value that count at this edge, spelled as the origin does (§5.9).

    `*` counts only with MinTTL 0, and then alone.
    """
    members = [member for raw in value.split(b",") if (member := raw.strip(b" \t"))]
    if b"*" in members:
        if behavior.min_ttl == 0:
            return [b"*"]
        members = [m for m in members if m != b"*"]
    return [m for m in members if reaches_origin(behavior, m.lower())]
