"""URLs exactly as they appear on the request line.

An edge compares what was signed with the raw bytes of the request line (cloudfront-semantics §1.4), so a URL must be
signed in the form in which it will be sent. Clients disagree on that form: each rewrites a different set of characters
before sending. `as_sent` returns the one spelling that browsers, curl, requests, httpx, and Node's fetch all leave
unchanged.
"""

from __future__ import annotations

import re

from keyfront.errors import PolicyError, SigningError

# cloudfront-semantics §1.1: the parameters that CloudFront reserves for itself.
SIGNING_PARAMETERS = frozenset({"Expires", "Policy", "Signature", "Key-Pair-Id", "Hash-Algorithm"})

_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<host>[^/?#]*)"
    r"(?P<path>/[^?#]*)?(?:\?(?P<query>[^#]*))?(?P<fragment>#.*)?"
)
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+)(?::[0-9]{1,5})?")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")

_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
# RFC 3986 §3.3: the characters allowed unencoded in a path, and by §3.4 in a query.
_IN_PATH = _UNRESERVED | frozenset(b"!$&'()*+,;=:@/")
# The URL Standard has browsers send a query's `'` as %27.
_IN_QUERY = (_IN_PATH | frozenset(b"?")) - frozenset(b"'")


class RawUrl:
    """A URL in its parts, each as it will be sent. `query` is None if there is no `?`. `fragment` includes its `#` and
    is never sent."""

    __slots__ = ("fragment", "host", "path", "query", "scheme")

    def __init__(self, scheme: str, host: str, path: str, query: str | None, fragment: str) -> None:
        self.scheme = scheme
        self.host = host
        self.path = path
        self.query = query
        self.fragment = fragment

    @property
    def target(self) -> str:
        """Path and query, as on the request line."""
        return self.path if self.query is None else f"{self.path}?{self.query}"

    def __str__(self) -> str:
        """Return the URL without its fragment: what is signed."""
        return f"{self.scheme}://{self.host}{self.target}"

    def with_parameters(self, parameters: str) -> str:
        """Return the URL with more parameters at the end of its query, followed by its fragment."""
        return f"{self}{'?' if self.query is None else '&'}{parameters}{self.fragment}"


def split_url(url: str) -> RawUrl:
    """Split `url` into its parts. Nothing is rewritten, except that an empty path becomes `/`.

    :raises SigningError: if it is not an http or https URL.
    """
    match = _URL.fullmatch(url)
    if match is None or match["scheme"].lower() not in ("http", "https") or not match["host"]:
        raise SigningError(f"not a URL that begins with http:// or https:// and a host: {url[:200]!r}")
    return RawUrl(
        match["scheme"], match["host"], match["path"] or "/", match["query"], match["fragment"] or ""
    )


def as_sent(url: str) -> RawUrl:
    """Return `url` as clients will send it. Idempotent.

    - The scheme and host are lowercased, the port that the scheme implies is dropped, an empty path becomes `/`, and a
      `?` with nothing after it is dropped.
    - In path and query, characters that RFC 3986 does not allow there are percent-encoded as UTF-8 (spaces, quotes,
      brackets, `\\`, `^`, `|`, non-ASCII letters …), a `%` that does not start an escape becomes `%25`, and in the
      query `'` becomes `%27`, as in browsers. `+` stays `+`, `%2F` stays `%2F`.
    - Escapes are uppercased, and escapes of letters, digits, and `-._~` are decoded, as requests does; every server
      treats the two as the same.

    :raises SigningError: for what cannot be sent safely in any spelling: other schemes, user names, non-ASCII hosts,
        control characters, dot segments (clients remove them).
    """
    if any(char < " " or char == "\x7f" for char in url) or url != url.strip():
        raise SigningError("the URL holds control characters or begins or ends with blanks")
    parts = split_url(url)
    host = parts.host
    if "@" in host:
        raise SigningError("a URL with a user name cannot be signed: browsers do not send that part")
    if not host.isascii():
        raise SigningError(
            f"the host {host!r} is not ASCII. Give its xn-- form, as in the distribution's aliases"
        )
    if not _HOST.fullmatch(host):
        raise SigningError(f"{host!r} is not a host name")
    scheme, host = parts.scheme.lower(), host.lower()
    host = host.removesuffix(":443" if scheme == "https" else ":80")
    path = _encode(parts.path, _IN_PATH)
    if any(segment in (".", "..") for segment in path.split("/")):
        raise SigningError(
            "the path holds a dot segment (/./ or /../), which browsers and most clients remove before they "
            "send the request. Sign the path without it, or with as_is=True for a client that keeps it"
        )
    return RawUrl(
        scheme, host, path, _encode(parts.query, _IN_QUERY) if parts.query else None, parts.fragment
    )


