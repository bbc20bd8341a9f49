"""The control plane's own metrics: what it has published, its audit log, its certificate, and the edges that are
enrolled."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from keyfront.control.store.store import Store
from keyfront.control.store.transaction import Transaction
from keyfront.errors import ApiError
from keyfront.fleet.file_feed import FileFeed


class PlaneMetrics(Collector):
    """Read from the store and the feed with each scrape; without a store, only what the feed has published.

    :param audit_trouble: why the last audit record could not be written; empty if it was.
    :param edge_certificate: the certificate (PEM) of the operator's that edges on other machines see; None: Keyfront's
        own, which renews itself.
    :param has_enrolled_edges: whether edges on other machines can connect.
    """

    def __init__(
        self,
        store: Store,
        feed: FileFeed,
        audit_trouble: Callable[[], str],
        edge_certificate: Path | None = None,
        *,
        has_enrolled_edges: bool = False,
    ) -> None:
        self._store = store
        self._feed = feed
        self._audit_trouble = audit_trouble
        self._edge_certificate = edge_certificate
        self._has_enrolled_edges = has_enrolled_edges

    def describe(self) -> Iterable[Metric]:
        return plane_families()

    def collect(self) -> Iterable[Metric]:
        yield from _published(self._feed.published_at())
        yield _certificate(self._edge_certificate)
        try:
            with self._store.read() as transaction:
                head = transaction.audit_head()
                edges = list(_rows(transaction)) if self._has_enrolled_edges else []
        except ApiError:  # logged already
            return
        yield from _audit(0 if head is None else head.number, self._audit_trouble())
        yield from _enrolled(edges)


def plane_families() -> list[Metric]:
    """The metric families, without samples of a feed, certificate, or edge."""
    return [*_published(None), *_audit(0, ""), _certificate(None), *_enrolled(())]


def _published(found: tuple[int, float] | None) -> Iterable[Metric]:
    number = GaugeMetricFamily("keyfront_snapshot_number", "The snapshot that edges are to use.")
    at = GaugeMetricFamily(
        "keyfront_snapshot_published_timestamp_seconds", "When that snapshot was published to this machine."
    )
    if found is not None:
        number.add_metric([], found[0])
        at.add_metric([], found[1])
    return [number, at]


def _audit(records: int, trouble: str) -> Iterable[Metric]:
    number = CounterMetricFamily("keyfront_audit_records", "Records in the audit log.")
    failing = GaugeMetricFamily(
        "keyfront_audit_failing", "1 if the last audit record could not be written, less than a minute ago."
    )
    number.add_metric([], records)
    failing.add_metric([], bool(trouble))
    return [number, failing]


def _certificate(file: Path | None) -> Metric:
    family = GaugeMetricFamily(
        "keyfront_certificate_expiry_timestamp_seconds",
        "When the certificate of --edges-tls-cert expires.",
        labels=["certificate"],
    )
    if file is not None:
        from cryptography import x509

        try:
            chain = x509.load_pem_x509_certificates(file.read_bytes())
        except (OSError, ValueError):  # being replaced; the port keeps the one before
            return family
        family.add_metric([file.name], chain[0].not_valid_after_utc.timestamp())
    return family


_EnrolledEdge = tuple[str, str, float, float | None, int]
"""Name, region, expiry of the certificate, when it was last connected, and its snapshot."""


def _rows(transaction: Transaction) -> Iterable[_EnrolledEdge]:
    from keyfront.control.edges.registry import enrolled  # only who serves edges loads it

    for one in enrolled(transaction):
        if one.revoked is None:
            yield one.name, one.region, one.expires, one.seen, one.number


def _enrolled(edges: Iterable[_EnrolledEdge]) -> Iterable[Metric]:
    labels = ["edge", "region"]
    expires = GaugeMetricFamily(
        "keyfront_enrolled_edge_certificate_expiry_timestamp_seconds",
        "When the certificate of an enrolled edge expires; the edge renews it before that.",
        labels=labels,
    )
    seen = GaugeMetricFamily(
        "keyfront_enrolled_edge_last_seen_timestamp_seconds",
        "When an enrolled edge was last connected, up to ten seconds late.",
        labels=labels,
    )
    number = GaugeMetricFamily(
        "keyfront_enrolled_edge_snapshot_number",
        "The snapshot of an enrolled edge when it was last seen.",
        labels=labels,
    )
    for name, region, end, last, applied in edges:
        expires.add_metric([name, region], end)
        if last is not None:
            seen.add_metric([name, region], last)
            number.add_metric([name, region], applied)
    return [expires, seen, number]
