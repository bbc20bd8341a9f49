"""Benchmark of the memory that workers share: the cost on a hit, of storing an object in it, and of finding one. The
figures are CPU microseconds, the minimum of several rounds.

python -m bench sharing
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import monotonic_ns, thread_time

from keyfront.edge.cache.memory import MemoryTier
from keyfront.edge.cache.removals import Removal, Removals
from keyfront.edge.cache.shared_arena import Arena
from keyfront.edge.cache.shared_segment import Segment, create
from keyfront.edge.types.messages import Headers
from keyfront.edge.types.stored import Meta, Stored

WORKERS = 4
SIZES = (1024, 64 * 1024, 1024 * 1024)


def entry(key: str, size: int) -> Stored:
    headers = (
        (b"content-type", b"image/jpeg"),
        (b"etag", b'"1234567890abcdef"'),
        (b"cache-control", b"max-age=60"),
    )
    made = Stored(
        key, Meta(200, headers, stored_at=1.0, fresh_until=1e12, date=1.0, snapshot=1), os.urandom(size)
    )
    made.requested_ns = made.stored_ns = monotonic_ns()
    return made


def least(count: int, work: Callable[[int], object], rounds: int = 7) -> float:
    """Microseconds per call of `work`, whose argument is the number of the call."""
    best = float("inf")
    for _ in range(rounds):
        began = thread_time()
        for number in range(count):
            work(number)
        best = min(best, thread_time() - began)
    return best / count * 1e6


class _Before(MemoryTier):
    """The memory tier's `look` without the comparison."""

    def look(self, key: str) -> Stored | None:
        if self._ended is not None:
            self._drop_if_purged(key)
        stored = self._entries.get(key)
        if stored is not None:
            stored.used = True
        return stored


def none() -> Headers:
    return []


def main() -> None:
    fd = create(WORKERS, 256 << 20, Path(tempfile.gettempdir()))
    segments = [Segment.attach(fd, number) for number in range(WORKERS)]
    removals = [Removals(segment) for segment in segments]
    arenas = [
        Arena(segment, each, lambda *_: False) for segment, each in zip(segments, removals, strict=True)
    ]
    before, now = _Before(1 << 20, 1 << 20, removals[0]), MemoryTier(1 << 20, 1 << 20, removals[0])
    for tier in (before, now):
        tier.put(entry("E/a", 1024))
    old = least(100_000, lambda _: before.look("E/a"))
    new = least(100_000, lambda _: now.look("E/a"))
    print(f"| a look into memory, without and with the comparison | {old:.3f} | {new:.3f} |")
    print(f"| a removal | {least(2000, lambda n: removals[1].publish(Removal(f'E/{n}'))):.1f} |")
    removals[0].news()

    def obey(number: int) -> None:
        removals[1].publish(Removal(f"E/{number}"))
        now.poll_removals()

    published = least(2000, lambda n: removals[1].publish(Removal(f"E/{n}")))
    print(f"| to obey a removal of another worker | {least(2000, obey) - published:.1f} |")
    print(
        f"| a find of nothing, {WORKERS} workers | {least(5000, lambda n: arenas[0].find('E/nothing', none)):.1f} |"
    )
    for size in SIZES:
        entries = [entry(f"E/{size}/{number}", size) for number in range(20)]
        put = least(200, lambda n: arenas[1].put(entries[n % 20]))  # noqa: B023
        for one in entries:
            arenas[1].put(one)
        assert arenas[0].find(entries[0].key, none) is not None
        find = least(200, lambda n: arenas[0].find(entries[n % 20].key, none))  # noqa: B023
        print(f"| {size // 1024} KiB: put, find | {put:.1f} | {find:.1f} |")
    os.close(fd)


if __name__ == "__main__":
    main()
