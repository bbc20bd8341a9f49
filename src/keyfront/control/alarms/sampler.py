"""Sampling: the counters that edges report, and measurements of components, into the minutes of the store."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import msgspec

from keyfront.control.alarms import minutes
from keyfront.control.store.store import Store
from keyfront.fleet.edge_counters import Sums
from keyfront.fleet.feed import Report
from keyfront.monitoring.metric_series import Counts, Measurement, MeasurementSource, counts_of, gauges

log = logging.getLogger("keyfront.control")

LAG = 3.0
"""Seconds after the end of a minute at which it is sampled: edges report once a second, and over a network later."""
PRUNE = 3600.0
"""Seconds between two prunings."""
MOST_DISTRIBUTIONS = 5000
"""Distributions in one report that are counted; more than an account has."""
MOST_MEASUREMENTS = 2000
"""Measurements in one sampling; what exceeds them is left out."""


class Reports(Protocol):
    """The part of a feed that the sampler uses; see `fleet/file_feed.py`."""

    def last_reports(self) -> list[Report]: ...

    def ended(self) -> list[tuple[Path, Report]]: ...


class MetricSampler:
    """Samples the edges of these feeds. Safe to use from several threads.

    `sources` are the components whose measurements are sampled as well, by the control plane that leads.

    :param leads: whether this control plane leads.
    """

    def __init__(self, store: Store, leads: Callable[[], bool], *feeds: Reports) -> None:
        self._store = store
        self._leads = leads
        self._feeds = feeds
        self._lock = threading.Lock()
        self._pruned = 0.0
        self._trouble: dict[int, str] = {}
        self.sources: list[MeasurementSource] = []

    def sample(self, now: float) -> None:
        """Add what edges have counted since the last sampling, and what components measure now, to the current minute.

        The minute is that of LAG seconds ago, so that a sampling right after a minute still belongs to it.

        :param now: epoch seconds.
        :raises ApiError: ServiceUnavailable if the store does not respond. Nothing is lost then.
        """
        with self._lock:
            found = self._measured(now) if self._leads() else []
            runs: dict[str, dict[str, Counts]] = {}
            for feed in self._feeds:
                for report in (*feed.last_reports(), *(ended for _, ended in feed.ended())):
                    _read(report, runs)
            with self._store.write_relaxed() as transaction:
                minutes.add(transaction, runs, gauges(found), minutes.minute_of(now - LAG - 0.5))
                if not 0 <= now - self._pruned < PRUNE:
                    minutes.prune(transaction, now)
                    self._pruned = now

    def _measured(self, now: float) -> list[Measurement]:
        found: list[Measurement] = []
        for number, source in enumerate(self.sources):
            try:
                found += source.measurements(now)
                self._trouble.pop(number, None)
            except Exception as error:  # one component must not prevent the others from being sampled
                message = f"{type(source).__name__} could not be measured: {error}"
                if self._trouble.get(number) != message:
                    log.error("%s", message)
                    self._trouble[number] = message
        return found[:MOST_MEASUREMENTS]


def _read(report: Report, runs: dict[str, dict[str, Counts]]) -> None:
    try:
        sums = msgspec.convert(report.counters, Sums, strict=False)
    except msgspec.ValidationError:
        return  # from another version of Keyfront
    if not sums.run:
        return
    counted = counts_of(sums.series)
    if len(counted) <= MOST_DISTRIBUTIONS and all(_plausible(name, each) for name, each in counted.items()):
        runs[sums.run] = counted


def _plausible(distribution: str, counts: Counts) -> bool:
    """True if the counts can be stored: reports from other regions come through folders that others can write to."""
    numbers: Iterable[int] = (*counts.plain, *counts.latency, *counts.denials.values())
    texts = (distribution, *counts.denials)
    return all(0 <= each < 1 << 53 for each in numbers) and all(
        len(text) <= 128 and text.isascii() and text.isprintable() for text in texts
    )
