"""The metrics that alarms can watch: their names, units, and dimensions, and their values from what edges count. Pure.

There are two namespaces. `AWS/CloudFront` has CloudFront's own metrics by CloudFront's names, with the dimensions
`DistributionId` and `Region=Global` (cloudfront-semantics §6.5). `Keyfront` has what CloudFront does not measure.

Counters of edges become `Counts` per distribution and minute, from which metrics are computed when they are read.
Everything else is a `Measurement`: a value at a moment. A component of the control plane contributes measurements in
two steps:

1. It adds the metric to `KEYFRONT_METRICS`, so that the API lists it and the reference documents it.
2. It passes a `MeasurementSource` to `MetricSampler.sources` (`control/alarms/sampler.py`), which reads it at each
   sampling, in one control plane only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import add
from typing import Final, Protocol

import msgspec

from keyfront.fleet import edge_counters
from keyfront.fleet.edge_counters import Series
from keyfront.monitoring.statistics import Bucket, Samples

CLOUDFRONT: Final = "AWS/CloudFront"
KEYFRONT: Final = "Keyfront"
DISTRIBUTION: Final = "DistributionId"
REASON: Final = "Reason"

Dimensions = tuple[tuple[str, str], ...]
"""Names and values, in order of name."""

MINUTE: Final = 60
LONGEST_VALUE: Final = 256
"""Characters of a dimension's value."""


class Metric(msgspec.Struct, frozen=True):
    """A metric of the namespace `Keyfront`.

    :param dimensions: the combinations of dimensions with which it exists, each in order of name; the empty one is the
        whole installation.
    """

    name: str
    unit: str
    description: str
    dimensions: tuple[tuple[str, ...], ...] = ((),)


class MetricId(msgspec.Struct, frozen=True):
    """One metric with certain dimensions, which is one time series."""

    namespace: str
    name: str
    dimensions: Dimensions = ()


class Measurement(msgspec.Struct, frozen=True):
    """A value of a metric of the namespace `Keyfront` at a moment, in the metric's unit."""

    metric: str
    value: float
    dimensions: Dimensions = ()


class MeasurementSource(Protocol):
    """A component that contributes measurements."""

    def measurements(self, now: float) -> Iterable[Measurement]:
        """The current values. Called once per sampling, in a thread; at most every second.

        :param now: epoch seconds.
        """


_BY_REASON = ((), (DISTRIBUTION,), (DISTRIBUTION, REASON), (REASON,))
_BY_DISTRIBUTION = ((), (DISTRIBUTION,))

KEYFRONT_METRICS: Final = (
    Metric("Requests", "Count", "Requests answered."),
    Metric("4xxErrorRate", "Percent", "Share of requests answered with a status from 400 to 499."),
    Metric("5xxErrorRate", "Percent", "Share of requests answered with a status from 500 to 599."),
    Metric("Denials", "Count", "Requests whose signature was refused.", _BY_REASON),
    Metric("DenialRate", "Percent", "Share of requests whose signature was refused.", _BY_DISTRIBUTION),
    Metric(
        "UnknownKeyRequests",
        "Count",
        "Requests signed with a key that is not trusted there.",
        _BY_DISTRIBUTION,
    ),
    Metric("OriginFailures", "Count", "Requests to origins that failed.", _BY_DISTRIBUTION),
    Metric("LogRecordsLost", "Count", "Access records that edges could not write."),
    Metric("Edges", "Count", "Worker processes of live edges."),
    Metric("EdgesBehind", "Count", "Of these, those that do not use the latest snapshot."),
    Metric(
        "SnapshotAge",
        "Seconds",
        "Time since the edge that is furthest behind knew that its snapshot is the latest.",
    ),
    Metric(
        "KeyDaysLeft",
        "None",
        "Days until the term of a signing key ends; without dimensions, of the key that ends first.",
        ((), ("KeyPairId",)),
    ),
    Metric(
        "CertificateDaysLeft",
        "None",
        "Days until a certificate expires; without dimensions, of the one that expires first.",
        ((), ("Certificate",)),
    ),
    Metric("SharedLinks", "Count", "Signed URLs and cookies that were found to be shared in the last hour."),
    Metric("LogFilesWaiting", "Count", "Standard log files that wait for delivery."),
    Metric("LogDeliveryLag", "Seconds", "Age of the oldest log record that waits for delivery."),
    Metric("LogDeliveryFailing", "None", "1 if the last delivery of a log file failed, otherwise 0."),
    Metric(
        "AlarmActionsFailed",
        "Count",
        "Actions of alarms that could not be carried out, since the last sampling.",
    ),
)
"""The metrics of the namespace `Keyfront`."""
COUNTED: Final = frozenset(
    {
        "Requests",
        "4xxErrorRate",
        "5xxErrorRate",
        "Denials",
        "DenialRate",
        "UnknownKeyRequests",
        "OriginFailures",
        "LogRecordsLost",
    }
)
"""Those that come from the counters of edges. All others are measured."""
KEYFRONT_BY_NAME: Final = {metric.name: metric for metric in KEYFRONT_METRICS}

