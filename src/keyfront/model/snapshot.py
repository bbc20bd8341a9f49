"""All that an edge obeys, compiled, immutable, numbered.

A `Snapshot` is what `compile.py` makes of the resources and what the feed carries. Everything in it is a frozen
value; an edge that holds one needs nothing else: no control plane, no database. What cannot travel as bytes
(loaded keys, compiled patterns, lookup tables) is prepared from it once by `edge/rules/routing.py` when accepted.

On the wire: MAGIC, the SHA-256 of the payload (32 bytes), the payload (msgpack). `from_bytes` refuses anything
else, so a torn or foreign file can never be half obeyed. There are two formats, and one payload: who reads format 2
must know what `region`, `reserved` and `regions` mean. Format 1 is written where all of them are empty, so that an
older edge reads on until something is tied to a region, and then refuses instead of overlooking it.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from keyfront.errors import SnapshotRefused
from keyfront.model.access import Signing

MAGIC = b"keyfront-snapshot 1\n"
MAGIC_OF_REGIONS = b"keyfront-snapshot 2\n"
"""As long as the other one."""


class PublicKey(msgspec.Struct, frozen=True, gc=False):
    """A public key that viewers' signatures are checked with. `pem` is SubjectPublicKeyInfo. `regions` are those that
    it is tied to by its key groups; empty: it may be everywhere."""

    id: str
    pem: str
    regions: tuple[str, ...] = ()


class KeyGroup(msgspec.Struct, frozen=True, gc=False):
    """`key_ids` name members of `Snapshot.public_keys`. `regions` are those that it is tied to; empty: it may be
    everywhere."""

    id: str
    name: str
    key_ids: tuple[str, ...]
    regions: tuple[str, ...] = ()


class Select(msgspec.Struct, frozen=True, gc=False):
    """Which headers, cookies or query parameters are meant: the four modes of CloudFront's policies.

    Header names are lower-case. Cookie names of legacy settings may hold `*` and `?`.
    """

    mode: Literal["none", "whitelist", "allExcept", "all"] = "none"
    names: tuple[str, ...] = ()


class ResponseHeader(msgspec.Struct, frozen=True, gc=False):
    """A header that a response headers policy adds. `name` is lower-case; without `override` the origin's own wins."""

    name: str
    value: str
    override: bool


class Cors(msgspec.Struct, frozen=True):
    """What a response headers policy tells browsers of other origins. `origins` are lower-case: `*`, or
    `[scheme://]host[:port]` whose host may begin with `*.` and whose port may hold one `*`. A name of `headers` may
    hold one `*`; `max_age` is seconds, or None if browsers are told nothing. With `override` nothing that the origin
    says of the matter reaches a viewer."""

    origins: tuple[str, ...]
    headers: tuple[str, ...]
    methods: tuple[str, ...]
    expose: tuple[str, ...] = ()
    credentials: bool = False
    max_age: int | None = None
    override: bool = False


class ResponseHeadersPolicy(msgspec.Struct, frozen=True):
    """A response headers policy as edges obey it: `remove` (lower-case names) first, then `headers` and `cors` are
    added (cloudfront-semantics §5.13). `server_timing` is the percentage of answers that tell Server-Timing unasked, or
    None if none ever does."""

    id: str
    headers: tuple[ResponseHeader, ...] = ()
    remove: tuple[str, ...] = ()
    cors: Cors | None = None
    server_timing: float | None = None


class Origin(msgspec.Struct, frozen=True):
    """An origin as its behaviors reach it. Times are seconds; `custom_headers` hold secrets. `signing` says which of
    the requests to it are signed; an edge has the credentials for that from its operator. `shield_region` is where its
    Origin Shield is, empty if it has none; an edge knows from its operator which edge that is."""

    id: str
    domain_name: str
    path: str = ""
    kind: Literal["custom", "s3"] = "custom"
    protocol_policy: Literal["http-only", "https-only", "match-viewer"] = "http-only"
    http_port: int = 80
    https_port: int = 443
    ssl_protocols: tuple[str, ...] = ("TLSv1.2",)
    read_timeout: float = 30.0
    keepalive_timeout: float = 5.0
    connection_attempts: int = 3
    connection_timeout: float = 10.0
    response_completion_timeout: float | None = None
    custom_headers: tuple[tuple[str, str], ...] = ()
    signing: Signing = "never"
    shield_region: str = ""


class OriginGroup(msgspec.Struct, frozen=True):
    """A primary and a secondary origin, and the statuses that make a request fail over."""

    id: str
    members: tuple[str, str]
    status_codes: tuple[int, ...]


