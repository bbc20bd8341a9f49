"""How many header lines a message may have. Pure.

The size of a head is bounded in bytes already (20,480, cloudfront-semantics §3.3). A line costs more than its bytes:
it is an object of its own, and every rule looks at it. So lines are counted, too. CloudFront publishes no such number;
no browser, SDK or proxy comes near these.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from keyfront.edge.types.messages import Headers

MAX_LINES: Final = 256
"""Header lines of one request or response."""

MAX_LINES_OF_ONE: Final = 64
"""Header lines with the same name, for all names but `_REPEATABLE`."""

MAX_VARY: Final = 32
"""Field names of a Vary value that are told apart. A longer Vary counts as `*`: no other request is like this one."""

# One line per cookie is lawful: Set-Cookie always, Cookie over HTTP/2 (RFC 9113 §8.2.3).
_REPEATABLE: Final = frozenset({b"cookie", b"set-cookie"})


def too_many_lines(headers: Headers) -> bool:
    """Whether there are more header lines than a message may have, in all or of one name. Names are lower-case."""
    lines = len(headers)
    if lines <= MAX_LINES_OF_ONE:
        return False
    if lines > MAX_LINES:
        return True
    counts = Counter([name for name, _ in headers if name not in _REPEATABLE])
    return max(counts.values(), default=0) > MAX_LINES_OF_ONE
