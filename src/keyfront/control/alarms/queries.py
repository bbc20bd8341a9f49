"""Questions about metrics: the samples of the periods of an alarm, and the datapoints of GetMetricData."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Final

from keyfront.control.alarms import minutes
from keyfront.control.store.transaction import Transaction
from keyfront.model.kinds import DISTRIBUTION as DISTRIBUTION_KIND
from keyfront.monitoring.metric_series import (
    CLOUDFRONT,
    COUNTED,
    DISTRIBUTION,
    KEYFRONT,
    KEYFRONT_METRICS,
    REASON,
    UNITS,
    WHOLE,
    MetricId,
    MinuteData,
    gauge_id,
    samples_of,
    subject_of,
)
from keyfront.monitoring.statistics import Samples, combined

ACTIVE: Final = 3 * 3600
"""Seconds within which every minute is looked at to find what has data."""
RECENT: Final = 3600
"""Seconds within which a measurement must have been taken to be listed."""


def periods(
    recent: minutes.Recent, metric: MetricId, period: int, count: int, end: int
) -> list[Samples | None]:
    """The samples of the last `count` periods before `end`, the most recent last.

    :param period: seconds. A minute belongs to the period in which it begins.
    :param end: epoch seconds.
    """
    subject = subject_of(metric)
    if subject is None:
        return [None] * count
    start = end - period * count
    found = recent.read(subject, start, end)
    return [
        _between(metric, found, end - period * number, end - period * (number - 1))
        for number in range(count, 0, -1)
    ]


def _between(metric: MetricId, found: Mapping[int, MinuteData], start: int, end: int) -> Samples | None:
    times = list(found)
    chosen = times[bisect.bisect_left(times, start) : bisect.bisect_left(times, end)]
    return combined(samples for at in chosen if (samples := samples_of(metric, found[at])) is not None)


def datapoints(
    transaction: Transaction, metric: MetricId, period: int, start: int, end: int
) -> dict[int, Samples]:
    """The samples of each period from `start` up to, and without, `end`, by when it begins, in order of time.

    :param period: seconds; `start` is where the first period begins.
    """
    subject = subject_of(metric)
    found: dict[int, list[Samples]] = {}
    for at, minute in (minutes.read(transaction, subject, start, end) if subject is not None else {}).items():
        samples = samples_of(metric, minute)
        if samples is not None and at >= start:
            found.setdefault(at - (at - start) % period, []).append(samples)
    return {at: whole for at, each in found.items() if (whole := combined(each)) is not None}


def known_metrics(transaction: Transaction, end: int, *, active: bool) -> Iterator[MetricId]:
    """The metrics of distributions that exist, or had a datapoint within three hours before `end`, in a fixed order.

    :param end: epoch seconds.
    :param active: only of those that had one.
    """
    there = minutes.subjects(transaction, end - ACTIVE)
    if not active:
        there = sorted({*there, *transaction.versions(DISTRIBUTION_KIND.name)})
    distributions = [each for each in there if each != WHOLE]
    for distribution in distributions:
        dimensions = ((DISTRIBUTION, distribution), ("Region", "Global"))
        for name in UNITS:
            yield MetricId(CLOUDFRONT, name, dimensions)
    if WHOLE not in there:
        return
    whole = minutes.read(transaction, WHOLE, end - RECENT, end).values()
    reasons = sorted({reason for minute in whole for reason in minute.counts.denials})
    values = {DISTRIBUTION: distributions, REASON: reasons}
    for metric in KEYFRONT_METRICS:
        for names in metric.dimensions if metric.name in COUNTED else ():
            for chosen in product(*(values[name] for name in names)):
                yield MetricId(KEYFRONT, metric.name, tuple(zip(names, chosen, strict=True)))
    measured = {key for minute in whole for key in minute.gauges}
    yield from sorted(map(gauge_id, measured), key=lambda each: (each.name, each.dimensions))
