"""Request targets and Host (RFC 9112 §3.2), parsed as bytes."""

from __future__ import annotations

import re

MAX_TARGET = 8192


MAX_HEAD = 20480
"""CloudFront's limits, in bytes, on the URL and on the whole head of a request (cloudfront-semantics §3.3)."""


MAX_DIGITS = 32
"""Maximum characters of a Content-Length."""


def absolute_target(target: str, host: bytes | None) -> tuple[bytes | None, str]:
    """The host and the origin form of a target. An absolute-form target names the host itself, and Host is ignored (RFC
    9112 §3.2.2). Any other target that does not begin with a slash is rejected (no target contains a `#`), except for
    the `*` of OPTIONS."""
    scheme, separator, rest = target.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        return host, target if target == "*" else "#"
    for position, letter in enumerate(rest):
        if letter in "/?#":
            path = rest[position:]
            return rest[:position].encode("ascii"), path if path.startswith("/") else "/" + path
    return rest.encode("ascii"), "/"


_VISIBLE = bytes(range(0x21, 0x7F)).replace(b"#", b"")


def in_origin_form(target: bytes) -> bool:
    """Whether the target is a path with an optional query: visible ASCII without a fragment. llhttp accepts the
    same."""
    return target.startswith(b"/") and not target.translate(None, _VISIBLE)


NOTED = frozenset(
    {b"host", b"cookie", b"connection", b"content-length", b"transfer-encoding", b"expect", b"upgrade"}
)


_HOST = re.compile(rb"((?:[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{0,5})?)[ \t]*")


parse_host: dict[bytes | None, str] = {}


LONGEST_HOST = 300


MAX_HOSTS = 1024
"""Bytes of a Host value up to which its text is cached, and the number of cached values: 1 MB in total at most."""


def host_text(raw: bytes | None) -> str:
    """The value of Host as text; empty if it contains characters that no host or port contains, since such a value is
    an attack attempt."""
    found = _HOST.fullmatch(raw) if raw is not None else None
    if found is None:
        return ""
    text = found[1].decode("ascii")
    if raw is not None and len(raw) <= LONGEST_HOST:
        if len(parse_host) >= MAX_HOSTS:
            parse_host.clear()
        parse_host[raw] = text
    return text
