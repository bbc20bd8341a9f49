"""Writes docs/reference/metrics.md from the metrics' own definitions: `python -m scripts.metrics`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from keyfront.cloudfront.key_usage import KeyUses
from keyfront.control.alarms.plane import alarm_families
from keyfront.control.keys.watch import term_family, use_families, warning_family
from keyfront.control.metrics import plane_families
from keyfront.control.sharing.watch import shared_links_family
from keyfront.control.wire.app import Metrics
from keyfront.fleet.edge_counters import FAMILIES, Family, Kind
from keyfront.monitoring.delivery_metrics import delivery_families
from keyfront.monitoring.edge_metrics import PREFIX, fleet_families
from keyfront.monitoring.exposition import BuildInfo
from keyfront.monitoring.metric_series import KEYFRONT_METRICS, UNITS
from keyfront.runtime.restarts import restarts_family

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "metrics.md"

_HEAD = """# Metrics

Written by `make docs` from the code. The [guide](../guide/monitoring.md) says how to read them, and when they start
again at zero. Times are in seconds, sizes in bytes, timestamps in seconds since the epoch.

A histogram has the samples `_bucket`, `_sum`, and `_count`, a summary `_sum` and `_count`.
"""

_EDGE = """
## Of an edge

On the port of `--edge-metrics`, for all workers of the machine together: gauges are added up, except where the table
says which one is shown. On the control port, for each worker, with `edge` as additional first label.

| metric | type | labels | what it is |
| --- | --- | --- | --- |
"""

_CONTROL = """
## Of the control plane

On the control port; `keyfront_build_info` on both, `keyfront_log_delivery_…` and `keyfront_process_restarts_total` on
the port of `--edge-metrics`, if there is one.

| metric | type | labels | what it is |
| --- | --- | --- | --- |
"""


_ALARMS = """
## For alarms

What alarms can watch ([alarms](../guide/alarms.md)), by CloudWatch's API on the control port. The namespace
`AWS/CloudFront` has these, with the dimensions `DistributionId` and `Region=Global`:

| metric | unit |
| --- | --- |
"""

_KEYFRONT = """
The namespace `Keyfront` has:

| metric | unit | dimensions | what it is |
| --- | --- | --- | --- |
"""


def alarm_rows() -> Iterator[str]:
    yield _ALARMS
    for name, unit in UNITS.items():
        yield f"| `{name}` | {unit} |\n"
    yield _KEYFRONT
    for metric in KEYFRONT_METRICS:
        each = (" and ".join(f"`{name}`" for name in names) or "none" for names in metric.dimensions)
        yield f"| `{metric.name}` | {metric.unit} | {'; '.join(each)} | {metric.description} |\n"


class Row(NamedTuple):
    """One line of a table. `name` is that of the samples, except for what a histogram or summary appends."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str

    def __str__(self) -> str:
        labels = ", ".join(f"`{label}`" for label in self.labels)
        return f"| `{self.name}` | {self.kind} | {labels} | {self.help.replace('|', chr(92) + '|')} |\n"


def edge_rows() -> Iterator[Row]:
    for family in FAMILIES:
        name = PREFIX + family.name + ("_total" if family.kind is Kind.COUNTER else "")
        yield Row(name, family.kind.value, family.labels, _meaning(family))


def _meaning(family: Family) -> str:
    bounds = ", ".join(f"{bound / family.scale:g}" for bound in family.bounds)
    text = family.help + (f" Buckets: {bounds}." if bounds else "")
    return text if family.merge.value == "sum" else f"{text} The {family.merge.value} of the workers' values."


def control_rows() -> Iterator[Row]:
    registry = CollectorRegistry()
    Metrics(registry)
    families: Iterable[Metric] = [
        *plane_families(),
        *alarm_families({}, {}),
        shared_links_family(),
        *use_families(KeyUses(0.0, 0.0)),
        term_family(()),
        warning_family(()),
        *fleet_families(()),
        restarts_family(),
        *delivery_families(None),
        *BuildInfo().collect(),
    ]
    for family in families:
        labels: tuple[str, ...] = tuple(family._labelnames)  # type: ignore[attr-defined]
        yield Row(_sample_name(family), family.type, labels, family.documentation)
    for family in registry.collect():
        yield Row(_sample_name(family), family.type, Metrics.LABELS[family.name], family.documentation)


def _sample_name(family: Metric) -> str:
    return family.name + ("_total" if family.type == "counter" else "")


def page() -> str:
    """The text of the page."""
    return "".join(
        [_HEAD, _EDGE, *map(str, edge_rows()), _CONTROL, *map(str, sorted(control_rows())), *alarm_rows()]
    )


def main() -> None:
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
