"""A compiled snapshot, which maps hosts to sites, paths to routes, and key groups to key rings.

A `Routing` is created once per accepted snapshot and does all the work that requests must not repeat. A key ring whose
keys have not changed is taken over from the previous routing, together with the credentials that it has verified. One
whose keys have changed in any way starts empty, so that no cached credential outlives its key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from keyfront.edge.rules.cache_key import distribution_of, keys_overrides
from keyfront.edge.rules.invalidation import Invalidations
from keyfront.edge.rules.path_readings import Readings
from keyfront.edge.rules.response_headers import ResponseHeaders
from keyfront.model.pattern import Matcher, compile_pattern, normalise_path
from keyfront.model.snapshot import Behavior, Distribution, ErrorResponse, Origin, Snapshot
from keyfront.signing.tables import Budget, TwoGenerationCache
from keyfront.signing.verify import KeyRing

if TYPE_CHECKING:
    from keyfront.edge.types.record import RecordTemplate
    from keyfront.signing.verify import Grant

PLANS_KEPT = 32_768
PLANS_SIZE = 64 << 20
"""Number of plans of previously allowed URLs that stay cached while in use, and their size in bytes. At most twice as
many are cached."""

PATHS_KEPT = 16_384
PATHS_SIZE = 4 << 20
"""Number of paths per site that stay cached while in use, with the behavior found for each, and their size in bytes."""

_KNOWN_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"})


KeyRings = dict[tuple[tuple[str, str, str], ...], KeyRing]
"""Key rings by their contents: (key ID, PEM, key group ID) of each key, in order."""


class Rule:
    """One compiled cache behavior of a distribution.

    `origins` holds the target, or the two members of an origin group in order; `failover` the statuses that send a
    request to the second. `keyring` is None where no signature is required. `fast_path` says that the fast path may
    serve it: of a viewer's headers, only its cookies, Accept-Encoding, and those that override the request are in the
    key, and the result of the response headers policy does not depend on the time. `response_headers` is that policy,
    or None. `names_files` says that the path pattern does not end in `*`: what it matches may be a file.
    """

    __slots__ = (
        "allowed",
        "behavior",
        "cacheable",
        "cached",
        "failover",
        "fast_path",
        "keyring",
        "name",
        "names_files",
        "origins",
        "response_headers",
        "selects",
    )

    def __init__(
        self,
        distribution: Distribution,
        behavior: Behavior,
        keyring: KeyRing | None,
        response_headers: ResponseHeaders | None = None,
    ) -> None:
        self.behavior = behavior
        self.response_headers = response_headers
        self.keyring = keyring
        self.allowed = frozenset(behavior.allowed_methods) & _KNOWN_METHODS
        self.cached = frozenset(behavior.cached_methods) if behavior.caches else frozenset[str]()
        self.cacheable = behavior.caches
        self.selects = (
            behavior.key_headers.mode != "none"
            or behavior.key_cookies.mode != "none"
            or behavior.key_query.mode != "none"
            or behavior.accept_gzip
            or behavior.accept_brotli
            or keys_overrides(behavior)
        )
        self.name = f"{distribution.id} {behavior.path_pattern}"
        self.names_files = not behavior.path_pattern.endswith("*")
        settled = response_headers is None or response_headers.deterministic
        self.fast_path = behavior.caches and behavior.key_headers.mode == "none" and settled
        by_id = {origin.id: origin for origin in distribution.origins}
        self.failover = frozenset[int]()
        self.origins: tuple[Origin, ...] = ()
        for group in distribution.origin_groups:
            if group.id == behavior.target_origin_id:
                self.origins = (by_id[group.members[0]], by_id[group.members[1]])
                self.failover = frozenset(group.status_codes)
        if not self.origins:
            self.origins = (by_id[behavior.target_origin_id],)


class Route:
    """A rule of a site as found for a path, with the attributes of `Rule`.

    Routes are created on demand. A site that stored its routes would form a reference cycle with them. Every routing
    ever used, with its key rings and everything that they cache, would then stay in memory until a full garbage
    collection, which may never run.
    """

    __slots__ = (*Rule.__slots__, "site")

    def __init__(self, site: Site, rule: Rule) -> None:
        self.site = site
        self.allowed = rule.allowed
        self.behavior = rule.behavior
        self.cacheable = rule.cacheable
        self.cached = rule.cached
        self.failover = rule.failover
        self.keyring = rule.keyring
        self.name = rule.name
        self.names_files = rule.names_files
        self.origins = rule.origins
        self.fast_path = rule.fast_path
        self.response_headers = rule.response_headers
        self.selects = rule.selects


class Site:
    """A compiled distribution: its rules in the order in which they are tried, the default one last.

    `has_restricted_behavior` says that not all files of its origins are public, so that it matters how else an origin
    may read a path (`readings`); `restricted` says that a behavior requires signatures.
    """

    __slots__ = (
        "_budget",
        "_default",
        "_digest",
        "_found",
        "_patterns",
        "cache_tag_header",
        "distribution",
        "error_responses",
        "geo",
        "has_restricted_behavior",
        "restricted",
    )

    def __init__(self, distribution: Distribution, budget: Budget | None = None) -> None:
        self.distribution = distribution
        self.cache_tag_header = distribution.cache_tag_header.encode("ascii")
        self._budget = budget
        self.geo = distribution.geo if distribution.geo.kind != "none" else None
        self.error_responses: dict[int, ErrorResponse] = {
            e.error_code: e for e in distribution.error_responses
        }
        self.has_restricted_behavior = any(origin.path for origin in distribution.origins)
        self.restricted = False
        self._patterns: list[tuple[Matcher, Rule]] = []
        self._default: Rule | None = None
        self._found: TwoGenerationCache[Rule] = TwoGenerationCache(PATHS_KEPT, PATHS_SIZE, None, budget)
        self._digest = b""

    def add(
        self,
        behavior: Behavior,
        keyring: KeyRing | None,
        response_headers: ResponseHeaders | None = None,
    ) -> None:
        """Add a behavior. Behaviors are added in the distribution's order; the last one added is the default."""
        before = self._default
        self._found = TwoGenerationCache(PATHS_KEPT, PATHS_SIZE, None, self._budget)
        if before is not None:
            self._patterns.append((compile_pattern(before.behavior.path_pattern), before))
        self.has_restricted_behavior = self.has_restricted_behavior or keyring is not None
        self.restricted = self.restricted or keyring is not None
        self._default = Rule(self.distribution, behavior, keyring, response_headers)

    def invalidations(self) -> Invalidations:
        """The distribution's compiled invalidations. `route` must already work."""
        distribution = self.distribution
        return Invalidations(
            distribution.invalidations,
            lambda path: self.route(path).behavior.key_query,
            "/" + distribution.default_root_object,
        )

    @property
    def digest(self) -> bytes:
        """A digest that must be equal on two edges for one to cache for the other. It covers the whole distribution
        except its invalidations, which are compared by number."""
        if not self._digest:
            bare = msgspec.structs.replace(self.distribution, invalidations=())
            self._digest = hashlib.sha256(msgspec.msgpack.encode(bare)).digest()[:16]
        return self._digest

    def rule(self, number: int) -> Rule | None:
        """The rule of the behavior with this number, counted from 0 in the distribution's order; None if there is
        none."""
        if number == len(self._patterns):
            return self._default
        return self._patterns[number][1] if 0 <= number < len(self._patterns) else None

    def route(self, path: str) -> Route:
        """The behavior for a raw path: matched by its RFC 3986-normalized form, first match wins (§5.1)."""
        found = self._found.get(path)
        if found is None:
            found = self._rule(path)
            if self._patterns:
                self._found.put(path, found)
        return Route(self, found)

    def _rule(self, path: str) -> Rule:
        if self._patterns:
            normal = normalise_path(path)
            for matches, rule in self._patterns:
                if matches(normal):
                    return rule
        assert self._default is not None  # noqa: S101 - a distribution has a default behavior
        return self._default

    def keyrings(self, found: Readings, pattern: str) -> list[KeyRing]:
        """The key rings of all behaviors that a path's readings belong to, each once, always in the same order.

        :param pattern: the pattern of the path's own behavior. If it makes everything after a script's name public
            (`/index.php/*`), the default behavior does not apply to the script.
        """
        pattern = "/" + pattern.removeprefix("/")
        rings: dict[int, KeyRing] = {}
        root = self.distribution.default_root_object
        for path in (*sorted(found.paths), *sorted(found.ends)):
            rule = self._rule(path)
            keyring = rule.keyring
            if rule is self._default and path in found.ends and pattern.startswith(path + "/"):
                continue
            if keyring is not None:
                rings[id(keyring)] = keyring
            if root and normalise_path(path) == "/":
                # What an origin takes for the root may be answered with what this edge requests from it for the root.
                keyring = self._rule("/" + root).keyring
                if keyring is not None:
                    rings[id(keyring)] = keyring
        for path in sorted(found.files):
            rule = self._rule(path)
            if rule.keyring is not None and rule.names_files:
                rings[id(rule.keyring)] = rule.keyring
        for path in sorted(found.routes):
            rule = self._rule(path)
            if rule.keyring is not None and rule is not self._default:
                rings[id(rule.keyring)] = rule.keyring
        return list(rings.values())


