"""Path patterns of cache behaviors, and the normalized form of paths that they are matched against.

A pattern is compiled once, when a snapshot is accepted. Matching never backtracks. Between two `*` is a literal piece
(in which `?` stands for any character), and if a path matches at all, it also matches with each piece at its first
occurrence. So one search per piece is enough, and the time is linear in the path's length (times the length of a piece
with `?`; at most 2 ms for a path and a pattern of maximum length).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

from keyfront.signing.resource import in_order

Matcher = Callable[[str], bool]

# A letter, digit, `-`, `.`, `_` or `~` (RFC 3986 §2.3), percent-encoded.
_ENCODED = re.compile("%(2[DEde]|3[0-9]|4[1-9A-Fa-f]|5[0-9AFaf]|6[1-9A-Fa-f]|7[0-9AEae])")
_DOT_SEGMENTS = frozenset({".", ".."})


def compile_pattern(pattern: str) -> Matcher:
    """Compile `pattern` to a function that is true for a normalized path (see `normalise_path`) that matches.

    `*` matches zero or more characters, including `/`; `?` matches exactly one; all others match themselves,
    case-sensitively. The whole path must match. The leading slash is implied: `*.jpg` is `/*.jpg` (CloudFront Developer
    Guide, "Path pattern"; cloudfront-semantics §5.1). A lone `*` matches everything.
    """
    if not pattern.startswith("/"):
        if pattern.strip("*") == "":
            return _anything
        pattern = "/" + pattern
    head, *pieces = pattern.split("*")
    if "?" in pattern:
        return _any_one_character(head, pieces)
    if not pieces:
        return head.__eq__
    tail = pieces.pop()
    middle = [piece for piece in pieces if piece]
    if not middle:
        return _ends(head, tail)
    return in_order(head, middle, tail)


def _anything(path: str) -> bool:
    return True


def _ends(head: str, tail: str) -> Matcher:
    if not tail:
        return lambda path: path.startswith(head)
    least = len(head) + len(tail)
    if head == "/":
        return lambda path: path.endswith(tail) and path.startswith("/") and len(path) >= least
    return lambda path: path.startswith(head) and path.endswith(tail) and len(path) >= least


def _any_one_character(head: str, pieces: list[str]) -> Matcher:
    """`compile_pattern` for a pattern with `?`: a regular expression whose atomic groups match each middle piece at its
    first occurrence."""

    def literal(piece: str) -> str:
        return re.escape(piece).replace(r"\?", ".")

    if not pieces:
        whole = re.compile(literal(head), re.DOTALL).fullmatch
        return lambda path: whole(path) is not None
    tail = pieces.pop()
    middle = "".join(f"(?>.*?{literal(piece)})" for piece in pieces if piece)
    begins = re.compile(literal(head) + middle, re.DOTALL).match
    ends = re.compile(literal(tail), re.DOTALL).fullmatch
    length = len(tail)

    def matches(path: str) -> bool:
        begun = begins(path)
        if begun is None:
            return False
        at = len(path) - length
        return at >= begun.end() and ends(path, at) is not None

    return matches


def percent_decoded(text: str) -> str:
    """Latin-1 text (one character per byte) with every `%XX` decoded once. Malformed escapes stay.

    Decode paths only with this function: `unquote_to_bytes` encodes a `str` as UTF-8, and would turn a byte beyond
    ASCII that was decoded before into two.
    """
    return unquote_to_bytes(text.encode("latin-1")).decode("latin-1") if "%" in text else text


def normalise_path(path: str) -> str:
    """The normalized form of a raw path (without query), used only to select a behavior.

    Percent-encoded unreserved characters are decoded (`%2e` is a dot, `%41` an `A`), then repeated slashes are merged,
    then dot segments are removed as in RFC 3986 §5.2.4. Reserved characters stay encoded: `%2F` is not a slash here.
    Signatures and origins use the raw path (cloudfront-semantics §5.1).
    """
    if "%" not in path and "//" not in path and "/." not in path:
        return path
    if "%" in path:
        path = _ENCODED.sub(_decode_unreserved, path)
        if "//" not in path and "/." not in path:
            return path
    result: list[str] = []
    segments = path.split("/")
    for segment in segments:
        if segment == "..":
            if result:
                result.pop()
        elif segment and segment != ".":
            result.append(segment)
    last = segments[-1]
    slash = "/" if result and (not last or last in _DOT_SEGMENTS) else ""
    return "/" + "/".join(result) + slash


def _decode_unreserved(match: re.Match[str]) -> str:
    return chr(int(match[1], 16))
