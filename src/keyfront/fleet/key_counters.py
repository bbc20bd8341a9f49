"""What an edge has seen of the keys that sign, as it travels in the counters of its report (`feed.Report`).

The counts are of one *run* of one edge: they begin with nothing when its process starts, and `run` tells that process
from every other one, on whatever machine. So whoever adds up the counts of all edges (`control/keys/usage.py`) needs to
remember only how far each run had come.
"""

from __future__ import annotations

import msgspec


class KeyCounts(msgspec.Struct, frozen=True):
    """`keys` are key id, hash, distribution, and how many requests these allowed. `ends` are, by key id:

    - the latest moment (epoch seconds) until which a signature that was accepted is good;
    - how many seconds ahead of its first acceptance a signature ended, and when that is: the longest among those that
      are good still. Its lifetime was at least that.
    """

    run: str = ""
    keys: list[tuple[str, str, str, int]] = []
    ends: list[tuple[str, int, float, int]] = []


class ExpiryStats:
    """When the signatures of one key end, as an edge or the control plane keeps it. Epoch seconds and seconds."""

    __slots__ = ("latest", "longest", "until")

    def __init__(self, latest: int, longest: float, until: int) -> None:
        self.latest = latest
        self.longest = longest
        self.until = until

    def add(self, latest: int, longest: float, until: int, now: float) -> bool:
        """Take over what somebody else has seen. True if that was news.

        What is longest counts among signatures that are good still: a lifetime that was too long once is forgotten with
        the signature that had it.
        """
        news = False
        if latest > self.latest:
            self.latest = latest
            news = True
        if until > now and (longest > self.longest or self.until <= now):
            self.longest = longest
            self.until = until
            news = True
        return news
