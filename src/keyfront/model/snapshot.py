"""A snapshot: everything that an edge needs, compiled, immutable, and numbered.

`compile.py` makes a `Snapshot` from the resources, and the feed transports it. All of it is frozen values; an edge with
a snapshot needs neither control plane nor database. What cannot be serialized (loaded keys, compiled patterns, lookup
tables) is prepared once by `edge/rules/routing.py` when the snapshot is accepted.

Serialized form: MAGIC, the SHA-256 of the payload (32 bytes), the payload (msgpack). `from_bytes` refuses anything
else, so a truncated or foreign file is never applied in part. There are two formats with one payload. A reader of
format 2 knows `region`, `reserved`, and `regions`. Format 1 is written if all of them are empty, so that older edges
continue until something is tied to a region, and then refuse the snapshot instead of ignoring the tie.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from keyfront.errors import SnapshotRefused
from keyfront.model.access import Signing

MAGIC = b"keyfront-snapshot 1\n"
MAGIC_OF_REGIONS = b"keyfront-snapshot 2\n"
"""The magic of format 2, as long as that of format 1."""


class PublicKey(msgspec.Struct, frozen=True, gc=False):
    """A public key that verifies viewers' signatures.

    :param pem: SubjectPublicKeyInfo.
    :param regions: those that its key groups tie it to; empty: it may be everywhere.
    """

    id: str
    pem: str
    regions: tuple[str, ...] = ()


class KeyGroup(msgspec.Struct, frozen=True, gc=False):
    """A key group.

    :param key_ids: ids of `Snapshot.public_keys`.
    :param regions: those that it is tied to; empty: it may be everywhere.
    """

    id: str
    name: str
    key_ids: tuple[str, ...]
    regions: tuple[str, ...] = ()


class Select(msgspec.Struct, frozen=True, gc=False):
    """A selection of headers, cookies, or query parameters: the four modes of CloudFront's policies.

    Header names are in lower case. Cookie names of legacy settings can contain `*` and `?`.
    """

    mode: Literal["none", "whitelist", "allExcept", "all"] = "none"
    names: tuple[str, ...] = ()


class ResponseHeader(msgspec.Struct, frozen=True, gc=False):
    """A header that a response headers policy adds. `name` is in lower case; without `override`, the origin's header
    takes precedence."""

    name: str
    value: str
    override: bool


class Cors(msgspec.Struct, frozen=True):
    """The CORS section of a response headers policy.

    :param origins: in lower case: `*`, or `[scheme://]host[:port]`, whose host can begin with `*.` and whose port can
        contain one `*`.
    :param headers: names, each with at most one `*`.
    :param max_age: seconds; None: no Access-Control-Max-Age.
    :param override: whether the origin's CORS headers are removed.
    """

    origins: tuple[str, ...]
    headers: tuple[str, ...]
    methods: tuple[str, ...]
    expose: tuple[str, ...] = ()
    credentials: bool = False
    max_age: int | None = None
    override: bool = False


class ResponseHeadersPolicy(msgspec.Struct, frozen=True):
    """A response headers policy: first `remove` (names in lower case) is applied, then `headers` and `cors` are added
    (cloudfront-semantics §5.13).

    :param server_timing: the percentage of responses with Server-Timing without a request for it; None: Server-Timing
        is disabled.
    """

    id: str
    headers: tuple[ResponseHeader, ...] = ()
    remove: tuple[str, ...] = ()
    cors: Cors | None = None
    server_timing: float | None = None


class Origin(msgspec.Struct, frozen=True):
    """An origin. Times are seconds.

    :param custom_headers: may contain secrets.
    :param signing: which requests are signed; an edge has the credentials from its operator.
    :param shield_region: the region of its Origin Shield; empty: none. An edge knows from its operator which edge is
        the shield of a region.
    """

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
    """A primary and a secondary origin, and the statuses that cause failover."""

    id: str
    members: tuple[str, str]
    status_codes: tuple[int, ...]


class Behavior(msgspec.Struct, frozen=True):
    """A cache behavior. A distribution's last one is the default behavior (`path_pattern` is `*`). TTLs are seconds.

    `key_*` select what is in the cache key, `forward_*` what is forwarded to the origin (at least what is in the key).

    :param restricted: whether trusted key groups are enabled. It stays true if the groups have no usable key; then
        every request is refused.
    :param legacy: whether the settings are ForwardedValues. These forward unlisted viewer headers except the removed
        ones, while a cache policy forwards only listed ones (cloudfront-semantics §5.8). With `key_headers` all,
        nothing is cached.
    :param response_headers_policy_id: one of `Snapshot.response_headers_policies`; empty: none.
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
        """False if caching is disabled: all TTLs are zero, or legacy settings forward all headers (§5.4)."""
        if self.legacy and self.key_headers.mode == "all":
            return False
        return self.max_ttl > 0


