"""Reports of limits that were reached: a count for the metrics, and at most one log line a minute per limit."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final

logger = logging.getLogger("keyfront.edge")

QUIET: Final = 60.0
"""Seconds before the log names the same limit again: a limit that is reached once is usually reached many times."""


class Reached:
    """One worker's counts, by the name of the limit. The names are constants of the code, so there are only a few."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._quiet_until: dict[str, float] = {}

    def add(self, limit: str, detail: str, now: float) -> None:
        """Record that a limit was reached. `detail` says by what; `now` is in seconds, from any clock that never goes
        backward."""
        self.counts[limit] += 1
        if now >= self._quiet_until.get(limit, now):
            self._quiet_until[limit] = now + QUIET
            logger.warning(
                "the limit %s was reached: %s (%d times so far; see docs/guide/limits.md)",
                limit,
                detail,
                self.counts[limit],
            )
