"""What else an origin may take a path for.

Behaviors are chosen by CloudFront's normal form of a path, and the origin gets the path as it was sent
(cloudfront-semantics §5.1). Between the two lies a gap that attackers look for: `/open/..%2Fprivate/1` is under
`/open/` here, and at an origin that decodes `%2F` first it is `/private/1`. So where a site is partly private, every
way of reading a path counts: whatever an origin could find by it must be allowed (`decide`).

The ways are those of servers that people run: percent-decoding once or more, a backslash as a slash, parameters after
`;` left out of a segment (RFC 3986 §3.3, servlets), dots and blanks at the end of a name ignored (Windows), repeated
slashes and dot segments removed, in any order.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final
from urllib.parse import unquote_to_bytes

from keyfront.model.pattern import normalise_path

_SUSPECT: Final = re.compile(r"[%\\;]|//|/\.|[. ](?:/|\Z)")
_PARAMETERS: Final = re.compile(r";[^/]*")
_BUDGET: Final = 24 * 1024
"""Characters of readings that are looked at for one path; who needs more is not asking for a file."""
_MARKS: Final = ("%25", "%2e", "%2E", "%2f", "%2F", "%20", "%3b", "%3B", "%5c", "%5C", ";", "\\")
_MOST: Final = 256
"""How many of these marks, each of which is work, are read in one path before any work is done."""


class Readings:
    """`paths` are all readings of a path, itself included; `climbs` says that a `..` segment is in one of them,
    `escapes` that one leads above the root, and `drops` that parameters are left out in one."""

    __slots__ = ("climbs", "drops", "escapes", "paths")

    def __init__(self, paths: frozenset[str]) -> None:
        self.paths = paths
        self.climbs = self.escapes = False
        self.drops = any(";" in path for path in paths)
        for path in paths:
            if ".." in path:
                depth = 0
                for segment in path.split("/"):
                    if segment == "..":
                        self.climbs = True
                        depth -= 1
                        if depth < 0:
                            self.escapes = True
                    elif segment and segment != ".":
                        depth += 1


def readings(path: str) -> Readings | None:
    """All readings of a raw path (no query), or None if it has only the one.

    :raises ValueError: if there are too many, or it holds a NUL, at which some origins would cut it.
    """
    if _SUSPECT.search(path) is None:
        return None
    if sum(map(path.count, _MARKS)) > _MOST:
        raise ValueError("the path can be read in too many ways")
    found = {path}
    waiting = [path]
    budget = _BUDGET
    while waiting:
        text = waiting.pop()
        for read in _WAYS:
            other = read(text)
            if other in found:
                continue
            budget -= len(other) + 64
            if budget < 0:
                raise ValueError("the path can be read in too many ways")
            if "\0" in other:
                raise ValueError("the path holds a NUL")
            found.add(other)
            waiting.append(other)
    return Readings(frozenset(found))


def _decoded(path: str) -> str:
    return unquote_to_bytes(path).decode("latin-1") if "%" in path else path


def _slashed(path: str) -> str:
    return path.replace("\\", "/")


def _bare(path: str) -> str:
    return _PARAMETERS.sub("", path) if ";" in path else path


def _trimmed(path: str) -> str:
    if "." not in path and " " not in path:
        return path
    return "/".join([_name(segment) for segment in path.split("/")])


def _name(segment: str) -> str:
    stripped = segment.rstrip(" ")
    return stripped if stripped in (".", "..") else segment.rstrip(". ")


_WAYS: Final = (_decoded, _slashed, _bare, _trimmed, normalise_path)


def _hiding(parameters: str) -> Callable[[str], str]:
    hidden = re.compile(parameters, re.IGNORECASE)
    return lambda text: hidden.sub(lambda found: "*" if "*" in found[0] else "", text)


WITHOUT_PARAMETERS: Final = (
    _hiding(r"(?:;|%(?:25)*3b)[^/]*"),
    _hiding(r"(?:;|%(?:25)*3b)(?:(?!%(?:25)*(?:2f|5c))[^/\\])*"),
)
"""What two kinds of servers leave of a raw path, or of a pattern of one, when they leave out the parameters of its
segments, however often their `;` is encoded: up to the next slash as it is, or of any spelling. Nothing else is
decoded, and a `*` among what is left out stays."""
