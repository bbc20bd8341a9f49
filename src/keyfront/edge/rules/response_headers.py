"""Response headers policies: what they remove from and add to the headers of an answer (cloudfront-semantics §5.13).

A policy is applied to the answer on its way out and never to what is stored, so the next answer reflects a changed
policy, even from the cache. Everything that does not depend on the request is prepared when a snapshot is accepted.

1. First, the headers that the policy removes or overrides are dropped.
2. Security and custom headers are added. Those that do not override are added only where the origin sent none.
3. CORS headers are added to answers to cross-origin requests if the policy allows the request's origin. An answer that
   would not be the same for every origin gets `Vary: Origin`.
4. `Server-Timing` describes how the answer was produced, in a share of all answers or when the viewer requests it.

Headers that say where the bytes of a partial answer belong are never changed.
"""

from __future__ import annotations

import re
from typing import Final

from keyfront.edge.types.messages import Header, Headers, Request
from keyfront.model.snapshot import Cors, ResponseHeadersPolicy

_SERVER: Final[Header] = (b"server", b"CloudFront")
_ORIGIN: Final = re.compile(rb"[a-z][a-z0-9+.-]*://(?:[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")

_OF_THE_MOMENT: Final = frozenset({b"age", b"date"})
"""Fields that the edge computes anew for every answer."""

_LONGEST: Final = 300
"""Longest origin or header name considered, in characters. No browser sends a longer one, so matching it would be
wasted work."""

ALLOW_ORIGIN: Final = b"access-control-allow-origin"
_CORS: Final = frozenset(
    {
        ALLOW_ORIGIN,
        b"access-control-allow-credentials",
        b"access-control-allow-headers",
        b"access-control-allow-methods",
        b"access-control-expose-headers",
        b"access-control-max-age",
    }
)


class ResponseHeaders:
    """One compiled response headers policy. `timing` says that it may add Server-Timing. `deterministic` says that its
    result for an answer to a GET depends only on the answer and `dependencies_in`, not on when it is sent."""

    __slots__ = ("_always", "_cors", "_dropped", "_rate", "_server", "_unless", "deterministic", "timing")

    def __init__(self, policy: ResponseHeadersPolicy) -> None:
        removed = frozenset(name.encode() for name in policy.remove)
        added = [((h.name.encode(), h.value.encode("latin-1")), h.override) for h in policy.headers]
        # A removed header is no longer present, so there is nothing to override.
        self._always: Headers = [header for header, override in added if override or header[0] in removed]
        self._unless: Headers = [h for h, override in added if not override and h[0] not in removed]
        self._dropped = (removed | frozenset(name for name, _ in self._always)) - {b"content-range"}
        self._cors = None if policy.cors is None else CorsRule(policy.cors)
        if policy.cors is not None and policy.cors.override:
            self._dropped |= _CORS
        self._server = b"server" in removed
        self.timing = policy.server_timing is not None
        self._rate = policy.server_timing or 0.0
        named = self._dropped | {header[0] for header in (*self._always, *self._unless)}
        self.deterministic = not self.timing and named.isdisjoint(_OF_THE_MOMENT)

    def applied(self, request: Request, status: int, headers: Headers) -> Headers:
        """The headers of the answer with that `status`, as a replacement for `headers`, which is not modified."""
        dropped, always = self._dropped, self._always
        if status == 206 and b"content-type" in dropped and any(_multipart(header) for header in headers):
            dropped = dropped - {b"content-type"}
            always = [header for header in always if header[0] != b"content-type"]
        found = [header for header in headers if header[0] not in dropped]
        found += always
        if self._unless:
            present = {header[0] for header in found}
            found += [header for header in self._unless if header[0] not in present]
        if self._server and all(header[0] != b"server" for header in found):
            found.append(_SERVER)
        if self._cors is not None:
            self._cors.apply(request, found)
        return found

    def without_dropped(self, headers: Headers) -> Headers:
        """The origin's headers that the policy neither removes nor replaces."""
        return [header for header in headers if header[0] not in self._dropped]

    def dependencies_in(self, request: Request) -> bytes:
        """Everything in a GET that the headers of its answer depend on, if the policy is `deterministic`."""
        if self._cors is None:
            return b""
        return b"\n".join([value for name, value in request.headers if name == b"origin"])

    def sends_server_timing(self, request: Request, draw: float) -> bool:
        """Whether this answer gets Server-Timing. `draw` is a random number in [0, 100)."""
        if draw < self._rate:
            return True
        pragma = request.header(b"pragma")
        return pragma is not None and b"server-timing" in [
            token.strip().lower() for token in pragma.split(b",")
        ]


def _multipart(header: Header) -> bool:
    """Whether the header says where the parts of an answer with several ranges begin and end."""
    return header[0] == b"content-type" and header[1].lower().startswith(b"multipart/byteranges")


