"""Canned and custom policies, as received and as signed (cloudfront-semantics §1.2, §1.3, §1.5).

All text from a request line is latin-1: one character is one byte as sent. A policy's Resource, which is UTF-8 in JSON,
is converted to the same form, so that both can be compared raw.
"""

from __future__ import annotations

import ipaddress
from datetime import datetime, timedelta
from hashlib import sha256

import msgspec

from keyfront.errors import PolicyError
from keyfront.signing.raw_url import as_sent, pattern_as_sent
from keyfront.signing.resource import ResourcePattern

# §1.2: an epoch is stored as signed 64-bit nanoseconds, so this is the largest number of seconds.
MAX_EPOCH = 9_223_372_036

Network = tuple[int, int]
"""The first and the last IPv4 address of a network, as integers, both inclusive."""


def canned_policy(resource: str, expires: str) -> bytes:
    """Return the bytes that a canned policy's signature covers (§1.2). `resource` is the URL as requested, as latin-1
    text without its signing parameters; `expires` is the digits of Expires.

    A `"` or `\\` in the URL is escaped as JSON requires, so that no URL can pose as more of the policy than its
    Resource. Everything else stays as it was sent.
    """
    if '"' in resource or "\\" in resource:
        resource = resource.replace("\\", "\\\\").replace('"', '\\"')
    return (
        f'{{"Statement":[{{"Resource":"{resource}","Condition":{{"DateLessThan":{{"AWS:EpochTime":{expires}}}}}}}]}}'
    ).encode("latin-1")


def canned_expires(text: str) -> int:
    """Return the epoch second in the text of an Expires parameter.

    :raises PolicyError: if it is not digits only, or beyond MAX_EPOCH (as milliseconds are).
    """
    if not (0 < len(text) <= 20 and text.isascii() and text.isdigit()):
        raise PolicyError("Expires is not a whole number of seconds")
    return _epoch(int(text), "Expires")


# ------------------------------------------------------------------------------------------------------------
# Custom policies as received. msgspec is as strict as the rules require: numbers unquoted and whole, Statement an
# array, unknown members ignored, white space anywhere.


class _Epoch(msgspec.Struct):
    seconds: int = msgspec.field(name="AWS:EpochTime")


class _SourceIp(msgspec.Struct):
    cidr: str = msgspec.field(name="AWS:SourceIp")


class _Condition(msgspec.Struct):
    less: _Epoch = msgspec.field(name="DateLessThan")
    greater: _Epoch | msgspec.UnsetType = msgspec.field(name="DateGreaterThan", default=msgspec.UNSET)
    address: _SourceIp | msgspec.UnsetType = msgspec.field(name="IpAddress", default=msgspec.UNSET)


class _Statement(msgspec.Struct):
    condition: _Condition = msgspec.field(name="Condition")
    resource: str | msgspec.UnsetType = msgspec.field(name="Resource", default=msgspec.UNSET)


class _Document(msgspec.Struct):
    statements: list[_Statement] = msgspec.field(name="Statement")


_decoder = msgspec.json.Decoder(_Document)


class Statement:
    """The parsed content of a custom policy. Immutable.

    `resource` is its text as latin-1 (None: omitted, every URL); `expires` and `not_before` are epoch seconds, both
    exclusive; `network` is the IPv4 range that must contain the viewer's address; `digest` is the SHA-256 of the
    policy's bytes.
    """

    __slots__ = ("_pattern", "digest", "expires", "network", "not_before", "resource")

    def __init__(
        self,
        resource: str | None,
        expires: int,
        not_before: int | None,
        network: Network | None,
        digest: bytes,
    ) -> None:
        self.digest = digest
        self.resource = resource
        self.expires = expires
        self.not_before = not_before
        self.network = network
        self._pattern: ResourcePattern | None = None

    @property
    def pattern(self) -> ResourcePattern | None:
        """`resource`, compiled on first use: a policy is parsed before its signature is verified, and compiling
        unauthenticated input would waste work."""
        if self._pattern is None and self.resource is not None:
            self._pattern = ResourcePattern(self.resource)
        return self._pattern


