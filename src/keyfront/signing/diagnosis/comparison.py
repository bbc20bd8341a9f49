"""Comparison of a policy's Resource with the URL that it should grant: which part differs, and where.

Both are split into protocol, host, path, and query (cloudfront-semantics §1.4) and compared as written, then with their
escapes decoded: parts that are equal only when decoded were signed in one encoding and sent in another.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from keyfront.signing.diagnosis.mistakes import Mistake
from keyfront.signing.resource import glob, plain_host

_ANY, _ONE = "*", "?"
_TOKEN = re.compile("%[0-9A-Fa-f]{2}|.", re.DOTALL)
# Wildcard matching takes time proportional to both lengths, so longer texts are truncated.
_LONGEST = 2_000
_MOST_WORK = 20_000


class _Token(NamedTuple):
    """A character of a pattern or a URL: its byte, its text as written, and its position."""

    byte: str
    text: str
    at: int


def _tokens(text: str) -> list[_Token]:
    return [
        _Token(chr(int(match[0][1:], 16)) if len(match[0]) == 3 else match[0], match[0], match.start())
        for match in _TOKEN.finditer(text[:_LONGEST])
    ]


class _Furthest(NamedTuple):
    matches: bool
    pattern: _Token | None
    text: _Token | None


def _furthest(pattern: list[_Token], text: list[_Token], decoded: bool) -> _Furthest:
    """Return how far a pattern matches a text: the characters of the pattern and the text at which the match stops,
    None for an end."""
    state = _closed({0}, pattern)
    for token in text:
        reached = set()
        for at in state:
            if at == len(pattern):
                continue
            wanted = pattern[at]
            if wanted.text == _ANY:
                reached.add(at)
            elif wanted.text == _ONE or (_same(wanted, token) if decoded else wanted.text == token.text):
                reached.add(at + 1)
        reached = _closed(reached, pattern)
        if not reached:
            at = max(state)
            return _Furthest(False, pattern[at] if at < len(pattern) else None, token)
        state = reached
    if len(pattern) in state:
        return _Furthest(True, None, None)
    at = max(state)
    return _Furthest(False, pattern[at] if at < len(pattern) else None, None)


def _same(one: _Token, other: _Token) -> bool:
    """Whether two characters are the same once decoded. A + may stand for a space (form encoding)."""
    return one.byte == other.byte or {one.text, other.text} <= {"+", "%20", " ", "%2B", "%2b"}


def _closed(state: set[int], pattern: list[_Token]) -> set[int]:
    closed = set(state)
    for at in state:
        while at < len(pattern) and pattern[at].text == _ANY:
            at += 1
            closed.add(at)
    return closed


def differences(pattern: str, scheme: str, host: str, path: str, query: str) -> list[Mistake]:
    """Return the parts of `pattern` that do not match those of the URL, in the order of the parts.

    `query` is the request's own query, without its `?`.
    """
    head, separator, rest = pattern.partition("://")
    if not separator:
        if not pattern.startswith("*"):
            return [
                Mistake(
                    "bare_path",
                    "The Resource begins with neither http://, https:// nor *, so it matches no URL.",
                )
            ]
        head, rest = "*", pattern
    found: list[Mistake] = []
    if not glob(head.lower())(scheme):
        found.append(
            Mistake(
                "scheme",
                f"The protocol differs: the policy is for {head[:20]}://, the request came by {scheme}://. It was "
                f"signed for {head[:20]}:// and requested by {scheme}://.",
            )
        )
    before, slash, tail = rest.partition("/")
    if not slash and before.endswith("*"):
        tail = "*"
    plain = plain_host(scheme, before.lower())
    if not glob(plain)(plain_host(scheme, host.lower())):
        found.append(
            Mistake(
                "host",
                f"The host differs: it was signed for the host {before[:200] or '(none)'} and requested from {host}.",
            )
        )
    found.extend(_tail("/" + tail, path, query))
    return found


def _tail(pattern: str, path: str, query: str) -> list[Mistake]:
    if "?" in pattern and (query or not _furthest(_tokens(pattern), _tokens(path), False).matches):
        wanted_path, _, wanted_query = pattern.replace("\\?", "?").partition("?")
        has_query = True
    else:
        wanted_path, wanted_query, has_query = pattern, "", False
    found = []
    if (mistake := _part("path", wanted_path, path)) is not None:
        found.append(mistake)
    if query and not has_query and not wanted_path.endswith("*"):
        found.append(
            Mistake(
                "query_added",
                "The request has a query, and the policy grants none: only a * at the end of the Resource, or a query "
                "in it, does.",
            )
        )
    elif has_query and not query and wanted_query.strip("*"):
        found.append(
            Mistake("query_lost", f"The policy is for the query {wanted_query[:100]}, the request has none.")
        )
    elif has_query and (mistake := _part("query", wanted_query, query)) is not None:
        found.append(mistake)
    return found


def _part(name: str, pattern: str, text: str) -> Mistake | None:
    if pattern.count("*") * len(text) > _MOST_WORK:
        return Mistake(
            f"other_{name}", f"The policy is for other URLs: its {name} does not grant the request's."
        )
    wanted, given = _tokens(pattern), _tokens(text)
    raw = _furthest(wanted, given, False)
    if raw.matches:
        return None
    place = f"character {raw.text.at + 1} of the {name}" if raw.text else f"the end of the {name}"
    policy_has = _char(raw.pattern.text) if raw.pattern else "its end"
    request_has = _char(raw.text.text) if raw.text else "its end"
    words = f"the policy has {policy_has} where the request has {request_has}, at {place}"
    if _furthest(wanted, given, True).matches:
        return Mistake(
            "encoding",
            f"The {name} is the same when it is decoded, but it was signed in one encoding and requested in another: "
            f"{words}.",
        )
    if (
        raw.pattern
        and raw.text
        and raw.pattern.byte.lower() == raw.text.byte.lower()
        and raw.pattern.byte != raw.text.byte
    ):
        return Mistake("letter_case", f"Upper and lower case of the {name} differ: {words}.")
    return Mistake(f"other_{name}", f"The policy is for other URLs. The {name} differs: {words}.")


def _char(text: str) -> str:
    return (
        "a blank" if text == " " else text if text.isprintable() and text.isascii() else f"%{ord(text):02X}"
    )
