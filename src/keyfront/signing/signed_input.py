"""What a signer was given, beside what arrived at the edge: the first difference, as characters.

This needs no key and proves nothing. It is for the case in which both texts are at hand and somebody must see where
they part.
"""

from __future__ import annotations

import json

import msgspec

from keyfront.signing.explain import requested
from keyfront.signing.raw_url import split_url
from keyfront.signing.resource import ResourcePattern, plain_host
from keyfront.signing.verify import split_query

_SHOWN = 40
"""Characters that are shown before and after a difference."""


class Comparison(msgspec.Struct, frozen=True):
    """`given` is the text that was signed, `arrived` the one that the edge compares it with, both without signing
    parameters. `position` is the first character that differs, counted from 1; 0 if the texts are the same, or if the
    given pattern covers the URL. `part` is the part of the URL that it is in, and `text` says all of this in a
    sentence."""

    given: str
    arrived: str
    position: int
    part: str
    text: str

    @property
    def same(self) -> bool:
        return self.position == 0

    def excerpts(self) -> tuple[str, str, str]:
        """The two texts around the difference, and a line that points at it."""
        start = max(0, self.position - 1 - _SHOWN)
        before = "…" if start else ""
        end = self.position - 1 + _SHOWN
        pieces = [
            before + _visible(text[start:end]) + ("…" if len(text) > end else "")
            for text in (self.given, self.arrived)
        ]
        width = len(before) + len(_visible(self.given[start : self.position - 1]))
        return pieces[0], pieces[1], " " * width + "^"


def compare(given: str, url: str) -> Comparison:
    """Compare what a signer was given with a URL as it arrived.

    :param given: a URL, signed or not, or a policy, of which the Resource counts.
    :param url: as pasted by a person.
    :raises SigningError: if `url` is not an http or https URL.
    """
    given = given.strip("\r\n")
    scheme, host, target = requested(url)
    arrived = f"{scheme}://{plain_host(scheme, host)}{_own(target)}"
    resource = _resource(given)
    if resource is not None:
        path, _, query = _own(target).partition("?")
        if ResourcePattern(resource).matches(scheme, plain_host(scheme, host), path, query):
            words = "The Resource of the policy covers the URL that arrived."
            return Comparison(resource, arrived, 0, "", words)
        given = resource
    elif "://" in given:
        before, mark, target = given.partition("?")
        own = split_query(target)[1] if mark else None
        given = before if not own else f"{before}?{own}"
    at = _first_difference(given, arrived)
    if at is None:
        return Comparison(given, arrived, 0, "", "The signer was given exactly the URL that arrived.")
    part = _part(arrived, at)
    words = (
        f"The signer was given {_character(given, at)} where the URL that arrived has {_character(arrived, at)}: "
        f"character {at + 1}, in the {part}."
    )
    return Comparison(given, arrived, at + 1, part, words)


def _own(target: str) -> str:
    """The target without signing parameters."""
    path, mark, query = target.partition("?")
    own = split_query(query)[1] if mark else None
    return path if not own else f"{path}?{own}"


def _resource(given: str) -> str | None:
    """The Resource, if the text is a policy."""
    if not given.lstrip().startswith("{"):
        return None
    try:
        resource = json.loads(given)["Statement"][0]["Resource"]
    except (ValueError, LookupError, TypeError):
        return None
    return resource if isinstance(resource, str) else None


def _first_difference(one: str, other: str) -> int | None:
    if one == other:
        return None
    length = min(len(one), len(other))
    return next((at for at in range(length) if one[at] != other[at]), length)


def _part(url: str, at: int) -> str:
    parts = split_url(url)
    ends = (("protocol", len(parts.scheme) + 3), ("host", len(parts.scheme) + 3 + len(parts.host)))
    for name, end in (*ends, ("path", ends[1][1] + len(parts.path))):
        if at < end:
            return name
    return "query" if parts.query is not None else "end"


def _character(text: str, at: int) -> str:
    if at >= len(text):
        return "no further character"
    char = text[at]
    return (
        repr(char)
        if char.isprintable() and char != " "
        else {" ": "a blank", "\n": "a line break"}.get(char, f"the character U+{ord(char):04X}")
    )


def _visible(text: str) -> str:
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
