"""The format of an archive's name, which lets a place of archives be listed and thinned without decrypting them.

    keyfront-1f3a5c7e-20261122T190102.123Z-42-9c56cc51b374c3ba-whole-keys.age
             origin   when (UTC)          |  state            what it holds
                                          number of the snapshot

`origin` is the beginning of the digest of the first audit record: it distinguishes installations, and stays the same
through restores. `state` is equal for archives with equal content. The last words describe the contents: `whole`, or
`part` if something that should be included could not be read, and `keys` if the archive holds private keys. Names from
before this part was introduced have neither.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

import msgspec

_NAME = re.compile(
    r"keyfront-([0-9a-f]{8})-(\d{8}T\d{6}\.\d{3}Z)-(0|[1-9]\d{0,18})-([0-9a-f]{16})(?:-((?:whole|part)(?:-keys)?))?\.age",
    re.ASCII,
)
_TIME = "%Y%m%dT%H%M%S.%f"


class Name(msgspec.Struct, frozen=True, order=True):
    """A parsed archive name. `taken` is epoch seconds, to the millisecond. Names sort from the oldest. `holds` is empty
    if the name does not have that part."""

    taken: float
    origin: str
    snapshot: int
    state: str
    holds: str = ""

    def __str__(self) -> str:
        when = datetime.fromtimestamp(self.taken, UTC).strftime(_TIME)[:-3]
        holds = f"-{self.holds}" if self.holds else ""
        return f"keyfront-{self.origin}-{when}Z-{self.snapshot}-{self.state}{holds}.age"


def holding(*, whole: bool, keys: bool) -> str:
    """Return the part of a name that describes the contents."""
    return f"{'whole' if whole else 'part'}{'-keys' if keys else ''}"


def parse(text: str) -> Name | None:
    """Parse a name. Returns None if `text` is not the name of an archive."""
    match = _NAME.fullmatch(text)
    if match is None:
        return None
    origin, when, snapshot, state, holds = match.groups()
    try:
        taken = datetime.strptime(f"{when[:-1]}000+0000", f"{_TIME}%z").timestamp()
    except ValueError:  # such as February 31
        return None
    return Name(taken, origin, int(snapshot), state, holds or "")
