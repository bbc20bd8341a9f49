"""Prometheus metrics from the counters of edges.

An edge counts in integers (`fleet/edge_counters.py`). They become metric families here, from two sources: the shared
memory of a machine's workers, whose series are added up, and the reports that reach the control plane, where each
worker keeps its own series, labeled with its name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate

import msgspec
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.utils import floatToGoString

from keyfront.fleet.edge_counters import BY_NAME, FAMILIES, WORKERS, Family, Kind, Merge, Series, Sums
from keyfront.fleet.feed import Report

PREFIX = "keyfront_edge_"

Merged = Mapping[str, Mapping[tuple[str, ...], tuple[int, ...]]]
"""Series by family, then by the values of their labels."""

_MERGES: dict[Merge, Callable[[int, int], int]] = {
    Merge.SUM: lambda one, other: one + other,
    Merge.MAX: max,
    Merge.MIN: min,
}


def merged(workers: Iterable[Iterable[Series]]) -> Merged:
    """The series of several workers as those of one edge."""
    found: defaultdict[str, dict[tuple[str, ...], tuple[int, ...]]] = defaultdict(dict)
    for series in workers:
        for name, labels, cells in series:
            before = found[name].get(labels)
            if before is not None:
                merge = _MERGES[BY_NAME[name].merge]
                cells = tuple(map(merge, before, cells))
            found[name][labels] = cells
    return found


def machine_families(workers: Iterable[Iterable[Series]]) -> Iterable[Metric]:
    """Metric families for the workers of one machine, added up."""
    series: Merged = {WORKERS.name: {(): (0,)}, **merged(workers)}
    for family in FAMILIES:
        metric = _Metric(family, ())
        for labels, cells in series.get(family.name, {}).items():
            metric.add(labels, cells)
        yield metric.made


def families(reports: Iterable[tuple[str, int, Mapping[str, object]]]) -> Iterable[Metric]:
    """Metric families for `(edge name, snapshot number, counters as a plain mapping)` of each live edge."""
    metrics = {family.name: _Metric(family, ("edge",)) for family in FAMILIES}
    for name, number, raw in reports:
        metrics["snapshot_number"].add((name,), (number,))
        try:
            counted = msgspec.convert(raw, Sums, strict=False)
        except msgspec.ValidationError:
            continue  # from an edge of another version: skip it
        for family_name, labels, cells in () if counted.shown else counted.series:
            family = BY_NAME.get(family_name)
            # A report may come from an edge of another version, and from a folder that others can write to.
            fits = family is not None and (len(labels), len(cells)) == (len(family.labels), family.cells)
            if fits and family_name != "snapshot_number":
                metrics[family_name].add((name, *labels), cells)
    return [metric.made for metric in metrics.values()]


class _Metric:
    """One family as `prometheus-client` renders it.

    :param before: labels before the family's own.
    """

    def __init__(self, family: Family, before: tuple[str, ...]) -> None:
        self._family = family
        name, labels = PREFIX + family.name, [*before, *family.labels]
        self.made: Metric
        self.add: Callable[[tuple[str, ...], tuple[int, ...]], None]
        if family.kind is Kind.HISTOGRAM:
            self.made = histogram = HistogramMetricFamily(name, family.help, labels=labels)
            bounds = [*(_go_string(bound / family.scale) for bound in family.bounds), "+Inf"]

            def add_histogram(values: tuple[str, ...], cells: tuple[int, ...]) -> None:
                buckets = list(zip(bounds, map(float, accumulate(cells[:-1])), strict=True))
                histogram.add_metric(values, buckets, cells[-1] / family.scale)

            self.add = add_histogram
        elif family.kind is Kind.SUMMARY:
            self.made = summary = SummaryMetricFamily(name, family.help, labels=labels)
            self.add = lambda values, cells: summary.add_metric(values, cells[0], cells[1] / family.scale)
        else:
            kind = CounterMetricFamily if family.kind is Kind.COUNTER else GaugeMetricFamily
            self.made = plain = kind(name, family.help, labels=labels)
            self.add = lambda values, cells: plain.add_metric(values, cells[0] / family.scale)


def _go_string(bound: float) -> str:
    return str(floatToGoString(bound))  # type: ignore[no-untyped-call]


def fleet_families(reports: Iterable[Report]) -> Iterable[Metric]:
    """Metric families about the live edges themselves."""
    edge = ["edge"]
    at = GaugeMetricFamily(
        "keyfront_edge_last_report_timestamp_seconds", "When a worker of an edge last reported.", labels=edge
    )
    refused = GaugeMetricFamily(
        "keyfront_edge_snapshot_refused",
        "1 if a worker of an edge has refused a newer snapshot than the one in use.",
        labels=edge,
    )
    info = GaugeMetricFamily("keyfront_edge_info", "1 for each live edge.", labels=["edge", "region"])
    count = GaugeMetricFamily("keyfront_region_edges", "Live edges of a region.", labels=["region"])
    counted: dict[str, int] = {}
    for one in reports:
        at.add_metric([one.name], one.at)
        refused.add_metric([one.name], bool(one.refused))
        info.add_metric([one.name, one.region], 1)
        counted[one.region] = counted.get(one.region, 0) + 1
    for region, number in counted.items():
        count.add_metric([region], number)
    return [info, count, at, refused]
