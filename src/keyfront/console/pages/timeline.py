"""The timeline of keys: positions of bars on a common scale of time. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

WIDTH = 1000.0
ROW = 34
AXIS = 26


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
    """A row: its name, the y position of its text, and its bar."""

    name: str
    y: int
    x: float
    width: float
    kind: str


class Tick(msgspec.Struct, frozen=True):
    x: float
    text: str
    anchor: str


class Chart(msgspec.Struct, frozen=True):
    """Everything that the template draws."""

    lives: tuple[Life, ...]
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    now: float
    height: int


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
            number * ROW,
            round((each.begins - begin) * scale, 1),
            round(max((max(each.ends or end, each.begins) - each.begins) * scale, 3), 1),
            "drain" if each.draining else "life",
        )
        for number, each in enumerate(lives)
    )
    now_x = (now - begin) * scale
    ticks = tuple(
        Tick(round(share * WIDTH, 1), _day(begin + share * (end - begin)), anchor)
        for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end"))
    )
    return Chart(tuple(lives), bars, ticks, round(now_x, 1), len(lives) * ROW + AXIS)


def _day(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")