def as_is(url: str) -> RawUrl:
    """Return `url` unchanged, for clients that send exactly what they are given.

    :raises SigningError: if it is not an http or https URL, or contains what is not allowed on a request line:
        non-ASCII characters, spaces, control characters.
    """
    if not url.isascii() or any(char <= " " or char == "\x7f" for char in url):
        raise SigningError(
            "as it is, the URL cannot be sent: it holds blanks, control or non-ASCII characters"
        )
    return split_url(url)


def refuse_signed(url: RawUrl) -> None:
    """:raises SigningError: if the URL already has a parameter of a name that signing needs (§1.1)."""
    for parameter in (url.query or "").split("&"):
        name = parameter.partition("=")[0]
        if name in SIGNING_PARAMETERS:
            raise SigningError(
                f"the URL already has a parameter {name}: it is signed already, or its own parameter has a "
                "name that CloudFront keeps for itself"
            )


_PATTERN = re.compile(r"(?P<scheme>[A-Za-z*?]+://)?(?P<host>[^/?]*)(?P<path>/[^?]*)?(?P<query>\?.*)?")


def pattern_as_sent(pattern: str) -> str:
    """Return a custom policy's Resource in the spelling that `as_sent` gives to the URLs that it should match; `*` and
    `?` keep their meaning (§1.4).

    :raises PolicyError: if it begins with neither a protocol nor `*`, or contains what no request line can contain.
    """
    if any(char < " " or char == "\x7f" for char in pattern) or pattern != pattern.strip():
        raise PolicyError("the resource holds control characters or begins or ends with blanks")
    if "#" in pattern:
        raise PolicyError("the resource has a fragment (#…), which is never sent to a server")
    if "\\?" in pattern:
        raise PolicyError(r"write the ? that opens the query bare, not as \?")
    match = _PATTERN.fullmatch(pattern)
    if match is None or not (match["scheme"] or pattern.startswith("*")):
        raise PolicyError(f"the resource {pattern[:200]!r} begins with neither http://, https:// nor *")
    if not match["host"].isascii() or " " in match["host"]:
        raise PolicyError(f"{match['host']!r} is not a host name; give the xn-- form of a name beyond ASCII")
    path = _encode(match["path"] or "", _IN_PATH)
    query = _encode(match["query"] or "", _IN_QUERY)
    return f"{match['scheme'] or ''}{match['host']}".lower() + path + query


# Text that needs no change.
_PLAIN = re.compile(r"[A-Za-z0-9._~!$&()*+,;=:@/-]*")


def _encode(text: str, keep: frozenset[int]) -> str:
    if _PLAIN.fullmatch(text):
        return text
    out = []
    at = 0
    while at < len(text):
        if match := _ESCAPE.match(text, at):
            byte = int(match[1], 16)
            out.append(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}")
            at = match.end()
            continue
        try:
            encoded = text[at].encode("utf-8")
        except UnicodeEncodeError:
            raise SigningError("the URL holds a lone surrogate, which no client can send") from None
        out.extend(chr(byte) if byte in keep else f"%{byte:02X}" for byte in encoded)
        at += 1
    return "".join(out)
