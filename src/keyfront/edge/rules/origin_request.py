"""Rules for the headers, cookies, and parameters that the edge sends to the origin.

A behavior sends to the origin what it selects (cloudfront-semantics §5.7, §5.8), but never anything that a viewer
could use to impersonate the edge: connection-specific fields (RFC 9110 §7.6.1), and names that the edge itself fills
in. Names are compared as CGI-like origins would read them, so `X_Real_IP` counts as `X-Real-IP`.

The cache key (`cache_key`) is built from the same view of the request as what is sent: a field nominated in
`Connection`, which therefore does not reach the origin, is not in the key either. Otherwise a viewer could have an
answer generated without a field and stored under the key of one generated with it.

Toward the viewer, `viewer_response.viewer_headers` is the only place where an origin's fields are removed.
"""

from __future__ import annotations

import re
from typing import Final

from keyfront.edge.rules.encoding import accepted_encoding
from keyfront.edge.rules.override_headers import names_client, overrides_request, varies_answer
from keyfront.edge.rules.selection import bytes_names, listed_names, select_cookies
from keyfront.edge.rules.viewer_hints import DEVICE_HEADERS, Country, hint_value, no_country
from keyfront.edge.semantics.fields import CONDITIONAL, HOP_BY_HOP, connection_options
from keyfront.edge.types.messages import Headers, Request
from keyfront.model.snapshot import Behavior, Origin

# Fields that the edge sets: a viewer's value is extended (Via, X-Forwarded-For) or discarded.
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
EDGE_PREFIXES: Final = (b"cloudfront-", b"x-edge-")
# What only the edge can know. A viewer's value passes only if the behavior names the field (§5.8).
_SPOOFABLE: Final = frozenset({b"x-forwarded-proto", b"x-real-ip"})
# Legacy settings forward every other field that they do not list (§5.8).
_LEGACY_REMOVED: Final = _SPOOFABLE | {
    b"accept",
    b"accept-charset",
    b"accept-language",
    b"referer",
    b"x-http-method-override",
}
# They describe a body and are sent only with it.
_OF_BODY: Final = frozenset(
    {b"content-encoding", b"content-language", b"content-md5", b"content-range", b"content-type"}
)


def storable_method(behavior: Behavior, method: str) -> bool:
    """Whether answers to this method may be stored: GET and HEAD, and OPTIONS where the behavior caches it (§5.3)."""
    return behavior.caches and method in ("GET", "HEAD", "OPTIONS") and method in behavior.cached_methods


def origin_host(origin: Origin, viewer_scheme: str) -> str:
    """The Host of the origin: its domain name, with the port unless that is the scheme's default."""
    scheme = origin_scheme(origin, viewer_scheme)
    port = origin.https_port if scheme == "https" else origin.http_port
    name = origin.domain_name
    if ":" in name and not name.startswith("["):
        name = f"[{name}]"
    return name if port == (443 if scheme == "https" else 80) else f"{name}:{port}"


def origin_scheme(origin: Origin, viewer_scheme: str) -> str:
    """`http` or `https`, according to the origin's protocol policy (§5.14)."""
    policy = origin.protocol_policy
    return viewer_scheme if policy == "match-viewer" else policy.removesuffix("-only")


def origin_headers(  # noqa: PLR0913 - one rule per parameter, all but three by keyword
    behavior: Behavior,
    origin: Origin,
    request: Request,
    *,
    request_id: str,
    via: str,
    country: Country = no_country,
    restricted: bool | None = None,
    guarded: bool | None = None,
) -> Headers:
    """The headers of the request to the origin (§5.8), Host first: everything except framing and Connection.

    The viewer's conditional and range headers are included; a request that fills the cache must leave out
    `CONDITIONAL`.

    :param request_id: the value of X-Amz-Cf-Id.
    :param via: the edge's own entry for Via.
    :param country: called only if CloudFront-Viewer-Country is selected.
    :param restricted: whether a signature was required; signed cookies are then never forwarded. Default: the
        behavior's setting.
    :param guarded: whether any path of the site requires a signature, or its origins' files are only partly public:
        then no viewer may make an origin answer for another path. Default: whether this path requires one.
    """
    method = request.method
    if guarded is None:
        guarded = behavior.restricted if restricted is None else restricted
    stored = storable_method(behavior, method)
    select = behavior.forward_headers
    listed = listed_names(behavior.key_headers, select)
    own = {_canonical(n.lower().encode("latin-1")) for n, _ in origin.custom_headers}
    hidden = connection_options(request.headers)

    has_body = request.body is not None

    def is_forwarded(name: bytes) -> bool:
        return name in listed or _passes(
            behavior, name, method, stored=stored, guarded=guarded, has_body=has_body
        )

    host = request.host if is_forwarded(b"host") else origin_host(origin, request.scheme)
    headers: Headers = [(b"host", host.encode("latin-1"))]
    via_before: list[bytes] = []
    for_before: list[bytes] = []
    forwards_agent = is_forwarded(b"user-agent")
    normalises = behavior.accept_gzip or behavior.accept_brotli
    forwards_encoding = not normalises and is_forwarded(b"accept-encoding")
    for name, value in request.headers:
        if name in hidden:
            continue
        if name in _OURS:
            if name == b"via":
                via_before.append(value)
            elif name == b"x-forwarded-for":
                for_before.append(value)
            elif (name == b"user-agent" and forwards_agent) or (
                name == b"accept-encoding" and forwards_encoding
            ):
                headers.append((name, value))
            continue
        canonical = _canonical(name)
        if canonical is not name and _shadows(canonical, listed, own) and name not in listed:
            continue
        if canonical in own or canonical.startswith(EDGE_PREFIXES):
            continue
        if is_forwarded(name):
            headers.append((name, value))

    if not forwards_agent:
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
            made = hint_value(name, request, country)
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
        headers = [h for h in headers if h[0] != b"authorization"]  # the edge's own replaces it (§5.14)
    return headers