class CorsRule:
    """The CORS section of a policy."""

    __slots__ = ("_any", "_matches", "_patterns", "_preflight", "_preflight_headers", "_simple")

    def __init__(self, cors: Cors) -> None:
        self._any = "*" in cors.origins
        self._matches = re.compile("|".join(_pattern(origin) for origin in cors.origins).encode())
        self._simple: Headers = []
        if cors.credentials:
            self._simple.append((b"access-control-allow-credentials", b"true"))
        if cors.expose:
            self._simple.append((b"access-control-expose-headers", ", ".join(cors.expose).encode()))
        self._preflight: Headers = [(b"access-control-allow-methods", ", ".join(cors.methods).encode())]
        if cors.max_age is not None:
            self._preflight.append((b"access-control-max-age", b"%d" % cors.max_age))
        literal = [name for name in cors.headers if name == "*" or "*" not in name]
        patterns = [name for name in cors.headers if name not in literal]
        self._preflight_headers = ", ".join(literal).encode()
        self._patterns = (
            re.compile("|".join(_glob(name) for name in patterns).encode(), re.IGNORECASE)
            if patterns
            else None
        )

    def apply(self, request: Request, found: Headers) -> None:
        """Add to `found` the policy's CORS headers for this request."""
        origins = [value.strip(b" \t") for name, value in request.headers if name == b"origin"]
        if not self._any or not origins:
            _vary(found)
        if len(origins) != 1:
            return
        origin = origins[0]
        if self._any:
            allowed = b"*"
        elif self._allows(origin):
            allowed = origin
        else:
            return
        added = [(ALLOW_ORIGIN, allowed), *self._simple]
        if request.method == "OPTIONS":
            added += self._preflight
            names = self._allowed_headers(request)
            if names:
                added.append((b"access-control-allow-headers", names))
        present = {header[0] for header in found}
        found += [header for header in added if header[0] not in present]

    def _allows(self, origin: bytes) -> bool:
        lower = origin.lower()
        if len(lower) > _LONGEST:
            return False
        return _ORIGIN.fullmatch(lower) is not None and self._matches.fullmatch(lower) is not None

    def _allowed_headers(self, request: Request) -> bytes:
        """The names that the policy lists. In place of a name with a `*` in it, which no browser understands, the
        requested names that match it."""
        if self._patterns is None:
            return self._preflight_headers
        names = [self._preflight_headers] if self._preflight_headers else []
        requested = b",".join(v for n, v in request.headers if n == b"access-control-request-headers")
        for name in dict.fromkeys(token.strip(b" \t") for token in requested.split(b",")):
            if len(name) <= _LONGEST and self._patterns.fullmatch(name):
                names.append(name)
        return b", ".join(names)


def _pattern(origin: str) -> str:
    """A regular expression for an origin of a policy. Without a scheme, it matches both http and https; without a
    port, the scheme's default, which an Origin header omits. `*.` is one label or more; a port of `*` also matches no
    port."""
    if origin == "*":
        return ".*"
    scheme, separator, rest = origin.rpartition("://")
    host, colon, port = rest.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = rest, ""
    found = re.escape(scheme) + "://" if separator else "https?://"
    if host.startswith("*."):
        found += r"[a-z0-9_.-]*[a-z0-9_-]\." + re.escape(host[2:])
    else:
        found += re.escape(host)
    if port == "*":
        return found + "(?::[0-9]+)?"
    return found + (":" + re.escape(port).replace(r"\*", "[0-9]*") if port else "")


def _glob(name: str) -> str:
    return re.escape(name).replace(r"\*", "[!#$%&'*+.^_`|~0-9A-Za-z-]*")


def _vary(headers: Headers) -> None:
    """Make the answer vary on Origin, and merge its Vary fields into one."""
    values = [value for name, value in headers if name == b"vary"]
    tokens = [token.strip(b" \t") for value in values for token in value.split(b",") if token.strip(b" \t")]
    if any(token == b"*" or token.lower() == b"origin" for token in tokens):
        return
    headers[:] = [header for header in headers if header[0] != b"vary"]
    headers.append((b"vary", b", ".join([*tokens, b"Origin"])))


# -- Server-Timing -----------------------------------------------------------------------------------------------------


def timed(
    headers: Headers,
    result: str,
    *,
    pop: str,
    request_id: str,
    taken: float,
    upstream: tuple[float, float] | None = None,
) -> Headers:
    """The headers with Server-Timing: the metrics that CloudFront defines, and the origin's own if the answer has just
    come from it (Developer Guide, "Server-Timing header"). A metric that the edge does not know is left out.

    :param result: `Hit`, `RefreshHit`, `Miss`, or empty if no cache was involved.
    :param taken: seconds since the request.
    :param upstream: seconds to connect to the origin, and seconds from then to the first byte of its answer.
    """
    metrics: list[str] = []
    if upstream is not None:
        metrics.append('cdn-upstream-layer;desc="EDGE"')
        metrics.append(f"cdn-upstream-connect;dur={_milliseconds(upstream[0])}")
        metrics.append(f"cdn-upstream-fbl;dur={_milliseconds(upstream[1])}")
    if result in _METRICS:
        metrics.append(_METRICS[result])
    metrics.append(f'cdn-pop;desc="{pop}"')
    metrics.append(f'cdn-rid;desc="{request_id}"')
    if result == "Hit":
        metrics.append('cdn-hit-layer;desc="EDGE"')
    metrics.append(f"cdn-downstream-fbl;dur={_milliseconds(taken)}")
    own = ",".join(metrics).encode("latin-1")
    existing = [value for name, value in headers if name == b"server-timing"] if upstream is not None else []
    found = [header for header in headers if header[0] != b"server-timing"]
    found.append((b"server-timing", b",".join([*existing, own])))
    return found


_METRICS: Final = {"Hit": "cdn-cache-hit", "RefreshHit": "cdn-cache-refresh", "Miss": "cdn-cache-miss"}


def _milliseconds(seconds: float) -> int:
    return max(0, round(seconds * 1000))