class ErrorResponse(msgspec.Struct, frozen=True, gc=False):
    """A custom error response. Without `page_path`, it only sets `min_ttl` (seconds)."""

    error_code: int
    min_ttl: int = 10
    page_path: str = ""
    response_code: int = 0


class Geo(msgspec.Struct, frozen=True, gc=False):
    """A geo restriction; `countries` are ISO 3166-1 alpha-2 codes in upper case."""

    kind: Literal["none", "whitelist", "blacklist"] = "none"
    countries: tuple[str, ...] = ()


class Invalidation(msgspec.Struct, frozen=True, gc=False):
    """Invalidates matching responses that an edge requested from the origin while it used a snapshot below `number`.

    :param paths: URL-encoded paths that begin with a slash, with the query string if it is in the cache key; a `*` at
        the end matches anything (cloudfront-semantics §5.16). An item that begins with `#` is a cache tag in lower
        case: it matches every response with the tag.
    """

    number: int
    paths: tuple[str, ...]


class Distribution(msgspec.Struct, frozen=True):
    """A distribution. Host names are in lower case, without port.

    :param invalidations: in order of their numbers, which are distinct; `model/invalidation.py` decides how long they
        are carried.
    :param regions: those that it is tied to; empty: it may be everywhere.
    :param cache_tag_header: the name, in lower case, of the response header with cache tags; empty: none.
    :param http2: whether viewers may use HTTP/2.
    :param log_bucket: where its standard log goes: the domain name of an S3 bucket; empty: there is none. Names of its
        files begin with `log_prefix`.
    """

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
    http2: bool = True
    log_bucket: str = ""
    log_prefix: str = ""


class Snapshot(msgspec.Struct, frozen=True):
    """One numbered state of everything, or of one region's part (`model/residency.py`).

    :param created: epoch seconds.
    :param region: the region that it is for; empty: edges without a region.
    :param reserved: host names in lower case, possibly with a leading `*.`, that no distribution serves here although a
        wildcard alias covers them.
    """

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
        """True if anything in it is tied to regions."""
        things = (self.distributions, self.key_groups, self.public_keys)
        return any(one.regions for some in things for one in some)

    @property
    def magic(self) -> bytes:
        """The magic of the format in which it is written."""
        return MAGIC_OF_REGIONS if self.region or self.reserved or self.tied else MAGIC

    def to_bytes(self) -> bytes:
        """The serialized form."""
        payload = msgspec.msgpack.encode(self)
        return self.magic + hashlib.sha256(payload).digest() + payload


EMPTY = Snapshot(number=0, created=0.0)

_EFFECTIVE = tuple(name for name in Snapshot.__struct_fields__ if name not in ("number", "created"))


def differ(one: Snapshot, other: Snapshot) -> bool:
    """True if an edge would behave differently with the one than with the other."""
    return any(getattr(one, name) != getattr(other, name) for name in _EFFECTIVE)


_decoder = msgspec.msgpack.Decoder(Snapshot)


def from_bytes(data: bytes) -> Snapshot:
    """Deserialize a snapshot.

    :raises SnapshotRefused: if `data` is truncated, altered, or not a snapshot of a known format.
    """
    head = len(MAGIC)
    if data[:head] not in (MAGIC, MAGIC_OF_REGIONS):
        raise SnapshotRefused("not a snapshot of this format")
    payload = data[head + 32 :]
    if hashlib.sha256(payload).digest() != data[head : head + 32]:
        raise SnapshotRefused("the checksum does not match: the snapshot is truncated or was altered")
    try:
        return _decoder.decode(payload)
    except msgspec.MsgspecError as error:
        raise SnapshotRefused(f"the payload is not a snapshot: {error}") from error
