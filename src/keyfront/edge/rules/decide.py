"""The decision about a request: routing it, then checking its credentials. Pure: everything that it needs is an
argument.

The order of the checks is fixed (cloudfront-semantics §1.6). Does a distribution exist for this Host? Is the viewer's
country allowed? Must the scheme change? Is the method allowed? Is the signature valid for every resource that an
origin may serve for this path? The first check that fails ends the decision with a named refusal.

A plan does not depend on the viewer, so the plan of each allowed URL is cached. Whatever depends on viewer and time
(country, dates, address, cookies) is evaluated again for every request.
"""

from __future__ import annotations

from collections.abc import Callable

from keyfront.edge.rules.cache_key import base_key
from keyfront.edge.rules.geo_restriction import allowed
from keyfront.edge.rules.path_readings import Readings, readings, without_parts
from keyfront.edge.rules.routing import Plan, Route, Routing, Site
from keyfront.edge.rules.selection import select_query
from keyfront.edge.types.messages import Request
from keyfront.errors import Denied, clear_traceback
from keyfront.model.pattern import normalise_path
from keyfront.signing.verify import Grant, KeyRing, verify

Country = Callable[[str], str]


class Refusal:
    """The request is not served. `name` is a row of the table of refusals (`error_pages`) or `denied`, in which case
    the attribute `denied` says why. `site` and `route` are set if they were already known."""

    __slots__ = ("denied", "name", "route", "site")

    def __init__(
        self, name: str, site: Site | None = None, route: Route | None = None, denied: Denied | None = None
    ) -> None:
        self.name = name
        self.site = site
        self.route = route
        self.denied = denied
        if denied is not None:
            clear_traceback(denied)


Decision = tuple[Plan, Grant | None] | Refusal
"""The plan of a request, with the grant from its credentials on a restricted behavior; or the refusal."""


def decide(routing: Routing, request: Request, now: float, country: Country) -> Decision:
    """The plan of the request and the grant from its credentials, if it needs any; or the refusal.

    :param now: epoch seconds, read once per request.
    :param country: returns the ISO code for an address, empty if unknown; called only where geo restriction is on.
    """
    method = request.method
    url = request.scheme + "://" + request.host + request.target
    reads = method in ("GET", "HEAD")
    if reads and request.body is None:
        plan = routing.plans.get(url)
        if plan is not None:
            route = plan.route
            site = route.site
            if site.geo is not None and not allowed(site.geo, country(request.client_ip)):
                return Refusal("geo_blocked", site, route)
            grant = plan.grant
            try:
                if grant is not None:
                    grant.judge(request.client_ip, now)
                elif route.keyring is not None:
                    grant = _verify(route.keyring, request, now)
            except Denied as denied:
                return Refusal("denied", site, route, denied)
            return plan, grant

    site_or_none = routing.site(request.host)
    if site_or_none is None:
        return Refusal("no_distribution")
    site = site_or_none
    if not site.distribution.enabled:
        return Refusal("disabled", site)
    if site.geo is not None and not allowed(site.geo, country(request.client_ip)):
        return Refusal("geo_blocked", site)

    path, _, query = request.target.partition("?")
    if method == "OPTIONS" and path == "*":
        path = "/"
    if path == "/" and site.distribution.default_root_object:
        # The object's own behavior and signature check apply, although the signature covers the requested URL.
        path = "/" + site.distribution.default_root_object
    route = site.route(path)
    behavior = route.behavior
    if request.scheme == "http" and behavior.viewer_protocol_policy != "allow-all":
        if behavior.viewer_protocol_policy == "https-only":
            return Refusal("https_only", site, route)
        if not reads and request.version == "1.0":
            return Refusal("https_only", site, route)
        return Refusal("redirect_to_https", site, route)
    if method not in route.allowed:
        return Refusal("method_not_allowed", site, route)
    if reads and request.body is not None:
        # CloudFront refuses it on GET (cloudfront-semantics §1.6). On HEAD it is just as dangerous: an origin that
        # does not read a body there takes it for the next request (decision 0026).
        return Refusal("body_with_get", site, route)

    found = None
    gates: list[KeyRing] = []
    grant = None
    try:
        if site.has_restricted_behavior:
            found = readings(path)
        if found is not None:
            if found.escapes and any(origin.path for origin in route.origins):
                return Refusal("ambiguous_path", site, route)
            rings = site.keyrings(found, behavior.path_pattern)
            gates = [ring for ring in rings if ring is not route.keyring]
            if not (gates or found.climbs or (found.drops and route.keyring is not None)):
                found = None  # nothing depends on how the path is read
        if route.keyring is not None:
            grant = _verify(route.keyring, request, now)
        if found is not None:
            grant = _verify_readings(found, gates, grant, request, now)
    except ValueError:
        return Refusal("ambiguous_path", site, route)
    except Denied as denied:
        return Refusal("denied", site, route, denied)
    if grant is not None:
        query = grant.own_query
    plan = _plan(site, route, request, path, query, grant)
    if found is None and reads and request.body is None and (grant is None or grant.remembered):
        # A signed URL's plan is cached from its second use on: most links are used once.
        routing.plans.put(url, plan)
    return plan, grant


