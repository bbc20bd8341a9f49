"""HTTP dates: parsing in all three forms, and formatting (RFC 9110 §5.6.7)."""

from __future__ import annotations

import re
from datetime import date as Date
from email.utils import formatdate
from functools import lru_cache
from typing import Final

_MONTHS: Final = {
    name: number
    for number, name in enumerate(
        (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"), 1
    )
}


_IMF: Final = re.compile(
    rb"[A-Za-z]{3}, ([0-9]{1,2}) ([A-Za-z]{3}) ([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT"
)


_RFC850: Final = re.compile(
    rb"[A-Za-z]{6,9}, ([0-9]{2})-([A-Za-z]{3})-([0-9]{2}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT"
)


_ASCTIME: Final = re.compile(
    rb"[A-Za-z]{3} ([A-Za-z]{3}) ([ 0-9][0-9]) ([0-9]{2}):([0-9]{2}):([0-9]{2}) ([0-9]{4})"
)


def parse_date(value: bytes, now: float) -> float | None:
    """An HTTP-date in any of its three forms as epoch seconds; None if it is not valid (RFC 9110 §5.6.7).

    :param now: epoch seconds; determines the century of a two-digit year.
    """
    value = value.strip(b" \t")
    return _parse(value, 1970 + int(now / _YEAR)) if len(value) <= _LONGEST_DATE else None


_YEAR: Final = 365.2425 * 86400


_LONGEST_DATE: Final = 40
"""Characters of the longest HTTP-date (`Wednesday, 09-Nov-94 08:49:37 GMT`), plus a margin."""


@lru_cache(maxsize=1024)
def _parse(value: bytes, this_year: int) -> float | None:
    if match := _IMF.fullmatch(value):
        day, month, year, hour, minute, second = match.groups()
    elif match := _RFC850.fullmatch(value):
        day, month, year, hour, minute, second = match.groups()
        full = this_year - this_year % 100 + int(year)
        year = b"%d" % (full - 100 if full > this_year + 50 else full)
    elif match := _ASCTIME.fullmatch(value):
        month, day, hour, minute, second, year = match.groups()
    else:
        return None
    number = _MONTHS.get(month)
    # 60 is a leap second.
    if number is None or hour > b"23" or minute > b"59" or second > b"60":
        return None
    try:
        days = Date(int(year), number, int(day)).toordinal() - _EPOCH
    except ValueError:
        return None
    return float(days * 86400 + int(hour) * 3600 + int(minute) * 60 + int(second))


_EPOCH: Final = Date(1970, 1, 1).toordinal()


def format_date(epoch: float) -> bytes:
    """An IMF-fixdate for epoch seconds."""
    return _format(int(epoch))


@lru_cache(maxsize=64)
def _format(epoch: int) -> bytes:
    return formatdate(epoch, usegmt=True).encode()
