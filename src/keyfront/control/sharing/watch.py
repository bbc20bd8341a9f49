"""Finds shared credentials in the reports of the edges that report to this control plane."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from typing import Final, Protocol

import msgspec
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from keyfront.cloudfront.shared_links import SharedLink, SharedUse
from keyfront.control.sharing import findings
from keyfront.control.sharing.panes import Panes, WindowUse
from keyfront.control.store.store import Store
from keyfront.errors import ApiError, SettingsError
from keyfront.fleet.counter_bounds import check_credentials
from keyfront.fleet.credential_use import PANE, PANES
from keyfront.fleet.edge_counters import Sums
from keyfront.fleet.feed import Report
from keyfront.monitoring.anomalies import MEASURES, Crossing, SharingThresholds, crossings
from keyfront.monitoring.metric_series import Measurement

log = logging.getLogger("keyfront.control")

GATHER: Final = 5.0
"""Seconds between two readings of the reports."""
UPDATE: Final = 60.0
"""Seconds after which a finding is stored again while its credential goes on being shared."""
WINDOW: Final = float(PANE * PANES)
"""Seconds for which a credential counts as being shared, after it was last found to be."""


class LiveReports(Protocol):
    """The part of `fleet.regions.Regions` that is used."""

    def full_reports(self, now: float | None = None) -> list[Report]: ...


class SharingWatch(Collector):
    """Judges the use of credentials, stores findings, and counts them for alarms and for Prometheus.

    :param feeds: of this control plane.
    """

    def __init__(self, store: Store, feeds: LiveReports, thresholds: SharingThresholds) -> None:
        self._store = store
        self._feeds = feeds
        self._thresholds = thresholds
        self._panes = Panes()
        self._stored: dict[str, SharedLink] = {}
        self._lock = threading.Lock()
        self._pruned = 0.0

    def gather(self, now: float) -> None:
        """Read the reports, and store what is new about shared credentials.

        :param now: epoch seconds.
        :raises ApiError: ServiceUnavailable if the store does not respond; it is tried again.
        """
        with self._lock:
            for report in self._feeds.full_reports(now):
                try:
                    sums = msgspec.convert(report.counters, Sums, strict=False)
                    check_credentials(sums)
                except msgspec.ValidationError:
                    continue  # from another version of Keyfront
                except SettingsError:
                    continue  # through a folder that others can write to
                if sums.run and sums.credentials:
                    self._panes.add(sums.run, sums.credentials, now)
            self._judge(now)

    def _judge(self, now: float) -> None:
        for name in [name for name, link in self._stored.items() if link.last < now - WINDOW]:
            del self._stored[name]
        for use in self._panes.uses():
            crossed = crossings(use.evidence, self._thresholds)
            if not crossed:
                continue
            before = self._stored.get(use.credential)
            measures = {each.measure for each in crossed}
            if before is not None and now < before.last + UPDATE and measures <= set(before.thresholds):
                continue
            self._store_finding(use, crossed, now)
        if not 0 <= now - self._pruned < WINDOW:
            with self._store.write() as transaction:
                findings.prune(transaction, now)
            self._pruned = now

    def _store_finding(self, use: WindowUse, crossed: tuple[Crossing, ...], now: float) -> None:
        counted = SharedUse(*(getattr(use.evidence, name) for name in MEASURES))
        with self._store.write() as transaction:
            earlier = findings.get(transaction, use.credential)
            found = SharedLink(
                use.credential,
                use.label,
                tuple(use.keys),
                tuple(use.distributions),
                now if earlier is None else earlier.first,
                now,
                counted if earlier is None else counted.most(earlier.most),
                counted,
                {each.measure: each.threshold for each in crossed},
            )
            findings.put(transaction, found)
        if use.credential not in self._stored and (earlier is None or earlier.last < now - WINDOW):
            log.warning("%s", sentence(found))
        self._stored[use.credential] = found

    def measurements(self, now: float) -> Iterator[Measurement]:
        """See `MeasurementSource`.

        :raises ApiError: ServiceUnavailable if the store does not respond.
        """
        with self._store.read() as transaction:
            yield Measurement("SharedLinks", findings.count(transaction, now - WINDOW))

    def describe(self) -> Iterable[Metric]:
        return [shared_links_family()]

    def collect(self) -> Iterable[Metric]:
        import time

        shown = shared_links_family()
        try:
            with self._store.read() as transaction:
                shown.add_metric([], findings.count(transaction, time.time() - WINDOW))
        except ApiError:  # logged already
            return
        yield shown


def shared_links_family() -> GaugeMetricFamily:
    """The metric, without a value."""
    return GaugeMetricFamily(
        "keyfront_shared_links", "Credentials that were found to be shared in the last hour."
    )


def sentence(found: SharedLink) -> str:
    """A finding in words, without anything that grants access."""
    name = f"the credential {found.credential}" + (f" (label {found.label})" if found.label else "")
    reached = ", ".join(
        f"{getattr(found.now, measure)} {measure} (threshold {threshold})"
        for measure, threshold in found.thresholds.items()
    )
    return (
        f"{name} of key {', '.join(found.key_pair_ids)} is shared: within an hour, it was used with {reached}"
    )
