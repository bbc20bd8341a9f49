"""Metrics from what edges count: names, dimensions, and the arithmetic of counters."""

from __future__ import annotations

from keyfront.fleet.edge_counters import ORIGIN_DURATION, Series
from keyfront.monitoring.metric_series import (
    CLOUDFRONT,
    KEYFRONT,
    KEYFRONT_METRICS,
    NOTHING,
    UNITS,
    Counts,
    Measurement,
    MetricId,
    MinuteData,
    added,
    counts_of,
    gauge_id,
    gauge_key,
    gauges,
    merged,
    samples_of,
    share,
    since,
    subject_of,
    unit_of,
)
from keyfront.monitoring.statistics import value
from tests.rows import rows

E1 = (("DistributionId", "E1"), ("Region", "Global"))


def requests(number: int, status: str, result: str) -> Series:
    return ("requests", ("E1", status, result, ""), (number,))


LATENCY = (0, 3, *[0] * (ORIGIN_DURATION.cells - 4), 1, 40_000_000)
SERIES: list[Series] = [
    requests(40, "200", "Hit"),
    requests(10, "304", "RefreshHit"),
    requests(30, "200", "Miss"),
    requests(10, "403", "Error"),
    requests(6, "404", "Error"),
    requests(4, "503", "Error"),
    ("response_bytes", ("E1",), (5000,)),
    ("request_bytes", ("E1",), (700,)),
    ("denials", ("E1", "expired", "K1", "g"), (4,)),
    ("denials", ("E1", "expired", "K2", "g"), (3,)),
    ("denials", ("E1", "unknown_key", "other", ""), (2,)),
    ("origin_failures", ("E1", "app", "refused"), (5,)),
    ("origin_response_duration_seconds", ("E1", "app"), LATENCY),
    ("origin_response_duration_seconds", ("E1", "other"), LATENCY),
    ("log_records_lost", (), (1,)),
    ("connections", (), (9,)),
    ("requests", ("E1",), (9,)),
    ("no_such_family", (), (9,)),
]


@rows(
    "name, statistic, expected",
    [
        ("Requests", "Sum", 100),
        ("BytesDownloaded", "Sum", 5000),
        ("BytesUploaded", "Sum", 700),
        ("4xxErrorRate", "Average", 16.0),
        ("5xxErrorRate", "Average", 4.0),
        ("TotalErrorRate", "Average", 20.0),
        ("TotalErrorRate", "SampleCount", 100),
        ("401ErrorRate", "Maximum", 0.0),
        ("403ErrorRate", "Average", 10.0),
        ("404ErrorRate", "Average", 6.0),
        ("503ErrorRate", "Minimum", 0.0),
        ("CacheHitRate", "Average", 62.5),
        ("OriginLatency", "SampleCount", 8),
        ("OriginLatency", "Average", 10_000.0),
        ("OriginLatency", "Maximum", 30_000.0),
        ("OriginLatency", "p50", 1.0 + 4.0 * 4 / 6),
    ],
)
def test_cloudfronts_metrics(name: str, statistic: str, expected: float) -> None:
    samples = samples_of(MetricId(CLOUDFRONT, name, E1), MinuteData(counts_of(SERIES)["E1"]))
    assert samples is not None
    assert value(samples, statistic) == expected


@rows("name", sorted(UNITS))
def test_without_requests_there_is_no_datapoint(name: str) -> None:
    assert samples_of(MetricId(CLOUDFRONT, name, E1), MinuteData(NOTHING)) is None


def test_a_rate_of_nothing_cacheable_is_missing() -> None:
    only_errors = counts_of([requests(3, "403", "Error")])["E1"]
    assert samples_of(MetricId(CLOUDFRONT, "CacheHitRate", E1), MinuteData(only_errors)) is None


