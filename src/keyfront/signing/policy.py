"""Canned and custom policies, and the patterns of URLs that a custom policy grants (cloudfront-semantics
§1.2-1.5).

All text from a request line is latin-1: one character is one byte as sent, and nothing is ever decoded or
normalised. A policy's Resource, which is UTF-8 in JSON, is brought to the same form before it is compared.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from functools import lru_cache

import msgspec

from keyfront.errors import PolicyError

# §1.2: an epoch is held as signed 64-bit nanoseconds, so this many seconds and no more.
MAX_EPOCH = 9_223_372_036

Network = tuple[int, int]
"""The first and the last IPv4 address of a network, as integers, both included."""


def canned_policy(resource: str, expires: str) -> bytes:
    """The bytes that a canned policy's signature covers (§1.2): `resource` is the URL as requested, as
    latin-1 text without its signing parameters, `expires` the digits of Expires.

    A `"` or `\\` in the URL is escaped as JSON requires, so that no URL can pose as more of the policy than
    its Resource; everything else stands as it was sent.
    """
    if '"' in resource or "\\" in resource:
        resource = resource.replace("\\", "\\\\").replace('"', '\\"')
    return (
        f'{{"Statement":[{{"Resource":"{resource}","Condition":{{"DateLessThan":{{"AWS:EpochTime":{expires}}}}}}}]}}'
    ).encode("latin-1")


def canned_expires(text: str) -> int:
    """The second that the text of an Expires parameter means.

    :raises PolicyError: if it is not digits only, or beyond MAX_EPOCH (milliseconds are).
    """
    if not (0 < len(text) <= 20 and text.isascii() and text.isdigit()):
        raise PolicyError("Expires is not a whole number of seconds")
    return _epoch(int(text), "Expires")


# ------------------------------------------------------------------------------------------------------------
# Custom policies as they arrive. msgspec is strict as the rules ask: numbers unquoted and whole, Statement an
# array, unknown members passed over, white space anywhere.


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
    """What a custom policy says, prepared for judging. Never changes.

    `resource` is its text as latin-1 (None: omitted, every URL), `pattern` the same compiled; `expires` and
    `not_before` are epoch seconds, both exclusive; `network` is the IPv4 range that the viewer must be in.
    """

    __slots__ = ("expires", "network", "not_before", "pattern", "resource")

    def __init__(
        self, resource: str | None, expires: int, not_before: int | None, network: Network | None
    ) -> None:
        self.resource = resource
        self.pattern = None if resource is None else ResourcePattern(resource)
        self.expires = expires
        self.not_before = not_before
        self.network = network


def parse_policy(data: bytes) -> Statement:
    """The statement of a custom policy (§1.3).

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
        try:
            resource = statement.resource.encode("utf-8").decode("latin-1")
        except UnicodeError as error:
            raise PolicyError("Resource is not valid Unicode") from error
        if not resource:
            raise PolicyError("Resource is empty")
    return Statement(
        resource,
        _epoch(condition.less.seconds, "DateLessThan"),
        None if condition.greater is msgspec.UNSET else _epoch(condition.greater.seconds, "DateGreaterThan"),
        None if condition.address is msgspec.UNSET else parse_network(condition.address.cidr),
    )


def _epoch(seconds: int, name: str) -> int:
    if not 0 <= seconds <= MAX_EPOCH:
        unit = " (is it in milliseconds?)" if seconds > MAX_EPOCH else ""
        raise PolicyError(f"{name} {seconds} is outside the range of epoch seconds{unit}")
    return seconds


# ------------------------------------------------------------------------------------------------------------
# IpAddress (§1.5)


def parse_network(text: str) -> Network:
    """The range of an IPv4 address or CIDR. Host bits may be set; a bare address is a /32.

    :raises PolicyError: for anything else, IPv6 included.
    """
    address, slash, mask = text.partition("/")
    first = ipv4(address)
    if first is None or (slash and not (mask.isascii() and mask.isdigit() and len(mask) <= 2)):
        raise PolicyError(f"{text!r} is no IPv4 address or CIDR")
    bits = int(mask) if slash else 32
    if bits > 32:
        raise PolicyError(f"{text!r} is no IPv4 address or CIDR")
    span = (1 << (32 - bits)) - 1
    return first & ~span, first | span