class Behavior(msgspec.Struct, frozen=True):
    """A cache behavior. The last of a distribution is the default one (`path_pattern` is `*`).

    `key_*` select what enters the cache key, `forward_*` what is sent to the origin (always at least the key's).
    `legacy` is true for ForwardedValues, whose unlisted viewer headers are forwarded except the removed ones;
    with a cache policy only listed ones are (cloudfront-semantics §5.8). `legacy` with `key_headers` all means
    nothing is cached. TTLs are seconds.
    `restricted` is true if trusted key groups are enabled; it stays true when the groups hold no usable key,
    and then every request is refused. `response_headers_policy_id` names one of `Snapshot.response_headers_policies`,
    or is empty.
    """

    path_pattern: str
    target_origin_id: str
    viewer_protocol_policy: Literal["allow-all", "redirect-to-https", "https-only"] = "allow-all"
    allowed_methods: tuple[str, ...] = ("GET", "HEAD")
    cached_methods: tuple[str, ...] = ("GET", "HEAD")
    restricted: bool = False
    trusted_key_groups: tuple[str, ...] = ()
    min_ttl: int = 0
    default_ttl: int = 86400
    max_ttl: int = 31536000
    legacy: bool = False
    key_headers: Select = Select()
    key_cookies: Select = Select()
    key_query: Select = Select()
    forward_headers: Select = Select()
    forward_cookies: Select = Select()
    forward_query: Select = Select()
    accept_gzip: bool = False
    accept_brotli: bool = False
    compress: bool = False
    response_headers_policy_id: str = ""

    @property
    def caches(self) -> bool:
        """False where caching is disabled: all TTLs zero, or legacy settings that forward all headers (§5.4)."""
        if self.legacy and self.key_headers.mode == "all":
            return False
        return self.max_ttl > 0


class ErrorResponse(msgspec.Struct, frozen=True, gc=False):
    """A custom error response. Without `page_path` it sets only `min_ttl` (seconds)."""

    error_code: int
    min_ttl: int = 10
    page_path: str = ""
    response_code: int = 0


class Geo(msgspec.Struct, frozen=True, gc=False):
    """A geo restriction; `countries` are upper-case ISO 3166-1 alpha-2 codes."""

    kind: Literal["none", "whitelist", "blacklist"] = "none"
    countries: tuple[str, ...] = ()


class Invalidation(msgspec.Struct, frozen=True, gc=False):
    """What an edge asked an origin for while it obeyed a snapshot before `number` is not served any more if it lies
    under one of `paths`: a URL-encoded path that begins with a slash, with its query string where those are cached
    on; a `*` at its end stands for anything (cloudfront-semantics §5.16). An item that begins with `#` is a cache tag
    in lower case: it covers every response that carries the tag."""

    number: int
    paths: tuple[str, ...]


class Distribution(msgspec.Struct, frozen=True):
    """A distribution as the edge serves it. Host names are lower-case and carry no port. `invalidations` are in order
    of their numbers, which are all different; `model/invalidation.py` says how long they are carried. `regions` are
    those that it is tied to; empty: it may be everywhere. `cache_tag_header` is the lower-case name of the response
    header from which the edge reads cache tags; empty: it reads none."""

    id: str
    arn: str
    domain_name: str
    aliases: tuple[str, ...] = ()
    enabled: bool = True
    default_root_object: str = ""
    origins: tuple[Origin, ...] = ()
    origin_groups: tuple[OriginGroup, ...] = ()
    behaviors: tuple[Behavior, ...] = ()
    error_responses: tuple[ErrorResponse, ...] = ()
    geo: Geo = Geo()
    log_cookies: bool = False
    invalidations: tuple[Invalidation, ...] = ()
    regions: tuple[str, ...] = ()
    cache_tag_header: str = ""


class Snapshot(msgspec.Struct, frozen=True):
    """One numbered state of everything, or of what belongs in `region` (`model/residency.py`). `created` is epoch
    seconds. `reserved` are host names, lower-case and perhaps with a `*.` before them, for which nobody answers
    here, though a wildcard alias of some distribution covers them."""

    number: int
    created: float
    public_keys: tuple[PublicKey, ...] = ()
    key_groups: tuple[KeyGroup, ...] = ()
    distributions: tuple[Distribution, ...] = ()
    response_headers_policies: tuple[ResponseHeadersPolicy, ...] = ()
    region: str = ""
    reserved: tuple[str, ...] = ()

    @property
    def tied(self) -> bool:
        """Is anything in it tied to regions?"""
        things = (self.distributions, self.key_groups, self.public_keys)
        return any(one.regions for some in things for one in some)

    def to_bytes(self) -> bytes:
        payload = msgspec.msgpack.encode(self)
        magic = MAGIC_OF_REGIONS if self.region or self.reserved or self.tied else MAGIC
        return magic + hashlib.sha256(payload).digest() + payload


EMPTY = Snapshot(number=0, created=0.0)

_OBEYED = tuple(name for name in Snapshot.__struct_fields__ if name not in ("number", "created"))


def differ(one: Snapshot, other: Snapshot) -> bool:
    """True if an edge would do anything differently under the one than under the other."""
    return any(getattr(one, name) != getattr(other, name) for name in _OBEYED)


_decoder = msgspec.msgpack.Decoder(Snapshot)


def from_bytes(data: bytes) -> Snapshot:
    """The snapshot that `data` holds.

    :raises SnapshotRefused: if `data` is torn, altered, or not a snapshot of this format.
    """
    head = len(MAGIC)
    if data[:head] not in (MAGIC, MAGIC_OF_REGIONS):
        raise SnapshotRefused("not a snapshot of this format")
    payload = data[head + 32 :]
    if hashlib.sha256(payload).digest() != data[head : head + 32]:
        raise SnapshotRefused("the checksum does not match: the snapshot is torn or was altered")
    try:
        return _decoder.decode(payload)
    except msgspec.MsgspecError as error:
        raise SnapshotRefused(f"the payload is no snapshot: {error}") from error
