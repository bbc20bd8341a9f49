"""Which invalidations a snapshot carries: all that some edge may not have obeyed yet, in a bounded form.

An edge that starts late, with a cache on its disk, must still end what was invalidated while it was away, and
nobody knows how old a stored response may get: one that is served stale in its origin's stead has no last day. So no
invalidation is dropped because of its age. Instead a later one takes the place of an earlier one whose paths it
covers, and when there are too many, the oldest become one wider path. To end more than was asked for is always safe:
it costs requests to the origin, and only for copies that are older still.

Pure: numbers and paths in, numbers and paths out.
"""

from __future__ import annotations

from collections.abc import Iterable

from keyfront.model.snapshot import Invalidation

MAX_PATHS = 4096
"""How many paths a distribution carries; more than can be in progress at one time (§3.3)."""
MAX_CHARACTERS = 512 * 1024
"""And how many characters they have in all."""

TAG_LENGTH = 256
"""Characters of one cache tag at most (§5.16)."""

Carried = tuple[Invalidation, ...]


def carry(carried: Carried, paths: Iterable[str], number: int) -> Carried:
    """What is carried from snapshot `number` on, which ends `paths`, besides what was `carried` before it.

    :param carried: in order of number, all below `number`.
    """
    new = _uncovered(dict.fromkeys(path.lower() if is_tag(path) else path for path in paths))
    wild = _prefixes(new)
    named = frozenset(new)
    kept = [
        Invalidation(old.number, left)
        for old in carried
        if (left := tuple(p for p in old.paths if p not in named and not p.startswith(wild)))
    ]
    return _bounded((*kept, Invalidation(number, new)))


def _bounded(carried: Carried) -> Carried:
    """The same, with the oldest in one wider path if there are too many. As much goes into it as leaves half of what
    may be carried, so that this does not happen again at once; the newest stays as it is."""
    if len(carried) == 1 or _fitting(carried, 1) == 0:
        return carried
    later = min(_fitting(carried, 2), len(carried) - 1)
    oldest = carried[:later]
    paths = [path.removesuffix("*") for one in oldest for path in one.paths]
    # A tag can be anywhere, so only the whole distribution is wide enough for one.
    wide = "/" if any(map(is_tag, paths)) else _prefix(min(paths), max(paths))
    return (Invalidation(oldest[-1].number, (wide + "*",)), *carried[later:])


def _fitting(carried: Carried, part: int) -> int:
    """The first of the newest that fit together into that part of what may be carried."""
    paths = characters = 0
    for place in range(len(carried) - 1, -1, -1):
        paths += len(carried[place].paths)
        characters += sum(map(len, carried[place].paths))
        if paths > MAX_PATHS // part or characters > MAX_CHARACTERS // part:
            return place + 1
    return 0


def _uncovered(paths: Iterable[str]) -> tuple[str, ...]:
    """Without those that another one covers."""
    listed = tuple(paths)
    wild = _prefixes(listed)
    return tuple(
        path
        for path in listed
        if not any(path.startswith(prefix) and path != prefix + "*" for prefix in wild)
    )


def is_tag(item: str) -> bool:
    """Whether an item of an invalidation is a cache tag rather than a path (§5.16)."""
    return item.startswith("#")


def is_wildcard(item: str) -> bool:
    """Whether an item of an invalidation ends everything that begins like it. In a tag, `*` is a character like any
    other (§5.16)."""
    return item.endswith("*") and not is_tag(item)


def _prefixes(items: Iterable[str]) -> tuple[str, ...]:
    """What the items with a wildcard cover begins with. `/*` covers tagged responses as well."""
    found = tuple(item[:-1] for item in items if is_wildcard(item))
    return (*found, "#") if "/" in found else found


def _prefix(one: str, other: str) -> str:
    """What two paths and all between them in order begin with, without a query string or a part of a %XX."""
    length = 0
    while length < min(len(one), len(other)) and one[length] == other[length]:
        length += 1
    prefix = one[:length].partition("?")[0]
    escape = prefix.rfind("%", -2)
    return prefix if escape < 0 else prefix[:escape]
