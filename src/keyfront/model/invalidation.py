"""The invalidations that a snapshot carries: all that some edge may not have applied yet, up to a limit.

An edge that starts late with a disk cache must still apply the invalidations that it missed, and stored responses have
no maximum age: one that is served stale while its origin fails can be arbitrarily old. So no invalidation is dropped
because of its age. Instead, a later one replaces earlier ones whose paths it covers, and if there are too many, the
oldest are merged into one wider path. Invalidating more than requested is always safe: it costs requests to the origin,
and only for copies that are even older.

Pure: numbers and paths in, numbers and paths out.
"""

from __future__ import annotations

from collections.abc import Iterable

from keyfront.model.snapshot import Invalidation

MAX_PATHS = 4096
"""Maximum number of paths that a distribution carries; more than can be in progress at one time (§3.3)."""
MAX_CHARACTERS = 512 * 1024
"""Maximum total length of these paths, characters."""

TAG_LENGTH = 256
"""Maximum length of a cache tag, characters (§5.16)."""

Carried = tuple[Invalidation, ...]


def carry(carried: Carried, paths: Iterable[str], number: int) -> Carried:
    """The invalidations to carry from snapshot `number` on, which invalidates `paths`.

    :param carried: the invalidations carried before, in order of number, all below `number`.
    """
    new = _uncovered(dict.fromkeys(path.lower() if is_tag(path) else path for path in paths))
    wild = _prefixes(new)
    named = frozenset(new)
    remaining = [
        Invalidation(old.number, left)
        for old in carried
        if (left := tuple(p for p in old.paths if p not in named and not p.startswith(wild)))
    ]
    return _bounded((*remaining, Invalidation(number, new)))


def _bounded(carried: Carried) -> Carried:
    """`carried`, with the oldest merged into one wider path if there are too many. A merge frees half of the capacity,
    so the next one is not due at once. The newest invalidation is never merged."""
    if len(carried) == 1 or _fitting(carried, 1) == 0:
        return carried
    later = min(_fitting(carried, 2), len(carried) - 1)
    oldest = carried[:later]
    paths = [path.removesuffix("*") for one in oldest for path in one.paths]
    # Tagged responses can be at any path, so only the whole distribution covers a tag.
    wide = "/" if any(map(is_tag, paths)) else _prefix(min(paths), max(paths))
    return (Invalidation(oldest[-1].number, (wide + "*",)), *carried[later:])


def _fitting(carried: Carried, part: int) -> int:
    """The index of the first of the newest invalidations that together fit into 1/`part` of the limits."""
    paths = characters = 0
    for place in range(len(carried) - 1, -1, -1):
        paths += len(carried[place].paths)
        characters += sum(map(len, carried[place].paths))
        if paths > MAX_PATHS // part or characters > MAX_CHARACTERS // part:
            return place + 1
    return 0


def _uncovered(paths: Iterable[str]) -> tuple[str, ...]:
    """The paths that no other path covers."""
    listed = tuple(paths)
    wild = _prefixes(listed)
    return tuple(
        path
        for path in listed
        if not any(path.startswith(prefix) and path != prefix + "*" for prefix in wild)
    )


def is_tag(item: str) -> bool:
    """True if an item of an invalidation is a cache tag, not a path (§5.16)."""
    return item.startswith("#")


def is_wildcard(item: str) -> bool:
    """True if an item of an invalidation covers everything that begins with it. In a tag, `*` has no special meaning
    (§5.16)."""
    return item.endswith("*") and not is_tag(item)


def _prefixes(items: Iterable[str]) -> tuple[str, ...]:
    """The prefixes that items with a wildcard cover. `/*` covers tagged responses, too."""
    found = tuple(item[:-1] for item in items if is_wildcard(item))
    return (*found, "#") if "/" in found else found


def _prefix(one: str, other: str) -> str:
    """The common prefix of two paths, and of all paths that sort between them, without query string or partial %XX."""
    length = 0
    while length < min(len(one), len(other)) and one[length] == other[length]:
        length += 1
    prefix = one[:length].partition("?")[0]
    escape = prefix.rfind("%", -2)
    return prefix if escape < 0 else prefix[:escape]