def parse_policy(data: bytes) -> Statement:
    """Parse the statement of a custom policy (§1.3).

    :raises PolicyError: if CloudFront would call it malformed; the message says why.
    """
    try:
        document = _decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise PolicyError(f"the policy cannot be read: {error}") from error
    if len(document.statements) != 1:
        raise PolicyError(f"a policy has exactly one statement, this one has {len(document.statements)}")
    statement = document.statements[0]
    condition = statement.condition
    resource: str | None = None
    if statement.resource is not msgspec.UNSET:
        resource = statement.resource.encode("utf-8").decode("latin-1")
        if not resource:
            raise PolicyError("Resource is empty")
    return Statement(
        resource,
        _epoch(condition.less.seconds, "DateLessThan"),
        None if condition.greater is msgspec.UNSET else _epoch(condition.greater.seconds, "DateGreaterThan"),
        None if condition.address is msgspec.UNSET else parse_network(condition.address.cidr),
        sha256(data).digest(),
    )


def _epoch(seconds: int, name: str) -> int:
    if not 0 <= seconds <= MAX_EPOCH:
        unit = " (is it in milliseconds?)" if seconds > MAX_EPOCH else ""
        raise PolicyError(f"{name} {seconds} is outside the range of epoch seconds{unit}")
    return seconds


# ------------------------------------------------------------------------------------------------------------
# IpAddress (§1.5)


def parse_network(text: str) -> Network:
    """Parse an IPv4 address or CIDR. Host bits may be set; a bare address is a /32.

    :raises PolicyError: for anything else, including IPv6.
    """
    address, slash, mask = text.partition("/")
    first = ipv4(address)
    if first is None or (slash and not (mask.isascii() and mask.isdigit() and len(mask) <= 2)):
        raise PolicyError(f"{text[:60]!r} is not an IPv4 address or CIDR")
    bits = int(mask) if slash else 32
    if bits > 32:
        raise PolicyError(f"{text[:60]!r} is not an IPv4 address or CIDR")
    span = (1 << (32 - bits)) - 1
    return first & ~span, first | span


def ipv4(text: str) -> int | None:
    """Return the number of an IPv4 address, also of one mapped into IPv6 (`::ffff:192.0.2.1`); None for any other
    text."""
    if ":" in text:
        try:
            mapped = ipaddress.IPv6Address(text).ipv4_mapped
        except ValueError:
            return None
        return None if mapped is None else int(mapped)
    parts = text.split(".")
    if len(parts) != 4:
        return None
    number = 0
    for part in parts:
        if not (part.isascii() and part.isdigit() and len(part) <= 3) or (part[0] == "0" and part != "0"):
            return None
        octet = int(part)
        if octet > 255:
            return None
        number = number << 8 | octet
    return number


# ------------------------------------------------------------------------------------------------------------
# Custom policies to be signed

Moment = datetime | timedelta | int
"""A point in time: an aware datetime, a timedelta from now, or whole epoch seconds."""

# What to write instead, by the name of the given type.
_MENDED = {
    "float": ": round it with int(…), or give the timedelta",
    "str": ": give int(…) of the digits, or datetime.fromisoformat(…) with its zone",
    "date": ": give a datetime with a time zone, for a date begins at another moment in each",
    "struct_time": ": give int(calendar.timegm(…))",
}

# Epochs before this second (2001-09-09) were never the expiry of anything that CloudFront served.
_EARLIEST = 1_000_000_000


def epoch_of(moment: Moment, now: float, name: str = "expires") -> int:
    """Return the epoch second of `moment`, truncated. `now` is epoch seconds; `name` is for the message.

    :raises PolicyError: for values that are probably mistakes: a naive datetime, an epoch in milliseconds or finer, a
        number of seconds that is a duration, a float.
    """
    if isinstance(moment, timedelta):
        seconds = int(now + moment.total_seconds())
    elif isinstance(moment, datetime):
        if moment.tzinfo is None or moment.utcoffset() is None:
            raise PolicyError(
                f"{name} is a datetime without a time zone, which could mean any of 24 hours. "
                "Use datetime.now(timezone.utc) + timedelta(…), or just the timedelta"
            )
        seconds = int(moment.timestamp())
    elif isinstance(moment, int) and not isinstance(moment, bool):
        seconds = moment
        for unit, scale in (("milliseconds", 1000), ("microseconds", 10**6), ("nanoseconds", 10**9)):
            if _EARLIEST * scale <= moment < MAX_EPOCH * scale and moment > MAX_EPOCH:
                raise PolicyError(f"{name} {moment} is in {unit}: epochs here are seconds, {moment // scale}")
        if 0 < moment < _EARLIEST:
            raise PolicyError(
                f"{name} {moment} is a moment before 2001. For a duration give timedelta(seconds={moment}); "
                "if it was a time in seconds already, do not divide it by 1000"
            )
    else:
        raise PolicyError(
            f"{name} is an aware datetime, a timedelta or whole epoch seconds, not {type(moment).__name__}"
            f"{_MENDED.get(type(moment).__name__, '')}"
        )
    if not 0 < seconds <= MAX_EPOCH:
        raise PolicyError(f"{name} {seconds} is outside the range of epoch seconds that CloudFront takes")
    return seconds


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"


