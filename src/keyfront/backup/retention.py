"""Which archives are kept. Pure: names in, names out.

A rule asks for the newest archive of each of the last so many hours, days, weeks (from Monday), months and years *in
which there is one*, and for the last so many whatever their time; UTC. What any part of the rule asks for is kept. So a
machine that was off for a month loses nothing by it.

Archives that hold different things (`Name.holds`) do not stand in for each other: each kind is kept by the rule as if
it were alone, so that any number of archives without private keys leaves those that have them.

An archive dated after now was made under a wrong clock, then or now. It is kept, and counts for nothing: else a clock
that once ran ahead would have every later archive thrown away at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import msgspec

from keyfront.backup.archive.names import Name
from keyfront.errors import SettingsError


class Rule(msgspec.Struct, frozen=True):
    """How many to keep of each; all 0 keeps everything."""

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
"""Which period of each kind a time lies in."""


def read_rule(text: str) -> Rule:
    """`last=7,daily=14,weekly=8,monthly=12`.

    :raises SettingsError: if it is none, or asks for nothing: to keep nothing is never meant.
    """
    said: dict[str, int] = {}
    for part in text.split(","):
        name, _, number = part.strip().partition("=")
        if name not in _PERIODS or not re.fullmatch("[0-9]{1,5}", number) or name in said:
            raise SettingsError(
                f"{part.strip()!r} is not of the form NAME=NUMBER with each of {', '.join(_PERIODS)} once at most"
            )
        said[name] = int(number)
    if not any(said.values()):
        raise SettingsError(f"{text!r} keeps nothing at all")
    return Rule(**said)


def kept(archives: Iterable[Name], rule: Rule, now: float) -> set[Name]:
    """Those of one installation's `archives` that `rule` asks for at `now` (epoch seconds), the newest of each
    kind among them always."""
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
