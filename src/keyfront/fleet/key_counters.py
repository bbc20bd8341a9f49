"""Key usage at an edge, as part of the counters in its report (`feed.Report`).

The counts belong to one *run* of one edge: they start at zero with its process, and `run` identifies that process among
all machines. So the control plane, which adds up the counts of all edges (`control/keys/usage.py`), only has to store
the position of each run.
"""

from __future__ import annotations

import msgspec


class KeyCounts(msgspec.Struct, frozen=True):
    """The counts of one run.

    :param keys: key id, hash, distribution, and the number of requests that they allowed.
    :param ends: by key id: the latest expiry of an accepted signature (epoch seconds); the longest time, in seconds,
        from the first acceptance of a signature to its expiry, among those that have not expired; and that expiry
        (epoch seconds). The signature's lifetime is at least that time.
    """

    run: str = ""
    keys: list[tuple[str, str, str, int]] = []
    ends: list[tuple[str, int, float, int]] = []


class ExpiryStats:
    """When the signatures of one key expire: the three values of `KeyCounts.ends`."""

    __slots__ = ("latest", "longest", "until")

    def __init__(self, latest: int, longest: float, until: int) -> None:
        self.latest = latest
        self.longest = longest
        self.until = until

    def add(self, latest: int, longest: float, until: int, now: float) -> bool:
        """Merge other statistics. True if something changed.

        Only signatures that have not expired at `now` (epoch seconds) count for the longest lifetime: an excessive one
        is forgotten when its signature expires.
        """
        changed = False
        if latest > self.latest:
            self.latest = latest
            changed = True
        if until > now and (longest > self.longest or self.until <= now):
            self.longest = longest
            self.until = until
            changed = True
        return changed