UNITS: Final = {
    "Requests": "None",
    "BytesDownloaded": "None",
    "BytesUploaded": "None",
    **{
        f"{each}ErrorRate": "Percent"
        for each in ("4xx", "5xx", "Total", "401", "403", "404", "502", "503", "504")
    },
    "CacheHitRate": "Percent",
    "OriginLatency": "Milliseconds",
}
"""CloudFront's metrics, with the units that CloudFront gives them."""


# ---- counters

_STATUSES = ("401", "403", "404", "502", "503", "504")
_PLAIN = (
    "requests",
    "bytes_down",
    "bytes_up",
    "4xx",
    "5xx",
    *_STATUSES,
    "cacheable",
    "hits",
    "denials",
    "origin_failures",
    "records_lost",
)
_AT = {name: at for at, name in enumerate(_PLAIN)}
_HITS = frozenset({"Hit", "RefreshHit"})
_BOUNDS = edge_counters.ORIGIN_DURATION.bounds
_LATENCY = edge_counters.ORIGIN_DURATION.cells


class Counts(msgspec.Struct, frozen=True, array_like=True):
    """What edges counted for one distribution, in the order of `_PLAIN`.

    :param latency: the cells of the histogram of origins' response times; empty: nothing.
    :param denials: by reason.
    """

    plain: list[int]
    latency: list[int] = []
    denials: dict[str, int] = {}

    def of(self, name: str) -> int:
        # A row of an older version may lack what was added later.
        return self.plain[_AT[name]] if _AT[name] < len(self.plain) else 0


NOTHING: Final = Counts([0] * len(_PLAIN))


def counts_of(series: Iterable[Series]) -> dict[str, Counts]:
    """The counters in a worker's report, by distribution; empty: those that belong to none.

    Series that this version does not know are left out.
    """
    plain: dict[str, list[int]] = {}
    latency: dict[str, list[int]] = {}
    denials: dict[str, dict[str, int]] = {}

    def count(distribution: str, name: str, number: int) -> None:
        plain.setdefault(distribution, [0] * len(_PLAIN))[_AT[name]] += number

    for family, labels, cells in series:
        known = edge_counters.BY_NAME.get(family)
        if known is None or (len(labels), len(cells)) != (len(known.labels), known.cells):
            continue
        if family == edge_counters.REQUESTS.name:
            distribution, status, result, _ = labels
            for name in _counted(status, result):
                count(distribution, name, cells[0])
        elif family == edge_counters.RESPONSE_BYTES.name:
            count(labels[0], "bytes_down", cells[0])
        elif family == edge_counters.REQUEST_BYTES.name:
            count(labels[0], "bytes_up", cells[0])
        elif family == edge_counters.DENIALS.name:
            count(labels[0], "denials", cells[0])
            by_reason = denials.setdefault(labels[0], {})
            by_reason[labels[1]] = by_reason.get(labels[1], 0) + cells[0]
        elif family == edge_counters.ORIGIN_FAILURES.name:
            count(labels[0], "origin_failures", cells[0])
        elif family == edge_counters.ORIGIN_DURATION.name:
            count(labels[0], "requests", 0)
            latency[labels[0]] = _sum(latency.get(labels[0], []), cells)
        elif family == edge_counters.LOST_RECORDS.name:
            count("", "records_lost", cells[0])
    return {
        name: Counts(numbers, latency.get(name, []), denials.get(name, {})) for name, numbers in plain.items()
    }


