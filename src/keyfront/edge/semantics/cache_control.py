"""Cache-Control and its relatives (such as CDN-Cache-Control), parsed into directives (RFC 9111 §5.2)."""

from __future__ import annotations

import re
from typing import Final

from keyfront.edge.semantics.structured_fields import Token, parse_dictionary
from keyfront.edge.types.messages import Header, Headers

FOREVER: Final = float("inf")


DELTA_MAX: Final = 2**31
"""The longest time that a header can state, in seconds (RFC 9111 §1.2.2)."""


class CacheControl:
    """The response directives that matter to a shared cache (RFC 9111 §5.2.2, RFC 5861). Times are seconds.

    Parsing is lenient: names in any case, quoted or bare values, unknown directives ignored. If a directive is
    repeated, the first one counts. `max-age` and `s-maxage` with a value that is not a number mean "already stale" (RFC
    9111 §4.2.1); stale windows with such a value are ignored. `no-cache` and `private` with field names apply only to
    those fields (`no_cache_fields`, `private_fields`). `targeted` directives are addressed to caches like this one;
    Expires is then ignored, like Cache-Control (RFC 9213).
    """

    __slots__ = (
        "max_age",
        "must_revalidate",
        "must_understand",
        "no_cache",
        "no_cache_fields",
        "no_store",
        "private",
        "private_fields",
        "public",
        "s_maxage",
        "stale_if_error",
        "stale_while_revalidate",
        "targeted",
    )

    def __init__(self, value: bytes = b"", *, targeted: bool = False) -> None:
        self.targeted = targeted
        self.max_age: int | None = None
        self.s_maxage: int | None = None
        self.stale_while_revalidate: int | None = None
        self.stale_if_error: int | None = None
        self.no_store = False
        self.no_cache = False
        self.private = False
        self.public = False
        self.must_revalidate = False
        self.must_understand = False
        no_cache_fields: set[bytes] = set()
        private_fields: set[bytes] = set()
        for name, argument in directives(value):
            if name == b"max-age":
                if self.max_age is None:
                    self.max_age = delta_seconds(argument) or 0
            elif name == b"s-maxage":
                if self.s_maxage is None:
                    self.s_maxage = delta_seconds(argument) or 0
            elif name == b"stale-while-revalidate":
                if self.stale_while_revalidate is None:
                    self.stale_while_revalidate = delta_seconds(argument)
            elif name == b"stale-if-error":
                if self.stale_if_error is None:
                    self.stale_if_error = delta_seconds(argument)
            elif name == b"no-store":
                self.no_store = True
            elif name == b"public":
                self.public = True
            elif name in (b"must-revalidate", b"proxy-revalidate"):
                self.must_revalidate = True
            elif name == b"must-understand":
                self.must_understand = True
            elif name == b"no-cache":
                fields = _fields(argument)
                no_cache_fields |= fields
                self.no_cache = self.no_cache or not fields
            elif name == b"private":
                fields = _fields(argument)
                private_fields |= fields
                self.private = self.private or not fields
        self.no_cache_fields = frozenset(no_cache_fields)
        self.private_fields = frozenset(private_fields)

    @classmethod
    def of(cls, headers: Headers | tuple[Header, ...]) -> CacheControl:
        """The combined directives of all Cache-Control lines in these headers; or those of CDN-Cache-Control instead,
        if it is present, well-formed and not empty (RFC 9213 §2.2)."""
        targeted = [value for name, value in headers if name == b"cdn-cache-control"]
        if targeted:
            members = parse_dictionary(targeted)
            if members:
                return cls(_as_directives(members), targeted=True)
        return cls(b",".join([value for name, value in headers if name == b"cache-control"]))

    @property
    def forbids(self) -> bool:
        """Whether no-store, no-cache or private applies to the response as a whole.

        `must-understand` lifts `no-store` (RFC 9111 §5.2.2.3): this cache stores no status that it does not understand.
        """
        return self.no_cache or self.private or (self.no_store and not self.must_understand)


def _as_directives(members: dict[str, object]) -> bytes:
    """The members of a targeted field in Cache-Control syntax, without those of the wrong type (RFC 9213 §2.1)."""
    out: list[str] = []
    for name, value in members.items():
        if name in _TIMES:
            if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
                out.append(f"{name}={value}")
        elif value is True:
            out.append(name)
        elif name in ("no-cache", "private") and isinstance(value, str | Token) and '"' not in value:
            out.append(f'{name}="{value}"')
    return ", ".join(out).encode()


_TIMES: Final = frozenset({"max-age", "s-maxage", "stale-if-error", "stale-while-revalidate"})


# A directive and its argument, quoted or bare. An unterminated quote is part of a bare argument, so that it cannot
# swallow the directives after it.
_DIRECTIVE: Final = re.compile(
    rb"""([^\s,="]+)(?:[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*+)"|([^\s,]*)))?[^,]*""", re.DOTALL
)


def directives(value: bytes) -> list[tuple[bytes, bytes | None]]:
    """The name (lower-case) and argument (None without `=`) of each directive, in order."""
    found: list[tuple[bytes, bytes | None]] = []
    for match in _DIRECTIVE.finditer(value):
        name, quoted, bare = match.groups()
        found.append((name.lower(), re.sub(rb"\\(.)", rb"\1", quoted) if quoted is not None else bare))
    return found


def delta_seconds(argument: bytes | None) -> int | None:
    """A number of seconds, at most `DELTA_MAX`; None if the argument is not a number (RFC 9111 §1.2.2)."""
    if argument is None or not argument.isdigit():
        return None
    digits = argument.lstrip(b"0")
    return min(int(digits or b"0"), DELTA_MAX) if len(digits) < 11 else DELTA_MAX


def _fields(argument: bytes | None) -> frozenset[bytes]:
    if not argument or b'"' in argument:
        return frozenset()
    return frozenset(name for raw in argument.split(b",") if (name := raw.strip().lower()))
