"""Lengths of time on a command line: `90s`, `1h30m`, `7d`, `4w`, `0`."""

from __future__ import annotations

import re
from typing import Any

import click

_SPAN = re.compile(r"(?:(\d{1,6})w)?(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?", re.ASCII)
_SECONDS = (7 * 86400, 86400, 3600, 60, 1)


class SpanType(click.ParamType[float]):
    """A length of time, in seconds."""

    name = "30d|12h|0"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        text = str(value).strip()
        if text == "0":
            return 0.0
        if not text or not (match := _SPAN.fullmatch(text)):
            self.fail(f"{text!r} is no length of time: give 90s, 1h30m, 7d, 4w or 0", param, ctx)
        return float(sum(int(n or 0) * each for n, each in zip(match.groups(), _SECONDS, strict=True)))


def span_text(seconds: float) -> str:
    """The same length, as a person would write it."""
    parts, rest = [], int(seconds)
    for unit, each in zip("dhms", _SECONDS[1:], strict=True):
        number, rest = divmod(rest, each)
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts) or "0"
