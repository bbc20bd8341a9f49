"""How the statistics of a key's expiry are merged."""

from __future__ import annotations

from keyfront.fleet.key_counters import ExpiryStats
from tests.rows import rows

NOW = 1000.0


@rows(
    ("before", "other", "after"),
    [
        ((0, 0.0, 0), (2000, 500.0, 1500), (2000, 500.0, 1500)),
        ((2000, 500.0, 1500), (2000, 500.0, 1500), (2000, 500.0, 1500)),
        ((2000, 500.0, 1500), (1900, 400.0, 1900), (2000, 500.0, 1500)),
        ((2000, 500.0, 1500), (2001, 400.0, 1900), (2001, 500.0, 1500)),
        ((2000, 500.0, 1500), (1500, 501.0, 1400), (2000, 501.0, 1400)),
        ((2000, 500.0, 1000), (1500, 1.0, 1001), (2000, 1.0, 1001)),  # the longest has expired
        ((2000, 500.0, 1001), (1500, 1.0, 1001), (2000, 500.0, 1001)),
        ((2000, 500.0, 900), (1500, 900.0, 1000), (2000, 500.0, 900)),  # this one has expired too
    ],
)
def test_merged(
    before: tuple[int, float, int], other: tuple[int, float, int], after: tuple[int, float, int]
) -> None:
    stats = ExpiryStats(*before)
    assert stats.add(*other, NOW) is (before != after)
    assert (stats.latest, stats.longest, stats.until) == after
