"""The check that a policy's Resource grants nothing beyond a pattern, for callers that may sign for only part of the
URLs.

When unsure, the check fails. So the bounds, which an operator writes, are simpler than a policy's patterns
(cloudfront-semantics §1.4): they have no `?`. A `*` at their end spans the query; without one they grant no URL with a
query.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from keyfront.errors import PolicyError
from keyfront.signing.resource import Matcher, glob, plain_host

_ANY, _ONE = (
    "\u0100",
    "\u0101",
)  # a pattern's `*` and `?`, as characters that match only another pattern's `*`
_SCHEMES = ("http", "https")


class Bounds:
    """A pattern that other patterns must stay within: `SCHEME://HOST/PATH`, with `*` for any run of characters within
    one of the three; `*` alone means every URL."""

    __slots__ = ("_everything", "_host", "_open_end", "_path", "_schemes", "text")

    def __init__(self, text: str) -> None:
        """:raises PolicyError: if `text` is not such a pattern."""
        self.text = text
        self._everything = text == "*"
        scheme, separator, rest = text.partition("://")
        host, slash, path = rest.partition("/")
        self._schemes = frozenset(filter(glob(scheme.lower()), _SCHEMES))
        if not self._everything and not (separator and slash and host and self._schemes and _plain(text)):
            raise PolicyError(
                f"{text[:200]!r} bounds nothing: it is SCHEME://HOST/PATH as URLs are sent, with * where anything may "
                "stand and without ?, such as https://media.example.com/films/*"
            )
        self._host = glob(host.lower())
        self._path: Matcher = glob(f"/{path}")
        self._open_end = path.endswith("*")

    def hold(self, resource: str | None) -> bool:
        """Whether every URL that a policy's `resource` grants is within the bounds. `resource` is latin-1 text, None
        for every URL; for a canned policy, it is the URL."""
        if self._everything:
            return True
        if resource is None:
            return False
        scheme, separator, rest = resource.partition("://")
        host, slash, path = rest.partition("/")
        if not (separator and scheme and slash and host) or "?" in host or _steps_aside(path):
            return False
        requested = frozenset(filter(glob(scheme.lower()), _SCHEMES))
        if not requested or not requested <= self._schemes:
            return False
        plain = {plain_host(one, host.lower()) for one in requested}
        if not all(self._host(_as_text(one)) for one in plain):
            return False
        if "?" in path:
            # A `?` may start the query, so the part before the first one is then a path by itself. The part after it,
            # and every other reading, is within the bounds if they are open at their end.
            if not self._open_end:
                return False
            pieces = [path[:at].removesuffix("\\") for at, char in enumerate(path) if char == "?"]
            return all(self._path(_as_text(f"/{piece}")) for piece in (*pieces, path))
        if path.endswith("*") and not self._open_end:
            return False
        return self._path(_as_text(f"/{path}"))


def _plain(text: str) -> bool:
    return text.isascii() and not re.search(r"[\s?#\\\x00-\x1f\x7f]", text)


def _as_text(pattern: str) -> str:
    return pattern.replace("*", _ANY).replace("?", _ONE)


def _steps_aside(path: str) -> bool:
    """Whether a server between the edge and the content may resolve the path to a different one: `..` and the like,
    also encoded, encoded twice, or written with a backslash."""
    data = path.partition("?")[0].encode("latin-1", "replace")
    for _ in range(4):
        if any(part.partition(b";")[0] in (b".", b"..") for part in data.replace(b"\\", b"/").split(b"/")):
            return True
        decoded = unquote_to_bytes(data)
        if decoded == data:
            return False
        data = decoded
    return True
