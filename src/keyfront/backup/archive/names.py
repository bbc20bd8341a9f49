"""What an archive's name tells, so that a place of archives can be listed, and thinned, by who cannot open them.

    keyfront-1f3a5c7e-20261122T190102.123Z-42-9c56cc51b374c3ba-whole-keys.age
             origin   when (UTC)          |  state            what it holds
                                          number of the snapshot

`origin` is the beginning of the first audit record's digest: it tells one installation from another, and stays the same
through restores. `state` tells whether an archive holds what another one holds. The last words tell what it is worth:
`whole`, or `part` if something could not be had that should be in it, and `keys` if it holds private keys. Names of
before this was told have neither.
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
    """An archive's name, taken apart. `taken` is epoch seconds, to the millisecond. Older ones are less. `holds` is
    empty in a name that does not tell."""

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
    """What a name tells of an archive's worth."""
    return f"{'whole' if whole else 'part'}{'-keys' if keys else ''}"


def parse(text: str) -> Name | None:
    """What the name tells; None if it is not the name of an archive."""
    match = _NAME.fullmatch(text)
    if match is None:
        return None
    origin, when, snapshot, state, holds = match.groups()
    try:
        taken = datetime.strptime(f"{when[:-1]}000+0000", f"{_TIME}%z").timestamp()
    except ValueError:  # the 31st of February
        return None
    return Name(taken, origin, int(snapshot), state, holds or "")
