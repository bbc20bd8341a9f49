"""Limits on the number of header lines in a message. Pure.

The size of a head in bytes is already limited (20,480, cloudfront-semantics §3.3). But a line costs more than its
bytes: it is an object of its own, and every rule examines it. Lines are therefore counted, too. CloudFront publishes no
such limit; no browser, SDK or proxy comes close to these.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from keyfront.edge.types.messages import Headers

MAX_LINES: Final = 256
"""Maximum header lines in one request or response."""

MAX_LINES_OF_ONE: Final = 64
"""Maximum header lines with the same name, for all names not in `_REPEATABLE`."""

MAX_VARY: Final = 32
"""Field names of a Vary value that are evaluated. A longer Vary counts as `*`: it matches no other request."""

# One line per cookie is legal: always for Set-Cookie, and over HTTP/2 for Cookie (RFC 9113 §8.2.3).
_REPEATABLE: Final = frozenset({b"cookie", b"set-cookie"})


def too_many_lines(headers: Headers) -> bool:
    """Whether a message has too many header lines, in total or with one name. Names are lower-case."""
    lines = len(headers)
    if lines <= MAX_LINES_OF_ONE:
        return False
    if lines > MAX_LINES:
        return True
    counts = Counter([name for name, _ in headers if name not in _REPEATABLE])
    return max(counts.values(), default=0) > MAX_LINES_OF_ONE
