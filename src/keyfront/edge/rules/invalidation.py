"""The compiled invalidations of a distribution, which decide whether the response stored under a key is invalidated.

An invalidation has the number of the first snapshot that contains it. It ends every response that an edge requested
under an earlier snapshot, wherever and whenever that response was stored, and none requested later. No clock is read,
so no two clocks must agree: not across machines, not after a restart with a cache on disk, not for a response that was
in flight when the invalidation arrived.

An invalidation ends a stored response if it names a request that the response would answer, with any headers and
cookies, in any spelling. Paths are compared percent-decoded, both as requested and in the form used to select
behaviors, so that no `%2E`, `//`, or `/../` hides a copy. A cache tag ends every response that has it, whatever its
path. Ending one response too many costs one more request to the origin; ending one too few shows a viewer content that
should be gone. When in doubt, a response is ended.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import unquote

from keyfront.edge.rules.cache_key import path_and_query
from keyfront.edge.rules.path_readings import readings
from keyfront.edge.rules.selection import select_query
from keyfront.edge.types.messages import Header
from keyfront.model.invalidation import TAG_LENGTH, is_tag
from keyfront.model.pattern import normalise_path
from keyfront.model.snapshot import Invalidation, Select

_DISGUISED = re.compile(r"[?#%;\\\0-\x1f]|/[/.]|[. +](?:/|\Z)")
"""What a decoded path contains if an origin may read it as a different one. Letters are ignored: in practice, an
origin that reads `é` as `e` does not create two copies of a file."""

Selects = Callable[[str], Select]

TAGS: Final = 50
"""Maximum number of cache tags that count for one response (§5.16)."""

_VISIBLE: Final = re.compile(rb"[!-~]+")


class Invalidations:
    """The invalidations of one distribution. `newest` is the highest invalidation number, `newest_tag` the highest of
    those that name a cache tag (0 if there are none).

    :param selects: returns which parts of the query string are in the cache key, given a path.
    :param root: the path that is served for `/`.
    """

    __slots__ = (
        "_chains",
        "_exact",
        "_paths",
        "_prefixes",
        "_root",
        "_sorted",
        "_starts",
        "_tags",
        "newest",
        "newest_tag",
    )

    def __init__(self, invalidations: Iterable[Invalidation], selects: Selects, root: str = "/") -> None:
        self._exact: dict[str, int] = {}
        self._paths: dict[str, int] = {}  # with any query string
        self._prefixes: dict[str, int] = {}
        self._root = root
        self._tags: dict[str, int] = {}
        self.newest = 0
        self.newest_tag = 0
        for invalidation in sorted(invalidations, key=lambda one: one.number):
            self.newest = invalidation.number
            for path in invalidation.paths:
                if is_tag(path):
                    self._tags[path[1:]] = self.newest_tag = invalidation.number
                else:
                    self._add(path, invalidation.number, selects, root)
        self._chains = _chains(self._prefixes)
        self._sorted = sorted(self._chains)
        # Rules out most paths immediately, as long as there are few prefixes.
        self._starts = tuple(self._prefixes) if len(self._prefixes) <= 32 else ("/",)

    def _add(self, pattern: str, number: int, selects: Selects, root: str) -> None:
        path, mark, query = pattern.partition("?")
        wild = pattern.endswith("*")
        if wild and not mark:
            self._prefixes[_plain(pattern[:-1])] = number
            return
        select = selects(path)
        for requested in {path, root if path == "/" else path}:
            plain = _plain(requested)
            if not wild:
                kept = select_query(select, query)
                self._exact[f"{plain}?{_plain(kept)}" if kept else plain] = number
            elif select.mode == "all":
                self._prefixes[f"{plain}?{_plain(query[:-1])}"] = number
            else:  # the part before the * may not be part of the key
                self._paths[plain] = number

    def is_invalidated(self, key: str, snapshot: int, tags: tuple[str, ...] = ()) -> bool:
        """Whether the response under `key` with these cache tags is invalidated, given that it was requested under
        snapshot number `snapshot`."""
        if snapshot >= self.newest:
            return False
        if snapshot < self.newest_tag and any(self._tags.get(tag, 0) > snapshot for tag in tags):
            return True
        path, query = path_and_query(key)
        plain = _plain(path)
        if self._last(plain, query) > snapshot:
            return True
        respelled = "%" in path or "//" in path or "/." in path
        if respelled and self._last(_plain(normalise_path(path)), query) > snapshot:
            return True
        return _DISGUISED.search(plain) is not None and self._disguised(path, query, snapshot)

    def _disguised(self, path: str, query: str, snapshot: int) -> bool:
        """The same for every other path that an origin may have read this one as: the response may be a copy of that
        path's."""
        try:
            found = readings(path)
        except ValueError:
            return True
        assert found is not None  # noqa: S101 - what _DISGUISED finds has several readings
        names = {_plain(normalise_path(each)) for each in (*found.paths, *found.ends)}
        if "/" in names:
            names.add(self._root)
        return any(self._last(name, query) > snapshot for name in names)

    def _last(self, path: str, query: str) -> int:
        """The number of the last invalidation that names this path and query; 0 if there is none."""
        text = f"{path}?{_plain(query)}" if query else path
        last = self._exact.get(text, 0)
        if self._paths:
            last = max(last, self._paths.get(path, 0))
        if text.startswith(self._starts):
            last = max(last, self._last_prefix(text))
        return last

    def _last_prefix(self, text: str) -> int:
        """The number of the last invalidation with a prefix that `text` begins with; 0 if there is none.

        In sorted order, let P be the prefix right before `text`. Every prefix that `text` begins with is also a prefix
        of P.
        """
        at = bisect_right(self._sorted, text) - 1
        if at < 0:
            return 0
        prefix: str | None = self._sorted[at]
        while prefix is not None and not text.startswith(prefix):
            prefix = self._chains[prefix][0]
        return 0 if prefix is None else self._chains[prefix][1]


def _chains(prefixes: dict[str, int]) -> dict[str, tuple[str | None, int]]:
    """For each prefix: the longest other prefix that it begins with, and the highest number among it and all such
    prefixes."""
    found: dict[str, tuple[str | None, int]] = {}
    open_: list[str] = []
    for prefix in sorted(prefixes):
        while open_ and not prefix.startswith(open_[-1]):
            open_.pop()
        outer = open_[-1] if open_ else None
        number = prefixes[prefix]
        found[prefix] = (outer, number if outer is None else max(number, found[outer][1]))
        open_.append(prefix)
    return found


def cache_tags(name: bytes, headers: Iterable[Header]) -> tuple[str, ...]:
    """The cache tags in an origin's response header `name` (lowercase), converted to lowercase: the first 50 that are
    visible ASCII and no longer than 256 characters (§5.16). Anything else is ignored."""
    found: dict[str, None] = {}
    if not name:
        return ()
    for header, value in headers:
        if header != name:
            continue
        for item in value.split(b","):
            tag = item.strip(b" \t").lower()
            if 0 < len(tag) <= TAG_LENGTH and _VISIBLE.fullmatch(tag):
                found[tag.decode("ascii")] = None
                if len(found) == TAGS:
                    return tuple(found)
    return tuple(found)


def _plain(text: str) -> str:
    """The text percent-decoded, one character per byte."""
    return unquote(text, "latin-1") if "%" in text else text
