"""Statistics of metrics, with CloudWatch's names: what a set of samples says, and how sets become one. Pure."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate

import msgspec

PLAIN = ("SampleCount", "Average", "Sum", "Minimum", "Maximum")
"""The statistics of every metric."""

_PERCENTILE = re.compile(r"p(\d{1,2}(?:\.\d{1,10})?|100)")


class Bucket(msgspec.Struct, frozen=True):
    """`count` samples from `low` to `high`, evenly spread as far as is known."""

    low: float
    high: float
    count: int


class Samples(msgspec.Struct, frozen=True):
    """A set of samples: their number, sum, minimum, and maximum, and how they are distributed.

    :param buckets: the distribution, for percentiles; empty: unknown.
    """

    count: float
    sum: float
    minimum: float
    maximum: float
    buckets: tuple[Bucket, ...] = ()


def one(value: float) -> Samples:
    """A set of one sample."""
    return Samples(1, value, value, value, (Bucket(value, value, 1),))


def combined(sets: Iterable[Samples]) -> Samples | None:
    """Several sets as one; None without any. The distribution is known if it is known of every set."""
    found = [each for each in sets if each.count > 0]
    if not found:
        return None
    buckets: dict[tuple[float, float], int] = {}
    for each in found:
        for bucket in each.buckets:
            place = bucket.low, bucket.high
            buckets[place] = buckets.get(place, 0) + bucket.count
    known = all(each.buckets for each in found)
    return Samples(
        sum(each.count for each in found),
        sum(each.sum for each in found),
        min(each.minimum for each in found),
        max(each.maximum for each in found),
        tuple(Bucket(low, high, count) for (low, high), count in sorted(buckets.items())) if known else (),
    )


def percentile_of(statistic: str) -> float | None:
    """The percentile, 0 to 100, that a statistic such as `p99.9` names; None if it names none."""
    matched = _PERCENTILE.fullmatch(statistic)
    return float(matched[1]) if matched else None


def value(samples: Samples, statistic: str) -> float | None:
    """The statistic of the samples. None if it is a percentile and their distribution is unknown.

    :param statistic: one of PLAIN, or a percentile from `p0` to `p100`.
    :raises ValueError: if it is neither.
    """
    if statistic == "SampleCount":
        return samples.count
    if statistic == "Average":
        return samples.sum / samples.count
    if statistic == "Sum":
        return samples.sum
    if statistic == "Minimum":
        return samples.minimum
    if statistic == "Maximum":
        return samples.maximum
    percentile = percentile_of(statistic)
    if percentile is None:
        raise ValueError(
            f"{statistic[:40]!r} is not a statistic: {', '.join(PLAIN)}, or a percentile such as p99"
        )
    return _percentile(samples, percentile)


def _percentile(samples: Samples, percentile: float) -> float | None:
    """The percentile, interpolated within its bucket."""
    ends = list(accumulate(bucket.count for bucket in samples.buckets))
    if not ends or not ends[-1]:
        return None
    rank = ends[-1] * percentile / 100
    at = min(bisect_left(ends, rank), len(ends) - 1)
    bucket = samples.buckets[at]
    part = max(0.0, rank - (ends[at] - bucket.count)) / bucket.count
    return bucket.low + (bucket.high - bucket.low) * part
