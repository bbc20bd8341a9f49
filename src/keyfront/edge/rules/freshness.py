"""Rules for storing an answer, for how long it stays fresh, and for what happens once it is stale.

CloudFront's rules come first (cloudfront-semantics §5.4 to §5.9); RFC 9111 and RFC 5861 apply where CloudFront says
nothing. Everything is decided once, when an answer arrives. `judge`, called for every request, only compares times.

Where CloudFront and RFC 9111 differ, CloudFront wins:

- With a MinTTL above zero, even answers with `no-store`, `no-cache`, or `private` are stored (§5.4).
- DefaultTTL replaces heuristic freshness, whatever the status of a success or a redirect.
- An expired success is served while the origin fails, with no time limit, unless `stale-if-error` sets one or
  `must-revalidate` forbids it (§5.5). `s-maxage` alone does not forbid it, contrary to RFC 9111 §5.2.2.10.
- Cache directives in viewer requests are ignored.
"""

from __future__ import annotations

import re
from copy import copy
from enum import Enum
from typing import Final, NamedTuple
from urllib.parse import urljoin, urlsplit

from keyfront.edge.rules.encoding import compressed, represented
from keyfront.edge.rules.origin_request import storable_method
from keyfront.edge.rules.vary import variant_of
from keyfront.edge.rules.viewer_response import viewer_headers
from keyfront.edge.semantics.cache_control import DELTA_MAX, FOREVER, CacheControl, delta_seconds
from keyfront.edge.semantics.http_dates import format_date, parse_date
from keyfront.edge.types.messages import Header, Headers
from keyfront.edge.types.stored import Meta, born
from keyfront.model.snapshot import Behavior, Origin

ERROR_MIN_TTL: Final = 10
"""ErrorCachingMinTTL, in seconds, where the distribution does not set it (§5.6)."""

# §5.6. 410 is in the newer list of the Developer Guide ("Control how long CloudFront caches errors").
_STORED_ERRORS: Final = frozenset({404, 410, 414, 500, 501, 502, 503, 504})
_STORED_IF_ASKED: Final = frozenset({400, 403, 405, 412, 415})
# Of the errors stored by default, only these may forbid it: the same page says that the others are stored for
# ErrorCachingMinTTL even if they say no-store, no-cache, or private.
_MAY_FORBID: Final = frozenset({404, 410, 414, 501})
# 206 and 304 are parts of an answer; other statuses are for one viewer.
_STORED: Final = frozenset({200, 203, 204, 300, 301, 302, 303, 307, 308})


class Verdict(Enum):
    """What to do with a stored response."""

    HIT = "hit"
    """Serve it."""
    STALE = "stale"
    """Serve it, and fetch a newer one from the origin in the background (stale-while-revalidate)."""
    REVALIDATE = "revalidate"
    """Revalidate it with the origin, using `revalidation_headers`."""
    MISS = "miss"
    """Fetch it again. It may still be served if the origin fails: `serve_stale_on_error`."""


def _firsts(headers: Headers | tuple[Header, ...]) -> dict[bytes, bytes]:
    """The first value of each field: where a field may appear only once, the first one counts."""
    return dict(reversed(headers))


# -- storing -------------------------------------------------------------------------------------------------


class ReceivedResponse(NamedTuple):
    """An origin's response as the storing rules see it, with its head complete.

    `forwarded` are the request headers sent to the origin, at `requested_at`; the response head was complete at
    `received_at` (both in epoch seconds). `coding` is the content coding that the edge applies to the body before
    storing it (`encoding.represented`).
    """

    status: int
    headers: Headers
    forwarded: Headers
    requested_at: float
    received_at: float
    reason: str = ""
    coding: bytes = b""


def admit(
    behavior: Behavior,
    error_min_ttl: int | None,
    method: str,
    response: ReceivedResponse,
    origin: Origin | None = None,
) -> Meta | None:
    """The Meta of a response that may be stored, or None if it must not be.

    :param error_min_ttl: ErrorCachingMinTTL of this status, in seconds; None if the distribution sets none.
    :param method: of the request to the origin. A response to HEAD has no body to store and is not admitted.
    :param origin: an Authorization among its custom headers is the edge's own and does not restrict sharing.
    """
    if method == "HEAD" or not storable_method(behavior, method):
        return None
    control = CacheControl.of(response.headers)
    if not _may_share_authorized(behavior, response.forwarded, control, origin):
        return None
    return _meta(behavior, error_min_ttl, response, control)