def _counted(status: str, result: str) -> Iterable[str]:
    """What a request with this status and result counts as."""
    yield "requests"
    if status.startswith(("4", "5")):
        yield f"{status[0]}xx"
    if status in _STATUSES:
        yield status
    if result in _HITS:
        yield "hits"
    if result in _HITS or result == "Miss":
        yield "cacheable"


def _sum(one: Sequence[int], other: Sequence[int]) -> list[int]:
    if not one or not other:
        return list(one or other)
    return list(map(add, one, other))


def added(one: Counts, other: Counts) -> Counts:
    """Both together."""
    reasons = one.denials.keys() | other.denials.keys()
    return Counts(
        [one.of(name) + other.of(name) for name in _PLAIN],
        _sum(one.latency, other.latency),
        {reason: one.denials.get(reason, 0) + other.denials.get(reason, 0) for reason in sorted(reasons)},
    )


def since(now: Counts, before: Counts) -> Counts:
    """What was counted between two reports of one process. A counter that fell counts as unchanged."""
    old = before.latency or [0] * len(now.latency)
    return Counts(
        [max(0, now.of(name) - before.of(name)) for name in _PLAIN],
        [max(0, one - other) for one, other in zip(now.latency, old, strict=True)] if now.latency else [],
        {
            reason: more
            for reason, number in now.denials.items()
            if (more := number - before.denials.get(reason, 0)) > 0
        },
    )


def share(counts: Counts, part: int, parts: int) -> Counts:
    """The share number `part` of `parts` equal shares, which together are `counts`."""

    def of(number: int) -> int:
        return number * (part + 1) // parts - number * part // parts

    return Counts(
        [of(number) for number in counts.plain],
        [of(number) for number in counts.latency],
        {reason: of(number) for reason, number in counts.denials.items()},
    )


def is_empty(counts: Counts) -> bool:
    """Whether nothing was counted."""
    return not any(counts.plain) and not any(counts.latency) and not any(counts.denials.values())


# ---- one minute

Gauge = tuple[int, float, float, float]
"""Number of measurements, their sum, minimum, and maximum."""


class MinuteData(msgspec.Struct, frozen=True, array_like=True):
    """What is stored for one minute of a distribution, or of the whole installation, which alone has `gauges`."""

    counts: Counts
    gauges: dict[str, Gauge] = {}


def gauge_key(metric: str, dimensions: Dimensions) -> str:
    """The key of a metric in `MinuteData.gauges`."""
    return "\x1f".join((metric, *(f"{name}={value}" for name, value in dimensions)))


def gauge_id(key: str) -> MetricId:
    """The metric of a key in `MinuteData.gauges`."""
    name, *parts = key.split("\x1f")
    return MetricId(KEYFRONT, name, tuple((part.partition("=")[0], part.partition("=")[2]) for part in parts))


def gauges(measurements: Iterable[Measurement]) -> dict[str, Gauge]:
    """Measurements of one moment. Those of metrics or with dimensions that KEYFRONT_METRICS does not have are left out:
    nothing could find them."""
    found: dict[str, Gauge] = {}
    for each in measurements:
        dimensions = tuple(sorted((name, text[:LONGEST_VALUE]) for name, text in each.dimensions))
        metric = KEYFRONT_BY_NAME.get(each.metric)
        if metric is None or tuple(name for name, _ in dimensions) not in metric.dimensions:
            continue
        key = gauge_key(each.metric, dimensions)
        found[key] = merged_gauge(found.get(key), (1, each.value, each.value, each.value))
    return found


def merged_gauge(one: Gauge | None, other: Gauge) -> Gauge:
    if one is None:
        return other
    return one[0] + other[0], one[1] + other[1], min(one[2], other[2]), max(one[3], other[3])


def merged(one: MinuteData, other: MinuteData) -> MinuteData:
    """Two parts of the same minute."""
    found = dict(one.gauges)
    for key, gauge in other.gauges.items():
        found[key] = merged_gauge(found.get(key), gauge)
    return MinuteData(added(one.counts, other.counts), found)


# ---- from minutes to metrics

WHOLE: Final = ""
"""The subject of the minutes of the whole installation; that of others is the id of a distribution."""


