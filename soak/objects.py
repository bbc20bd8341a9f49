"""The objects at the origin. A body is a function of its target, version, and variant, and each of its 64-byte lines
contains all three and its own offset, so that any piece of any body can be recognized."""

from __future__ import annotations

import gzip
import random
from typing import Final, NamedTuple

LINE: Final = 64
LARGEST: Final = 5 << 20
_MARK: Final = b"@" * 52
_TEMPLATE: Final = b"".join(b"%010d %b\n" % (offset, _MARK) for offset in range(0, LARGEST + 4096, LINE))

SIZES: Final = (
    0,
    1,
    63,
    64,
    65,
    500,
    1000,
    1400,
    4096,
    9000,
    20_000,
    65_535,
    65_536,
    65_537,
    200_000,
    1_000_000,
)
LARGE: Final = (1 << 21, 3_000_000, LARGEST)


class Area(NamedTuple):
    """One cache behavior of the distribution. `min_ttl` is the minimum TTL of its cache policy, in seconds; `query`:
    the viewer's query string reaches the origin and is in the key; `coded`: Accept-Encoding is in the key."""

    name: str
    items: int
    min_ttl: int
    query: bool = False
    coded: bool = False
    varies: bool = False
    signed: bool = False
    caches: bool = True


AREAS: Final = {
    area.name: area
    for area in (
        Area("free", 60, 1, coded=True),
        Area("url", 60, 0, query=True, signed=True),
        Area("cookie", 40, 1, coded=True, signed=True),
        Area("turn", 30, 0, signed=True),
        Area("vary", 12, 0, varies=True),
        Area("pass", 8, 0, query=True, caches=False),
        Area("q", 12, 0, query=True),
    )
}


class Item(NamedTuple):
    """One object. `framing` is how the origin delimits it: `length`, `chunked`, or `close`. `max_age` and `swr` are the
    values in `cache_control`, in seconds; `etag` is `strong`, `weak`, or `none`; `packed`: the origin itself responds
    with gzip if allowed; `status` is 200 or 404."""

    path: str
    area: Area
    size: int
    framing: str
    cache_control: str
    max_age: int
    swr: int
    must_revalidate: bool
    etag: str
    dated: bool
    ranges: bool
    packed: bool
    status: int

    def size_of(self, version: int) -> int:
        """The size of a version in bytes. Versions also differ in size, where there is room."""
        return self.size + version * 7 % 13 if self.size >= LINE else self.size

    def tag(self, version: int, variant: str, coding: str) -> str | None:
        if self.etag == "none":
            return None
        mark = "W/" if self.etag == "weak" else ""
        return f'{mark}"{self.path[1:].replace("/", ".")}.{version}.{variant}.{coding}"'

    @property
    def lasts(self) -> int:
        """Seconds for which a version may be served after a newer one exists, in the absence of faults."""
        return max(self.area.min_ttl, self.max_age) + self.swr if self.area.caches else 0


_CONTROLS: Final = (
    ("no-store", 0, 0, False),
    ("private", 0, 0, False),
    ("no-cache", 0, 0, False),
    ("max-age=0", 0, 0, False),
    ("max-age=1", 1, 0, False),
    ("max-age=2", 2, 0, False),
    ("max-age=3, must-revalidate", 3, 0, True),
    ("public, s-maxage=2, max-age=60", 2, 0, False),
    ("max-age=1, stale-while-revalidate=3", 1, 3, False),
    ("max-age=3600", 3600, 0, False),
    ("max-age=3600", 3600, 0, False),
    ("max-age=3600", 3600, 0, False),
)


def catalogue(seed: int) -> dict[str, Item]:
    """All objects by path."""
    rng = random.Random(f"catalogue {seed}")
    found = {}
    for area in AREAS.values():
        for number in range(area.items):
            control, max_age, swr, must = rng.choice(_CONTROLS)
            item = Item(
                path=f"/{area.name}/{number:04d}",
                area=area,
                size=rng.choice(LARGE) if rng.random() < 0.08 else rng.choice(SIZES),
                framing=rng.choice(("length", "length", "length", "chunked", "close")),
                cache_control=control,
                max_age=max_age,
                swr=swr,
                must_revalidate=must,
                etag=rng.choice(("strong", "strong", "strong", "weak", "none")),
                dated=rng.random() < 0.7,
                ranges=rng.random() < 0.8,
                packed=area.coded and rng.random() < 0.2,
                status=404 if area.caches and rng.random() < 0.04 else 200,
            )
            if item.packed and item.size > 200_000:
                item = item._replace(size=20_000)
            found[item.path] = item
    return found


def body(name: str, version: int, variant: str, size: int) -> bytes:
    """The body of `name` (the path, with the query string where it matters) in one version and variant."""
    key = (name, version, variant, size)
    made = _small.get(key) or _big.get(key)
    if made is None:
        label = f"{name:<34} {version:>7} {variant:<9}".encode("ascii")
        assert len(label) == len(_MARK), label
        made = _TEMPLATE[: -(-size // LINE) * LINE].replace(_MARK, label)[:size]
        # Large bodies are created again each time, except for the last few.
        shelf = _small if size <= 65_536 else _big
        if len(shelf) >= (1000 if shelf is _small else 30):
            del shelf[next(iter(shelf))]
        shelf[key] = made
    return made


_small: dict[tuple[str, int, str, int], bytes] = {}
_big: dict[tuple[str, int, str, int], bytes] = {}


def packed(plain: bytes) -> bytes:
    """The gzip form that the origin sends: identical bytes each time."""
    return gzip.compress(plain, 1, mtime=0)


def difference(expected: bytes, got: bytes) -> str:
    """The position at which two bodies differ, and the bytes there."""
    if expected == got:
        return "no difference"
    low, high = 0, min(len(expected), len(got))
    while low < high:
        middle = (low + high + 1) // 2
        if expected[:middle] == got[:middle]:
            low = middle
        else:
            high = middle - 1
    at = low // LINE * LINE
    return (
        f"{len(got)} bytes for {len(expected)}, first difference at {low}: "
        f"expected {expected[at : at + LINE]!r}, got {got[at : at + 2 * LINE]!r}"
    )