def check_resource(resource: object) -> None:
    """:raises PolicyError: if it is not text, or is a whole policy."""
    if resource is None or (isinstance(resource, str) and not resource.lstrip().startswith("{")):
        return
    if isinstance(resource, str | dict) or (
        isinstance(resource, bytes | bytearray) and bytes(resource).lstrip().startswith(b"{")
    ):
        raise PolicyError(
            "this is a whole policy document, and Policy(…) makes one of a resource and moments. Give the document as "
            "it is, as JSON text or bytes: sign_url(url, signer, policy=…), sign_cookies(document.encode(), signer)"
        )
    if isinstance(resource, list | tuple | set | frozenset):
        raise PolicyError(
            f"a policy has one Resource, and this is {_kind(resource)} of {len(resource)}: give one URL as text, with "
            "* for what may vary, such as https://cdn.example.com/films/*. For several folders sign cookies for each, "
            "with its own path"
        )
    raise PolicyError(
        f"a resource is the text of a URL, with * and ? as wildcards, or None for every URL; not {_kind(resource)}"
    )


class Policy:
    """A custom policy to be signed: which URLs, until when, from when, and from which addresses. Immutable.

    `resource` is a URL in which `*` stands for any run of characters within the protocol, host, path, or query, and `?`
    for one character; None grants every URL for which the key is trusted. It is written as clients send URLs:
    everything that must be percent-encoded is. `expires` and `starts` are moments; a timedelta counts from the time of
    signing. `ip` is one IPv4 address or CIDR.

        Policy("https://d111111abcdef8.cloudfront.net/films/*", expires=timedelta(hours=6))

    :raises PolicyError: if CloudFront would refuse it, or it cannot do what its author intended.
    """

    __slots__ = ("expires", "ip", "resource", "starts")

    def __init__(
        self,
        resource: str | None,
        expires: Moment,
        *,
        starts: Moment | None = None,
        ip: str | None = None,
        as_is: bool = False,
    ) -> None:
        check_resource(resource)
        self.resource = resource if resource is None or as_is else pattern_as_sent(resource)
        self.expires = expires
        self.starts = starts
        if ip is not None:
            if not isinstance(ip, str):
                raise PolicyError(
                    f"ip is one IPv4 address or network as text, such as 203.0.113.0/24, not {_kind(ip)}: a policy "
                    "has one; leave it out, or sign for each viewer"
                )
            if ":" in ip:
                raise PolicyError(
                    f"{ip}: CloudFront's IpAddress takes IPv4 only; leave it out for IPv6 viewers"
                )
            parse_network(ip)
            ip = ip if "/" in ip else f"{ip}/32"
        self.ip = ip

    def to_bytes(self, now: float) -> bytes:
        """Return the policy as it is signed and sent: compact JSON, in botocore's order. `now` is epoch seconds.

        :raises PolicyError: if the moments are inconsistent.
        """
        expires = epoch_of(self.expires, now)
        condition: dict[str, object] = {"DateLessThan": {"AWS:EpochTime": expires}}
        if self.ip is not None:
            condition["IpAddress"] = {"AWS:SourceIp": self.ip}
        if self.starts is not None:
            starts = epoch_of(self.starts, now, "starts")
            if starts >= expires:
                raise PolicyError("the policy ends before it starts")
            condition["DateGreaterThan"] = {"AWS:EpochTime": starts}
        statement: dict[str, object] = {"Condition": condition}
        if self.resource is not None:
            statement = {"Resource": self.resource, "Condition": condition}
        return msgspec.json.encode({"Statement": [statement]})

    def covers(self, url: str) -> bool:
        """Whether the resource grants `url`, as clients send it.

        :raises SigningError: if `url` cannot be sent.
        """
        sent = as_sent(url)
        return self.resource is None or ResourcePattern(self.resource).matches(
            sent.scheme, sent.host, sent.path, sent.query or ""
        )

    def __repr__(self) -> str:
        return f"Policy({self.resource!r}, {self.expires!r}, starts={self.starts!r}, ip={self.ip!r})"