def uncached_meta(
    status: int, seen: Headers, headers: Headers, now: float, *, reason: str = "", coding: bytes = b""
) -> Meta:
    """Metadata of an origin's answer that is not stored. It suffices to evaluate the viewer's preconditions, which
    were not sent to the origin.

    :param seen: the headers as that viewer may see them; `headers` are the origin's own.
    :param now: epoch seconds.
    """
    first = _firsts(headers)
    return Meta(
        status,
        tuple([header for header in seen if header[0] != b"age"]),
        stored_at=now,
        fresh_until=0.0,
        date=_date(first, now),
        initial_age=_received_age(first),
        etag=_etag(first),
        last_modified=_last_modified(first, now),
        reason=reason,
        coding=coding,
    )


def _may_share_authorized(
    behavior: Behavior, forwarded: Headers, control: CacheControl, origin: Origin | None
) -> bool:
    """RFC 9111 §3.5: a response to a request with Authorization may be shared only if the response says so. Where the
    field is in the cache key, it is shared with no other viewer."""
    if all(name != b"authorization" for name, _ in forwarded):
        return True
    key = behavior.key_headers
    if key.mode == "all" or (key.mode == "whitelist" and "authorization" in key.names):
        return True
    if origin is not None and any(name.lower() == "authorization" for name, _ in origin.custom_headers):
        return True
    return control.public or control.must_revalidate or control.s_maxage is not None


def _meta(
    behavior: Behavior,
    error_min_ttl: int | None,
    response: ReceivedResponse,
    control: CacheControl,
    *,
    confirmed: bool = False,
) -> Meta | None:
    """:param confirmed: the response is already stored and a 304 has just renewed it. If it should no longer be
    stored, it is at least revalidated at each use."""
    status, headers, forwarded, request_time, now, reason, coding = response
    first = _firsts(headers)
    date = _date(first, now)
    initial_age = _initial_age(first, date, now, request_time)
    remaining = _remaining(first, control, date, initial_age, now)
    success = 200 <= status < 300
    etag = _etag(first) if success else None
    last_modified = _last_modified(first, now) if success else None
    # No conditional requests to the origin where cookies are forwarded (§5.7).
    conditional = (etag or last_modified) is not None and behavior.forward_cookies.mode == "none"
    ttl = _ttl(behavior, error_min_ttl, status, control, remaining)
    seen = viewer_headers(behavior, headers)
    vary, vary_values = variant_of(behavior, seen, forwarded)
    # `*` would match no other request (RFC 9111 §4.1), and CloudFront fetches such a response every time (§5.9).
    unlike_any = vary == (b"*",)
    always = ttl is None or unlike_any
    if always and not confirmed:
        # A response with only no-cache may be stored if every use is validated (RFC 9111 §5.2.2.4).
        only_no_cache = status in _STORED and control.no_cache and not (control.private or control.no_store)
        if unlike_any or not only_no_cache or not conditional:
            return None

    # No status that is stored has a Content-Range of its own.
    dropped = control.no_cache_fields | control.private_fields | {b"age", b"content-range", b"date"}
    kept = [(b"date", format_date(date))]
    kept += represented([h for h in seen if h[0] not in dropped], coding)
    fresh_until = 0.0 if always or ttl is None else now + ttl
    swr_until, sie_until = _stale_windows(behavior, status, control, fresh_until, always=always)
    return Meta(
        status,
        tuple(kept),
        stored_at=now,
        fresh_until=fresh_until,
        date=date,
        initial_age=initial_age,
        length=_length(first),
        etag=etag,
        last_modified=last_modified,
        swr_until=swr_until,
        sie_until=sie_until,
        revalidate_always=always,
        conditional=conditional,
        vary=vary,
        vary_values=vary_values,
        reason=reason,
        coding=coding,
    )


def _ttl(
    behavior: Behavior, error_min_ttl: int | None, status: int, control: CacheControl, remaining: float | None
) -> float | None:
    """The freshness lifetime in seconds, or None if the response is not to be stored (§5.4, §5.6)."""
    if status in _STORED:
        if not control.forbids:
            wanted = behavior.default_ttl if remaining is None else remaining
            return max(behavior.min_ttl, min(wanted, behavior.max_ttl))
        return behavior.min_ttl if behavior.min_ttl > 0 else None
    if status in _STORED_IF_ASKED:
        if control.forbids or (control.max_age is None and control.s_maxage is None):
            return None
    elif status not in _STORED_ERRORS or (status in _MAY_FORBID and control.forbids):
        return None
    floor = ERROR_MIN_TTL if error_min_ttl is None else error_min_ttl
    asked = 0 if remaining is None or control.forbids else min(remaining, behavior.max_ttl)
    return max(floor, asked) or None


def _date(first: dict[bytes, bytes], now: float) -> float:
    value = first.get(b"date")
    date = parse_date(value, now) if value is not None else None
    return now if date is None else date


