"""Durations and times on a command line: `90s`, `1h30m`, `7d`, `4w`, `0`; `2030-01-31T12:00:00Z`; epoch seconds."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

import click

from keyfront.cli.param_type import ParamType
from keyfront.signing.policy import Moment

_DURATION = re.compile(r"(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)
_SECONDS = (7 * 86400, 86400, 3600, 60, 1)
_LONGEST = 10**12
"""Seconds, about 30,000 years."""


def _seconds(text: str) -> int | None:
    """The duration in seconds; None if the text is not a duration."""
    match = _DURATION.fullmatch(text) if text else None
    if match is None:
        return None
    return sum(int(number or 0) * each for number, each in zip(match.groups(), _SECONDS, strict=True))


class DurationType(ParamType[float]):
    """A duration, in seconds."""

    name = "30d|12h|0"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        text = str(value).strip()
        seconds = 0 if text == "0" else _seconds(text)
        if seconds is None or seconds > _LONGEST:
            self.fail(f"{text!r} is not a duration: give 90s, 1h30m, 7d, 4w or 0", param, ctx)
        return float(seconds)


class MomentType(ParamType[Moment]):
    """A duration, an ISO 8601 time with its time zone, or epoch seconds."""

    name = "1h|ISO|EPOCH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Moment:
        text = str(value).strip()
        if text.isascii() and text.isdigit():
            return int(text)
        if (seconds := _seconds(text)) is not None:
            try:
                return timedelta(seconds=seconds)
            except OverflowError:
                self.fail(f"{text!r} is too long a duration", param, ctx)
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            self.fail(
                f"{text!r} is not a time: give 90s, 1h30m or 7d, or 2030-01-31T12:00:00Z, or epoch seconds",
                param,
                ctx,
            )
        if moment.tzinfo is None:
            self.fail(
                f"{text!r} has no time zone: write {text}Z for UTC, or add an offset such as +02:00"
                if "T" in text or " " in text
                else f"{text!r} has no time of day: write {text}T00:00:00Z",
                param,
                ctx,
            )
        return moment


def duration_text(seconds: float) -> str:
    """The duration as `DurationType` accepts it."""
    parts, rest = [], int(seconds)
    for unit, each in zip("dhms", _SECONDS[1:], strict=True):
        number, rest = divmod(rest, each)
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts) or "0"