_NOT_OF_NAMES: Final = re.compile(rb"[^0-9a-z-]")


def _canonical(name: bytes) -> bytes:
    """The name as an origin behind CGI or WSGI reads it. There `_` and `-` are the same, and with some servers
    (lighttpd, Apache 2.2) so is every character that is neither letter nor digit. Returns `name` itself if `-` is the
    only such character in it."""
    return name if name.replace(b"-", b"").isalnum() else _NOT_OF_NAMES.sub(b"-", name)


def _shadows(canonical: bytes, listed: frozenset[bytes], own: set[bytes]) -> bool:
    """Whether a field of this name could be mistaken for one that the edge sets, removes, or keys on."""
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
        or canonical.startswith(EDGE_PREFIXES)
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
    """Whether a viewer's field of this name, which is not listed, is sent to the origin (§5.8).

    `stored` means that the answer may be stored; `guarded` is as in `origin_headers`. Not called for fields that the
    edge sets itself, except Host, User-Agent, and Accept-Encoding.
    """
    select = behavior.forward_headers
    mode = select.mode
    if mode in ("all", "allExcept"):
        if mode == "allExcept" and name in bytes_names(select.names):
            return False
        # Where the answer may be stored, these are in the key (`keys_overrides`).
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
    """Whether a viewer's request for something storable can change the value of this lowercase field that the origin
    sees.

    Vary retains only such names (§5.9): a value that is always the same cannot make answers differ.
    """
    if name in (b"accept-encoding", b"cookie"):
        return True
    if name in HOP_BY_HOP or name in (b"expect", b"content-length", b"x-amz-cf-id") or name in CONDITIONAL:
        return False
    if name in (b"via", b"x-forwarded-for"):
        return True
    listed = listed_names(behavior.key_headers, behavior.forward_headers)
    if name.startswith(EDGE_PREFIXES):
        return name in listed
    if name in listed or (name == b"user-agent" and not DEVICE_HEADERS.isdisjoint(listed)):
        return True
    return _passes(behavior, name, "GET", stored=True)


def differs_under_one_key(behavior: Behavior, name: bytes) -> bool:
    """Whether two requests with the same cache key can show the origin different values of this field.

    Only such fields need to be compared when an answer varies on them; the key already covers the others.
    `Accept-Encoding: identity` and no Accept-Encoding count as the same, as in the key (§5.11).
    """
    if name == b"cookie":
        return behavior.forward_cookies != behavior.key_cookies
    if name == b"accept-encoding" and (behavior.accept_gzip or behavior.accept_brotli):
        return False
    key = behavior.key_headers
    if (
        key.mode == "whitelist"
        and name in bytes_names(key.names)
        and name not in (b"via", b"x-forwarded-for")
    ):
        return False
    if name in (b"accept-encoding", b"user-agent"):
        listed = listed_names(key, behavior.forward_headers)
        return name in listed or _passes(behavior, name, "GET", stored=True)
    return reaches_origin(behavior, name)


MAX_CHAIN: Final = 2
"""Maximum number of distributions that a request may pass in sequence (§3.3)."""


def chained_too_long(request: Request) -> bool:
    """Whether the request has already passed as many distributions as it may. This also stops a distribution whose
    origin is itself. Viewers can send any Via, so this protects the edge but proves nothing."""
    passed = 0
    for name, value in request.headers:
        if name == b"via":
            passed += value.count(b".cloudfront.net (CloudFront)")
    return passed >= MAX_CHAIN