def _initial_age(first: dict[bytes, bytes], date: float, now: float, request_time: float) -> float:
    """The corrected initial age of RFC 9111 §4.2.3, in seconds, at most `DELTA_MAX`. Date has a resolution of one
    second, so whole seconds are compared."""
    apparent = max(0.0, int(now) - date)
    return min(DELTA_MAX, max(apparent, _received_age(first) + max(0.0, now - request_time)))


def _received_age(first: dict[bytes, bytes]) -> int:
    """The received Age in seconds: the first value if there are several, 0 if there is none (RFC 9111 §5.1)."""
    value = first.get(b"age")
    return (delta_seconds(value.split(b",")[0].strip()) or 0) if value is not None else 0


def _remaining(
    first: dict[bytes, bytes], control: CacheControl, date: float, initial_age: float, now: float
) -> float | None:
    """How much longer the answer is fresh by its own headers, in seconds, never negative; None if they do not say.

    s-maxage counts first, then max-age, then Expires (RFC 9111 §4.2.1). An invalid Expires means a time in the past
    (§5.3). Expires is ignored if there is a targeted field (RFC 9213 §2.2).
    """
    if control.s_maxage is not None:
        lifetime: float = control.s_maxage
    elif control.max_age is not None:
        lifetime = control.max_age
    else:
        value = first.get(b"expires")
        if value is None or control.targeted:
            return None
        expires = parse_date(value, now)
        if expires is None:
            return 0.0
        lifetime = expires - date
    return max(0.0, lifetime - initial_age)


def _stale_windows(
    behavior: Behavior, status: int, control: CacheControl, fresh_until: float, *, always: bool
) -> tuple[float, float]:
    """The times (epoch seconds) until which the response may be served stale: while it is being revalidated, and while
    the origin fails (§5.5)."""
    if control.must_revalidate or always:
        return 0.0, 0.0
    swr = sie = 0.0
    if control.stale_while_revalidate is not None:
        swr = fresh_until + min(control.stale_while_revalidate, behavior.max_ttl)
    if control.stale_if_error is not None:
        sie = fresh_until + min(control.stale_if_error, behavior.max_ttl)
    elif status < 400:
        sie = FOREVER
    return swr, sie


_ETAG: Final = re.compile(rb'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')


def _etag(first: dict[bytes, bytes]) -> bytes | None:
    """The entity tag; None if it is missing, or malformed and so useless for validation."""
    value = first.get(b"etag")
    return value if value is not None and _ETAG.fullmatch(value) else None


def _last_modified(first: dict[bytes, bytes], now: float) -> bytes | None:
    value = first.get(b"last-modified")
    return value if value is not None and parse_date(value, now) is not None else None


def _length(first: dict[bytes, bytes]) -> int | None:
    value = first.get(b"content-length")
    return int(value) if value is not None and value.isdigit() and len(value) < 20 else None


# -- using ---------------------------------------------------------------------------------------------------


def judge(meta: Meta, now: float) -> Verdict:
    """What to do with a stored response at `now` (epoch seconds)."""
    if now < meta.fresh_until:
        return Verdict.HIT
    if now < meta.swr_until:
        return Verdict.STALE
    return Verdict.REVALIDATE if meta.conditional else Verdict.MISS


def age(meta: Meta, now: float) -> int:
    """The value of Age: whole seconds since the origin generated the response, never less than its age on arrival (RFC
    9111 §4.2.3). `now` is when the viewer's request arrived, which may be before the response did."""
    return int(max(now, meta.stored_at) - born(meta))


def serve_stale_on_error(meta: Meta, now: float, status: int | None) -> bool:
    """Whether the stored response may be served in place of an origin failure (§5.5).

    :param status: the origin's status code; None if it could not be reached. A 4xx is an answer and is passed on.
    """
    return (status is None or status >= 500) and now < meta.sie_until


def stale_for(meta: Meta, now: float, seconds: float) -> Meta:
    """The same response, served for `seconds` more without contacting the origin, but no longer than it may be served
    in place of a failure: a failing origin is tried again after ErrorCachingMinTTL (§5.5). The response's age keeps
    increasing."""
    held = copy(meta)
    held.fresh_until = min(now + seconds, meta.sie_until)
    return held


def capped_to(meta: Meta, now: float, seconds: float | None) -> Meta:
    """The same response, fresh for at most `seconds` more: as long as the cache that answered (an Origin Shield) says
    it is. That cache applies the same rules and has already stored the response for a while. Without this cap, the
    lifetime that the rules count from the time of storing would count twice.

    :param seconds: negative if the response is already stale there; None if that cache does not say.
    """
    early = 0.0 if seconds is None or meta.revalidate_always else meta.fresh_until - (now + seconds)
    if early <= 0:
        return meta
    sooner = copy(meta)
    sooner.fresh_until -= early
    sooner.swr_until = max(0.0, meta.swr_until - early)
    sooner.sie_until = max(0.0, meta.sie_until - early)
    return sooner


