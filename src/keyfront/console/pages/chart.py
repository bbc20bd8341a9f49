"""Bars over time: their positions. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

WIDTH, HEIGHT = 600, 120
"""The area of the bars, in the units of the SVG."""


class Column(msgspec.Struct, frozen=True):
    """A bar: its left edge, top, and height."""

    x: float
    y: float
    height: float


class Columns(msgspec.Struct, frozen=True):
    """Everything that the template draws. `rows` are the same numbers for the table: time and value."""

    columns: tuple[Column, ...]
    width: float
    highest: int
    total: int
    rows: tuple[tuple[str, int], ...]
    first: str
    last: str


def columns(times: Sequence[int], values: Sequence[int]) -> Columns:
    """The chart of the values at these times (epoch seconds)."""
    highest = max(values, default=0)
    step = WIDTH / max(len(values), 1)
    found = tuple(
        Column(round(at * step, 2), round(HEIGHT - height, 2), round(height, 2))
        for at, value in enumerate(values)
        if value and (height := max(value / highest * HEIGHT, 1.5))
    )
    labels = [datetime.fromtimestamp(each, UTC).strftime("%H:%M") for each in times]
    rows = tuple((label, value) for label, value in zip(labels, values, strict=True) if value)
    return Columns(
        found,
        round(max(step - 1.5, 1), 2),
        highest,
        sum(values),
        rows,
        labels[0] if labels else "",
        labels[-1] if labels else "",
    )
