"""What becomes known when a limit is reached: a count for the metrics, and a line in the log once a minute."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final

logger = logging.getLogger("keyfront.edge")

QUIET: Final = 60.0
"""Seconds for which the log does not name the same limit again: whoever runs into one does it often."""


class Reached:
    """The counts of one worker, by the limit's name. Names are the code's own, so there are few."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._quiet_until: dict[str, float] = {}

    def add(self, limit: str, detail: str, now: float) -> None:
        """A limit was reached. `detail` says by whom; `now` is seconds of any clock that does not go back."""
        self.counts[limit] += 1
        if now >= self._quiet_until.get(limit, now):
            self._quiet_until[limit] = now + QUIET
            logger.warning(
                "the limit %s was reached: %s (%d times so far; see docs/guide/limits.md)",
                limit,
                detail,
                self.counts[limit],
            )
