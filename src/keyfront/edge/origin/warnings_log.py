"""Warnings about origins, with a rate limit on repeats."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from keyfront.edge.types.ttl_map import TtlMap

REPEAT_AFTER: Final = 60.0
"""Seconds for which the log does not repeat a warning of the same kind about the same origin."""

logger = logging.getLogger("keyfront.edge")


class OriginWarnings:
    """Logs warnings about origins, each at most once in `REPEAT_AFTER` seconds.

    :param clock: returns epoch seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._logged: TtlMap[bool] = TtlMap(256)

    def add(self, origin: str, kind: str, text: str) -> None:
        name = f"{origin} {kind}"
        now = self._clock()
        if self._logged.get(name, now) is None:
            self._logged.put(name, True, now + REPEAT_AFTER)
            logger.warning("%s", text)