# -- validation ----------------------------------------------------------------------------------------------

# Fields that describe the stored body and do not change when the origin confirms the response (RFC 9111 §3.2).
_OF_BODY: Final = frozenset({b"content-encoding", b"content-range", b"content-type"})


def revalidation_headers(meta: Meta) -> Headers:
    """The headers that make a request conditional, so that the origin may answer 304. Empty if the response cannot be
    validated (RFC 9111 §4.3.1)."""
    headers: Headers = []
    if meta.conditional:
        if meta.etag is not None:
            headers.append((b"if-none-match", meta.etag))
        if meta.last_modified is not None:
            headers.append((b"if-modified-since", meta.last_modified))
    return headers


def confirms(meta: Meta, headers: Headers) -> bool:
    """Whether a 304 with these headers confirms this stored response (RFC 9111 §4.3.4). If it is about another
    version, the request must be repeated without conditions."""
    first = _firsts(headers)
    etag = _etag(first)
    if etag is not None and meta.etag is not None:
        return etag.removeprefix(b"W/") == meta.etag.removeprefix(b"W/")
    if etag is None and meta.etag is None:
        changed = first.get(b"last-modified")
        return changed is None or changed == meta.last_modified
    return True


def revalidated(
    behavior: Behavior,
    meta: Meta,
    headers_of_304: Headers,
    now: float,
    request_time: float,
    forwarded: Headers | None = None,
) -> Meta:
    """The stored response as a 304 renews it: its headers merged (RFC 9111 §3.2), its times counted from now.

    If the renewed headers forbid storing, the response serves the request that it was validated for. From then on, it
    is validated at each use.

    :param forwarded: the request headers sent; without them, the fields that the response varies on stay the same.
    """
    renewed = [h for h in viewer_headers(behavior, headers_of_304) if h[0] not in _OF_BODY]
    # The viewer's headers include Server even if the 304 does not.
    sent = {name for name, _ in headers_of_304}
    renewed = [h for h in renewed if h[0] in sent and (h[0] != b"vary" or forwarded is not None)]
    names = {name for name, _ in renewed}
    if forwarded is not None and b"vary" in sent:
        names.add(b"vary")
    stored = _as_received(meta)
    merged = [h for h in stored if h[0] not in names and h[0] not in (b"age", b"date")] + renewed
    response = ReceivedResponse(
        meta.status, merged, forwarded or [], request_time, now, meta.reason, meta.coding
    )
    fresh = _meta(behavior, None, response, CacheControl.of(merged), confirmed=True)
    assert fresh is not None  # noqa: S101 - what is confirmed is kept
    if forwarded is None or fresh.vary == (b"*",):
        fresh.vary, fresh.vary_values = meta.vary, meta.vary_values
    fresh.length = meta.length
    return fresh


def _as_received(meta: Meta) -> Headers:
    """The stored headers as they were before the edge compressed the body."""
    if not compressed(meta.coding):
        return list(meta.headers)
    headers = [h for h in meta.headers if h[0] not in (b"content-encoding", b"etag")]
    return headers if meta.etag is None else [*headers, (b"etag", meta.etag)]


def can_coalesce(behavior: Behavior, meta: Meta, now: float) -> bool:
    """Whether requests that arrived while this response was being fetched may be answered from it. Not where cookies
    are forwarded, and not if it was already stale on arrival (§5.10): those requests go to the origin themselves."""
    return now < meta.fresh_until and behavior.forward_cookies.mode == "none"


def invalidates(method: str, status: int) -> bool:
    """Whether an answer with this status to this method invalidates what is stored for its URL (RFC 9111 §4.4)."""
    return method not in ("GET", "HEAD", "OPTIONS", "TRACE") and 200 <= status < 400


def changed_targets(scheme: str, host: str, target: str, headers: Headers) -> list[str]:
    """The targets, `target` first, that an answer to an unsafe request invalidates: its own, and those that Location
    and Content-Location name within the same origin (RFC 9111 §4.4). Of a repeated field, the first value counts."""
    targets = [target]
    base = f"{scheme}://{host}{target}"
    first = _firsts(headers)
    for name in (b"location", b"content-location"):
        value = first.get(name)
        if value is None:
            continue
        try:
            parts = urlsplit(urljoin(base, value.decode("latin-1").strip()))
            same = parts.scheme == scheme and _same_host(parts.netloc, host, scheme)
        except ValueError:
            continue
        if same:
            path = parts.path or "/"
            targets.append(f"{path}?{parts.query}" if parts.query else path)
    return list(dict.fromkeys(targets))


def _same_host(one: str, other: str, scheme: str) -> bool:
    port = ":443" if scheme == "https" else ":80"
    return one.lower().removesuffix(port) == other.lower().removesuffix(port)