@lru_cache(maxsize=16_384)
def ipv4(text: str) -> int | None:
    """The number of an IPv4 address, also of one mapped into IPv6 (`::ffff:192.0.2.1`); None for any other
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
# Resource patterns (§1.4)

Matcher = Callable[[str], bool]
_DELIMITER = (
    "\0"  # stands for the `?` that opens the request's query; no other part of a request line holds it
)


class ResourcePattern:
    """The Resource of a custom policy: `[protocol]://[domain]/[path]?[query]`, where `*` is any run of
    characters within its section and `?` any one character.

    A bare `?` is ambiguous: it may open the query section, or stand for one character. A request is granted
    if any reading of the pattern grants it. `\\?` can only be the delimiter.

    Compiled once. Matching takes time in proportion to the length of the request, whatever the pattern:
    literal pieces are looked for from left to right and never given back; where `*` and `?` meet, all
    readings advance together, one step for each character.
    """

    __slots__ = ("_exact", "_prefix", "_readings", "text")

    def __init__(self, text: str) -> None:
        """`text` is latin-1 text, as a request line is."""
        self.text = text
        self._exact = ""
        self._prefix = ""
        self._readings: list[tuple[Matcher, Matcher, Tail]] = []
        scheme, rest = _split_scheme(text)
        if scheme is None or _DELIMITER in text:
            return  # no protocol and no leading `*`: it matches no URL (§1.4, allowed protocol part)
        domain, slash, path = rest.partition("/")
        literal = "*" not in scheme and "?" not in scheme and "*" not in domain and "?" not in domain
        if literal and "?" not in path and "*" not in path.removesuffix("*"):
            # By far the commonest: a literal URL, or one with a `*` at its end, which spans the query too.
            url = f"{scheme.lower()}://{plain_host(scheme.lower(), domain.lower())}/{path}"
            if path.endswith("*"):
                self._prefix = url[:-1]
            else:
                self._exact = url
            return
        if not slash and domain.endswith("*"):
            path = "*"  # `http://e.com*` is `http://e.com*/*\?*`
        match_scheme = glob(scheme.lower())
        self._readings.append((match_scheme, glob(domain.lower()), Tail("/" + path)))
        if "?" in domain:
            # The other reading of `http://d?x=1`: an empty path, and the rest its query.
            bare, _, query = rest.partition("?")
            bare = bare.removesuffix("\\")
            self._readings.append((match_scheme, glob(bare.lower()), Tail("/\\?" + query)))

    def matches(self, scheme: str, host: str, path: str, query: str) -> bool:
        """Whether the pattern grants a URL. `host` is as `plain_host` makes it, `path` begins with a slash,
        `query` is the request's own (§1.1), without its `?`."""
        if self._prefix:
            return f"{scheme}://{host}{path}".startswith(self._prefix)
        if self._exact:
            return not query and f"{scheme}://{host}{path}" == self._exact
        for match_scheme, match_host, tail in self._readings:
            if (
                match_scheme(scheme)
                and (match_host(host) or match_host(_with_port(scheme, host)))
                and tail.matches(path, query)
            ):
                return True
        return False


def _split_scheme(text: str) -> tuple[str | None, str]:
    """The protocol section and the rest; `*` where the pattern begins with `*` and names no protocol."""
    scheme, separator, rest = text.partition("://")
    if separator and all(char.isalpha() or char in "*?" for char in scheme) and scheme:
        return scheme, rest
    if text == "*":
        return "*", "*"  # any URL
    if text.startswith("*"):
        return "*", text
    return None, ""


def plain_host(scheme: str, host: str) -> str:
    """A host without the port that `scheme` implies (§1.4)."""
    if ":" in host:
        return host.removesuffix(":443") if scheme == "https" else host.removesuffix(":80")
    return host


def _with_port(scheme: str, host: str) -> str:
    """A host with the port that `scheme` implies spelt out, as a pattern may have it."""
    if ":" in host and not host.endswith("]"):
        return host
    return f"{host}:443" if scheme == "https" else f"{host}:80"


def glob(pattern: str) -> Matcher:
    """A matcher of whole strings for a pattern of one section, in time linear in the string."""
    if "?" in pattern:
        return _Automaton(pattern).accepts
    if "*" not in pattern:
        return pattern.__eq__
    head, *middle, last = pattern.split("*")
    middle = [piece for piece in middle if piece]
    if not middle and not head and not last:
        return lambda _text: True
    least = len(head) + len(last)

    def match(text: str) -> bool:
        if len(text) < least or not text.startswith(head) or not text.endswith(last):
            return False
        at, end = len(head), len(text) - len(last)
        # The earliest place for each piece leaves the most room for those after it, so none is ever taken
        # back.
        for piece in middle:
            at = text.find(piece, at, end)
            if at < 0:
                return False
            at += len(piece)
        return True

    return match


class Tail:
    """The path and query sections of a pattern, with every reading of its `?`."""

    __slots__ = ("_any_query", "_match")

    def __init__(self, pattern: str) -> None:
        self._any_query = pattern.endswith("*")
        self._match: _Automaton | Matcher = (
            _Automaton(pattern.replace("\\?", _DELIMITER)) if "?" in pattern else glob(pattern)
        )

    def matches(self, path: str, query: str) -> bool:
        if isinstance(self._match, _Automaton):
            return self._match.accepts_target(path, query)
        # No query section: a `*` at the end of the path spans the query, else there must be none.
        return (not query or self._any_query) and self._match(path)


class _Automaton:
    """All ways to match a pattern at once: bit i of the state says that the first i tokens may be matched
    so far.

    A token is any character of the pattern but `*`; a `*` lets the state before the next token stay where
    it is. The delimiter between a request's path and query is one character, which only a token can take
    and no `*` can: so each section keeps to itself, and a `?` may be either a delimiter or a character
    (§1.4).
    """

    __slots__ = ("_any", "_delimits", "_done", "_open_end", "_stay", "_takes")

    def __init__(self, pattern: str) -> None:
        self._takes: dict[str, int] = {}
        self._any = self._stay = 0
        bit = 1
        for char in pattern:
            if char == "*":
                self._stay |= bit
                continue
            if char == "?":
                self._any |= bit
            else:
                self._takes[char] = self._takes.get(char, 0) | bit
            bit <<= 1
        self._done = bit
        self._open_end = bool(self._stay & bit)
        # `\?` is the delimiter for certain, and then no other token is. Within the query it is a plain `?`.
        self._delimits = self._takes.pop(_DELIMITER, 0)
        if self._delimits:
            self._takes["?"] = self._takes.get("?", 0) | self._delimits

    def _feed(self, state: int, text: str) -> int:
        takes, any_, stay = self._takes, self._any, self._stay
        for char in text:
            state = (state & (takes.get(char, 0) | any_)) << 1 | state & stay
            if not state:
                return 0
        return state

    def accepts(self, text: str) -> bool:
        return bool(self._feed(1, text) & self._done)

    def accepts_target(self, path: str, query: str) -> bool:
        state = self._feed(1, path)
        if state & self._done and (not query or self._open_end):
            return True
        state = (state & (self._delimits or self._any)) << 1
        return bool(state and self._feed(state, query) & self._done)
