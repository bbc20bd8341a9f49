"""The URLs that a custom policy grants: patterns in four sections (cloudfront-semantics §1.4).

Everything is latin-1 text, one character for one byte of the request line, and compared raw: nothing is decoded or
normalized except the case of scheme and host and the port that the scheme implies.
"""

from __future__ import annotations

import re
from collections.abc import Callable

Matcher = Callable[[str], bool]
_DELIMITER = (
    "\0"  # stands for the `?` that starts the request's query; a request line contains it nowhere else
)


_MOST_READINGS = 8
"""How many `?` in a pattern's host are tried as the start of the query: each adds a pattern to match."""


class ResourcePattern:
    """The Resource of a custom policy: `[protocol]://[domain]/[path]?[query]`, where `*` matches any run of
    characters within its section and `?` any one character.

    A bare `?` is ambiguous: it may start the query section, or stand for one character. A request is granted
    if any reading of the pattern grants it. `\\?` can only be the delimiter.

    Compiled once. Matching takes time proportional to the length of the request, whatever the pattern: literal
    pieces are searched from left to right without backtracking; where `*` and `?` are combined, all readings
    advance together, one step for each character.
    """

    __slots__ = ("_exact", "_prefix", "_readings", "text")

    def __init__(self, text: str) -> None:
        """`text` is latin-1 text, as a request line is."""
        self.text = text
        self._exact = ""
        self._prefix = ""
        self._readings: list[tuple[frozenset[str], Matcher, bool, Tail]] = []
        scheme, rest = _split_scheme(text)
        if scheme is None or _DELIMITER in text:
            return  # no protocol and no leading `*`: it matches no URL (§1.4, allowed protocol part)
        domain, slash, path = rest.partition("/")
        literal = "*" not in scheme and "?" not in scheme and "*" not in domain and "?" not in domain
        if literal and "?" not in path and "*" not in path.removesuffix("*"):
            # By far the most common: a literal URL, or one with a `*` at its end, which spans the query too.
            url = f"{scheme.lower()}://{plain_host(scheme.lower(), domain.lower())}/{path}"
            if path.endswith("*"):
                self._prefix = url[:-1]
            else:
                self._exact = url
            return
        if not slash and domain.endswith("*"):
            path = "*"  # `http://e.com*` is `http://e.com*/*\?*`
        schemes = frozenset(filter(glob(scheme.lower()), ("http", "https")))
        self._readings.append((schemes, glob(domain.lower()), ":" in domain, Tail("/" + path)))
        # The other readings of `http://d?x=1`: an empty path, and the rest its query. No host is longer, and a pattern
        # with more `?` in its host than `_MOST_READINGS` has no reading for the later ones: it grants less, not more.
        marks = [at for at, char in enumerate(domain[:300]) if char == "?"]
        for at in marks[:_MOST_READINGS]:
            bare = domain[:at].removesuffix("\\").lower()
            self._readings.append((schemes, glob(bare), ":" in bare, Tail("/\\?" + rest[at + 1 :])))

    def matches(self, scheme: str, host: str, path: str, query: str) -> bool:
        """Whether the pattern grants a URL. `host` is as `plain_host` makes it, `path` begins with a slash,
        `query` is the request's own (§1.1), without its `?`."""
        if self._prefix:
            return f"{scheme}://{host}{path}".startswith(self._prefix)
        if self._exact:
            return not query and f"{scheme}://{host}{path}" == self._exact
        for schemes, match_host, says_port, tail in self._readings:
            if (
                scheme in schemes
                and (match_host(host) or (says_port and match_host(_with_port(scheme, host))))
                and tail.matches(path, query)
            ):
                return True
        return False


def _split_scheme(text: str) -> tuple[str | None, str]:
    """Return the protocol section and the rest; `*` if the pattern begins with `*` and names no protocol."""
    scheme, separator, rest = text.partition("://")
    if separator and all(char.isalpha() or char in "*?" for char in scheme) and scheme:
        return scheme, rest
    if text == "*":
        return "*", "*"  # any URL
    if text.startswith("*"):
        return "*", text
    return None, ""


def plain_host(scheme: str, host: str) -> str:
    """Return a host without the port that `scheme` implies (§1.4)."""
    if ":" in host:
        return host.removesuffix(":443") if scheme == "https" else host.removesuffix(":80")
    return host


_BUCKET = re.compile(
    r"(?:.+\.)?s3(?:express-[a-z0-9-]+)?(?:[.-](?:website[.-])?[a-z0-9-]+)*\.amazonaws\.com(?:\.cn)?"
    r"|(?:.+\.)?storage\.googleapis\.com",
    re.ASCII,
)


def is_bucket_host(host: str) -> bool:
    """Whether a host name belongs to an S3 bucket (or Google's equivalent), which CloudFront's viewers never
    request."""
    return _BUCKET.fullmatch(host.lower().partition(":")[0].removesuffix(".")) is not None


def _with_port(scheme: str, host: str) -> str:
    """Return a host with the port that `scheme` implies written out, as a pattern may have it."""
    if ":" in host and not host.endswith("]"):
        return host
    return f"{host}:443" if scheme == "https" else f"{host}:80"


def glob(pattern: str) -> Matcher:
    """Return a matcher of whole strings for a pattern of one section, in time linear in the string."""
    if "?" in pattern:
        return _Automaton(pattern).accepts
    if "*" not in pattern:
        return pattern.__eq__
    head, *middle, last = pattern.split("*")
    middle = [piece for piece in middle if piece]
    if not middle and not head and not last:
        return lambda _text: True
    return in_order(head, middle, last)


def in_order(head: str, middle: list[str], tail: str) -> Matcher:
    """Return a matcher of whole strings that begin with `head`, end with `tail`, and hold the pieces of `middle` in
    this order between them."""
    start = len(head)

    def matches(text: str) -> bool:
        end = len(text) - len(tail)
        if end < start or not text.startswith(head) or not text.endswith(tail):
            return False
        at = start
        # The earliest position for each piece leaves the most room for the next ones, so there is no backtracking.
        for piece in middle:
            at = text.find(piece, at, end)
            if at < 0:
                return False
            at += len(piece)
        return True

    return matches


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
        # No query section: a `*` at the end of the path spans the query; otherwise there must be no query.
        return (not query or self._any_query) and self._match(path)


class _Automaton:
    """A bit-parallel matcher of all readings of a pattern: bit i of the state says that the first i tokens may have
    been matched so far.

    A token is any character of the pattern except `*`; a `*` lets the state before the next token stay where it is. The
    delimiter between a request's path and query is one character, which only a token can match and no `*` can. So
    each section is separate, and a `?` may be either a delimiter or a character (§1.4).
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
        # `\?` is always the delimiter, and then no other token is. Within the query it is a plain `?`.
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