def _verify(keyring: KeyRing, request: Request, now: float) -> Grant:
    return verify(
        request.scheme, request.host, request.target, request.cookie, keyring, request.client_ip, now
    )


def _verify_readings(
    found: Readings, gates: list[KeyRing], grant: Grant | None, request: Request, now: float
) -> Grant | None:
    """Check the signature for all other readings of the path. A request without a valid signature for one of them has
    none for this path.

    A policy covers a URL as written (§1.4). With a `..` in the path, a wildcard would cover more than its author can
    have meant, so the policy must then cover every reading. The same holds where an origin may leave out part of the
    path: `*.jpg` is meant to match the end of a name, not of a part that is left out (`/1.pdf;.jpg`, `/1.pdf%3f.jpg`).

    :raises Denied: as `verify` does.
    :raises ValueError: if there are too many readings.
    """
    for keyring in gates:
        granted = _verify(keyring, request, now)
        grant = grant or granted
    pattern = grant is not None and not grant.canned and grant.resource
    if grant is not None and pattern and ("*" in pattern or "?" in pattern):
        scheme, host, client = request.scheme, request.host, request.client_ip
        _, mark, query = request.target.partition("?")
        if found.climbs:
            for path in sorted(found.paths):
                if path == normalise_path(path):
                    grant.judge_url(scheme, host, path + mark + query, client, now)
        if found.drops:
            _cover_parts(grant, pattern, request, now)
    return grant


def _cover_parts(grant: Grant, pattern: str, request: Request, now: float) -> None:
    """Check that the policy covers what remains of the path when part of it is left out.

    :raises Denied: if it does not.
    :raises ValueError: if there are too many ways to leave out parts.
    """
    sent, mark, query = request.target.partition("?")
    start = pattern.find("://") + 3 if "://" in pattern else 0
    start = pattern.find("/", start) if "/" in pattern[start:] else len(pattern)
    whole = pattern[start:]
    before, opens, after = whole.partition("?")
    for left, (as_path, as_query) in without_parts(sent, (whole, before)):
        where = (request.scheme, request.host, left + mark + query, request.client_ip, now)
        try:
            grant.under(pattern[:start] + as_path).judge_url(*where)
        except Denied:
            # A `?` may begin the pattern's query, in which nothing is left out.
            grant.under(pattern[:start] + as_query + opens + after).judge_url(*where)


def internal_plan(site: Site, target: str, request: Request) -> Plan:
    """The plan for a target that needs no signature: a custom error page, which the edge itself requests (§5.6), or a
    URL whose cache key is needed."""
    path, _, query = target.partition("?")
    return _plan(site, site.route(path), request, path, query, None)


def _plan(site: Site, route: Route, request: Request, path: str, query: str, grant: Grant | None) -> Plan:
    forwarded = select_query(route.behavior.forward_query, query) if query else ""
    key = None
    if request.method in route.cached:
        key = base_key(site.distribution.id, path, request.method)
    in_url = grant if grant is not None and grant.mode == "url" else None
    return Plan(route, key, path + "?" + forwarded if forwarded else path, query, in_url)
