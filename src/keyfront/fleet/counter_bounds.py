"""What an edge's counters may be, for a control plane that does not trust the edge.

An edge of another machine may be in the hands of an attacker, who can report what it likes. The counters become metrics
with the edge's labels, and records of key usage, so their number and their lengths are bounded by what an honest edge
reports: its families have limits (`fleet/edge_counters.py`), and its labels are the operator's own names.

A report of another version may contain families with another form. Those are not refused; `/metrics` ignores them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

import msgspec

from keyfront.errors import SettingsError
from keyfront.fleet.credential_use import HASH_BITS, MOST_COUNTRIES, MOST_REPORTED, CredentialUse, K
from keyfront.fleet.edge_counters import BY_NAME, FAMILIES, MAX_TEXT, Sums

MAX_OF_OTHERS: Final = 1000
"""Series of families that this version does not know."""
MAX_SERIES: Final = sum(family.limit + 1 for family in FAMILIES) + MAX_OF_OTHERS
MAX_LABELS: Final = 16
MAX_CELLS: Final = 64
"""Labels and integers of a series."""
MAX_KEYS: Final = 50_000
"""Combinations of a key, a hash, and a distribution; and keys with an expiry."""
MAX_CREDENTIALS: Final = 2 * MOST_REPORTED
_HASHES: Final = range(1 << HASH_BITS)
_COUNTS: Final = range(1 << 53)
_INTEGERS: Final = range(-(1 << 63), 1 << 63)


def check_counters(report: bytes) -> None:
    """Check the counters in a worker's report: JSON in the form of `Sums`.

    :raises SettingsError: if they cannot be an honest edge's.
    """
    try:
        sums = msgspec.json.decode(report, type=Sums)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError(f"its counters cannot be read: {error}") from None
    _check_series(sums)
    _at_most("key usage", max(len(sums.keys), len(sums.ends)), MAX_KEYS)
    _check_texts((sums.run,))
    for key, hash_, distribution, count in sums.keys:
        _check_texts((key, hash_, distribution))
        _check_integers((count,))
    for key, latest, longest, until in sums.ends:
        _check_texts((key,))
        _check_integers((latest, until))
        if not 0 <= longest < 1e12:
            raise SettingsError("its counters contain a lifetime that is out of range")
    check_credentials(sums)


def check_credentials(sums: Sums) -> None:
    """Check what a report says of credentials.

    :raises SettingsError: if it cannot be an honest worker's.
    """
    _check_texts((sums.run,))
    _at_most("credentials", len(sums.credentials), MAX_CREDENTIALS)
    for use in sums.credentials:
        _check_use(use)


def _check_use(use: CredentialUse) -> None:
    _check_texts((use.id, use.label, use.key_pair_id, use.distribution, *use.countries))
    _at_most("hashes of a credential", max(len(use.networks), len(use.agents)), K)
    _at_most("countries of a credential", len(use.countries), MOST_COUNTRIES)
    if not all(number in _HASHES for number in (*use.networks, *use.agents)):
        raise SettingsError("its counters contain a hash that is out of range")
    if not all(number in _COUNTS for number in (use.pane, use.requests, use.bytes)):
        raise SettingsError("its counters contain a number that is out of range")


def _check_series(sums: Sums) -> None:
    _at_most("series", len(sums.series), MAX_SERIES)
    numbers: Counter[str] = Counter()
    for name, labels, cells in sums.series:
        numbers[name if name in BY_NAME else ""] += 1
        _at_most("labels of a series", len(labels), MAX_LABELS)
        _at_most("integers of a series", len(cells), MAX_CELLS)
        _check_texts((name, *labels))
        _check_integers(cells)
    for name, number in numbers.items():
        limit = BY_NAME[name].limit + 1 if name else MAX_OF_OTHERS  # one for what does not fit
        _at_most(f"series of {name or 'unknown families'}", number, limit)


def _at_most(what: str, number: int, limit: int) -> None:
    if number > limit:
        raise SettingsError(f"its counters have {number} {what}, and may have {limit}")


def _check_texts(texts: Iterable[str]) -> None:
    for text in texts:
        if len(text) > MAX_TEXT or not text.isprintable():
            raise SettingsError(
                f"its counters contain a name that has more than {MAX_TEXT} characters or cannot be printed"
            )


def _check_integers(values: Iterable[int]) -> None:
    if not all(value in _INTEGERS for value in values):
        raise SettingsError("its counters contain a number that is out of range")