def subject_of(metric: MetricId) -> str | None:
    """Whose minutes hold the metric; None if there is no such metric."""
    dimensions = dict(metric.dimensions)
    if metric.namespace == CLOUDFRONT:
        fits = metric.name in UNITS and dimensions.keys() == {DISTRIBUTION, "Region"}
        return dimensions[DISTRIBUTION] if fits and dimensions["Region"] == "Global" else None
    known = KEYFRONT_BY_NAME.get(metric.name)
    if metric.namespace != KEYFRONT or known is None or tuple(sorted(dimensions)) not in known.dimensions:
        return None
    return dimensions.get(DISTRIBUTION, WHOLE)


def unit_of(metric: MetricId) -> str:
    """The metric's unit; `None` for a metric that does not exist."""
    if metric.namespace == CLOUDFRONT:
        return UNITS.get(metric.name, "None")
    known = KEYFRONT_BY_NAME.get(metric.name)
    return known.unit if metric.namespace == KEYFRONT and known is not None else "None"


def samples_of(metric: MetricId, minute: MinuteData) -> Samples | None:
    """The metric's samples in a minute of its subject; None if there are none.

    A rate has one sample per request, which is 0 or 100. Of Requests and of bytes, a minute is one sample. So an
    average over several minutes is that over all requests, and that of counts is per minute.
    """
    counts = minute.counts
    if metric.namespace == CLOUDFRONT:
        return _cloudfront(metric.name, counts)
    name = metric.name
    if name in ("Denials", "UnknownKeyRequests"):
        reason = "unknown_key" if name == "UnknownKeyRequests" else dict(metric.dimensions).get(REASON)
        return _whole(counts.of("denials") if reason is None else counts.denials.get(reason, 0))
    if name == "Requests":
        return _whole(counts.of("requests"))
    if name in ("4xxErrorRate", "5xxErrorRate"):
        return _rate(counts.of(name[:3]), counts.of("requests"))
    if name == "DenialRate":
        return _rate(counts.of("denials"), counts.of("requests"))
    if name == "OriginFailures":
        return _whole(counts.of("origin_failures"))
    if name == "LogRecordsLost":
        return _whole(counts.of("records_lost"))
    gauge = minute.gauges.get(gauge_key(name, metric.dimensions))
    if gauge is None:
        return None
    number, total, least, most = gauge
    known = (Bucket(least, most, number),) if least == most or number == 1 else ()
    return Samples(number, total, least, most, known)


def _cloudfront(name: str, counts: Counts) -> Samples | None:
    requests = counts.of("requests")
    if name == "OriginLatency":
        return _latency(counts.latency)
    if not requests:
        return None
    if name == "Requests":
        return _whole(requests)
    if name == "BytesDownloaded":
        return _whole(counts.of("bytes_down"))
    if name == "BytesUploaded":
        return _whole(counts.of("bytes_up"))
    if name == "CacheHitRate":
        return _rate(counts.of("hits"), counts.of("cacheable"))
    kind = name.removesuffix("ErrorRate")
    errors = counts.of("4xx") + counts.of("5xx") if kind == "Total" else counts.of(kind)
    return _rate(errors, requests)


def _whole(number: int) -> Samples:
    return Samples(1, number, number, number, (Bucket(number, number, 1),))


def _rate(part: int, whole: int) -> Samples | None:
    if not whole:
        return None
    pieces = [Bucket(0.0, 0.0, whole - part)] * (part < whole) + [Bucket(100.0, 100.0, part)] * (part > 0)
    return Samples(whole, 100.0 * part, pieces[0].low, pieces[-1].high, tuple(pieces))


def _latency(cells: Sequence[int]) -> Samples | None:
    """Milliseconds from the cells of a histogram in microseconds. Minimum and maximum are those of the buckets; what
    exceeds the last bound counts as that bound."""
    if len(cells) != _LATENCY or not any(cells[:-1]):
        return None
    bounds = [0, *_BOUNDS, _BOUNDS[-1]]
    pieces = tuple(
        Bucket(bounds[at] / 1000, bounds[at + 1] / 1000, number)
        for at, number in enumerate(cells[:-1])
        if number
    )
    return Samples(sum(cells[:-1]), cells[-1] / 1000, pieces[0].low, pieces[-1].high, pieces)


def total_of(counts: Mapping[str, Counts]) -> Counts:
    """The sum over all distributions."""
    total = NOTHING
    for each in counts.values():
        total = added(total, each)
    return total
