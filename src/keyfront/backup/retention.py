"""Retention rules: which archives to keep. Pure: names in, names out.

A rule keeps the newest archive of each of the last N hours, days, weeks (from Monday), months, and years *that contain
one*, and the last N archives whatever their time. Times are UTC. An archive that any part of the rule selects is kept.
So a machine that was off for a month loses nothing because of it.

Archives with different contents (`Name.holds`) do not stand in for each other: the rule applies to each kind
separately, so archives without private keys never displace those that have them.

An archive dated after now was made under a wrong clock, then or now. It is kept but not counted: otherwise a clock that
once ran fast would cause every later archive to be removed immediately.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import msgspec

from keyfront.backup.archive.names import Name
from keyfront.errors import SettingsError


class Rule(msgspec.Struct, frozen=True):
    """How many archives to keep for each period; all 0 keeps everything."""

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0


_PERIODS: dict[str, Callable[[datetime], object]] = {
    "last": lambda when: when,
    "hourly": lambda when: (when.date(), when.hour),
    "daily": lambda when: when.date(),
    "weekly": lambda when: when.isocalendar()[:2],
    "monthly": lambda when: (when.year, when.month),
    "yearly": lambda when: when.year,
}
"""For each kind of period, the function that returns the period of a time."""


def read_rule(text: str) -> Rule:
    """Parse a rule such as `last=7,daily=14,weekly=8,monthly=12`.

    :raises SettingsError: if `text` is not a rule, or selects nothing: keeping nothing is never intended.
    """
    counts: dict[str, int] = {}
    for part in text.split(","):
        name, _, number = part.strip().partition("=")
        if name not in _PERIODS or not re.fullmatch("[0-9]{1,5}", number) or name in counts:
            raise SettingsError(
                f"{part.strip()!r} is not of the form NAME=NUMBER with each of {', '.join(_PERIODS)} once at most"
            )
        counts[name] = int(number)
    if not any(counts.values()):
        raise SettingsError(f"{text!r} keeps nothing at all")
    return Rule(**counts)


def kept(archives: Iterable[Name], rule: Rule, now: float) -> set[Name]:
    """Return those of one installation's `archives` that `rule` keeps at `now` (epoch seconds). The newest of each kind
    is always among them."""
    if rule == Rule():
        return set(archives)
    kinds: dict[str, list[Name]] = {}
    for archive in archives:
        kinds.setdefault(archive.holds, []).append(archive)
    return {archive for alike in kinds.values() for archive in _kept(alike, rule, now)}


def _kept(archives: Iterable[Name], rule: Rule, now: float) -> set[Name]:
    newest_first = sorted(archives, reverse=True)
    found = {archive for archive in newest_first if archive.taken > now}
    past = [archive for archive in newest_first if archive.taken <= now]
    found.update(past[:1])
    for name, period in _PERIODS.items():
        left, seen = getattr(rule, name), object()
        for archive in past:
            if left == 0:
                break
            at = period(datetime.fromtimestamp(archive.taken, UTC))
            if name == "last" or at != seen:
                found.add(archive)
                left, seen = left - 1, at
    return found
