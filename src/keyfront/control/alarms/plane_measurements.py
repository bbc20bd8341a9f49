"""What the control plane itself measures for the namespace `Keyfront`: its edges, keys, and certificates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from keyfront.control.store.store import Store
from keyfront.fleet import edge_counters
from keyfront.fleet.edge_counters import Sums
from keyfront.fleet.feed import Report
from keyfront.lifecycle.findings import KeyTerm
from keyfront.monitoring.metric_series import Measurement

DAY = 86_400.0


class LiveReports(Protocol):
    """The part of `fleet.regions.Regions` that is used."""

    def full_reports(self, now: float | None = None) -> list[Report]: ...


class EdgeMeasurements:
    """The live edges: how many there are and what they apply, of all control planes on the store; and for those that
    report to this one, how current their snapshot is, and the certificates that they show to viewers.

    :param feeds: of this control plane.
    """

    def __init__(self, store: Store, feeds: LiveReports) -> None:
        self._store = store
        self._feeds = feeds

    def measurements(self, now: float) -> Iterator[Measurement]:
        """See `MeasurementSource`.

        :raises ApiError: ServiceUnavailable if the store does not respond.
        """
        reports = self._feeds.full_reports(now)
        with self._store.read() as transaction:
            latest = transaction.snapshot_number()
            everywhere = transaction.edges() if self._store.shared else reports
        yield Measurement("Edges", len(everywhere))
        yield Measurement("EdgesBehind", sum(edge.number < latest for edge in everywhere))
        ages, certificates = [], []
        for report in reports:
            for name, labels, value in _gauges(report):
                if name == edge_counters.CONFIRMED.name:
                    ages.append(max(0.0, now - value))
                elif name == edge_counters.CERTIFICATE_EXPIRY.name:
                    certificates.append((labels[0], value))
        if ages:
            yield Measurement("SnapshotAge", max(ages))
        yield from days_left("CertificateDaysLeft", "Certificate", certificates, now)


def _gauges(report: Report) -> Iterator[tuple[str, tuple[str, ...], float]]:
    try:
        series = msgspec.convert(report.counters, Sums, strict=False).series
    except msgspec.ValidationError:
        return  # from another version of Keyfront
    for name, labels, cells in series:
        family = edge_counters.BY_NAME.get(name)
        if (
            family in (edge_counters.CONFIRMED, edge_counters.CERTIFICATE_EXPIRY)
            and len(labels) == len(family.labels)
            and len(cells) == 1
        ):
            yield name, labels, cells[0] / family.scale


class KeyMeasurements:
    """How long the terms of keys last.

    :param terms: returns them, at a time.
    """

    def __init__(self, terms: Callable[[float], Iterable[KeyTerm]]) -> None:
        self._terms = terms

    def measurements(self, now: float) -> Iterator[Measurement]:
        """See `MeasurementSource`.

        :raises ApiError: ServiceUnavailable if the store does not respond.
        """
        ends = [(term.key_pair_id, term.ends) for term in self._terms(now) if term.stage != "DRAINING"]
        yield from days_left("KeyDaysLeft", "KeyPairId", ends, now)


class CertificateMeasurements:
    """The certificate of the port for edges on other machines.

    :param file: PEM; the operator's own.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def measurements(self, now: float) -> Iterator[Measurement]:
        """See `MeasurementSource`.

        :raises OSError, ValueError: if the certificate cannot be read.
        """
        from cryptography import x509

        chain = x509.load_pem_x509_certificates(self._file.read_bytes())
        ends = chain[0].not_valid_after_utc.timestamp()
        yield from days_left("CertificateDaysLeft", "Certificate", [(self._file.name, ends)], now)


def days_left(
    metric: str, dimension: str, ends: Iterable[tuple[str, float]], now: float
) -> Iterator[Measurement]:
    """The days until each of `ends` (name, epoch seconds), and until the first one, without a dimension.

    A name with several ends has the first of them.
    """
    first: dict[str, float] = {}
    for name, at in ends:
        first[name] = min(at, first.get(name, at))
    for name, at in first.items():
        yield Measurement(metric, (at - now) / DAY, ((dimension, name),))
    if first:
        yield Measurement(metric, (min(first.values()) - now) / DAY)
