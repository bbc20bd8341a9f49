"""The timeline of keys: positions of bars on a common scale of time. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

WIDTH = 1000.0
"""The scale, in the units of the SVG."""


class Life(msgspec.Struct, frozen=True):
    """A key's time, in epoch seconds; 0.0 for what is not known.

    :param ends: when its time is over.
    :param last_link: when the last of its links that edges have seen expires.
    """

    name: str
    begins: float
    ends: float
    last_link: float
    draining: bool


class Bar(msgspec.Struct, frozen=True):
    """A row: its name and its bar."""

    name: str
    x: float
    width: float
    kind: str


class Chart(msgspec.Struct, frozen=True):
    """Everything that the template draws: bars, the dates at the start, middle, and end of the scale, and where `now`
    is."""

    lives: tuple[Life, ...]
    bars: tuple[Bar, ...]
    ticks: tuple[str, ...]
    now: float


def timeline(lives: Sequence[Life], now: float) -> Chart | None:
    """The chart of some keys; None if there are none.

    :param now: epoch seconds.
    """
    if not lives:
        return None
    begin = min(now, *(each.begins for each in lives))
    end = max(max(each.ends, each.last_link) for each in lives)
    end = max(end, now + (now - begin) * 0.05, begin + 3600)
    scale = WIDTH / (end - begin)
    bars = tuple(
        Bar(
            each.name,
            round((each.begins - begin) * scale, 1),
            round(max((max(each.ends or end, each.begins) - each.begins) * scale, 3), 1),
            "drain" if each.draining else "life",
        )
        for each in lives
    )
    ticks = tuple(_day(begin + share * (end - begin)) for share in (0.0, 0.5, 1.0))
    return Chart(tuple(lives), bars, ticks, round((now - begin) * scale, 1))


def _day(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")