@rows(
    "name, dimensions, expected",
    [
        ("Requests", (), 100),
        ("4xxErrorRate", (), 16.0),
        ("5xxErrorRate", (), 4.0),
        ("Denials", (), 9),
        ("Denials", (("Reason", "expired"),), 7),
        ("Denials", (("Reason", "never"),), 0),
        ("UnknownKeyRequests", (), 2),
        ("DenialRate", (), 9.0),
        ("OriginFailures", (), 5),
        ("LogRecordsLost", (), 1),
        ("Edges", (), 3.0),
        ("KeyDaysLeft", (("KeyPairId", "K1"),), 12.5),
        ("KeyDaysLeft", (), None),
    ],
)
def test_keyfronts_metrics(
    name: str, dimensions: tuple[tuple[str, str], ...], expected: float | None
) -> None:
    counted = counts_of(SERIES)
    measured = gauges(
        [
            Measurement("Edges", 2),
            Measurement("Edges", 4),
            Measurement("KeyDaysLeft", 12.5, (("KeyPairId", "K1"),)),
            Measurement("KeyDaysLeft", 1, (("Unknown", "K1"),)),
            Measurement("NoSuchMetric", 1),
        ]
    )
    samples = samples_of(
        MetricId(KEYFRONT, name, dimensions), MinuteData(added(counted["E1"], counted[""]), measured)
    )
    assert (None if samples is None else value(samples, "Average")) == expected


def test_a_gauge_with_several_values_has_no_percentile() -> None:
    several = merged(
        MinuteData(NOTHING, gauges([Measurement("Edges", 2)])),
        MinuteData(NOTHING, gauges([Measurement("Edges", 4)])),
    )
    samples = samples_of(MetricId(KEYFRONT, "Edges"), several)
    assert samples is not None
    assert (value(samples, "Minimum"), value(samples, "Maximum"), value(samples, "p50")) == (2.0, 4.0, None)


@rows(
    "metric, subject, unit",
    [
        (MetricId(CLOUDFRONT, "Requests", E1), "E1", "None"),
        (MetricId(CLOUDFRONT, "OriginLatency", E1), "E1", "Milliseconds"),
        (MetricId(CLOUDFRONT, "Requests", E1[:1]), None, "None"),
        (MetricId(CLOUDFRONT, "Requests", (E1[0], ("Region", "us-east-1"))), None, "None"),
        (MetricId(CLOUDFRONT, "Denials", E1), None, "None"),
        (MetricId(KEYFRONT, "Denials", E1[:1]), "E1", "Count"),
        (MetricId(KEYFRONT, "Denials"), "", "Count"),
        (MetricId(KEYFRONT, "Denials", (("Reason", "x"),)), "", "Count"),
        (MetricId(KEYFRONT, "Edges", E1[:1]), None, "Count"),
        (MetricId(KEYFRONT, "NoSuchMetric"), None, "None"),
        (MetricId("AWS/EC2", "Denials"), None, "None"),
    ],
)
def test_where_a_metric_is(metric: MetricId, subject: str | None, unit: str) -> None:
    assert (subject_of(metric), unit_of(metric)) == (subject, unit)


def test_counters_never_fall() -> None:
    before = counts_of([requests(10, "404", "Error"), ("denials", ("E1", "expired", "K", "g"), (5,))])["E1"]
    after = counts_of([requests(4, "404", "Error"), ("denials", ("E1", "expired", "K", "g"), (5,))])["E1"]
    assert since(after, before) == NOTHING
    latency = counts_of([("origin_response_duration_seconds", ("E1", "app"), LATENCY)])["E1"]
    assert since(latency, NOTHING).latency == list(LATENCY)
    assert since(latency, latency).latency == [0] * len(LATENCY)


def test_shares_are_the_whole() -> None:
    whole = counts_of(SERIES)["E1"]
    total = NOTHING
    for part in range(7):
        total = added(total, share(whole, part, 7))
    assert total == whole


def test_a_row_of_an_older_version_lacks_what_was_added_later() -> None:
    assert added(Counts([3]), Counts([2])).of("requests") == 5
    assert Counts([3]).of("records_lost") == 0


@rows("key", [("Edges", ()), ("KeyDaysLeft", (("KeyPairId", "K=1"),))])
def test_keys_of_gauges(key: tuple[str, tuple[tuple[str, str], ...]]) -> None:
    assert gauge_id(gauge_key(*key)) == MetricId(KEYFRONT, *key)


def test_every_metric_has_its_dimensions_in_order() -> None:
    names = [metric.name for metric in KEYFRONT_METRICS]
    assert len(set(names)) == len(names)
    assert all(list(each) == sorted(each) for metric in KEYFRONT_METRICS for each in metric.dimensions)