def _plan_bytes(plan: Plan) -> int:
    """Bytes that a plan takes in addition to the URL that is its key: the cache key, the target, and those pieces of
    an access record that the plan does not share, because its query or path must be spelled out in them
    (`RecordTemplate`)."""
    size = 300 + 2 * len(plan.key or "") + len(plan.target)
    if plan.query or '"' in plan.target or "\\" in plan.target:
        size += 1200 + 2 * len(plan.target) + 4 * len(plan.query)
    return size


class Routing:
    """The tables that `decide` uses. `number` is the snapshot's; `sites` maps the IDs of distributions to their sites.

    :param progress: called for each distribution: ten thousand of them take seconds.
    """

    __slots__ = (
        "_exact",
        "_http2_everywhere",
        "_invalidations",
        "_keyrings",
        "_reserved",
        "_wildcards",
        "number",
        "plans",
        "sites",
        "snapshot",
    )

    def __init__(
        self,
        snapshot: Snapshot,
        before: Routing | None = None,
        budget: Budget | None = None,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self.snapshot = snapshot
        self.number = snapshot.number
        self.plans: TwoGenerationCache[Plan] = TwoGenerationCache(PLANS_KEPT, PLANS_SIZE, _plan_bytes, budget)
        self._keyrings: KeyRings = {}
        kept: KeyRings = {} if before is None else before._keyrings
        self.sites: dict[str, Site] = {}
        self._exact: dict[str, Site] = {}
        # None: a name of a distribution that exists only in other regions, for which no other site answers.
        self._wildcards: dict[str, Site | None] = {
            host[1:]: None for host in snapshot.reserved if host.startswith("*.")
        }
        self._reserved = frozenset(snapshot.reserved)
        self._http2_everywhere = all(distribution.http2 for distribution in snapshot.distributions)
        self._invalidations: dict[str, Invalidations] = {}
        keyrings: KeyRings = {}
        pems = {key.id: key.pem for key in snapshot.public_keys}
        groups = {group.id: group for group in snapshot.key_groups}
        policies = {policy.id: ResponseHeaders(policy) for policy in snapshot.response_headers_policies}
        for distribution in snapshot.distributions:
            progress()
            site = Site(distribution, budget)
            for behavior in distribution.behaviors:
                keyring = None
                if behavior.restricted:
                    trusted = [groups[g] for g in behavior.trusted_key_groups if g in groups]
                    members = {
                        k: (k, pems[k], g.id) for g in reversed(trusted) for k in g.key_ids if k in pems
                    }
                    identity = tuple(sorted(members.values()))
                    keyring = keyrings.get(identity) or kept.get(identity)
                    if keyring is None:
                        keyring = KeyRing(
                            {k: pem for k, pem, _ in identity},
                            groups={k: group for k, _, group in identity},
                            budget=budget,
                        )
                    keyrings[identity] = keyring
                site.add(behavior, keyring, policies.get(behavior.response_headers_policy_id))
            if distribution.invalidations:
                self._invalidations[distribution.id] = site.invalidations()
            self.sites[distribution.id] = site
            for host in (distribution.domain_name, *distribution.aliases):
                # A disabled distribution still owns its names (§5.1); `decide` refuses its requests.
                if host.startswith("*."):
                    self._wildcards[host[1:]] = site
                else:
                    self._exact[host] = site
        self._keyrings = keyrings

    def is_invalidated(self, key: str, snapshot: int, tags: tuple[str, ...] = ()) -> bool:
        """Whether an invalidation has ended the response stored under `key` with these cache tags, requested under
        snapshot number `snapshot`."""
        if snapshot >= self.number or not self._invalidations:
            return False
        invalidations = self._invalidations.get(distribution_of(key))
        return invalidations is not None and invalidations.is_invalidated(key, snapshot, tags)

    def is_invalidated_by_tag(self, key: str, snapshot: int) -> bool:
        """Whether an invalidation by cache tag could end a response for `key` that was requested under snapshot number
        `snapshot` and whose tags are not known yet."""
        if snapshot >= self.number or not self._invalidations:
            return False
        invalidations = self._invalidations.get(distribution_of(key))
        return invalidations is not None and invalidations.newest_tag > snapshot

    def invalidated_since(self, number: int) -> bool:
        """Whether there is an invalidation that snapshot `number` did not contain."""
        return any(invalidations.newest > number for invalidations in self._invalidations.values())

    def has_name(self, name: str) -> bool:
        """Whether a distribution has exactly this name, in lower case, as its domain name or an alias."""
        return name in self._exact

    def offers_http2(self, server_name: str | None) -> bool:
        """Whether a viewer that requests this name in its TLS handshake (SNI) may use HTTP/2. Without a name, or with
        that of no distribution, only if it may with all of them."""
        if self._http2_everywhere:
            return True
        site = self.site(server_name) if server_name else None
        return site is not None and site.distribution.http2

    def site(self, host: str) -> Site | None:
        """The site for a Host value, with or without a port: an exact name beats a wildcard alias, and the longest
        matching wildcard wins."""
        site = self._exact.get(host)
        if site is not None:
            return site
        name = host_name(host)
        site = self._exact.get(name)
        if site is not None or not self._wildcards:
            return site
        if name in self._reserved:
            return None
        rest = name
        while "." in rest:
            rest = rest.partition(".")[2]
            if "." + rest in self._wildcards:
                return self._wildcards["." + rest]
        return None


def host_name(host: str) -> str:
    """The name in a Host value, in lower case and without the port. An IPv6 address keeps its brackets."""
    name = host.lower()
    if ":" not in name:
        return name
    return name.partition("]")[0] + "]" if name.startswith("[") else name.partition(":")[0]


class Plan:
    """The destination of a request, whichever viewer sent it: shared by all identical requests, never changed.

    `key` is the cache key before the headers, cookies, and parameters that the behavior selects are added (None: pass
    through). `target` is the path and query for the request to the origin (without signing parameters; OriginPath is
    yet to be prepended). `query` is the viewer's own query string. `grant` is what the credentials in this URL allow,
    if it carries any; it is evaluated again at each use. `record_template`, `path_length`, and `until` belong to the
    fast path: the pieces of an access record, the length of the path, and the time (epoch seconds) until which there
    is no grant to evaluate.
    """

    __slots__ = ("grant", "key", "path_length", "query", "record_template", "route", "target", "until")

    def __init__(self, route: Route, key: str | None, target: str, query: str, grant: Grant | None) -> None:
        self.route = route
        self.key = key
        self.target = target
        self.query = query
        self.grant = grant
        self.record_template: RecordTemplate | None = None
        self.path_length = 0
        self.until = 0.0
